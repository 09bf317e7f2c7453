"""The first check for a user with real weights: the unedited row of the paper's Table 4, and then ROME's.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterfact.contracts.datasets import Dataset
from counterfact.contracts.editors import EDITORS, Resources
from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl
from counterfact.evaluation.benchmarks.counterfact import COUNTERFACT
from counterfact.evaluation.harness import evaluate, evaluate_unedited
from counterfact.evaluation.paper import N, PaperRow, Published, paper_rows
from counterfact.evaluation.store import PRE, results
from counterfact.evaluation.tables import Cell, Row, Table
from counterfact.evaluation.task import Options
from counterfact.lm.model.language_model import LM

ROUNDING = 0.05
"""The paper prints one decimal: its numbers and half-widths may be off by this much."""


@dataclass(frozen=True)
class Check:
    """One number of ours against the printed one."""

    metric: str
    ours: float | None
    paper: Published
    inside: bool | None
    """Whether ours lies in the paper's interval; `None` where one of the two is missing."""


@dataclass(frozen=True)
class Verdict:
    """One row of the table."""

    label: str
    n: int
    checks: tuple[Check, ...]

    @property
    def inside(self) -> bool:
        """Whether every number that could be checked is inside, and there is one."""
        decided = [check.inside for check in self.checks if check.inside is not None]
        return bool(decided) and all(decided)


def records_needed(model: str) -> int:
    """Return how many official records the paper evaluated a model on.

    Raises:
        BadInput: the model is not in the paper.
    """
    name = model.rpartition("/")[2].lower()
    if name not in N["counterfact"]:
        raise BadInput(f"the paper has no CounterFact row for {model!r}; it has {', '.join(N['counterfact'])}")
    return N["counterfact"][name]


def reproduce(
    lm: LM,
    dataset: Dataset,
    results_folder: Path,
    *,
    editors: Sequence[str] = ("rome",),
    resources: Resources | None = None,
    options: Options | None = None,
) -> Iterator[Verdict]:
    """Evaluate what the paper evaluated, and yield the verdict on each row as soon as it is there.

    Args:
        lm: a model of the paper.
        dataset: the official CounterFact, as many records as `records_needed` says; fewer make a trial run, whose
            verdict says little.
        results_folder: as for `evaluate`; interrupted, it goes on.
        editors: rows after the unedited one.
        resources: what editors may draw on.
        options: as for `evaluate`.

    Raises:
        BadInput: the model is not in the paper, or the data set is not the official CounterFact.
    """
    rows = {row.editor: row for row in paper_rows(COUNTERFACT.name, lm.name)}
    asked = records_needed(lm.name)
    if dataset.benchmark is not COUNTERFACT or dataset.version != "official":
        raise BadInput(
            f"{dataset.path} is not the official counterfact.json (its sha256 is checked); download it from "
            "https://rome.baulab.info/data/dsets/counterfact.json"
        )
    if len(dataset.records) > asked:
        raise BadInput(f"the paper evaluated {lm.name} on the first {asked} records: load it with that limit")
    folder = evaluate_unedited(lm, dataset, results_folder, options=options)
    lines = list(read_jsonl(folder / PRE))
    yield verdict(rows["unedited"], results(COUNTERFACT, (), lines, (options or Options()).seed)["pre"], len(lines))
    for name in editors:
        spec = EDITORS.get(name)
        resolved = spec.resolve(lm.name, lm.n_layers)
        run = evaluate(lm, spec, resolved, dataset, results_folder, resources=resources, options=options)
        if name in rows:
            yield verdict(rows[name], run.data["metrics"], run.data["n"]["scored"])


def verdict(row: PaperRow, metrics: Mapping[str, Mapping[str, Any]], n: int) -> Verdict:
    """Compare numbers of ours with a row of the paper.

    A number is inside where it differs from the printed one by no more than the printed half-width and the rounding of
    both. The paper prints no interval for S: there the printed number must lie in our own bootstrap interval.

    Args:
        row: of the paper.
        metrics: as `run.json` has them.
        n: records behind ours.
    """
    return Verdict(row.label, n, tuple(_check(name, metrics.get(name), number) for name, number in row.cells.items()))


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Return verdicts as a table: ours, the paper's, and a mark where ours is outside."""
    rows = []
    for index, one in enumerate(verdicts):
        printed, ours = {}, {}
        for check in one.checks:
            value, half = check.paper.value, check.paper.half
            printed[check.metric] = Cell(value) if half is None else Cell(value, value - half, value + half)
            ours[check.metric] = Cell(check.ours, mark="" if check.inside is not False else " !")
        said = "inside" if one.inside else "OUTSIDE"
        rows += [Row(f"paper: {one.label}", printed, "", index), Row(f"ours: {said}", ours, str(one.n), index)]
    groups = (("", tuple(check.metric for check in verdicts[0].checks)),) if verdicts else ()
    return Table("Against the paper", groups, tuple(rows), note="! outside the paper's 95 % interval")


def _check(metric: str, ours: Mapping[str, Any] | None, paper: Published) -> Check:
    value = ours["value"] if ours else None
    if ours is None or value is None:
        return Check(metric, None, paper, None)
    if paper.half is not None:
        inside = abs(value - paper.value) <= paper.half + 2 * ROUNDING
    else:
        inside = ours["low"] - ROUNDING <= paper.value <= ours["high"] + ROUNDING
    return Check(metric, value, paper, inside)
