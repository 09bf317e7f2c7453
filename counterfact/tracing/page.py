"""Write one page for a run of traces: browse the facts, switch the kind, hover for values; self-contained."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from counterfact.core.files import write_atomic
from counterfact.core.page_style import STYLE
from counterfact.tracing.averages import OF_SUBJECT, average
from counterfact.tracing.causal import CAVEAT
from counterfact.tracing.plots import NAMES
from counterfact.tracing.store import Stored, TraceRun

DIGITS = 5
COLOURS = {
    "state": ([84, 39, 143], [203, 176, 255]),
    "mlp": ([0, 109, 44], [120, 226, 150]),
    "attn": ([165, 15, 21], [255, 158, 148]),
    "severed_mlp": ([0, 109, 44], [120, 226, 150]),
    "severed_attn": ([165, 15, 21], [255, 158, 148]),
}
"""The strongest colour of each kind's map, in a light theme and in a dark one."""
OWN_STYLE = """
body { display: grid; height: 100vh; grid-template-columns: 20rem 1fr; }
nav { border-right: 1px solid var(--line); overflow-y: auto; padding: .8rem; }
main { overflow: auto; padding: 1rem 1.5rem; display: flex; flex-direction: column; }
h1 { margin: 0 0 .3rem; font-size: 1.2rem; } nav input { width: 100%; }
nav ol { list-style: none; padding: 0; margin: .6rem 0; }
nav li button { display: block; width: 100%; text-align: left; border-color: transparent; font-size: .9rem; }
nav li button:hover { background: var(--raised); }
.kinds { margin: .6rem 0; display: flex; gap: .4rem; flex-wrap: wrap; align-items: center; }
.map { flex: 1; min-height: 14rem; display: flex; overflow-x: auto; }
table { width: 100%; height: 100%; border-collapse: separate; border-spacing: 1px; table-layout: auto; }
th, td { border: 0; } th { font-weight: 400; font-size: .82rem; padding: 0 .5rem; vertical-align: middle; }
tbody th { text-align: right; white-space: pre; font-family: ui-monospace, monospace; width: 1%; }
thead th { padding: 0; width: 1rem; max-width: 1rem; white-space: nowrap; }
td { min-width: .35rem; height: 1.3rem; padding: 0; cursor: crosshair; } td:hover { outline: 2px solid currentColor; }
.subject { font-weight: 700; } #value { min-height: 1.5em; margin: .4rem 0; font-variant-numeric: tabular-nums; }
.bar { display: grid; grid-template-columns: auto minmax(8rem, 24rem) auto; gap: 0 .5rem; align-items: center;
  justify-content: start; }
.bar span[id=scale] { height: .9rem; border: 1px solid var(--line); } .bar small { grid-column: 2; text-align: center; }
#axis { text-align: center; margin: 0; }
@media (max-width: 50rem) { body { display: block; height: auto; } nav { max-height: 30vh; border: 0; }
  main { padding: .6rem; } th { padding: 0 .2rem; } }
"""
SCRIPT = """
const run = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id), dark = matchMedia("(prefers-color-scheme: dark)");
let fact = run.facts[0], kind = run.kinds[0];
const points = value => (100 * value).toFixed(1);
const el = (name, text, more = {}) => Object.assign(document.createElement(name), {textContent: text}, more);
const layer = column => column + run.first < 0 ? "E" : column + run.first;
function list() {
  const wanted = $("search").value.toLowerCase();
  $("facts").replaceChildren(...run.facts
    .filter(one => (one.prompt + one.answer).toLowerCase().includes(wanted))
    .map(one => {
      const item = document.createElement("li");
      const button = el("button", one.classes ? one.prompt : one.prompt + " → " + one.answer.trim() + " ");
      if (!one.correct) button.append(el("small", "(not " + one.attribute + ")"));
      button.setAttribute("aria-current", one === fact);
      button.onclick = () => { fact = one; list(); show(); };
      item.append(button); return item;
    }));
}
function shade(part) {
  const from = dark.matches ? [30, 34, 40] : [250, 250, 250], to = run.colours[kind][dark.matches ? 1 : 0];
  const share = Math.max(0, Math.min(1, part));
  return `rgb(${to.map((end, place) => Math.round(from[place] + (end - from[place]) * share))})`;
}
const names = place => fact.classes ? fact.classes[place] : fact.tokens[fact.places[kind][place]];
function spread() {  // one scale for all kinds of a fact, so that they can be held against each other
  const all = run.kinds.flatMap(one => fact.values[one].flat());
  const low = fact.classes ? 0 : fact.low ?? 0;
  return [low, Math.max(low + 1e-9, ...all)];
}
function show() {
  $("kinds").replaceChildren(...run.kinds.map(one => {
    const button = el("button", run.names[one]);
    button.setAttribute("aria-pressed", one === kind);
    button.onclick = () => { kind = one; show(); };
    return button;
  }), el("a", "download this map (CSV)", {href: "#", onclick: download}));
  const rows = fact.values[kind], [low, high] = spread();
  $("fact").textContent = fact.classes ? fact.prompt : fact.prompt + " → " + fact.answer.trim();
  $("levels").textContent = `p(o) ${points(fact.high)} %` + (fact.low === null ? "" :
    `, corrupted ${points(fact.low)} %; total effect ${points(fact.high - fact.low)} points`);
  const head = document.createElement("tr");
  const every = rows[0].length > 24 ? 5 : 1;  // so that all layers are in view
  head.append(el("th", ""), ...rows[0].map((_, column) => {
    const named = (column + run.first) % every === 0, cell = el("th", named ? layer(column) : "", {scope: "col"});
    if (!named) cell.setAttribute("aria-label", layer(column));
    return cell;
  }));
  const body = rows.map((row, place) => {
    const token = fact.classes ? place : fact.places[kind][place], line = document.createElement("tr");
    const inside = token >= fact.subject[0] && token < fact.subject[1];
    line.append(el("th", names(place) + (inside ? "*" : ""), {scope: "row", className: inside ? "subject" : ""}));
    row.forEach((value, column) => {
      const cell = el("td", "");
      cell.style.background = shade((value - low) / (high - low));
      const effect = fact.classes ? value : fact.low === null ? null : value - fact.low;
      const said = (fact.classes ? "" : `p(o) ${points(value)} %`) + (effect === null ? "" :
        (fact.classes ? "" : ", ") + `effect on p(o) ${points(effect)} points`);
      cell.onmouseenter = () => { $("value").textContent = `${names(place)}, layer ${layer(column)}: ${said}`; };
      cell.setAttribute("aria-label", `layer ${layer(column)}: ${said}`);
      line.append(cell);
    });
    return line;
  });
  $("head").replaceChildren(head); $("body").replaceChildren(...body);
  $("low").textContent = points(low); $("high").textContent = points(high);
  $("unit").textContent = fact.classes ? "effect on p(o), points" : "p(o), %";
  $("scale").style.background = `linear-gradient(90deg, ${shade(0)}, ${shade(1)})`;
  $("value").textContent = "Point at a cell for its value.";
}
function download(event) {
  const quoted = text => '"' + text.replaceAll('"', '""') + '"';
  const lines = fact.values[kind].map((row, place) => [quoted(names(place)), ...row].join(","));
  const head = ["token", ...fact.values[kind][0].map((_, column) => "layer " + layer(column))].join(",");
  const file = new Blob([[head, ...lines].join("\\n") + "\\n"], {type: "text/csv"});
  event.target.href = URL.createObjectURL(file);
  event.target.download = `${fact.classes ? "average" : "fact-" + fact.id}-${kind}.csv`;
}
$("search").oninput = list;
dark.addEventListener("change", show);
list(); show();
"""


def write_page(run: TraceRun, facts: Sequence[Stored], path: Path) -> Path:
    """Write the page of a run's facts; it needs no other file and no network."""
    kinds = list(facts[0].line["traced_tokens"]) if facts else []
    data = {
        "kinds": kinds,
        "first": run.first_layer,
        "names": {kind: NAMES[kind] for kind in kinds},
        "colours": {kind: COLOURS[kind] for kind in kinds},
        "facts": [*_average(facts, kinds), *(_fact(fact, kinds) for fact in facts)],
    }
    title = f"{run.data['model']['name']}: {run.method}, {len(facts)} facts"
    settings = "; ".join(_settings(run.data["settings"]))
    # `</` would end the script element, wherever it stood in a prompt.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    body = f"""<nav><h1>{escape(title)}</h1><p class="note">{escape(settings)}</p>
<input id="search" type="search" placeholder="Search facts" aria-label="Search facts"><ol id="facts"></ol></nav>
<main><h1 id="fact"></h1><p class="note" id="levels"></p><div class="kinds" id="kinds"></div>
<div class="map"><table><thead id="head"></thead><tbody id="body"></tbody></table></div>
<p class="note" id="axis">layer, counted from 0{"; E is the embedding" * -run.first_layer};
the subject's tokens are starred</p>
<p id="value" aria-live="polite"></p>
<div class="bar"><span id="low"></span><span id="scale"></span><span id="high"></span><small id="unit"></small></div>
<p class="note">One scale for all kinds of a fact. {escape(CAVEAT)}</p></main>"""
    if not facts:
        body = f"<main><h1>{escape(title)}</h1><p>No fact could be traced.</p></main>"
    script = f'<script type="application/json" id="data">{text}</script><script>{SCRIPT}</script>' if facts else ""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}{OWN_STYLE}</style></head>
<body>{body}
{script}</body></html>
"""
    write_atomic(path, page)
    return path


def _average(facts: Sequence[Stored], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Return the average over facts as a map of its own, classes of tokens by layers; none where a fact lacks a level.

    Gradients have no corrupted run, and so no effect to average.
    """
    known = [fact for fact in facts if fact.line["correct"] and fact.line.get("low") is not None]
    if not known:
        return []
    found = {kind: average(known, kind) for kind in kinds}
    levels = next(iter(found.values()))
    classes = list(levels.by_class)
    return [
        {
            "prompt": f"Average over {levels.facts} {'fact' if levels.facts == 1 else 'facts'} that the model knows",
            "answer": "", "attribute": "", "correct": True, "classes": classes,
            "subject": [0, sum(name in OF_SUBJECT for name in classes)],
            "high": levels.high, "low": levels.low,
            "values": {
                kind: [[round(float(v), DIGITS) for v in found[kind].by_class[name].mean] for name in classes]
                for kind in kinds
            },
        }
    ]  # fmt: skip


def _fact(fact: Stored, kinds: Sequence[str]) -> dict[str, Any]:
    line = fact.line
    return {
        "id": fact.known_id,
        "prompt": line["prompt"],
        "answer": line["answer"],
        "attribute": line["attribute"],
        "correct": line["correct"],
        "tokens": line["tokens"],
        "subject": line["subject_range"],
        "high": line["high"],
        "low": line.get("low"),
        "places": {kind: line["traced_tokens"][kind] for kind in kinds},
        "values": {kind: [[round(float(v), DIGITS) for v in row] for row in fact.arrays[kind]] for kind in kinds},
    }


def _settings(settings: Mapping[str, Any], before: str = "") -> list[str]:
    """Return settings in words, nested ones after the name that holds them."""
    said: list[str] = []
    for name, value in settings.items():
        words = f"{before}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            said += _settings(value, f"{words} ")
        elif isinstance(value, bool):
            said.append(f"{words}: {'yes' if value else 'no'}")
        elif name != "kinds":
            said.append(f"{words}: {value:.4g}" if isinstance(value, float) else f"{words}: {value}")
    return said
