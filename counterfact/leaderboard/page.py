"""Write the board as a static site: a page that works from `file://`, its data, one file a run, and exports."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from counterfact.contracts.metrics import COMPOSITES, METRICS
from counterfact.core.files import write_atomic
from counterfact.leaderboard.board import board_of
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
        write_atomic(out / path.name, path.read_bytes())
    board = {"groups": groups, "definitions": definitions(), "left_out": list((left_out or {}).items())}
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


def definitions() -> dict[str, str]:
    """Return the first sentence of every metric's definition."""
    docs = {name: METRICS.get(name).doc for name in METRICS} | {name: COMPOSITES.get(name).doc for name in COMPOSITES}
    return {name: in_words(inspect.cleandoc(doc).splitlines()[0]) for name, doc in docs.items()}


def in_words(text: str) -> str:
    r"""Return a docstring's sentence as a page shows it, its formulas without TeX.

    >>> in_words(r"Return the mean of $\mathbf{1}[a]$, $e^{-L(o^*)} - e^{-L(o^c)}$ and $(H_2 + 2 H_3) / 3$.")
    'The mean of 1[a], exp(-L(o*)) - exp(-L(oᶜ)) and (H₂ + 2 H₃) / 3.'
    """
    text = re.sub(r"\\mathbf\{(\w)\}", r"\1", text.replace("$", ""))
    text = re.sub(r"e\^\{([^}]*)\}", r"exp(\1)", text).replace("^*", "*").replace("^c", "ᶜ")
    text = re.sub(r"(?<=\bH)_([23])", lambda found: {"2": "₂", "3": "₃"}[found[1]], text)
    return re.sub(r"^Return the", "The", text)
