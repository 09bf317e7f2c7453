// The first page: what the board is, filters, and a table with its trade-off for each group of runs that may be compared.
"use strict";
const SUBMIT = `counterfact evaluate --model MODEL --dataset DATASET --editor EDITOR
counterfact leaderboard submit RUN --out submission     # run.json and records.jsonl.gz
counterfact leaderboard check submission                # against the board's references.json`;
const ROME = `@inproceedings{meng2022locating,
  title = {Locating and Editing Factual Associations in {GPT}},
  author = {Meng, Kevin and Bau, David and Andonian, Alex and Belinkov, Yonatan},
  booktitle = {Advances in Neural Information Processing Systems}, year = {2022}, url = {https://arxiv.org/abs/2202.05262}
}`;
const cite = () => `@software{counterfact_toolkit,
  title = {counterfact-toolkit: building, editing and ranking on {CounterFact}},
  version = {` + data.about.version + `}, year = {` + (data.about.newest || "").slice(0, 4) + `}
}
` + ROME;
const columnsOf = (group) => group.columns.filter((name) => !state.hidden.has(name));

function tablePage() {
  const list = make("div", {}), bar = make("div", { class: "bar" }), status = make("p", { class: "note", role: "status" });
  const refresh = () => keeping(() => {
    const groups = groupsNow(), own = groups.filter((group) => group.content), theirs = groups.filter((group) => !group.content);
    let left = ALL, place = 0;
    const part = (group) => { const made = section(group, refresh, left, place++); left -= made.rows; return made.node; };
    list.replaceChildren(...own.map(part), ...(theirs.length ? [make("details", { open: state.plot.theirs || !own.length, on: { toggle: (event) => { state.plot.theirs = event.target.open; } } }, make("summary", { "data-key": "theirs" }, "The paper's numbers for models that no run here is on (" + count(theirs.length, "table") + ")"), theirs.map(part))] : []));
    bar.replaceChildren(chosenBar(refresh));
    bar.classList.toggle("held", state.chosen.length > 0);
    const n = groups.reduce((sum, group) => sum + group.rows.length, 0);
    status.replaceChildren(count(n, "row") + " in " + count(groups.length, "table"));
  });
  const all = [...new Set(data.groups.flatMap((group) => group.columns))];
  show("", lead(all), filters(all, refresh), status, list, bar,
    data.left_out.length ? make("p", { class: "note" }, count(data.left_out.length, "run was", "runs were") + " left out: " + data.left_out.slice(0, 20).map(([name, why]) => name + " (" + why + ")").join("; ")) : null);
  refresh();
}
function lead(all) {
  const used = [...new Set(data.groups.flatMap((group) => group.rows.filter((row) => row.id).map((row) => row.editor)))].filter((name) => data.editors[name]).sort();
  return [make("p", { class: "lead" }, "Knowledge editing changes single facts in a language model. This board ranks editors by whether the new fact takes hold (efficacy), carries over to other wordings (paraphrase), and leaves other facts alone (neighborhood)."),
    make("p", { class: "note" }, count(data.about.runs, "run") + (data.about.newest ? ", the newest of " + data.about.newest : "") + ". Every score is recomputed from its records, with its 95 % interval; failed and missing records count as failures. After ", out("https://arxiv.org/abs/2202.05262", "Meng et al. 2022"), "."),
    make("div", { class: "folds" },
      folded("How to read the tables", make("p", { class: "note" }, "Scores are ×100; ↑ more is better, ↓ less is better. The bar behind a score shows its size, the line below it the 95 % interval. Bold: the best of its column. ≈: not shown to differ from the best, by a paired test on common records, adjusted for all comparisons in the table. 1=: editors whose Score S is not shown to differ from the best. Controls change no weights; they are not ranked and never the best. Below " + data.about.least + " records nothing is ranked or marked. Rows that differ in records, model, protocol or definitions are never ranked together.")),
      folded("What the columns mean", make("dl", { class: "meanings" }, all.map((name) => [make("dt", {}, name + arrow(name) + " (" + metric(name).unit + ")"), make("dd", {}, metric(name).definition)]))),
      folded("The editors", make("dl", {}, used.map((name) => [make("dt", {}, link(["editor", name], data.editors[name].title), data.editors[name].title === name ? "" : " (" + name + ")"), make("dd", {}, data.editors[name].summary, data.editors[name].paper ? [" · ", paper(data.editors[name].paper)] : "")]))),
      folded("How to submit", make("p", { class: "note" }, "Evaluate, make a submission of the run, check it, and add its folder to the board's repository by a pull request. The records go with it, and everything is computed anew."), make("pre", { tabindex: 0 }, SUBMIT)),
      folded("How to cite", make("p", { class: "note" }, "Cite the editors' papers, the benchmark's, and the toolkit."), make("pre", { tabindex: 0 }, cite())))];
}
function filters(all, refresh) {
  const select = (name, text) => make("label", {}, text, make("select", { id: "filter-" + name, on: { change: (event) => { state[name] = event.target.value; refresh(); } } },
    make("option", { value: "" }, "all"), [...new Set(data.groups.map((group) => group[name]))].map((value) => make("option", { value, selected: state[name] === value }, value))));
  const editor = make("input", { id: "filter-editor", type: "search", value: state.editor, placeholder: "part of a name", on: { input: (event) => { state.editor = event.target.value; refresh(); } } });
  const column = (name) => make("label", {}, make("input", { type: "checkbox", checked: !state.hidden.has(name), "data-column": name, on: { change: (event) => { if (event.target.checked) state.hidden.delete(name); else state.hidden.add(name); refresh(); } } }), " " + name);
  return make("details", { id: "filters", open: !matchMedia("(max-width: 40rem)").matches }, make("summary", {}, "Filters and columns"),
    make("div", { class: "filters" }, select("dataset", "data set and version"), select("model", "model"), select("protocol", "protocol"), make("label", {}, "editor", editor)),
    make("fieldset", { class: "columns" }, make("legend", {}, "columns"), all.map(column)));
}
function groupsNow() {
  const wanted = state.editor.toLowerCase();
  return data.groups.filter((group) => ["dataset", "model", "protocol"].every((name) => !state[name] || group[name] === state[name]))
    .map((group) => ({ ...group, key: [group.dataset, group.model, group.content, group.weights, group.protocol].join(" "), rows: wanted ? group.rows.filter((row) => row.search.includes(wanted)) : group.rows })).filter((group) => group.rows.length);
}
function sorted(rows) {
  const value = (row) => state.sort === "editor" ? row.label : state.sort === "#" ? row.rank ?? Infinity : state.sort === "failed" ? row.failed : row.cells[state.sort] ? row.cells[state.sort][0] : null;
  const sign = state.down ? -1 : 1, text = new Intl.Collator();
  return rows.map((row) => [value(row), row]).sort(([x], [y]) => {
    if (x === null || y === null) return (x === null) - (y === null);
    return typeof x === "string" ? sign * text.compare(x, y) : x === y ? 0 : sign * (x < y ? -1 : 1);
  }).map(([, row]) => row);
}
function section(group, refresh, left, place) {
  const most = state.shown[group.key] ?? Math.min(MANY, Math.max(0, left)), columns = columnsOf(group);
  const ours = group.rows.filter((row) => !row.control && !row.published), controls = group.rows.filter((row) => row.control), published = group.rows.filter((row) => row.published);
  const open = group.content ? state.paper[group.key] : true, wide = columns.length + 5;
  const parted = (text, rows, there = rows.length) => there ? make("tbody", {}, text ? make("tr", { class: "part" }, make("th", { scope: "rowgroup", colspan: wide }, text)) : null, rows) : null;
  const body = (rows) => rows.map((row) => line(group, row, columns, refresh));
  const fold = make("button", { type: "button", "data-key": group.key + " paper", "aria-expanded": String(Boolean(open)), on: { click: () => { state.paper[group.key] = !open; refresh(); } } }, (open ? "hide" : "show") + " the paper's rows (" + published.length + ")");
  const rows = most ? sorted(ours) : ours;
  const more = rows.length > most ? make("p", {}, make("button", { type: "button", "data-key": group.key + " more", on: { click: () => { state.shown[group.key] = most + MANY; refresh(); } } }, most ? "show more of " + rows.length : "show " + count(rows.length, "row"))) : null;
  const showTable = most || !group.content;
  const node = make("section", {}, make("h2", {}, group.dataset + " · ", link(["model", group.model], group.model), " · " + group.protocol + " · n = " + group.n),
    make("p", { class: "note" }, group.content ? "Data set content " + group.content + ", weights " + group.weights + "." + (group.ranked ? "" : " Fewer than " + data.about.least + " records: nothing is ranked or marked.") : "As published by the paper, on other hardware and records; never ranked."),
    showTable && ours.length > 1 ? tradeOff(group, place) : null,
    showTable ? make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of " + group.key },
      make("table", {}, heads(group, columns, refresh), parted("", body(rows.slice(0, most))), parted(group.content ? make("span", {}, "Controls: not ranked") : "", body(controls)),
        group.content ? parted(fold, open ? body(published) : [], published.length) : parted("", body(published)))) : null, more);
  return { node, rows: Math.min(rows.length, most) };
}
function tradeOff(group, place) {
  const open = state.plot[group.key] ?? place < FEW;
  const details = make("details", { class: "trade", open, on: { toggle: () => { state.plot[group.key] = details.open; if (details.open && details.children.length === 1) details.append(trade(group)); } } }, make("summary", { "data-key": group.key + " plot" }, "Trade-off: " + group.parts.slice(0, 2).map((name) => inWords(name).toLowerCase()).join(" or ") + " against " + inWords(group.parts[2]).toLowerCase()));
  if (open) details.append(trade(group));
  return details;
}
function heads(group, columns, refresh) {
  const head = (name, side, under) => make("th", { scope: "col", class: side || null, "aria-sort": state.sort === name ? (state.down ? "descending" : "ascending") : null },
    make("button", { type: "button", title: metric(name).definition || null, "data-sort": name, "data-key": group.key + " " + name, on: { click: () => { state.down = state.sort === name ? !state.down : name !== "editor" && name !== "#"; state.sort = name; refresh(); } } }, name + arrow(name) + (state.sort === name ? (state.down ? " ▾" : " ▴") : "")), under ? make("small", {}, under) : null);
  const groups = group.headings.map(([title, names]) => [title, names.filter((name) => columns.includes(name)).length]).filter(([, width]) => width);
  const before = columns.length - groups.reduce((sum, [, width]) => sum + width, 0);
  const above = groups.some(([title]) => title) ? make("tr", {}, make("td", { colspan: 3 + before }), groups.map(([title, width]) => make("th", { class: "group", scope: "colgroup", colspan: width }, title)), make("td", { colspan: 2 })) : null;
  return make("thead", {}, above, make("tr", {}, head("#"), make("th", { scope: "col" }, unseen("compare")), head("editor", "name"), columns.map((column) => head(column, null, metric(column).unit)), make("th", { scope: "col" }, "n"), head("failed")));
}
function line(group, row, columns, refresh) {
  const known = row.published ? null : data.editors[row.editor];
  return make("tr", { class: row.published ? "published" : row.control ? "control" : null },
    make("td", { class: "rank" }, row.rank === null ? "" : row.rank + (row.tied ? "=" : "")), make("td", {}, row.id ? chooser(row, refresh) : ""),
    make("td", { class: "name" }, row.id ? link(["run", row.id], row.label) : row.label,
      known ? make("small", { class: "what" }, known.summary) : null,
      row.published ? make("small", {}, out(row.source.split(" ")[0], "published: " + row.source.split(" ").slice(1).join(" "))) : null),
    columns.map((column) => cell(row.cells[column], row.marks[column], group.spans[column])), make("td", {}, row.n), make("td", {}, row.failed));
}
function chooser(row, refresh) {
  return make("input", { type: "checkbox", class: "choose", "aria-label": "compare " + row.label + " " + row.id.slice(0, 4), "data-key": row.id, checked: state.chosen.includes(row.id), on: { change: (event) => {
    state.chosen = event.target.checked ? [...state.chosen, row.id].slice(-2) : state.chosen.filter((id) => id !== row.id); refresh(); } } });
}
function chosenBar(refresh) {
  const label = (id) => data.groups.flatMap((group) => group.rows).find((row) => row.id === id)?.label;
  const clear = make("button", { type: "button", on: { click: () => { state.chosen = []; refresh(); } } }, "clear");
  if (state.chosen.length === 2) return make("p", {}, make("a", { id: "compare", href: "#/compare/" + state.chosen.join("/") }, "Compare the two chosen runs"), ": " + state.chosen.map(label).join(" and ") + " ", clear);
  return make("p", { class: "note" }, state.chosen.length ? "Chosen: " + label(state.chosen[0]) + ". Tick another one to compare them record by record." : "Tick two runs to compare them record by record.");
}
