// The first page: a table with its trade-off for each group of runs that may be compared.
"use strict";
const columnsOf = (group) => group.columns.filter((name) => !state.hidden.has(name));

function tablePage() {
  const list = make("div", {});
  const bar = make("div", { class: "bar" });
  const status = make("p", { class: "note", role: "status" });
  const refresh = () =>
    keeping(() => {
      const groups = groupsNow();
      const own = groups.filter((group) => group.content);
      const theirs = groups.filter((group) => !group.content);
      let left = ALL;
      let place = 0;
      const part = (group) => {
        const made = section(group, refresh, left, place++);
        left -= made.rows;
        return made.node;
      };
      list.replaceChildren(
        ...own.map(part),
        ...(theirs.length
          ? [
              make(
                "details",
                {
                  open: state.plot.theirs || !own.length,
                  on: {
                    toggle: (event) => {
                      state.plot.theirs = event.target.open;
                    },
                  },
                },
                make(
                  "summary",
                  { "data-key": "theirs" },
                  `The paper's numbers for models that no run here is on (${count(theirs.length, "table")})`,
                ),
                theirs.map(part),
              ),
            ]
          : []),
      );
      bar.replaceChildren(chosenBar(refresh));
      bar.classList.toggle("held", state.chosen.length > 0);
      const n = groups.reduce((sum, group) => sum + group.rows.length, 0);
      status.replaceChildren(`${count(n, "row")} in ${count(groups.length, "table")}`);
    });
  const all = [...new Set(data.groups.flatMap((group) => group.columns))];
  show(
    "",
    lead(all),
    filters(all, refresh),
    status,
    list,
    bar,
    data.left_out.length
      ? make(
          "p",
          { class: "note" },
          `${count(data.left_out.length, "run was", "runs were")} left out: ${data.left_out
            .slice(0, 20)
            .map(([name, why]) => `${name} (${why})`)
            .join("; ")}`,
        )
      : null,
  );
  refresh();
}
function groupsNow() {
  const wanted = state.editor.toLowerCase();
  return data.groups
    .filter((group) => ["dataset", "model", "protocol"].every((name) => !state[name] || group[name] === state[name]))
    .map((group) => ({
      ...group,
      key: [group.dataset, group.model, group.content, group.weights, group.protocol].join(" "),
      rows: wanted ? group.rows.filter((row) => row.search.includes(wanted)) : group.rows,
    }))
    .filter((group) => group.rows.length);
}
function sorted(rows) {
  const value = (row) =>
    state.sort === "editor"
      ? row.label
      : state.sort === "#"
        ? (row.rank ?? Infinity)
        : state.sort === "failed"
          ? row.failed
          : row.cells[state.sort]
            ? row.cells[state.sort][0]
            : null;
  const sign = state.down ? -1 : 1;
  const text = new Intl.Collator();
  return rows
    .map((row) => [value(row), row])
    .sort(([x], [y]) => {
      if (x === null || y === null) return (x === null) - (y === null);
      return typeof x === "string" ? sign * text.compare(x, y) : x === y ? 0 : sign * (x < y ? -1 : 1);
    })
    .map(([, row]) => row);
}
function section(group, refresh, left, place) {
  const most = state.shown[group.key] ?? Math.min(MANY, Math.max(0, left));
  const columns = columnsOf(group);
  const ours = group.rows.filter((row) => !row.control && !row.published);
  const controls = group.rows.filter((row) => row.control);
  const published = group.rows.filter((row) => row.published);
  const open = group.content ? state.paper[group.key] : true;
  const wide = columns.length + 5;
  const parted = (text, rows, there = rows.length) =>
    there
      ? make(
          "tbody",
          {},
          text ? make("tr", { class: "part" }, make("th", { scope: "rowgroup", colspan: wide }, text)) : null,
          rows,
        )
      : null;
  const body = (rows) => rows.map((row) => line(group, row, columns, refresh));
  const fold = make(
    "button",
    {
      type: "button",
      "data-key": `${group.key} paper`,
      "aria-expanded": String(Boolean(open)),
      on: {
        click: () => {
          state.paper[group.key] = !open;
          refresh();
        },
      },
    },
    `${open ? "hide" : "show"} the paper's rows (${published.length})`,
  );
  const rows = most ? sorted(ours) : ours;
  const more =
    rows.length > most
      ? make(
          "p",
          {},
          make(
            "button",
            {
              type: "button",
              "data-key": `${group.key} more`,
              on: {
                click: () => {
                  state.shown[group.key] = most + MANY;
                  refresh();
                },
              },
            },
            most ? `show more of ${rows.length}` : `show ${count(rows.length, "row")}`,
          ),
        )
      : null;
  const showTable = most || !group.content;
  const node = make(
    "section",
    {},
    make(
      "h2",
      {},
      `${group.dataset} · `,
      link(["model", group.model], group.model),
      ` · ${group.protocol} · n = ${group.n}`,
    ),
    make(
      "p",
      { class: "note" },
      group.content
        ? `Data set content ${group.content}, weights ${group.weights}.${
            group.ranked ? "" : ` Fewer than ${data.about.least} records: nothing is ranked or marked.`
          }`
        : "As published by the paper, on other hardware and records; never ranked.",
    ),
    showTable && ours.length > 1 ? tradeOff(group, place) : null,
    showTable
      ? make(
          "div",
          { class: "scroll", tabindex: 0, role: "region", "aria-label": `Table of ${group.key}` },
          make(
            "table",
            {},
            heads(group, columns, refresh),
            parted("", body(rows.slice(0, most))),
            parted(group.content ? make("span", {}, "Controls: not ranked") : "", body(controls)),
            group.content ? parted(fold, open ? body(published) : [], published.length) : parted("", body(published)),
          ),
        )
      : null,
    more,
  );
  return { node, rows: Math.min(rows.length, most) };
}
function tradeOff(group, place) {
  const open = state.plot[group.key] ?? place < FEW;
  const details = make(
    "details",
    {
      class: "trade",
      open,
      on: {
        toggle: () => {
          state.plot[group.key] = details.open;
          if (details.open && details.children.length === 1) details.append(trade(group));
        },
      },
    },
    make(
      "summary",
      { "data-key": `${group.key} plot` },
      `Trade-off: ${group.parts
        .slice(0, 2)
        .map((name) => inWords(name).toLowerCase())
        .join(" or ")} against ${inWords(group.parts[2]).toLowerCase()}`,
    ),
  );
  if (open) details.append(trade(group));
  return details;
}
function heads(group, columns, refresh) {
  const head = (name, side, under) =>
    make(
      "th",
      {
        scope: "col",
        class: side || null,
        "aria-sort": state.sort === name ? (state.down ? "descending" : "ascending") : null,
      },
      make(
        "button",
        {
          type: "button",
          title: metric(name).definition || null,
          "data-sort": name,
          "data-key": `${group.key} ${name}`,
          on: {
            click: () => {
              state.down = state.sort === name ? !state.down : name !== "editor" && name !== "#";
              state.sort = name;
              refresh();
            },
          },
        },
        name + arrow(name) + (state.sort === name ? (state.down ? " ▾" : " ▴") : ""),
      ),
      under ? make("small", {}, under) : null,
    );
  const groups = group.headings
    .map(([title, names]) => [title, names.filter((name) => columns.includes(name)).length])
    .filter(([, width]) => width);
  const before = columns.length - groups.reduce((sum, [, width]) => sum + width, 0);
  const above = groups.some(([title]) => title)
    ? make(
        "tr",
        {},
        make("td", { colspan: 3 + before }),
        groups.map(([title, width]) => make("th", { class: "group", scope: "colgroup", colspan: width }, title)),
        make("td", { colspan: 2 }),
      )
    : null;
  return make(
    "thead",
    {},
    above,
    make(
      "tr",
      {},
      head("#"),
      make("th", { scope: "col" }, unseen("compare")),
      head("editor", "name"),
      columns.map((column) => head(column, null, metric(column).unit)),
      make("th", { scope: "col" }, "n"),
      head("failed"),
    ),
  );
}
function line(group, row, columns, refresh) {
  const known = row.published ? null : data.editors[row.editor];
  return make(
    "tr",
    { class: row.published ? "published" : row.control ? "control" : null },
    make("td", { class: "rank" }, row.rank === null ? "" : row.rank + (row.tied ? "=" : "")),
    make("td", {}, row.id ? chooser(row, refresh) : ""),
    make(
      "td",
      { class: "name" },
      row.id ? link(["run", row.id], row.label) : row.label,
      known ? make("small", { class: "what" }, known.summary) : null,
      row.published
        ? make("small", {}, out(row.source.split(" ")[0], `published: ${row.source.split(" ").slice(1).join(" ")}`))
        : null,
    ),
    columns.map((column) => cell(row.cells[column], row.marks[column], group.spans[column])),
    make("td", {}, row.n),
    make("td", {}, row.failed),
  );
}
