// Pages of one run, of two runs record by record, and of an editor's or a model's runs.
"use strict";
// A record as the pages show it: its own facts, this run's scores and text.
const rowsOf = (run) => run.cases.map((found, index) => {
  const [id, relation, prompt, wanted, truth] = tables[run.records][index], n = run.names.length;
  return { id, relation, prompt, wanted, truth, values: found.slice(0, n), text: found[n] };
});
const label = (run) => editorTitle(run.editor.name);
const title = (run) => label(run) + " on " + run.dataset.name + "@" + run.dataset.version + ", " + run.model.name;
const details = (name, value) => folded(name, make("pre", { tabindex: 0 }, JSON.stringify(value, null, 1)));
const provenance = (run) => [details("Settings", run.editor.settings), details("Resources and provenance", { ...run.editor.resources, ...run.editor.provenance }), details("Data set, model, protocol, seeds", { dataset: run.dataset, model: run.model, protocol: run.protocol, seeds: run.seeds }), details("Code and machine", { code: run.code, ...run.environment }), details("Counts and failures", run.n)];
// The columns of the table first, then the rest.
const inOrder = (run) => [...new Set([...data.groups.filter((group) => group.kind === run.dataset.kind).flatMap((group) => group.columns), ...Object.keys(run.metrics)])].filter((name) => run.metrics[name]);
const byRelation = (relations, head, label) => relations.length === 1 && relations[0] === "–" ? make("p", { class: "note" }, "The records of this data set name no relation.") : table(head, label.rows, label.name);
const scaled = (name, value) => value === null || value === undefined ? null : metric(name).scale * value;
const rowHead = (name) => make("th", { scope: "row", class: "left", title: metric(name).definition || null }, name + arrow(name), make("small", {}, metric(name).unit));
const entryCell = (entry, scale) => cell(entry ? [entry.value, entry.low ?? null, entry.high ?? null, entry.n] : null, null, scale);

function runPage(run) {
  const known = data.editors[run.editor.name];
  const scores = inOrder(run).map((name) => {
    const both = [run.metrics[name], run.pre[name]], scale = span(name, both.filter(Boolean).map((one) => [one.value, one.low, one.high]));
    return make("tr", {}, rowHead(name), both.map((one) => entryCell(one, scale)), make("td", {}, run.metrics[name].n), make("td", { class: "wide" }, metric(name).definition));
  });
  const relations = run.relations.map(([name, n, ...values]) => make("tr", {}, make("th", { scope: "row", class: "left" }, named(name)), make("td", {}, n), values.map((value, index) => make("td", {}, fixed(scaled(run.names[index], value))))));
  const row = (one) => make("tr", {}, make("td", {}, one.id), make("td", { class: "wide" }, one.prompt), make("td", { class: "left" }, one.wanted), make("td", { class: "left" }, one.truth ?? ""), one.values.map((value, index) => make("td", {}, fixed(scaled(run.names[index], value), 0))), make("td", { class: "wide" }, one.text ?? ""));
  show(title(run), make("h2", {}, title(run)),
    make("p", { class: "note" }, known ? [known.summary, known.paper ? [" · ", paper(known.paper)] : "", " · "] : "", link(["editor", run.editor.name], "all runs of " + label(run)), " · ", link(["model", run.model.name + "@" + run.model.revision], "all runs on this model")),
    make("p", { class: "note" }, "Run " + run.id + " · " + count(run.n.asked, "record") + ", " + run.n.failed + " failed · settings: " + run.editor.settings_source),
    make("h3", {}, "Scores, edited and unedited"), table([["metric", "left"], ...plain(["edited", "unedited", "n"]), ["definition", "left"]], scores, "scores"),
    make("h3", {}, "By relation"), byRelation(run.relations.map(([name]) => name), [["relation", "left"], ["n"], ...measured(run.names)], { rows: relations, name: "scores by relation" }),
    make("h3", {}, "Settings and provenance"), ...provenance(run),
    make("h3", {}, "Records"), paged(rowsOf(run), row, [["case"], ...leftward(["prompt", "new object", "true object"]), ...measured(run.names), ["generated text", "left"]], "records"));
}

// Mean and 95 % interval of paired differences, as `counterfact compare` takes them: by Student's t, with two values at
// each bound added where there are bounds; of a composite by resampling the records, one of 0 and one of 1 added.
const student = (n) => 1.959964 + [[2.37227, 1], [2.82250, 2], [2.55585, 3], [1.58953, 4]].reduce((sum, [part, power]) => sum + part / n ** power, 0);
function pairedMean(name, differences) {
  const { bounds: [least, most], interval, scale } = metric(name), n = differences.length;
  const mean = differences.reduce((sum, one) => sum + one, 0) / n;
  if (n < 2) return n ? [scale * mean, null, null, n] : null;
  const end = interval === "student" || least === null || most === null ? null : most - least;
  const all = end === null ? differences : [...differences, -end, -end, end, end], centre = all.reduce((sum, one) => sum + one, 0) / all.length;
  const deviation = Math.sqrt(all.reduce((sum, one) => sum + (one - centre) ** 2, 0) / (all.length - 1));
  const half = student(all.length - 1) * deviation / Math.sqrt(all.length), limit = end ?? Infinity;
  return [mean, Math.min(mean, Math.max(-limit, centre - half)), Math.max(mean, Math.min(limit, centre + half))].map((one) => scale * one).concat(n);
}
function pairedComposite(rows) {  // of each record, the parts of one run and of the other
  const parts = rows.length ? rows[0].length / 2 : 0, harmonic = (means, from) => { let sum = 0; for (let k = from; k < from + parts; k++) sum += 1 / means[k]; return parts / sum; };
  const difference = (means) => harmonic(means, 0) - harmonic(means, parts);
  const meansOf = (pick, n) => { const sums = new Float64Array(2 * parts); for (let i = 0; i < n; i++) { const row = pick(i); for (let k = 0; k < 2 * parts; k++) sums[k] += row[k]; } return sums.map((sum) => sum / n); };
  if (rows.length < 2) return rows.length ? [100 * difference(meansOf((i) => rows[i], 1)), null, null, 1] : null;
  const more = [...rows, new Array(2 * parts).fill(0), new Array(2 * parts).fill(1)];
  let seed = 1;
  const random = () => { seed = (seed + 0x6d2b79f5) | 0; let t = Math.imul(seed ^ (seed >>> 15), 1 | seed); t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t; return (t ^ (t >>> 14)) >>> 0; };
  const drawn = Array.from({ length: 2000 }, () => difference(meansOf(() => more[random() % more.length], more.length))).sort((a, b) => a - b);
  return [100 * difference(meansOf((i) => rows[i], rows.length)), 100 * drawn[50], 100 * drawn[1949], rows.length];
}
function differences(first, second, both) {
  const found = {};
  const parts = first.parts.map((name) => first.names.indexOf(name));
  if (first.metrics.S && second.metrics.S) found.S = pairedComposite(both.filter(([a, b]) => parts.every((k) => a.values[k] !== null && b.values[k] !== null)).map(([a, b]) => [...parts.map((k) => a.values[k]), ...parts.map((k) => b.values[k])]));
  first.names.forEach((name, k) => { found[name] = pairedMean(name, both.filter(([a, b]) => a.values[k] !== null && b.values[k] !== null).map(([a, b]) => a.values[k] - b.values[k])); });
  return found;
}
function comparePage(first, second) {
  if (JSON.stringify(first.names) !== JSON.stringify(second.names) || first.dataset.content_hash !== second.dataset.content_hash)
    return show("compare", make("p", {}, "These runs are on different records: there is nothing to compare."));
  const others = new Map(rowsOf(second).map((one) => [one.id, one]));
  const both = rowsOf(first).filter((one) => others.has(one.id)).map((one) => [one, others.get(one.id)]);
  const distance = ([a, b]) => a.values.reduce((sum, value, index) => sum + Math.abs((value ?? 0) - (b.values[index] ?? 0)), 0);
  const [one, other] = first.editor.name === second.editor.name ? [first, second].map((run) => label(run) + " " + run.id.slice(0, 4)) : [label(first), label(second)];
  const found = differences(first, second, both);
  const scores = inOrder(first).filter((name) => second.metrics[name] && found[name]).map((name) => {
    const values = [first, second].map((run) => run.metrics[name]), [value, low, high] = found[name], most = 1.05 * Math.max(Math.abs(value), Math.abs(low ?? 0), Math.abs(high ?? 0)) || 1;
    const apart = low !== null && (low > 0 || high < 0);
    return make("tr", {}, rowHead(name), values.map((entry) => entryCell(entry, span(name, values.map((each) => [each.value, each.low, each.high])))),
      make("td", { class: "score" + (apart ? " differs" : ""), style: bar([-most, most], value, low, high) }, signed(value), make("small", {}, low === null ? "" : fixed(low) + " to " + fixed(high))), make("td", {}, found[name][3]), make("td", { class: "wide" }, metric(name).definition));
  });
  const settings = [...new Set([first, second].flatMap((run) => Object.keys(run.editor.settings)))].map((name) => [name, ...[first, second].map((run) => JSON.stringify(run.editor.settings[name]) ?? "–")]).filter(([, a, b]) => a !== b);
  const row = ([a, b]) => make("tr", {}, make("td", {}, a.id), make("td", { class: "wide" }, a.prompt + " → " + a.wanted), first.names.map((name, index) => make("td", { class: a.values[index] === b.values[index] ? null : "differs" }, fixed(scaled(name, a.values[index]), 0) + " | " + fixed(scaled(name, b.values[index]), 0))), make("td", { class: "wide" }, a.text ?? ""), make("td", { class: "wide" }, b.text ?? ""));
  const apart = [...both].sort((a, b) => distance(b) - distance(a));
  show(one + " against " + other, make("h2", {}, one + " against " + other), make("p", { class: "note" }, link(["run", first.id], title(first)), " (" + first.id + ") against ", link(["run", second.id], title(second)), " (" + second.id + ")."),
    make("h3", {}, "Scores and their difference"), make("p", { class: "note" }, "Difference: " + one + " less " + other + ", on the " + count(both.length, "common record") + " that both scored, with its paired 95 % interval; bold where that holds no 0. A failed record counts as a failure in the scores and is left out of the difference."),
    table([["metric", "left"], [one], [other], ["difference"], ["n"], ["definition", "left"]], scores, "scores of both runs"),
    make("h3", {}, "Records that flipped"), flips(first, both, one, other),
    settings.length ? [make("h3", {}, "Settings that differ"), table(leftward(["setting", one, other]), settings.map((cells) => make("tr", {}, cells.map((text) => make("td", { class: "left" }, text)))), "settings that differ")] : [],
    make("h3", {}, "All records, the most different first"), paged(apart, row, [["case"], ["edit", "left"], ...measured(first.names), ["text of " + one, "left"], ["text of " + other, "left"]], "records of both runs"));
}
// A record flips in a part of Score S where one run succeeds at more than half of its prompts and the other does not.
function flips(run, both, one, other) {
  return run.parts.map((part) => {
    const k = run.names.indexOf(part), won = (row) => row.values[k] > 0.5;
    const sides = [[one, both.filter(([a, b]) => won(a) && !won(b))], [other, both.filter(([a, b]) => won(b) && !won(a))]];
    const shown = sides.flatMap(([side, pairs]) => pairs.sort(([a, b], [c, d]) => Math.abs(c.values[k] - d.values[k]) - Math.abs(a.values[k] - b.values[k])).slice(0, FEW).map(([a, b]) => make("tr", {}, make("td", {}, a.prompt + " → " + a.wanted + (a.truth ? " (was " + a.truth + ")" : "")), make("td", {}, side), make("td", {}, [a, b].map((row) => fixed(scaled(part, row.values[k]), 0)).join(" | ")), make("td", {}, a.text ?? ""), make("td", {}, b.text ?? ""))));
    const said = part + ": " + sides.map(([side, pairs]) => pairs.length + " only by " + side).join(", ");
    return shown.length ? make("details", { open: true }, make("summary", {}, said), table([["edit", "left"], ["succeeds with", "left"], [part, "left"], ["text of " + one, "left"], ["text of " + other, "left"]], shown, "records that flipped in " + part, "flips")) : make("p", { class: "note" }, said);
  });
}

function listPage(name, value) {
  const rows = data.groups.flatMap((group) => group.rows.filter((row) => row[name] === value).map((row) => [group, row]));
  if (!rows.length) return show("not found", make("p", {}, "There is no run of this " + name + "."));
  const known = name === "editor" ? data.editors[value] : null, called = known ? known.title : value;
  const row = ([group, one]) => make("tr", { class: one.published ? "published" : null },
    make("td", { class: "left" }, one.id ? link(["run", one.id], one.label) : one.label + (one.published ? " (published)" : "")), make("td", { class: "left" }, group.dataset), make("td", { class: "left" }, group.model), cell(one.cells.S, null, group.spans.S), make("td", {}, one.n), make("td", {}, one.failed));
  const parts = data.groups.map((group) => group.rows.filter((one) => one[name] === value && one.id).slice(0, FEW)).filter((some) => some.length);
  const holders = parts.slice(0, FEW).map(() => make("div", {}));
  show(name + " " + called, make("h2", {}, name + " " + called), known ? make("p", { class: "note" }, known.summary, known.paper ? [" · ", paper(known.paper)] : "") : null, paged(rows, row, [...leftward(["editor", "data set", "model"]), ...measured(["S"]), ...plain(["n", "failed"])], "runs"), ...holders);
  holders.forEach((holder, index) => withRuns(parts[index].map((one) => one.id), (...loaded) => holder.replaceChildren(...breakdown(loaded, parts[index]))));
}
function breakdown(loaded, rows) {
  const [first] = loaded, holder = make("div", {});
  const found = loaded.map((run) => new Map(run.relations.map(([relation, , ...values]) => [relation, values])));
  const relations = [...new Set(found.flatMap((one) => [...one.keys()]))].sort((a, b) => named(a).localeCompare(named(b)));
  const fill = (index) => holder.replaceChildren(byRelation(relations, [["relation", "left"], ...plain(rows.map((row) => row.label))], {
    rows: relations.map((relation) => make("tr", {}, make("th", { scope: "row", class: "left" }, named(relation)), found.map((one) => make("td", {}, fixed(scaled(first.names[index], one.get(relation)?.[index])))))), name: "scores by relation on " + first.dataset.name }));
  const choice = make("select", { on: { change: (event) => fill(Number(event.target.value)) } }, first.names.map((name, index) => make("option", { value: index }, name)));
  fill(0);
  return [make("h3", {}, "By relation: the best " + loaded.length + " on " + first.dataset.name + "@" + first.dataset.version + ", " + first.model.name), make("p", {}, make("label", {}, "score ", choice)), holder,
    make("h3", {}, "Settings and provenance"), ...loaded.flatMap((run, index) => [make("h4", {}, link(["run", run.id], rows[index].label)), make("p", { class: "note" }, "settings: " + run.editor.settings_source), ...provenance(run)])];
}
