// The board in a page: reads data.js and runs/ID.js by script tags, so that it works from file:// without a server.
// Every text from a run becomes a text node; nothing is ever parsed as HTML.
"use strict";
const MANY = 200;
const state = { sort: "S", down: true, dataset: "", model: "", protocol: "", editor: "", chosen: [], shown: {} };
const runs = {}, waiting = {};
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
const fixed = (value, digits = 1) => value === null || value === undefined ? "–" : value.toFixed(digits);
const link = (route, text) => make("a", { href: "#/" + route.map(encodeURIComponent).join("/") }, text);

window.board = {
  start(board) { data = board; window.addEventListener("hashchange", route); route(); },
  loaded(run) { runs[run.id] = run; (waiting[run.id] || []).forEach((act) => act(run)); delete waiting[run.id]; },
};
function withRuns(ids, act) {
  if (!ids.every((id) => /^[0-9a-f]{16}$/.test(id))) return show(make("p", {}, "There is no such run."));
  const missing = ids.filter((id) => !runs[id]);
  if (!missing.length) return act(...ids.map((id) => runs[id]));
  const id = missing[0];
  (waiting[id] = waiting[id] || []).push(() => withRuns(ids, act));
  document.head.append(make("script", { src: "runs/" + id + ".js", on: { error: () => show(make("p", {}, "This run's file is missing.")) } }));
}
function show(...nodes) { document.getElementById("main").replaceChildren(...nodes); }

function route() {
  const [page, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map((part) => { try { return decodeURIComponent(part); } catch { return ""; } });
  if (page === "run") withRuns([rest[0]], runPage);
  else if (page === "compare") withRuns(rest.slice(0, 2), comparePage);
  else if (page === "editor") listPage("editor", rest[0]);
  else if (page === "model") listPage("model", rest[0]);
  else if (page !== "main") tablePage();
}

function tablePage() {
  const list = make("div", {});
  const refresh = () => list.replaceChildren(...groupsNow().map((group) => section(group, refresh)), chosenBar());
  const select = (name) => make("label", {}, name, make("select", { id: "filter-" + name, on: { change: (event) => { state[name] = event.target.value; refresh(); } } },
    make("option", { value: "" }, "all"), [...new Set(data.groups.map((group) => group[name]))].map((value) => make("option", { value, selected: state[name] === value }, value))));
  const editor = make("input", { id: "filter-editor", type: "search", value: state.editor, on: { input: (event) => { state.editor = event.target.value; refresh(); } } });
  show(make("p", { class: "note" }, "Scores are ×100 above their 95 % interval; failed and missing records count as failures. Bold: best of its column. Shaded with ≈: not shown to differ from the best (paired test on common records, adjusted for all comparisons in the table). Italic: published by the paper, on other hardware and records. Rows that differ in records, model or definitions are never ranked together."),
    make("div", { class: "filters" }, select("dataset"), select("model"), select("protocol"), make("label", {}, "editor", editor)), list,
    data.left_out.length ? make("p", { class: "note" }, data.left_out.length + " runs were left out: " + data.left_out.slice(0, 20).map(([name, why]) => name + " (" + why + ")").join("; ")) : null);
  refresh();
}
function groupsNow() {
  const wanted = state.editor.toLowerCase();
  return data.groups.filter((group) => ["dataset", "model", "protocol"].every((name) => !state[name] || group[name] === state[name]))
    .map((group) => ({ ...group, rows: group.rows.filter((row) => row.label.toLowerCase().includes(wanted)) })).filter((group) => group.rows.length);
}
function sorted(rows) {
  const value = (row) => state.sort === "editor" ? row.label : state.sort === "#" ? row.rank ?? Infinity : state.sort === "failed" ? row.failed : row.cells[state.sort] ? row.cells[state.sort][0] : null;
  const sign = state.down ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
  });
}
function section(group, refresh) {
  const id = group.dataset + group.model + group.content + group.weights + group.protocol;
  const head = (name, text, left) => make("th", { scope: "col", class: left ? "left" : null, "aria-sort": state.sort === name ? (state.down ? "descending" : "ascending") : null },
    make("button", { type: "button", title: data.definitions[name] || text, "data-sort": name, on: { click: () => { state.down = state.sort === name ? !state.down : name !== "editor" && name !== "#"; state.sort = name; refresh(); } } }, text + (state.sort === name ? (state.down ? " ▾" : " ▴") : "")));
  const rows = sorted(group.rows), most = state.shown[id] || MANY;
  const body = rows.slice(0, most).map((row) => make("tr", { class: row.published ? "published" : null },
    make("td", {}, row.rank === null ? "" : row.rank), make("td", {}, row.id ? chooser(row, refresh) : ""),
    make("td", { class: "left" }, row.id ? link(["run", row.id], row.label) : row.label, row.published ? make("small", {}, make("a", { href: row.source.split(" ")[0], rel: "noopener" }, "published: " + row.source.split(" ").slice(1).join(" "))) : null),
    group.columns.map((column) => cell(row.cells[column], (row.marks || {})[column])), make("td", {}, row.n), make("td", {}, row.failed)));
  return make("section", {}, make("h2", {}, group.dataset + " · ", link(["model", group.model], group.model) , " · " + group.protocol + " · n = " + group.n),
    make("p", { class: "note" }, group.content ? "Data set content " + group.content + ", weights " + group.weights : "Numbers of the paper; no run of your own is on this model yet."),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of " + group.dataset + ", " + group.model + (group.content ? ", " + group.content + group.weights : "") },
      make("table", {}, make("thead", {}, make("tr", {}, head("#", "#"), make("th", { scope: "col" }, "compare"), head("editor", "editor", true), group.columns.map((column) => head(column, column)), make("th", { scope: "col" }, "n"), head("failed", "failed"))), make("tbody", {}, body))),
    rows.length > most ? make("p", {}, make("button", { type: "button", on: { click: () => { state.shown[id] = most + 1000; refresh(); } } }, "show more of " + rows.length)) : null,
    make("details", {}, make("summary", {}, "Trade-off: efficacy and paraphrase against neighborhood"), plots(group)));
}
function cell(values, mark) {
  if (!values || values[0] === null) return make("td", {}, "–");
  return make("td", { class: mark || null, title: "n = " + values[3] + (mark === "tied" ? "; not shown to differ from the best" : "") }, fixed(values[0]) + (mark === "tied" ? " ≈" : ""), make("small", {}, values[1] === null ? "" : fixed(values[1]) + " to " + fixed(values[2])));
}
function chooser(row, refresh) {
  return make("input", { type: "checkbox", "aria-label": "compare " + row.label + " " + row.id.slice(0, 4), checked: state.chosen.includes(row.id), on: { change: (event) => {
    state.chosen = event.target.checked ? [...state.chosen, row.id].slice(-2) : state.chosen.filter((id) => id !== row.id); refresh(); } } });
}
function chosenBar() {
  return state.chosen.length === 2 ? make("p", {}, make("a", { id: "compare", href: "#/compare/" + state.chosen.join("/") }, "Compare the two chosen runs")) : make("p", { class: "note" }, "Tick two runs to compare them record by record.");
}
function plots(group) {
  const parts = group.kind === "zsre" ? ["efficacy", "paraphrase", "specificity"] : ["ES", "PS", "NS"];
  return make("div", { class: "plots" }, [0, 1].map((index) => scatter(group.rows.slice(0, MANY), parts[index], parts[2])));
}
function scatter(rows, x, y) {
  const at = (value, flip) => flip ? 220 - 2 * value : 40 + 2 * value;
  const svg = draw("svg", { viewBox: "0 0 290 260", role: "img", "aria-label": y + " against " + x });
  svg.append(draw("line", { x1: 40, y1: 220, x2: 240, y2: 220 }), draw("line", { x1: 40, y1: 20, x2: 40, y2: 220 }));
  for (const tick of [0, 50, 100]) svg.append(draw("text", { x: at(tick) - 6, y: 236 }, String(tick)), draw("text", { x: 14, y: at(tick, true) + 4 }, String(tick)));
  svg.append(draw("text", { x: 130, y: 252 }, x), draw("text", { x: 4, y: 12 }, y));
  for (const row of rows) {
    const [a, b] = [row.cells[x], row.cells[y]];
    if (!a || !b || a[0] === null || b[0] === null) continue;
    svg.append(draw("line", { x1: at(a[1]), x2: at(a[2]), y1: at(b[0], true), y2: at(b[0], true) }), draw("line", { x1: at(a[0]), x2: at(a[0]), y1: at(b[1], true), y2: at(b[2], true) }),
      draw("circle", { cx: at(a[0]), cy: at(b[0], true), r: 4, class: row.published ? "paper" : "ours" }, draw("title", {}, row.label + ": " + fixed(a[0]) + ", " + fixed(b[0]))));
    if (rows.length <= 20) svg.append(draw("text", { x: Math.min(at(a[0]) + 6, 250), y: at(b[0], true) - 5 }, row.label.slice(0, 14)));
  }
  return svg;
}

function table(head, rows, label) {
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, make("table", {}, make("thead", {}, make("tr", {}, head.map((name) => make("th", { scope: "col", title: data.definitions[name] || null }, name)))), make("tbody", {}, rows)));
}
const title = (run) => run.editor.name + " on " + run.dataset.name + "@" + run.dataset.version + ", " + run.model.name;
function paged(cases, row, head, label) {
  const holder = make("div", {});
  let most = MANY;
  const refresh = () => holder.replaceChildren(table(head, cases.slice(0, most).map(row), label), cases.length > most ? make("button", { type: "button", on: { click: () => { most += 1000; refresh(); } } }, "show more of " + cases.length) : "");
  refresh();
  return holder;
}
function runPage(run) {
  const metrics = Object.entries(run.metrics).map(([name, entry]) => make("tr", {}, make("th", { scope: "row", class: "left", title: data.definitions[name] || null }, name), [entry, run.pre[name] || { value: null }].map((one) => cell([one.value, one.low ?? null, one.high ?? null, one.n])), make("td", {}, entry.n), make("td", { class: "left" }, entry.unit)));
  const relations = run.relations.map(([name, n, ...values]) => make("tr", {}, make("th", { scope: "row", class: "left" }, name), make("td", {}, n), values.map((value) => make("td", {}, fixed(value === null ? null : 100 * value)))));
  const row = ([id, , prompt, wanted, truth, text, ...values]) => make("tr", {}, make("td", {}, id), make("td", { class: "wide" }, prompt), make("td", { class: "left" }, wanted), make("td", { class: "left" }, truth ?? ""), values.map((value) => make("td", {}, fixed(value, 2))), make("td", { class: "wide" }, text ?? ""));
  const details = (name, value) => make("details", {}, make("summary", {}, name), make("pre", { tabindex: 0 }, JSON.stringify(value, null, 1)));
  show(make("h2", {}, title(run)), make("p", { class: "note" }, "run " + run.id + " · settings: " + run.editor.settings_source + " · ", link(["editor", run.editor.name], "all runs of " + run.editor.name), " · ", link(["model", run.model.name + "@" + run.model.revision], "all runs on this model")),
    make("h3", {}, "Scores, edited and unedited"), table(["metric", "edited", "unedited", "n", "unit"], metrics, "scores"),
    make("h3", {}, "By relation"), table(["relation", "n", ...run.names], relations, "scores by relation"),
    make("h3", {}, "Settings and provenance"), details("settings", run.editor.settings), details("resources and provenance", { ...run.editor.resources, ...run.editor.provenance }), details("data set, model, protocol, seeds", { dataset: run.dataset, model: run.model, protocol: run.protocol, seeds: run.seeds }), details("code and machine", { code: run.code, ...run.environment }), details("counts and failures", run.n),
    make("h3", {}, "Records"), paged(run.cases, row, ["case", "prompt", "new object", "true object", ...run.names, "generated text"], "records"));
}
function comparePage(first, second) {
  if (JSON.stringify(first.names) !== JSON.stringify(second.names) || first.dataset.content_hash !== second.dataset.content_hash)
    return show(make("p", {}, "These runs are on different records: there is nothing to compare."));
  const others = new Map(second.cases.map((one) => [one[0], one]));
  const both = first.cases.filter((one) => others.has(one[0])).map((one) => [one, others.get(one[0])]);
  const distance = ([a, b]) => a.slice(6).reduce((sum, value, index) => sum + Math.abs((value ?? 0) - (b[6 + index] ?? 0)), 0);
  both.sort((a, b) => distance(b) - distance(a));
  const row = ([a, b]) => make("tr", {}, make("td", {}, a[0]), make("td", { class: "wide" }, a[2] + " → " + a[3]), first.names.map((_, index) => make("td", {}, fixed(a[6 + index], 2) + " | " + fixed(b[6 + index], 2))), make("td", { class: "wide" }, a[5] ?? ""), make("td", { class: "wide" }, b[5] ?? ""));
  show(make("h2", {}, first.editor.name + " | " + second.editor.name), make("p", { class: "note" }, title(first) + " (" + first.id + ") against " + title(second) + " (" + second.id + "), " + both.length + " common records, the most different first."),
    paged(both, row, ["case", "edit", ...first.names, "text of " + first.editor.name, "text of " + second.editor.name], "records of both runs"));
}
function listPage(name, value) {
  const rows = data.groups.flatMap((group) => group.rows.filter((row) => row[name] === value).map((row) => [group, row]));
  show(make("h2", {}, name + " " + value), table(["editor", "data set", "model", "S", "n", "failed"], rows.map(([group, row]) => make("tr", { class: row.published ? "published" : null },
    make("td", { class: "left" }, row.id ? link(["run", row.id], row.label) : row.label + " (published)"), make("td", { class: "left" }, group.dataset), make("td", { class: "left" }, group.model), cell(row.cells.S), make("td", {}, row.n), make("td", {}, row.failed))), "runs"));
}

const theme = document.getElementById("theme");
function setTheme(name) { document.documentElement.dataset.theme = name; theme.textContent = name === "dark" ? "light theme" : "dark theme"; }
setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
theme.addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
