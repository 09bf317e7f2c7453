// Pages of an editor's or a model's runs.
"use strict";
function listPage(name, value) {
  const rows = data.groups.flatMap((group) =>
    group.rows.filter((row) => row[name] === value).map((row) => [group, row]),
  );
  if (!rows.length) return show("not found", make("p", {}, `There is no run of this ${name}.`));
  const known = name === "editor" ? data.editors[value] : null;
  const called = known ? known.title : value;
  const row = ([group, one]) =>
    make(
      "tr",
      { class: one.published ? "published" : null },
      make(
        "td",
        { class: "left" },
        one.id ? link(["run", one.id], one.label) : one.label + (one.published ? " (published)" : ""),
      ),
      cell(one.cells.S, null, group.spans.S),
      make("td", { class: "left" }, group.dataset),
      make("td", { class: "left" }, group.model),
      make("td", {}, one.n),
      make("td", {}, one.failed),
    );
  const parts = data.groups
    .map((group) => group.rows.filter((one) => one[name] === value && one.id).slice(0, FEW))
    .filter((some) => some.length);
  const holders = parts.slice(0, FEW).map(() => make("div", {}));
  show(
    `${name} ${called}`,
    make("h2", {}, `${name} ${called}`),
    known ? make("p", { class: "note" }, known.summary, known.paper ? [" · ", paper(known.paper)] : "") : null,
    paged(
      rows,
      row,
      [...leftward(["editor"]), ...measured(["S"]), ...leftward(["data set", "model"]), ...plain(["n", "failed"])],
      "runs",
    ),
    ...holders,
  );
  holders.forEach((holder, index) =>
    withRuns(
      parts[index].map((one) => one.id),
      (...loaded) => holder.replaceChildren(...breakdown(loaded, parts[index])),
    ),
  );
}
function breakdown(loaded, rows) {
  const [first] = loaded;
  const holder = make("div", {});
  const found = loaded.map((run) => new Map(run.relations.map(([relation, , ...values]) => [relation, values])));
  const relations = [...new Set(found.flatMap((one) => [...one.keys()]))].sort((a, b) =>
    named(a).localeCompare(named(b)),
  );
  const fill = (index) =>
    holder.replaceChildren(
      byRelation(relations, [["relation", "left"], ...plain(rows.map((row) => row.label))], {
        rows: relations.map((relation) =>
          make(
            "tr",
            {},
            make("th", { scope: "row", class: "left" }, named(relation)),
            found.map((one) => make("td", {}, fixed(scaled(first.names[index], one.get(relation)?.[index])))),
          ),
        ),
        name: `scores by relation on ${first.dataset.name}`,
      }),
    );
  const choice = make(
    "select",
    { on: { change: (event) => fill(Number(event.target.value)) } },
    first.names.map((name, index) => make("option", { value: index }, name)),
  );
  fill(0);
  return [
    make(
      "h3",
      {},
      `By relation${loaded.length > 1 ? `: the best ${loaded.length}` : ""} on ${first.dataset.name}@${first.dataset.version}, ${first.model.name}`,
    ),
    make("p", {}, make("label", {}, "score ", choice)),
    holder,
    make("h3", {}, "Settings and provenance"),
    ...loaded.flatMap((run, index) => [
      make("h4", {}, link(["run", run.id], rows[index].label)),
      make("p", { class: "note" }, `settings: ${run.editor.settings_source}`),
      ...provenance(run),
    ]),
  ];
}
