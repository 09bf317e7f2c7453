"""Write the board as a static site: a page that works from `file://`, its data, one file a run, and exports."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from core.files import write_atomic
from leaderboard.board import Entry, board_of, details, script_json
from leaderboard.exports import write_exports
from leaderboard.picture import draw
from leaderboard.ranking import rank
from metrics import COMPOSITES, METRICS

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
        write_atomic(out / path.name, path.read_bytes())
    board = {"groups": groups, "definitions": definitions(), "left_out": list((left_out or {}).items())}
    write_atomic(out / "data.js", f"board.start({script_json(board)});\n")
    (out / "runs").mkdir(exist_ok=True)
    for entry in entries:
        # Thousands of small files that can be made again: not worth a flush to the disk each.
        text = f"board.loaded({script_json(details(entry))});\n"
        (out / "runs" / f"{entry.id}.js").write_text(text, encoding="utf-8")
    write_exports(groups, entries, out)
    return out / "index.html"


def definitions() -> dict[str, str]:
    """Return the first sentence of every metric's definition."""
    docs = {name: METRICS.get(name).doc for name in METRICS} | {name: COMPOSITES.get(name).doc for name in COMPOSITES}
    return {name: inspect.cleandoc(doc).splitlines()[0] for name, doc in docs.items()}
