"""Write a small results page: one HTML file without scripts, readable from `file://`, in light and dark."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from core.files import write_atomic
from leaderboard.picture import draw
from leaderboard.ranking import Ranking

STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #777; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .4rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:nth-child(2), td:nth-child(2) { text-align: left; } abbr { text-decoration: underline dotted; cursor: help; }
small, .note { color: var(--faint); } tr.pre td { font-style: italic; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; } code { font-size: .85em; }
"""


def write_page(rankings: Sequence[Ranking], folder: Path, definitions: Mapping[str, str]) -> Path:
    """Write `index.html` with one table for each ranking, and the picture beside it.

    Args:
        rankings: what to show.
        folder: where; made if missing.
        definitions: the text shown where a pointer rests on a column's name, by metric.

    Returns:
        The page's path.
    """
    draw(rankings, folder / "ranking.png", folder / "ranking.svg")
    body = "\n".join(_section(ranking, definitions) for ranking in rankings)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>CounterFact results</title><style>{STYLE}</style></head>
<body><h1>Knowledge editing: results</h1>
<p class="note">Best Score S first. Each score stands above its 95 % interval; all are x100. Rows that differ in
records, model or definitions are never ranked together.</p>
<p><img src="ranking.png" alt="Efficacy, paraphrase and neighborhood of each editor, with intervals"></p>
{body}
</body></html>
"""
    write_atomic(folder / "index.html", page)
    return folder / "index.html"


def _section(ranking: Ranking, definitions: Mapping[str, str]) -> str:
    head = "".join(
        f'<th scope="col"><abbr title="{escape(definitions.get(name, name), quote=True)}">{escape(name)}</abbr></th>'
        for name in ranking.columns
    )
    rows = [_row(str(place), run, ranking.columns) for place, run in enumerate(ranking.runs, 1)]
    first = ranking.runs[0]
    content, weights = (
        escape(first[part][key][:12]) for part, key in (("dataset", "content_hash"), ("model", "weights_hash"))
    )
    title = f"{escape(ranking.dataset)} · {escape(ranking.model)} · n = {ranking.n}"
    return f"""<h2>{title}</h2>
<div class="scroll"><table><thead><tr><th scope="col">#</th><th scope="col">editor</th>{head}
<th scope="col">failed</th></tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody></table></div>
<p class="note">Data set content <code>{content}</code>, weights <code>{weights}</code>,
{escape(str(first["model"]["dtype"]))}.</p>"""


def _row(place: str, run: Mapping[str, Any], columns: Sequence[str]) -> str:
    cells = "".join(_cell(run["metrics"].get(name)) for name in columns)
    settings = escape(str(run["editor"].get("settings", {})), quote=True)
    name = escape(run["editor"]["name"])
    return (
        f'<tr><td>{place}</td><td><abbr title="{settings}">{name}</abbr></td>{cells}<td>{run["n"]["failed"]}</td></tr>'
    )


def _cell(entry: Mapping[str, Any] | None) -> str:
    if not entry or entry["value"] is None:
        return "<td>–</td>"
    return f"<td>{entry['value']:.1f}<br><small>{entry['low']:.1f} to {entry['high']:.1f}</small></td>"
