"""Write the board as a static site: a page that works from `file://`, its data, one file a run, and exports."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from counterfact.contracts.editors import EDITORS
from counterfact.contracts.metrics import COMPOSITES, METRICS, Metric
from counterfact.core.files import write_atomic
from counterfact.core.page_style import STYLE
from counterfact.core.relations import NAMES
from counterfact.leaderboard.board import LEAST, board_of
from counterfact.leaderboard.entries import Entry, script_json
from counterfact.leaderboard.exports import write_exports
from counterfact.leaderboard.picture import draw
from counterfact.leaderboard.ranking import rank

ASSETS = Path(__file__).parent / "site"
DRAWN = 16
"""Runs of a ranking, and rankings, that the picture has room for; the page shows all."""


def write_site(entries: Sequence[Entry], out: Path, left_out: Mapping[str, str] | None = None) -> Path:
    """Write `index.html` and all that it shows.

    Args:
        entries: the runs, of `load_entries`.
        out: where; made if missing.
        left_out: runs that could not be read, and why; named on the page.

    Returns:
        The page's path.
    """
    groups = board_of(entries)
    rankings = rank(entry.run for entry in entries)[:DRAWN]
    draw([replace(one, runs=one.runs[:DRAWN]) for one in rankings], out / "ranking.png", out / "ranking.svg")
    for path in sorted(ASSETS.iterdir()):
        style = STYLE if path.suffix == ".css" else ""
        write_atomic(out / path.name, style + path.read_text(encoding="utf-8"))
    board = {
        "about": {
            "newest": _newest(entries),
            "runs": len(entries),
            "least": LEAST,
            "version": max(str(entry.run["code"].get("version")) for entry in entries),
        },
        "groups": groups,
        "metrics": metrics(),
        "editors": editors(),
        "relations": NAMES,
        "left_out": list((left_out or {}).items()),
    }
    write_atomic(out / "data.js", f"board.start({script_json(board)});\n")
    # Thousands of small files that can be made again: not worth a flush to the disk each.
    for folder in ("runs", "records"):
        (out / folder).mkdir(exist_ok=True)
    for entry in entries:
        (out / "runs" / f"{entry.id}.js").write_text(f"board.loaded({entry.detail});\n", encoding="utf-8")
    for name, entry in {entry.records: entry for entry in entries}.items():
        text = f"board.recorded({script_json(name)}, {entry.table});\n"
        (out / "records" / f"{name}.js").write_text(text, encoding="utf-8")
    write_exports(groups, entries, out)
    return out / "index.html"


def metrics() -> dict[str, dict[str, Any]]:
    """Return what a page says of every metric: unit, which way is better, its definition, how differences are taken."""
    found: dict[str, dict[str, Any]] = {}
    for name in (*COMPOSITES, *METRICS):
        one = COMPOSITES.get(name) if name in COMPOSITES else METRICS.get(name)
        definition = in_words(inspect.cleandoc(one.doc).splitlines()[0])
        found[name] = {"unit": one.unit, "better": one.better, "definition": definition}
        if isinstance(one, Metric):
            found[name] |= {"scale": one.scale, "bounds": one.bounds, "interval": one.interval}
        else:
            found[name] |= {"scale": 100.0, "bounds": (0.0, 1.0), "interval": None}
    return found


def editors() -> dict[str, dict[str, Any]]:
    """Return what a page says of every editor that is known here: title, one line, paper."""
    known = {name: EDITORS.get(name) for name in EDITORS}
    return {
        name: {"title": one.title or name, "summary": one.summary, "paper": one.paper, "control": one.control}
        for name, one in known.items()
    }


def _newest(entries: Sequence[Entry]) -> str | None:
    """Return the day on which the newest run ended."""
    days = [str(entry.run["environment"].get("finished", ""))[:10] for entry in entries]
    return max((day for day in days if re.fullmatch(r"\d{4}-\d\d-\d\d", day)), default=None)


def in_words(text: str) -> str:
    r"""Return a docstring's sentence as a page shows it, its formulas without TeX.

    >>> in_words(r"Return the mean of $\mathbf{1}[a]$, $e^{-L(o^*)} - e^{-L(o^c)}$ and $(H_2 + 2 H_3) / 3$.")
    'The mean of 1[a], exp(-L(o*)) - exp(-L(oᶜ)) and (H₂ + 2 H₃) / 3.'
    """
    text = re.sub(r"\\mathbf\{(\w)\}", r"\1", text.replace("$", ""))
    text = re.sub(r"e\^\{([^}]*)\}", r"exp(\1)", text).replace("^*", "*").replace("^c", "ᶜ")
    text = re.sub(r"(?<=\bH)_([23])", lambda found: {"2": "₂", "3": "₃"}[found[1]], text)
    return re.sub(r"^Return the", "The", text)
