// What every page is made of. The board reads data.js, runs/ID.js and records/NAME.js by script tags, so that it works
// from file:// without a server. Every text from a run becomes a text node; nothing is ever parsed as HTML.
"use strict";
const MANY = 60;
const ALL = 180;
const FEW = 4;
const state = {
  sort: "S",
  down: true,
  dataset: "",
  model: "",
  protocol: "",
  editor: "",
  chosen: [],
  shown: {},
  plot: {},
  paper: {},
  axis: {},
  hidden: new Set(),
};
const runs = {};
const tables = {};
const waiting = {};
let data = null;

function make(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (value !== null && value !== undefined && value !== false)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(
    ...children
      .flat(2)
      .filter((child) => child !== null && child !== undefined)
      .map((child) => (child instanceof Node ? child : String(child))),
  );
  return node;
}
function draw(tag, properties, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
// As Python rounds: a tie, which only a number of few binary digits is, goes to the even neighbor. Adding 0 turns a
// negative zero into a positive one.
function fixed(value, digits = 1) {
  if (value === null || value === undefined) return "–";
  const shifted = value * 10 ** digits;
  const tie = Number.isInteger(value * 2 ** (digits + 1)) && Math.abs(shifted % 1) === 0.5;
  const rounded = tie ? (2 * Math.round(shifted / 2)) / 10 ** digits : Number(value.toFixed(digits));
  return (rounded + 0).toFixed(digits);
}
const signed = (value) => (value > 0 && fixed(value) !== "0.0" ? "+" : "") + fixed(value);
const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;
const link = (route, text) => make("a", { href: `#/${route.map(encodeURIComponent).join("/")}` }, text);
const out = (href, text) => make("a", { href, rel: "noopener" }, text);
const unseen = (text) => make("span", { class: "unseen" }, text);
const named = (relation) => (data.relations[relation] ? `${data.relations[relation]} (${relation})` : relation);
const editorTitle = (name) => (data.editors[name] ? data.editors[name].title : name);
const paper = (url) =>
  url ? out(url, url.includes("arxiv.org/abs/") ? `arXiv:${url.split("/abs/")[1]}` : "paper") : null;
const metric = (name) =>
  data.metrics[name] || { unit: "", better: "neither", definition: "", scale: 1, bounds: [null, null], interval: null };
const arrow = (name) => ({ higher: " ↑", lower: " ↓" })[metric(name).better] || "";
// A metric's name in words, where its definition begins with one.
const inWords = (name) => {
  const [words, rest] = metric(name).definition.split(": ");
  return rest && words.length < 40 ? words.replace(/ score$/, "") : name;
};
const folded = (name, ...inside) => make("details", {}, make("summary", {}, name), ...inside);

window.board = {
  start(board) {
    data = board;
    for (const group of data.groups) {
      for (const row of group.rows) row.search = `${row.label} ${row.editor}`.toLowerCase();
      group.spans = Object.fromEntries(
        group.columns.map((name) => [
          name,
          span(
            name,
            group.rows.map((row) => row.cells[name]),
          ),
        ]),
      );
    }
    window.addEventListener("hashchange", () => {
      route();
      document.getElementById("main").focus();
    });
    route();
  },
  loaded(run) {
    runs[run.id] = run;
    arrived(`runs/${run.id}`);
  },
  recorded(name, table) {
    tables[name] = table;
    arrived(`records/${name}`);
  },
};
function arrived(file) {
  const acts = waiting[file] || [];
  delete waiting[file];
  acts.forEach((act) => act());
}
function load(file, act) {
  if (waiting[file]) {
    waiting[file].push(act);
    return;
  }
  waiting[file] = [act];
  document.head.append(
    make("script", {
      src: `${file}.js`,
      on: {
        error: () => {
          delete waiting[file];
          show("not found", make("p", {}, `This run's file is missing: ${file}.js`));
        },
      },
    }),
  );
}
function withRuns(ids, act, here = location.hash) {
  if (!ids.every((id) => /^[0-9a-f]{16}$/.test(id))) return show("not found", make("p", {}, "There is no such run."));
  const again = () => {
    if (location.hash === here) withRuns(ids, act, here);
  };
  const missing = ids.find((id) => !runs[id]);
  if (missing) return load(`runs/${missing}`, again);
  const apart = ids.find((id) => !tables[runs[id].records]);
  if (apart) return load(`records/${runs[apart].records}`, again);
  act(...ids.map((id) => runs[id]));
}
function show(name, ...nodes) {
  document.title = `${name ? `${name} · ` : ""}Knowledge editing leaderboard`;
  document.getElementById("main").replaceChildren(...nodes.flat().filter((node) => node));
}
// Draw anew what a control changed, and leave the keyboard where it was.
function keeping(act) {
  const key = document.activeElement && document.activeElement.dataset.key;
  act();
  if (key) document.querySelector(`[data-key=${JSON.stringify(key)}]`)?.focus();
}

// The scale on which a column's bars are drawn: from 0, or the least value, to the most that there can be, or is.
function span(name, cells) {
  const known = cells.filter((cell) => cell && cell[0] !== null);
  const { bounds, scale } = metric(name);
  const low = known.reduce((least, cell) => Math.min(least, cell[1] ?? cell[0]), 0);
  const most = known.reduce((largest, cell) => Math.max(largest, cell[2] ?? cell[0]), 0);
  return [low, bounds[1] === null ? most || 1 : bounds[1] * scale];
}
function bar([low, high], value, least, most) {
  const at = (x) => `${Math.max(0, Math.min(100, (100 * (x - low)) / (high - low))).toFixed(1)}%`;
  const strip = (colour, from, to) =>
    `linear-gradient(90deg, transparent ${from}, ${colour} ${from} ${to}, transparent ${to})`;
  const whisker =
    least === null || least === undefined
      ? ""
      : `${strip("var(--whisker)", at(least), at(most))} bottom / 100% 3px no-repeat, `;
  return `background: ${whisker}${strip("var(--bar)", at(Math.min(0, value)), at(Math.max(0, value)))}`;
}
function cell(values, mark, scale) {
  if (!values || values[0] === null) return make("td", {}, "–");
  return make(
    "td",
    {
      class: `score${mark ? ` ${mark}` : ""}`,
      style: scale ? bar(scale, values[0], values[1], values[2]) : null,
      title: `n = ${values[3]}${mark === "tied" ? "; not shown to differ from the best" : ""}`,
    },
    fixed(values[0]),
    mark === "tied"
      ? [make("span", { "aria-hidden": "true" }, " ≈"), unseen(" not shown to differ from the best")]
      : mark === "best"
        ? unseen(" best")
        : null,
    make(
      "small",
      {},
      values[1] === null || values[1] === undefined ? "" : `${fixed(values[1])} to ${fixed(values[2])}`,
    ),
  );
}
function table(head, rows, label, style) {
  return make(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    make(
      "table",
      { class: style || null },
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          head.map(([name, side, under]) =>
            make(
              "th",
              { scope: "col", class: side || null, title: metric(name).definition || null },
              name,
              arrow(name),
              under ? make("small", {}, under) : null,
            ),
          ),
        ),
      ),
      make("tbody", {}, rows),
    ),
  );
}
const plain = (names) => names.map((name) => [name]);
const leftward = (names) => names.map((name) => [name, "left"]);
const measured = (names) => names.map((name) => [name, null, metric(name).unit]);
function paged(cases, row, head, label) {
  const holder = make("div", {});
  let most = MANY;
  const refresh = () =>
    holder.replaceChildren(
      table(head, cases.slice(0, most).map(row), label),
      cases.length > most
        ? make(
            "button",
            {
              type: "button",
              on: {
                click: () => {
                  most += 1000;
                  refresh();
                },
              },
            },
            `show more of ${cases.length}`,
          )
        : "",
    );
  refresh();
  return holder;
}
