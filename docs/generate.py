"""Write the generated pages of `docs/` and the generated tables of the README; with `--check`, only compare.

Each room has a page, made from its public names (`docs.room_pages`). Between the markers
`<!-- generated: NAME -->` and `<!-- end -->`, a hand-written page holds a table made here: of what is registered, or of
what the benchmarks wrote (`docs.measured`, `docs.measured_scores`).
"""

import inspect
import re
import sys
from collections.abc import Callable
from functools import partial

from counterfact.contracts.metrics import Composite, Metric
from counterfact.core.files import write_atomic
from docs import measured, measured_scores
from docs.board import board_table
from docs.room_pages import ROOT, room_page

PAGES = ROOT / "docs"
ROOMS = (
    *("core", "lm", "contracts", "statistics", "editing", "builders", "editors", "metrics"),
    *("evaluation", "tracing", "training", "leaderboard", "api"),
)
"""Rooms of the package that have a page each."""


def metrics_table() -> str:
    """Return the table of all metrics and composites."""
    from counterfact.contracts.benchmarks import BENCHMARKS  # noqa: PLC0415
    from counterfact.contracts.metrics import COMPOSITES, METRICS  # noqa: PLC0415

    benchmarks = [BENCHMARKS.get(name) for name in BENCHMARKS]
    having: dict[str, list[str]] = {}
    for each in benchmarks:
        for symbol in (*(metric.symbol for metric in each.metrics), *each.composites):
            having.setdefault(symbol, []).append(each.name)
    found: list[tuple[str, Metric | Composite]] = [(name, METRICS.get(name)) for name in METRICS]
    found += [(name, COMPOSITES.get(name)) for name in COMPOSITES]
    rows = [
        [name, _first_line(entry.doc), ", ".join(having.get(name, [])), entry.unit, entry.better,
         str(entry.definition)]
        for name, entry in found
    ]  # fmt: skip
    return measured.table(["symbol", "what", "of", "unit", "better", "definition"], rows)


def _first_line(doc: str) -> str:
    """Return what a docstring says first, as a noun."""
    return re.sub(r"^Return the (\w)", lambda found: f"The {found[1]}", inspect.cleandoc(doc).splitlines()[0])


def benchmarks_table() -> str:
    """Return the table of all benchmarks, by what their modules say first."""
    from counterfact.contracts.benchmarks import BENCHMARKS  # noqa: PLC0415

    rows = []
    for name in BENCHMARKS:
        benchmark = BENCHMARKS.get(name)
        first = str(sys.modules[benchmark.block_form.__module__].__doc__).splitlines()[0]
        asked = (first.partition(": ")[2] or first).rstrip(".")
        others = [symbol for symbol in benchmark.shown if symbol not in {"S", *benchmark.score_parts}]
        rows.append([f"`{name}`", benchmark.title, asked, ", ".join(benchmark.score_parts), ", ".join(others)])
    return measured.table(["benchmark", "called", "what it asks", "Score S is of", "also shown"], rows)


def editors_table() -> str:
    """Return the table of all editors; those that differ only in what their network was trained on share a row."""
    from counterfact.contracts.editors import EDITORS  # noqa: PLC0415

    names: dict[tuple[str, str], list[str]] = {}
    for name in EDITORS:
        spec = EDITORS.get(name)
        summary = spec.summary.partition("; trained on ")[0] if spec.trained_for else spec.summary
        names.setdefault((summary, spec.paper), []).append(f"`{name}`")
    rows = [[" ".join(mine), summary, paper] for (summary, paper), mine in names.items()]
    return measured.table(["editor", "what it does", "paper"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "board_smollm2_genuine": partial(board_table, "smollm2-genuine"),
    "board_smollm2_embedded": partial(board_table, "smollm2-embedded"),
    "metrics": metrics_table,
    "benchmarks": benchmarks_table,
    "editors": editors_table,
    "tracing": measured.tracing,
    "runners": measured.runners,
    "in_short": measured.in_short,
    "job_small": measured.job_small,
    "job_factlm": measured.job_factlm,
    "job_smollm2": measured.job_smollm2,
    "many_facts": measured.many_facts,
    "closed_form": measured.closed_form,
    "growth": measured.growth,
    "drift_factlm": measured_scores.drift_factlm,
    "drift_smollm2": measured_scores.drift_smollm2,
    "sweep_smollm2": measured_scores.sweep_smollm2,
    "moment_errors": measured.moment_errors,
    "moment_speed": measured.moment_speed,
}


def with_tables(text: str) -> str:
    """Return a hand-written page with its generated tables made anew."""

    def make(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", make, text, flags=re.S)


def main() -> int:
    """Write every page that differs; with `--check`, name it and return 1."""
    wanted = {PAGES / "rooms" / f"{room}.md": room_page(room) for room in ROOMS}
    for page in [ROOT / "README.md", *sorted(PAGES.glob("*.md"))]:
        wanted[page] = with_tables(page.read_text(encoding="utf-8"))
    stale = [page for page, text in wanted.items() if not page.exists() or page.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for page in stale:
            sys.stderr.write(f"{page.relative_to(ROOT)} is out of date: run `make docs`\n")
        return 1 if stale else 0
    for page in stale:
        write_atomic(page, wanted[page])
    return 0


if __name__ == "__main__":
    sys.exit(main())
