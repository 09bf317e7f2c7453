// The page of one run, and what it shares with those of several.
"use strict";
// A record as the pages show it: its own facts, this run's scores and text.
const rowsOf = (run) =>
  run.cases.map((found, index) => {
    const [id, relation, prompt, wanted, truth] = tables[run.records][index];
    const n = run.names.length;
    return { id, relation, prompt, wanted, truth, values: found.slice(0, n), text: found[n] };
  });
const label = (run) => editorTitle(run.editor.name);
const title = (run) => `${label(run)} on ${run.dataset.name}@${run.dataset.version}, ${run.model.name}`;
const details = (name, value) => folded(name, make("pre", { tabindex: 0 }, JSON.stringify(value, null, 1)));
const provenance = (run) => [
  details("Settings", run.editor.settings),
  details("Resources and provenance", { ...run.editor.resources, ...run.editor.provenance }),
  details("Data set, model, protocol, seeds", {
    dataset: run.dataset,
    model: run.model,
    protocol: run.protocol,
    seeds: run.seeds,
  }),
  details("Code and machine", { code: run.code, ...run.environment }),
  details("Counts and failures", run.n),
];
// The columns of the table first, then the rest.
const inOrder = (run) =>
  [
    ...new Set([
      ...data.groups.filter((group) => group.kind === run.dataset.kind).flatMap((group) => group.columns),
      ...Object.keys(run.metrics),
    ]),
  ].filter((name) => run.metrics[name]);
const byRelation = (relations, head, label) =>
  relations.length === 1 && relations[0] === "–"
    ? make("p", { class: "note" }, "The records of this data set name no relation.")
    : table(head, label.rows, label.name);
const scaled = (name, value) => (value === null || value === undefined ? null : metric(name).scale * value);
const rowHead = (name) =>
  make(
    "th",
    { scope: "row", class: "left", title: metric(name).definition || null },
    name + arrow(name),
    make("small", {}, metric(name).unit),
  );
const entryCell = (entry, scale) =>
  cell(entry ? [entry.value, entry.low ?? null, entry.high ?? null, entry.n] : null, null, scale);

function runPage(run) {
  const known = data.editors[run.editor.name];
  const scores = inOrder(run).map((name) => {
    const both = [run.metrics[name], run.pre[name]];
    const scale = span(
      name,
      both.filter(Boolean).map((one) => [one.value, one.low, one.high]),
    );
    return make(
      "tr",
      {},
      rowHead(name),
      both.map((one) => entryCell(one, scale)),
      make("td", {}, run.metrics[name].n),
      make("td", { class: "wide" }, metric(name).definition),
    );
  });
  const relations = run.relations.map(([name, n, ...values]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", class: "left" }, named(name)),
      make("td", {}, n),
      values.map((value, index) => make("td", {}, fixed(scaled(run.names[index], value)))),
    ),
  );
  // A column that no record fills is not shown: zsRE has no true objects, a run without texts no texts.
  const rows = rowsOf(run);
  const [truths, texts] = [rows.some((one) => one.truth), rows.some((one) => one.text)];
  const row = (one) =>
    make(
      "tr",
      {},
      make("td", {}, one.id),
      make("td", { class: "wide" }, one.prompt),
      make("td", { class: "left" }, one.wanted),
      truths ? make("td", { class: "left" }, one.truth ?? "") : "",
      one.values.map((value, index) => make("td", {}, fixed(scaled(run.names[index], value), 0))),
      texts ? make("td", { class: "wide" }, one.text ?? "") : "",
    );
  show(
    title(run),
    make("h2", {}, title(run)),
    make(
      "p",
      { class: "note" },
      known ? [known.summary, known.paper ? [" · ", paper(known.paper)] : "", " · "] : "",
      link(["editor", run.editor.name], `all runs of ${label(run)}`),
      " · ",
      link(["model", `${run.model.name}@${run.model.revision}`], "all runs on this model"),
    ),
    make(
      "p",
      { class: "note" },
      `Run ${run.id} · ${count(run.n.asked, "record")}, ${run.n.failed} failed · settings: ${
        run.editor.settings_source
      }`,
    ),
    make("h3", {}, "Scores, edited and unedited"),
    table([["metric", "left"], ...plain(["edited", "unedited", "n"]), ["definition", "left"]], scores, "scores"),
    make("h3", {}, "By relation"),
    byRelation(
      run.relations.map(([name]) => name),
      [["relation", "left"], ["n"], ...measured(run.names)],
      { rows: relations, name: "scores by relation" },
    ),
    make("h3", {}, "Settings and provenance"),
    ...provenance(run),
    make("h3", {}, "Records"),
    paged(
      rows,
      row,
      [
        ["case"],
        ...leftward(["prompt", "new object", ...(truths ? ["true object"] : [])]),
        ...measured(run.names),
        ...leftward(texts ? ["generated text"] : []),
      ],
      "records",
    ),
  );
}
