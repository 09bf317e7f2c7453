// The trade-off: how far an edit carries over against what it spares, with the frontier of editors that no other beats in both.
"use strict";
function frontier(points) {
  const best = [];
  for (const point of [...points].sort((a, b) => b.x - a.x || b.y - a.y))
    if (!best.length || point.y > best.at(-1).y) best.push(point);
  return best;
}
const axis = (name) =>
  `${(inWords(name) === name ? name : `${inWords(name)} (${name})`) + arrow(name)}, ${metric(name).unit}`;
function ticksOf(low, high) {
  const step = [1, 2, 5, 10, 20, 25, 50].find((size) => (high - low) / size <= 6) || 100;
  return Array.from(
    { length: Math.floor(high / step) - Math.ceil(low / step) + 1 },
    (_, index) => (Math.ceil(low / step) + index) * step,
  );
}
function trade(group) {
  const rows = group.rows.filter((row) => !row.published).slice(0, MANY);
  const parts = group.parts;
  const y = parts[2];
  const x = state.axis[group.key] || parts[1];
  const holder = make("div", { class: "plot" });
  const choice = make(
    "select",
    {
      "data-key": `${group.key} axis`,
      on: {
        change: (event) => {
          state.axis[group.key] = event.target.value;
          keeping(() => holder.replaceWith(trade(group)));
        },
      },
    },
    [parts[1], parts[0]].map((name) => make("option", { value: name, selected: name === x }, inWords(name))),
  );
  holder.append(
    make(
      "p",
      {},
      make("label", {}, "Across: ", choice),
      ` against ${inWords(y).toLowerCase()}. Up and to the right is better.`,
    ),
    scatter(rows, x, y),
    make(
      "p",
      { class: "note" },
      `Thin lines: 95 % intervals. Dashed: the frontier, editors that no other beats in both. Rings: controls.${
        group.rows.length > MANY ? ` The first ${MANY} rows are drawn.` : ""
      }`,
    ),
  );
  return holder;
}
function scatter(rows, x, y) {
  const wide = Math.max(320, Math.min(960, document.getElementById("main").clientWidth || 960));
  const tall = wide < 600 ? 340 : 440;
  const box = { left: 52, right: wide - 14, top: 14, bottom: tall - 48 };
  const points = rows
    .map((row) => ({ row, a: row.cells[x], b: row.cells[y] }))
    .filter(({ a, b }) => a && b && a[0] !== null && b[0] !== null);
  for (const point of points) {
    point.x = point.a[0];
    point.y = point.b[0];
  }
  const range = (of) => {
    const ends = points.flatMap((point) => [point[of][0], point[of][1] ?? point[of][0], point[of][2] ?? point[of][0]]);
    const low = Math.min(100, ...ends);
    const high = Math.max(0, ...ends);
    const room = Math.max(2, 0.06 * (high - low));
    return [Math.max(0, low - room), Math.min(100, high + room)].map((end, index) =>
      end === 0 || end === 100 ? [-1.5, 101.5][index] : end,
    );
  };
  const [x0, x1] = range("a");
  const [y0, y1] = range("b");
  const across = (value) => box.left + ((box.right - box.left) * (value - x0)) / (x1 - x0 || 1);
  const down = (value) => box.bottom - ((box.bottom - box.top) * (value - y0)) / (y1 - y0 || 1);
  const svg = draw("svg", {
    viewBox: `0 0 ${wide} ${tall}`,
    role: "img",
    "aria-label": `${inWords(y)} against ${inWords(x)} of ${count(points.length, "row")}`,
  });
  for (const tick of ticksOf(x0, x1))
    svg.append(
      draw("line", { class: "grid", x1: across(tick), x2: across(tick), y1: box.top, y2: box.bottom }),
      draw("text", { class: "tick", x: across(tick), y: box.bottom + 17, "text-anchor": "middle" }, String(tick)),
    );
  for (const tick of ticksOf(y0, y1))
    svg.append(
      draw("line", { class: "grid", x1: box.left, x2: box.right, y1: down(tick), y2: down(tick) }),
      draw("text", { class: "tick", x: box.left - 7, y: down(tick) + 4, "text-anchor": "end" }, String(tick)),
    );
  svg.append(
    draw("text", { x: (box.left + box.right) / 2, y: tall - 8, "text-anchor": "middle" }, axis(x)),
    draw(
      "text",
      {
        x: 14,
        y: (box.top + box.bottom) / 2,
        "text-anchor": "middle",
        transform: `rotate(-90 14 ${(box.top + box.bottom) / 2})`,
      },
      axis(y),
    ),
  );
  const best = frontier(points.filter(({ row }) => !row.control));
  if (best.length > 1)
    svg.append(
      draw("polyline", {
        class: "frontier",
        points: best
          .flatMap((point, index) =>
            index
              ? [
                  [across(best[index - 1].x), down(best[index - 1].y)],
                  [across(point.x), down(best[index - 1].y)],
                  [across(point.x), down(point.y)],
                ]
              : [[across(point.x), down(point.y)]],
          )
          .map((pair) => pair.map((value) => value.toFixed(1)).join(","))
          .join(" "),
      }),
    );
  const taken = points.map((point) => [across(point.x) - 6, down(point.y) - 6, 12, 12]);
  const free = ([left, top, width, height]) =>
    left >= box.left &&
    left + width <= box.right &&
    top >= 2 &&
    top + height <= box.bottom &&
    !taken.some(([l, t, w, h]) => left < l + w && l < left + width && top < t + h && t < top + height);
  const labelled = points.length > 24 ? new Set(best) : new Set(points);
  for (const point of points) {
    const [left, top] = [across(point.x), down(point.y)];
    const { row, a, b } = point;
    svg.append(
      draw("line", { class: "span", x1: across(a[1] ?? a[0]), x2: across(a[2] ?? a[0]), y1: top, y2: top }),
      draw("line", { class: "span", x1: left, x2: left, y1: down(b[1] ?? b[0]), y2: down(b[2] ?? b[0]) }),
      draw(
        "circle",
        { cx: left, cy: top, r: 5, class: row.control ? "controls" : "ours" },
        draw("title", {}, `${row.label}: ${fixed(a[0])}, ${fixed(b[0])}`),
      ),
    );
  }
  for (const point of points) {
    if (!labelled.has(point)) continue;
    const text = point.row.label.length > 28 ? `${point.row.label.slice(0, 27)}…` : point.row.label;
    const width = 7.2 * text.length;
    const [left, top] = [across(point.x), down(point.y)];
    const place = [
      [left + 9, top - 20],
      [left + 9, top + 4],
      [left - 9 - width, top - 20],
      [left - 9 - width, top + 4],
      [left - width / 2, top - 26],
      [left - width / 2, top + 10],
      [left + 9, top + 20],
      [left - 9 - width, top + 20],
      [left + 9, top - 36],
      [left - 9 - width, top - 36],
    ]
      .map(([l, t]) => [l, t, width, 15])
      .find(free);
    if (!place) continue; // its name is on the point
    taken.push(place);
    svg.append(draw("text", { x: place[0], y: place[1] + 12 }, text));
  }
  return svg;
}
