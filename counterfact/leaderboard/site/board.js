// The board in a page: reads data.js, runs/ID.js and records/NAME.js by script tags, so that it works from file:// without a
// server. Every text from a run becomes a text node; nothing is ever parsed as HTML.
"use strict";
const MANY = 200, ALL = 600, FEW = 4;
const state = { sort: "S", down: true, dataset: "", model: "", protocol: "", editor: "", chosen: [], shown: {}, open: {} };
const runs = {}, tables = {}, waiting = {};
let data = null;

function make(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined).map((child) => child instanceof Node ? child : String(child)));
  return node;
}
function draw(tag, properties, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
// Adding 0 turns a negative zero into a positive one.
const fixed = (value, digits = 1) =>
  value === null || value === undefined ? "–" : (Number(value.toFixed(digits)) + 0).toFixed(digits);
const link = (route, text) => make("a", { href: "#/" + route.map(encodeURIComponent).join("/") }, text);
const unseen = (text) => make("span", { class: "unseen" }, text);

window.board = {
  start(board) {
    data = board;
    for (const group of data.groups) for (const row of group.rows) row.search = row.label.toLowerCase();
    window.addEventListener("hashchange", () => { route(); document.getElementById("main").focus(); });
    route();
  },
  loaded(run) { runs[run.id] = run; arrived("runs/" + run.id); },
  recorded(name, table) { tables[name] = table; arrived("records/" + name); },
};
function arrived(file) { const acts = waiting[file] || []; delete waiting[file]; acts.forEach((act) => act()); }
function load(file, act) {
  if (waiting[file]) { waiting[file].push(act); return; }
  waiting[file] = [act];
  document.head.append(make("script", { src: file + ".js", on: { error: () => { delete waiting[file]; show("not found", make("p", {}, "This run's file is missing: " + file + ".js")); } } }));
}
function withRuns(ids, act, here = location.hash) {
  if (!ids.every((id) => /^[0-9a-f]{16}$/.test(id))) return show("not found", make("p", {}, "There is no such run."));
  const again = () => { if (location.hash === here) withRuns(ids, act, here); };
  const missing = ids.find((id) => !runs[id]);
  if (missing) return load("runs/" + missing, again);
  const apart = ids.find((id) => !tables[runs[id].records]);
  if (apart) return load("records/" + runs[apart].records, again);
  act(...ids.map((id) => runs[id]));
}
// A record as the pages show it: its own facts, this run's scores and text.
const rowsOf = (run) => run.cases.map((found, index) => {
  const [id, relation, prompt, wanted, truth] = tables[run.records][index], n = run.names.length;
  return { id, relation, prompt, wanted, truth, values: found.slice(0, n), text: found[n] };
});
function show(name, ...nodes) {
  document.title = (name ? name + " · " : "") + "Knowledge editing: leaderboard";
  document.getElementById("main").replaceChildren(...nodes.flat().filter((node) => node));
}
// Draw anew what a control changed, and leave the keyboard where it was.
function keeping(act) {
  const key = document.activeElement && document.activeElement.dataset.key;
  act();
  if (key) document.querySelector("[data-key=" + JSON.stringify(key) + "]")?.focus();
}

function route() {
  const [page, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map((part) => { try { return decodeURIComponent(part); } catch { return ""; } });
  if (page === "run") withRuns([rest[0]], runPage);
  else if (page === "compare") withRuns(rest.slice(0, 2), comparePage);
  else if (page === "editor") listPage("editor", rest[0]);
  else if (page === "model") listPage("model", rest[0]);
  else if (page !== "main") tablePage();
}

function tablePage() {
  const list = make("div", {}), bar = make("div", { class: "bar" }), status = make("p", { class: "note", role: "status" });
  const refresh = () => keeping(() => {
    const groups = groupsNow();
    let left = ALL;
    list.replaceChildren(...groups.map((group) => { const part = section(group, refresh, left); left -= part.rows; return part.node; }));
    bar.replaceChildren(chosenBar(refresh));
    bar.classList.toggle("held", state.chosen.length > 0);
    const n = groups.reduce((sum, group) => sum + group.rows.length, 0);
    status.replaceChildren(n + (n === 1 ? " row in " : " rows in ") + groups.length + (groups.length === 1 ? " table" : " tables"));
  });
  const select = (name, text) => make("label", {}, text, make("select", { id: "filter-" + name, on: { change: (event) => { state[name] = event.target.value; refresh(); } } },
    make("option", { value: "" }, "all"), [...new Set(data.groups.map((group) => group[name]))].map((value) => make("option", { value, selected: state[name] === value }, value))));
  const editor = make("input", { id: "filter-editor", type: "search", value: state.editor, placeholder: "part of a name", on: { input: (event) => { state.editor = event.target.value; refresh(); } } });
  show("", make("p", { class: "note" }, "Scores are ×100 above their 95 % interval; failed and missing records count as failures. Bold: best of its column. Shaded with ≈: not shown to differ from the best (paired test on common records, adjusted for all comparisons in the table). Italic: published by the paper, on other hardware and records. Rows that differ in records, model, protocol or definitions are never ranked together."),
    make("div", { class: "filters" }, select("dataset", "data set and version"), select("model", "model"), select("protocol", "protocol"), make("label", {}, "editor", editor)),
    make("details", {}, make("summary", {}, "What the columns mean"), make("dl", {}, [...new Set(data.groups.flatMap((group) => group.columns))].flatMap((name) => [make("dt", {}, name), make("dd", {}, data.definitions[name] || "")]))),
    status, list, bar,
    data.left_out.length ? make("p", { class: "note" }, data.left_out.length + (data.left_out.length === 1 ? " run was" : " runs were") + " left out: " + data.left_out.slice(0, 20).map(([name, why]) => name + " (" + why + ")").join("; ")) : null);
  refresh();
}
function groupsNow() {
  const wanted = state.editor.toLowerCase();
  return data.groups.filter((group) => ["dataset", "model", "protocol"].every((name) => !state[name] || group[name] === state[name]))
    .map((group) => ({ ...group, rows: wanted ? group.rows.filter((row) => row.search.includes(wanted)) : group.rows })).filter((group) => group.rows.length);
}
function sorted(rows) {
  const value = (row) => state.sort === "editor" ? row.label : state.sort === "#" ? row.rank ?? Infinity : state.sort === "failed" ? row.failed : row.cells[state.sort] ? row.cells[state.sort][0] : null;
  const sign = state.down ? -1 : 1, text = new Intl.Collator();
  return rows.map((row) => [value(row), row]).sort(([x], [y]) => {
    if (x === null || y === null) return (x === null) - (y === null);
    return typeof x === "string" ? sign * text.compare(x, y) : x === y ? 0 : sign * (x < y ? -1 : 1);
  }).map(([, row]) => row);
}
function section(group, refresh, left) {
  const id = [group.dataset, group.model, group.content, group.weights, group.protocol].join(" ");
  const most = state.shown[id] ?? Math.min(MANY, Math.max(0, left));
  const head = (name, left) => make("th", { scope: "col", class: left ? "left" : null, "aria-sort": state.sort === name ? (state.down ? "descending" : "ascending") : null },
    make("button", { type: "button", title: data.definitions[name] || null, "data-sort": name, "data-key": id + " " + name, on: { click: () => { state.down = state.sort === name ? !state.down : name !== "editor" && name !== "#"; state.sort = name; refresh(); } } }, name + (state.sort === name ? (state.down ? " ▾" : " ▴") : "")));
  const rows = most ? sorted(group.rows) : group.rows;
  const body = rows.slice(0, most).map((row) => make("tr", { class: row.published ? "published" : null },
    make("td", {}, row.rank === null ? "" : row.rank), make("td", {}, row.id ? chooser(row, refresh) : ""),
    make("td", { class: "left" }, row.id ? link(["run", row.id], row.label) : row.label, row.published ? make("small", {}, make("a", { href: row.source.split(" ")[0], rel: "noopener" }, "published: " + row.source.split(" ").slice(1).join(" "))) : null),
    group.columns.map((column) => cell(row.cells[column], (row.marks || {})[column])), make("td", {}, row.n), make("td", {}, row.failed)));
  const more = rows.length > most ? make("p", {}, make("button", { type: "button", "data-key": id + " more", on: { click: () => { state.shown[id] = most + MANY; refresh(); } } }, most ? "show more of " + rows.length : "show " + rows.length + (rows.length === 1 ? " row" : " rows"))) : null;
  const plot = make("details", { open: state.open[id], on: { toggle: () => { state.open[id] = plot.open; if (plot.open && plot.children.length === 1) plot.append(plots(group)); } } }, make("summary", { "data-key": id + " plot" }, "Trade-off: efficacy and paraphrase against neighborhood"));
  const node = make("section", {}, make("h2", {}, group.dataset + " · ", link(["model", group.model], group.model), " · " + group.protocol + " · n = " + group.n),
    make("p", { class: "note" }, group.content ? "Data set content " + group.content + ", weights " + group.weights : "Numbers of the paper; no run here is on this model."),
    most ? make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of " + id },
      make("table", {}, make("thead", {}, make("tr", {}, head("#"), make("th", { scope: "col" }, unseen("compare")), head("editor", true), group.columns.map((column) => head(column)), make("th", { scope: "col" }, "n"), head("failed"))), make("tbody", {}, body))) : null,
    more, most ? plot : null);
  return { node, rows: Math.min(rows.length, most) };
}
function cell(values, mark) {
  if (!values || values[0] === null) return make("td", {}, "–");
  return make("td", { class: mark || null, title: "n = " + values[3] + (mark === "tied" ? "; not shown to differ from the best" : "") }, fixed(values[0]), mark === "tied" ? [make("span", { "aria-hidden": "true" }, " ≈"), unseen(" not shown to differ from the best")] : mark === "best" ? unseen(" best") : null,
    make("small", {}, values[1] === null ? "" : fixed(values[1]) + " to " + fixed(values[2])));
}
function chooser(row, refresh) {
  return make("input", { type: "checkbox", "aria-label": "compare " + row.label + " " + row.id.slice(0, 4), "data-key": row.id, checked: state.chosen.includes(row.id), on: { change: (event) => {
    state.chosen = event.target.checked ? [...state.chosen, row.id].slice(-2) : state.chosen.filter((id) => id !== row.id); refresh(); } } });
}
function chosenBar(refresh) {
  const label = (id) => data.groups.flatMap((group) => group.rows).find((row) => row.id === id)?.label;
  const clear = make("button", { type: "button", on: { click: () => { state.chosen = []; refresh(); } } }, "clear");
  if (state.chosen.length === 2) return make("p", {}, make("a", { id: "compare", href: "#/compare/" + state.chosen.join("/") }, "Compare the two chosen runs"), ": " + state.chosen.map(label).join(" and ") + " ", clear);
  return make("p", { class: "note" }, state.chosen.length ? "Chosen: " + label(state.chosen[0]) + ". Tick another one to compare them record by record." : "Tick two runs to compare them record by record.");
}
function plots(group) {
  const parts = group.parts;
  const rows = group.rows.slice(0, MANY);
  return make("div", {}, make("div", { class: "plots" }, [0, 1].map((index) => scatter(rows, parts[index], parts[2]))), make("p", { class: "note" }, "Up and to the right is better; lines are 95 % intervals; rings are the paper's." + (group.rows.length > MANY ? " The first " + MANY + " of " + group.rows.length + " rows." : "")));
}
function scatter(rows, x, y) {
  const at = (value, flip) => flip ? 220 - 2 * value : 40 + 2 * value;
  const svg = draw("svg", { viewBox: "0 0 320 260", role: "img", "aria-label": y + " against " + x });
  svg.append(draw("line", { x1: 40, y1: 220, x2: 240, y2: 220 }), draw("line", { x1: 40, y1: 20, x2: 40, y2: 220 }));
  for (const tick of [0, 50, 100]) svg.append(draw("text", { x: at(tick) - 6, y: 236 }, String(tick)), draw("text", { x: 14, y: at(tick, true) + 4 }, String(tick)));
  svg.append(draw("text", { x: 130, y: 252 }, x), draw("text", { x: 4, y: 12 }, y));
  const taken = [];
  for (const row of rows) {
    const [a, b] = [row.cells[x], row.cells[y]];
    if (!a || !b || a[0] === null || b[0] === null) continue;
    const [left, top] = [at(a[0]), at(b[0], true)];
    svg.append(draw("line", { x1: at(a[1] ?? a[0]), x2: at(a[2] ?? a[0]), y1: top, y2: top }), draw("line", { x1: left, x2: left, y1: at(b[1] ?? b[0], true), y2: at(b[2] ?? b[0], true) }),
      draw("circle", { cx: left, cy: top, r: 4, class: row.published ? "paper" : "ours" }, draw("title", {}, row.label + ": " + fixed(a[0]) + ", " + fixed(b[0]))));
    if (rows.length > 20) continue;
    let place = top - 5;  // a name gives way downwards to those that stand there
    while (taken.some(([x0, y0]) => Math.abs(x0 - left) < 70 && Math.abs(y0 - place) < 11)) place += 11;
    taken.push([left, place]);
    svg.append(draw("text", { x: left + 6, y: place }, row.label.slice(0, 14)));
  }
  return svg;
}

function table(head, rows, label) {
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, make("table", {}, make("thead", {}, make("tr", {}, head.map(([name, side]) => make("th", { scope: "col", class: side || null, title: data.definitions[name] || null }, name)))), make("tbody", {}, rows)));
}
const plain = (names) => names.map((name) => [name]), leftward = (names) => names.map((name) => [name, "left"]);
const title = (run) => run.editor.name + " on " + run.dataset.name + "@" + run.dataset.version + ", " + run.model.name;
function paged(cases, row, head, label) {
  const holder = make("div", {});
  let most = MANY;
  const refresh = () => holder.replaceChildren(table(head, cases.slice(0, most).map(row), label), cases.length > most ? make("button", { type: "button", on: { click: () => { most += 1000; refresh(); } } }, "show more of " + cases.length) : "");
  refresh();
  return holder;
}
const folded = (name, value) => make("details", {}, make("summary", {}, name), make("pre", { tabindex: 0 }, JSON.stringify(value, null, 1)));
const provenance = (run) => [folded("settings", run.editor.settings), folded("resources and provenance", { ...run.editor.resources, ...run.editor.provenance }), folded("data set, model, protocol, seeds", { dataset: run.dataset, model: run.model, protocol: run.protocol, seeds: run.seeds }), folded("code and machine", { code: run.code, ...run.environment }), folded("counts and failures", run.n)];
// The columns of the table first, then the rest.
const inOrder = (run) => [...new Set([...data.groups.filter((group) => group.kind === run.dataset.kind).flatMap((group) => group.columns), ...Object.keys(run.metrics)])].filter((name) => run.metrics[name]);
const byRelation = (relations, head, label) => relations.length === 1 && relations[0] === "–" ? make("p", { class: "note" }, "The records of this data set name no relation.") : table(head, label.rows, label.name);
function runPage(run) {
  const metrics = inOrder(run).map((name) => [name, run.metrics[name]]).map(([name, entry]) => make("tr", {}, make("th", { scope: "row", class: "left", title: data.definitions[name] || null }, name), [entry, run.pre[name] || { value: null }].map((one) => cell([one.value, one.low ?? null, one.high ?? null, one.n])), make("td", {}, entry.n), make("td", { class: "left" }, entry.unit), make("td", { class: "wide" }, data.definitions[name] || "")));
  const relations = run.relations.map(([name, n, ...values]) => make("tr", {}, make("th", { scope: "row", class: "left" }, name), make("td", {}, n), values.map((value) => make("td", {}, fixed(value === null ? null : 100 * value)))));
  const row = (one) => make("tr", {}, make("td", {}, one.id), make("td", { class: "wide" }, one.prompt), make("td", { class: "left" }, one.wanted), make("td", { class: "left" }, one.truth ?? ""), one.values.map((value) => make("td", {}, fixed(value, 2))), make("td", { class: "wide" }, one.text ?? ""));
  show(title(run), make("h2", {}, title(run)), make("p", { class: "note" }, "run " + run.id + " · settings: " + run.editor.settings_source + " · ", link(["editor", run.editor.name], "all runs of " + run.editor.name), " · ", link(["model", run.model.name + "@" + run.model.revision], "all runs on this model")),
    make("h3", {}, "Scores, edited and unedited"), table([["metric", "left"], ...plain(["edited", "unedited", "n"]), ...leftward(["unit", "definition"])], metrics, "scores"),
    make("h3", {}, "By relation"), byRelation(run.relations.map(([name]) => name), [["relation", "left"], ...plain(["n", ...run.names])], { rows: relations, name: "scores by relation" }),
    make("h3", {}, "Settings and provenance"), ...provenance(run),
    make("h3", {}, "Records"), paged(rowsOf(run), row, [["case"], ...leftward(["prompt", "new object", "true object"]), ...plain(run.names), ["generated text", "left"]], "records"));
}
function comparePage(first, second) {
  if (JSON.stringify(first.names) !== JSON.stringify(second.names) || first.dataset.content_hash !== second.dataset.content_hash)
    return show("compare", make("p", {}, "These runs are on different records: there is nothing to compare."));
  const others = new Map(rowsOf(second).map((one) => [one.id, one]));
  const both = rowsOf(first).filter((one) => others.has(one.id)).map((one) => [one, others.get(one.id)]);
  const distance = ([a, b]) => a.values.reduce((sum, value, index) => sum + Math.abs((value ?? 0) - (b.values[index] ?? 0)), 0);
  both.sort((a, b) => distance(b) - distance(a));
  const [one, other] = first.editor.name === second.editor.name ? [first, second].map((run) => run.editor.name + " " + run.id.slice(0, 4)) : [first.editor.name, second.editor.name];
  const row = ([a, b]) => make("tr", {}, make("td", {}, a.id), make("td", { class: "wide" }, a.prompt + " → " + a.wanted), first.names.map((_, index) => make("td", { class: a.values[index] === b.values[index] ? null : "differs" }, fixed(a.values[index], 2) + " | " + fixed(b.values[index], 2))), make("td", { class: "wide" }, a.text ?? ""), make("td", { class: "wide" }, b.text ?? ""));
  const scores = inOrder(first).filter((name) => second.metrics[name]).map((name) => make("tr", {}, make("th", { scope: "row", class: "left", title: data.definitions[name] || null }, name), [first, second].map((run) => cell([run.metrics[name].value, run.metrics[name].low, run.metrics[name].high, run.metrics[name].n]))));
  const settings = [...new Set([first, second].flatMap((run) => Object.keys(run.editor.settings)))].map((name) => [name, ...[first, second].map((run) => JSON.stringify(run.editor.settings[name]) ?? "–")]).filter(([, a, b]) => a !== b);
  show(one + " | " + other, make("h2", {}, one + " | " + other), make("p", { class: "note" }, link(["run", first.id], title(first)), " (" + first.id + ") against ", link(["run", second.id], title(second)), " (" + second.id + "), " + both.length + " common records."),
    make("h3", {}, "Scores"), table([["metric", "left"], [one], [other]], scores, "scores of both runs"),
    settings.length ? [make("h3", {}, "Settings that differ"), table(leftward(["setting", one, other]), settings.map((cells) => make("tr", {}, cells.map((text) => make("td", { class: "left" }, text)))), "settings that differ")] : [],
    make("h3", {}, "Records, the most different first"), paged(both, row, [["case"], ["edit", "left"], ...plain(first.names), ["text of " + one, "left"], ["text of " + other, "left"]], "records of both runs"));
}
function listPage(name, value) {
  const rows = data.groups.flatMap((group) => group.rows.filter((row) => row[name] === value).map((row) => [group, row]));
  if (!rows.length) return show("not found", make("p", {}, "There is no run of this " + name + "."));
  const row = ([group, one]) => make("tr", { class: one.published ? "published" : null },
    make("td", { class: "left" }, one.id ? link(["run", one.id], one.label) : one.label + " (published)"), make("td", { class: "left" }, group.dataset), make("td", { class: "left" }, group.model), cell(one.cells.S), make("td", {}, one.n), make("td", {}, one.failed));
  const parts = data.groups.map((group) => group.rows.filter((one) => one[name] === value && one.id).slice(0, FEW)).filter((some) => some.length);
  const holders = parts.slice(0, FEW).map(() => make("div", {}));
  show(name + " " + value, make("h2", {}, name + " " + value), paged(rows, row, [...leftward(["editor", "data set", "model"]), ...plain(["S", "n", "failed"])], "runs"), ...holders);
  holders.forEach((holder, index) => withRuns(parts[index].map((one) => one.id), (...loaded) => holder.replaceChildren(...breakdown(loaded, parts[index]))));
}
function breakdown(loaded, rows) {
  const [first] = loaded, holder = make("div", {});
  const found = loaded.map((run) => new Map(run.relations.map(([relation, , ...values]) => [relation, values])));
  const relations = [...new Set(found.flatMap((one) => [...one.keys()]))].sort();
  const at = (one, relation, metric) => make("td", {}, fixed(one.get(relation)?.[metric] === undefined || one.get(relation)[metric] === null ? null : 100 * one.get(relation)[metric]));
  const fill = (metric) => holder.replaceChildren(byRelation(relations, [["relation", "left"], ...plain(rows.map((row) => row.label))], {
    rows: relations.map((relation) => make("tr", {}, make("th", { scope: "row", class: "left" }, relation), found.map((one) => at(one, relation, metric)))), name: "scores by relation on " + first.dataset.name }));
  const metric = make("select", { on: { change: (event) => fill(Number(event.target.value)) } }, first.names.map((name, index) => make("option", { value: index }, name)));
  fill(0);
  return [make("h3", {}, "By relation: the best " + loaded.length + " on " + first.dataset.name + "@" + first.dataset.version + ", " + first.model.name), make("p", {}, make("label", {}, "score ", metric)), holder,
    make("h3", {}, "Settings and provenance"), ...loaded.flatMap((run, index) => [make("h4", {}, link(["run", run.id], rows[index].label)), make("p", { class: "note" }, "settings: " + run.editor.settings_source), ...provenance(run)])];
}

const theme = document.getElementById("theme");
function setTheme(name) { document.documentElement.dataset.theme = name; theme.textContent = name === "dark" ? "light theme" : "dark theme"; }
function remembered(name) { try { if (name) localStorage.setItem("theme", name); return localStorage.getItem("theme"); } catch { return null; } }
setTheme(remembered() === "dark" || remembered() === "light" ? remembered() : matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
theme.addEventListener("click", () => { setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); remembered(document.documentElement.dataset.theme); });
