"""Write one page for a run of traces: browse the facts, switch the kind, hover for values; self-contained."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from counterfact.core.files import write_atomic
from counterfact.tracing.causal import CAVEAT
from counterfact.tracing.plots import NAMES
from counterfact.tracing.store import Stored, TraceRun

DIGITS = 5
COLOURS = {
    "state": [84, 39, 143],
    "mlp": [0, 109, 44],
    "attn": [165, 15, 21],
    "severed_mlp": [0, 109, 44],
    "severed_attn": [165, 15, 21],
}
"""The darkest colour of each kind's map."""
STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #777; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0; display: grid; height: 100vh;
  grid-template-columns: 22rem 1fr; }
nav { border-right: 1px solid var(--line); overflow-y: auto; padding: .8rem; box-sizing: border-box; }
main { overflow: auto; padding: 1rem 1.5rem; } h1 { font-size: 1.2rem; margin: 0 0 .3rem; }
nav input { width: 100%; box-sizing: border-box; font: inherit; padding: .3rem .5rem; }
nav ol { list-style: none; padding: 0; margin: .6rem 0; } nav button { all: unset; cursor: pointer; display: block;
  width: 100%; box-sizing: border-box; padding: .25rem .4rem; border-radius: 4px; font-size: .9rem; }
nav button:hover, nav button:focus-visible { background: #8882; } nav button[aria-current=true] { background: #06c3; }
.kinds { margin: .8rem 0; display: flex; gap: .4rem; flex-wrap: wrap; } .kinds button { font: inherit; cursor: pointer;
  padding: .25rem .7rem; border: 1px solid var(--line); border-radius: 1rem; background: none; color: inherit; }
.kinds button[aria-pressed=true] { border-color: currentColor; font-weight: 600; }
table { border-collapse: separate; border-spacing: 1px; } th { font-weight: 400; font-size: .82rem; padding: 0 .5rem; }
tbody th { text-align: right; white-space: pre; font-family: ui-monospace, monospace; }
td { min-width: 1.6rem; height: 1.45rem; cursor: crosshair; } td:hover { outline: 2px solid currentColor; }
.subject { font-weight: 700; } #value { min-height: 1.5em; font-variant-numeric: tabular-nums; }
.note, small { color: var(--faint); font-size: .85rem; } .scale { display: inline-block; width: 10rem; height: .8rem;
  vertical-align: middle; margin: 0 .4rem; }
@media (max-width: 50rem) { body { display: block; height: auto; } nav { max-height: 40vh; border: 0; } }
"""
SCRIPT = """
const run = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
let fact = run.facts[0], kind = run.kinds[0];
const layer = column => column + run.first < 0 ? "E" : column + run.first;
const el = (name, text, more = {}) => Object.assign(document.createElement(name), {textContent: text}, more);
function list() {
  const wanted = $("search").value.toLowerCase();
  $("facts").replaceChildren(...run.facts
    .filter(one => (one.prompt + one.answer).toLowerCase().includes(wanted))
    .map(one => {
      const item = document.createElement("li"), button = el("button", one.prompt + " → " + one.answer.trim() + " ");
      button.append(el("small", one.correct ? "" : "(not " + one.attribute + ")"));
      button.setAttribute("aria-current", one === fact);
      button.onclick = () => { fact = one; list(); show(); };
      item.append(button); return item;
    }));
}
function shade(value, low, high) {
  const part = Math.max(0, Math.min(1, (value - low) / Math.max(high - low, 1e-9)));
  return `rgb(${run.colours[kind].map(dark => Math.round(250 + (dark - 250) * part))})`;
}
function show() {
  $("kinds").replaceChildren(...run.kinds.map(one => {
    const button = el("button", run.names[one]);
    button.setAttribute("aria-pressed", one === kind);
    button.onclick = () => { kind = one; show(); };
    return button;
  }));
  const rows = fact.values[kind], low = fact.low ?? 0, high = Math.max(low, ...rows.flat());
  $("fact").textContent = fact.prompt + " → " + fact.answer.trim();
  $("levels").textContent = "p = " + fact.high.toFixed(4) + (fact.low === null ? "" :
    ", corrupted " + fact.low.toFixed(4) + "; total effect " + (fact.high - fact.low).toFixed(4));
  const head = document.createElement("tr");
  head.append(el("th", ""), ...rows[0].map((_, column) => el("th", layer(column), {scope: "col"})));
  const body = rows.map((row, place) => {
    const token = fact.places[kind][place], line = document.createElement("tr");
    const inside = token >= fact.subject[0] && token < fact.subject[1];
    line.append(el("th", fact.tokens[token] + (inside ? "*" : ""), {scope: "row", className: inside ? "subject" : ""}));
    row.forEach((value, column) => {
      const cell = el("td", "");
      cell.style.background = shade(value, low, high);
      cell.onmouseenter = () => {
        const effect = fact.low === null ? "" : ", indirect effect " + (value - fact.low).toFixed(4);
        const where = `${JSON.stringify(fact.tokens[token])}, layer ${layer(column)}`;
        $("value").textContent = `${where}: ${value.toFixed(4)}${effect}`;
      };
      cell.setAttribute("aria-label", `layer ${layer(column)}: ${value}`);
      line.append(cell);
    });
    return line;
  });
  $("head").replaceChildren(head); $("body").replaceChildren(...body);
  $("low").textContent = low.toFixed(3); $("high").textContent = high.toFixed(3);
  $("scale").style.background = `linear-gradient(90deg, ${shade(0, 0, 1)}, ${shade(1, 0, 1)})`;
  $("value").textContent = "Point at a cell for its value.";
}
$("search").oninput = list;
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
        "facts": [_fact(fact, kinds) for fact in facts],
    }
    title = f"{run.data['model']['name']}: {run.method}, {len(facts)} facts"
    settings = "; ".join(_settings(run.data["settings"]))
    # `</` would end the script element, wherever it stood in a prompt.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    body = f"""<nav><h1>{escape(title)}</h1><p class="note">{escape(settings)}</p>
<input id="search" type="search" placeholder="Search facts" aria-label="Search facts"><ol id="facts"></ol></nav>
<main><h1 id="fact"></h1><p class="note" id="levels"></p><div class="kinds" id="kinds"></div>
<table><thead id="head"></thead><tbody id="body"></tbody></table><p id="value" aria-live="polite"></p>
<p class="note"><span id="low"></span><span class="scale" id="scale"></span><span id="high"></span></p>
<p class="note">Layers across, counted from 0{"; E is the embedding" * -run.first_layer};
the subject's tokens are starred</p>
<p class="note">{escape(CAVEAT)}</p></main>"""
    if not facts:
        body = f"<main><h1>{escape(title)}</h1><p>No fact could be traced.</p></main>"
    script = f'<script type="application/json" id="data">{text}</script><script>{SCRIPT}</script>' if facts else ""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head>
<body>{body}
{script}</body></html>
"""
    write_atomic(path, page)
    return path


def _fact(fact: Stored, kinds: Sequence[str]) -> dict[str, Any]:
    line = fact.line
    return {
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
