// Two runs record by record: how they are chosen, paired differences of their scores, and the records that flipped.
"use strict";
function chooser(row, refresh) {
  return make("input", {
    type: "checkbox",
    class: "choose",
    "aria-label": `compare ${row.label} ${row.id.slice(0, 4)}`,
    "data-key": row.id,
    checked: state.chosen.includes(row.id),
    on: {
      change: (event) => {
        state.chosen = event.target.checked
          ? [...state.chosen, row.id].slice(-2)
          : state.chosen.filter((id) => id !== row.id);
        refresh();
      },
    },
  });
}
function chosenBar(refresh) {
  const label = (id) => data.groups.flatMap((group) => group.rows).find((row) => row.id === id)?.label;
  const clear = make(
    "button",
    {
      type: "button",
      on: {
        click: () => {
          state.chosen = [];
          refresh();
        },
      },
    },
    "clear",
  );
  if (state.chosen.length === 2)
    return make(
      "p",
      {},
      make("a", { id: "compare", href: `#/compare/${state.chosen.join("/")}` }, "Compare the two chosen runs"),
      `: ${state.chosen.map(label).join(" and ")} `,
      clear,
    );
  return make(
    "p",
    { class: "note" },
    state.chosen.length
      ? `Chosen: ${label(state.chosen[0])}. Tick another one to compare them record by record.`
      : "Tick two runs to compare them record by record.",
  );
}

// Mean and 95 % interval of paired differences, as `counterfact compare` takes them: by Student's t, with two values at
// each bound added where there are bounds; of a composite by resampling the records, one of 0 and one of 1 added.
const student = (n) =>
  1.959964 +
  [
    [2.37227, 1],
    [2.8225, 2],
    [2.55585, 3],
    [1.58953, 4],
  ].reduce((sum, [part, power]) => sum + part / n ** power, 0);
function pairedMean(name, differences) {
  const {
    bounds: [least, most],
    interval,
    scale,
  } = metric(name);
  const n = differences.length;
  const mean = differences.reduce((sum, one) => sum + one, 0) / n;
  if (n < 2) return n ? [scale * mean, null, null, n] : null;
  const end = interval === "student" || least === null || most === null ? null : most - least;
  const all = end === null ? differences : [...differences, -end, -end, end, end];
  const centre = all.reduce((sum, one) => sum + one, 0) / all.length;
  const deviation = Math.sqrt(all.reduce((sum, one) => sum + (one - centre) ** 2, 0) / (all.length - 1));
  const half = (student(all.length - 1) * deviation) / Math.sqrt(all.length);
  const limit = end ?? Infinity;
  return [mean, Math.min(mean, Math.max(-limit, centre - half)), Math.max(mean, Math.min(limit, centre + half))]
    .map((one) => scale * one)
    .concat(n);
}
function pairedComposite(rows) {
  // of each record, the parts of one run and of the other
  const parts = rows.length ? rows[0].length / 2 : 0;
  const harmonic = (means, from) => {
    let sum = 0;
    for (let k = from; k < from + parts; k++) sum += 1 / means[k];
    return parts / sum;
  };
  const difference = (means) => harmonic(means, 0) - harmonic(means, parts);
  const meansOf = (pick, n) => {
    const sums = new Float64Array(2 * parts);
    for (let i = 0; i < n; i++) {
      const row = pick(i);
      for (let k = 0; k < 2 * parts; k++) sums[k] += row[k];
    }
    return sums.map((sum) => sum / n);
  };
  if (rows.length < 2) return rows.length ? [100 * difference(meansOf((i) => rows[i], 1)), null, null, 1] : null;
  const more = [...rows, new Array(2 * parts).fill(0), new Array(2 * parts).fill(1)];
  let seed = 1;
  const random = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
  const drawn = Array.from({ length: 2000 }, () =>
    difference(meansOf(() => more[random() % more.length], more.length)),
  ).sort((a, b) => a - b);
  return [100 * difference(meansOf((i) => rows[i], rows.length)), 100 * drawn[50], 100 * drawn[1949], rows.length];
}
function differences(first, second, both) {
  const found = {};
  const parts = first.parts.map((name) => first.names.indexOf(name));
  if (first.metrics.S && second.metrics.S)
    found.S = pairedComposite(
      both
        .filter(([a, b]) => parts.every((k) => a.values[k] !== null && b.values[k] !== null))
        .map(([a, b]) => [...parts.map((k) => a.values[k]), ...parts.map((k) => b.values[k])]),
    );
  first.names.forEach((name, k) => {
    found[name] = pairedMean(
      name,
      both.filter(([a, b]) => a.values[k] !== null && b.values[k] !== null).map(([a, b]) => a.values[k] - b.values[k]),
    );
  });
  return found;
}
function comparePage(first, second) {
  if (
    JSON.stringify(first.names) !== JSON.stringify(second.names) ||
    first.dataset.content_hash !== second.dataset.content_hash
  )
    return show("compare", make("p", {}, "These runs are on different records: there is nothing to compare."));
  const others = new Map(rowsOf(second).map((one) => [one.id, one]));
  const both = rowsOf(first)
    .filter((one) => others.has(one.id))
    .map((one) => [one, others.get(one.id)]);
  const distance = ([a, b]) =>
    a.values.reduce((sum, value, index) => sum + Math.abs((value ?? 0) - (b.values[index] ?? 0)), 0);
  const [one, other] =
    first.editor.name === second.editor.name
      ? [first, second].map((run) => `${label(run)} ${run.id.slice(0, 4)}`)
      : [label(first), label(second)];
  const found = differences(first, second, both);
  const scores = inOrder(first)
    .filter((name) => second.metrics[name] && found[name])
    .map((name) => {
      const values = [first, second].map((run) => run.metrics[name]);
      const [value, low, high] = found[name];
      const most = 1.05 * Math.max(Math.abs(value), Math.abs(low ?? 0), Math.abs(high ?? 0)) || 1;
      const apart = low !== null && (low > 0 || high < 0);
      return make(
        "tr",
        {},
        rowHead(name),
        values.map((entry) =>
          entryCell(
            entry,
            span(
              name,
              values.map((each) => [each.value, each.low, each.high]),
            ),
          ),
        ),
        make(
          "td",
          { class: `score${apart ? " differs" : ""}`, style: bar([-most, most], value, low, high) },
          signed(value),
          make("small", {}, low === null ? "" : `${fixed(low)} to ${fixed(high)}`),
        ),
        make("td", {}, found[name][3]),
        make("td", { class: "wide" }, metric(name).definition),
      );
    });
  const settings = [...new Set([first, second].flatMap((run) => Object.keys(run.editor.settings)))]
    .map((name) => [name, ...[first, second].map((run) => JSON.stringify(run.editor.settings[name]) ?? "–")])
    .filter(([, a, b]) => a !== b);
  const row = ([a, b]) =>
    make(
      "tr",
      {},
      make("td", {}, a.id),
      make("td", { class: "wide" }, `${a.prompt} → ${a.wanted}`),
      first.names.map((name, index) =>
        make(
          "td",
          { class: a.values[index] === b.values[index] ? null : "differs" },
          `${fixed(scaled(name, a.values[index]), 0)} | ${fixed(scaled(name, b.values[index]), 0)}`,
        ),
      ),
      make("td", { class: "wide" }, a.text ?? ""),
      make("td", { class: "wide" }, b.text ?? ""),
    );
  const apart = [...both].sort((a, b) => distance(b) - distance(a));
  show(
    `${one} against ${other}`,
    make("h2", {}, `${one} against ${other}`),
    make(
      "p",
      { class: "note" },
      link(["run", first.id], title(first)),
      ` (${first.id}) against `,
      link(["run", second.id], title(second)),
      ` (${second.id}).`,
    ),
    make("h3", {}, "Scores and their difference"),
    make(
      "p",
      { class: "note" },
      `Difference: ${one} less ${other}, on the ${count(
        both.length,
        "common record",
      )} that both scored, with its paired 95 % interval; bold where that holds no 0. A failed record counts as a failure in the scores and is left out of the difference.`,
    ),
    table(
      [["metric", "left"], [one], [other], ["difference"], ["n"], ["definition", "left"]],
      scores,
      "scores of both runs",
    ),
    make("h3", {}, "Records that flipped"),
    flips(first, both, one, other),
    settings.length
      ? [
          make("h3", {}, "Settings that differ"),
          table(
            leftward(["setting", one, other]),
            settings.map((cells) =>
              make(
                "tr",
                {},
                cells.map((text) => make("td", { class: "left" }, text)),
              ),
            ),
            "settings that differ",
          ),
        ]
      : [],
    make("h3", {}, "All records, the most different first"),
    paged(
      apart,
      row,
      [["case"], ["edit", "left"], ...measured(first.names), [`text of ${one}`, "left"], [`text of ${other}`, "left"]],
      "records of both runs",
    ),
  );
}
// A record flips in a part of Score S where one run succeeds at more than half of its prompts and the other does not.
function flips(run, both, one, other) {
  return run.parts.map((part) => {
    const k = run.names.indexOf(part);
    const won = (row) => row.values[k] > 0.5;
    const sides = [
      [one, both.filter(([a, b]) => won(a) && !won(b))],
      [other, both.filter(([a, b]) => won(b) && !won(a))],
    ];
    const shown = sides.flatMap(([side, pairs]) =>
      pairs
        .sort(([a, b], [c, d]) => Math.abs(c.values[k] - d.values[k]) - Math.abs(a.values[k] - b.values[k]))
        .slice(0, FEW)
        .map(([a, b]) =>
          make(
            "tr",
            {},
            make("td", {}, `${a.prompt} → ${a.wanted}${a.truth ? ` (was ${a.truth})` : ""}`),
            make("td", {}, side),
            make("td", {}, [a, b].map((row) => fixed(scaled(part, row.values[k]), 0)).join(" | ")),
            make("td", {}, a.text ?? ""),
            make("td", {}, b.text ?? ""),
          ),
        ),
    );
    const said = `${part}: ${sides.map(([side, pairs]) => `${pairs.length} only by ${side}`).join(", ")}`;
    return shown.length
      ? make(
          "details",
          { open: true },
          make("summary", {}, said),
          table(
            [
              ["edit", "left"],
              ["succeeds with", "left"],
              [part, "left"],
              [`text of ${one}`, "left"],
              [`text of ${other}`, "left"],
            ],
            shown,
            `records that flipped in ${part}`,
            "flips",
          ),
        )
      : make("p", { class: "note" }, said);
  });
}
