"""What sequential edits keep: scores right after an edit and later, from the lines that a sequential run left.

*Immediate* is each group right after its own edit; *retained* all that was edited, after so many edits more; *final*
is retained after the last one, and is what a run's `metrics` hold.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import fsum
from pathlib import Path
from typing import Any

from counterfact.contracts.benchmarks import Benchmark
from counterfact.core.files import read_json, read_jsonl
from counterfact.evaluation.store import CASES, PRE, counts_of
from counterfact.statistics.summary import blocks_of, summarise

IMMEDIATE = "immediate"
"""Folder of what was measured right after each edit."""
CONDITION = "model.json"
"""What had become of the model, in the folder of a checkpoint."""
Lines = Sequence[Mapping[str, Any]]


def after(edits: int) -> str:
    """Return the folder of what was measured after so many edits; names sort as numbers do."""
    return f"after-{edits:08d}"


def sequence_of(folder: Path, unedited: Path, benchmark: Benchmark[Any], seed: int) -> dict[str, Any]:
    """Return the section of a run file that says what became of edits one after another.

    Args:
        folder: of a sequential run whose passes are all finished.
        unedited: folder of what the unedited model says about the same records.
        benchmark: gives the metrics.
        seed: of the run.

    Returns:
        `immediate` (counts and metrics), `collapsed_after` (edits, or `None`), and `checkpoints`: after how many edits
        and steps, counts and metrics of what was retained, what had become of the model, and `cohorts`: the
        metrics of its table for the records edited since the checkpoint before each.
    """
    immediate = list(read_jsonl(folder / IMMEDIATE / CASES))
    conditions = [read_json(path) for path in sorted(folder.glob(f"after-*/{CONDITION}"))]
    place = {line["case_id"]: number for number, line in enumerate(immediate)}
    bounds = [0, *(found["edits"] for found in conditions)]
    checkpoints, ruined = [], []
    for found in conditions:
        path = folder / after(found["edits"]) / CASES
        lines = list(read_jsonl(path if path.exists() else folder / CASES))
        if found["ruined"] or has_fallen(lines, unedited, benchmark):
            ruined.append(found["edits"])
        cohorts = []
        for low, high in pairwise(bounds):
            mine = [line for line in lines if low <= place[line["case_id"]] < high]
            if high <= found["edits"]:
                scores = _scores(mine, benchmark, seed)
                shown = {name: scores["metrics"][name] for name in ("S", *benchmark.shown) if name in scores["metrics"]}
                cohorts.append({"from": low + 1, "to": high, "n": len(mine), "metrics": shown})
        checkpoints.append({**found, **_scores(lines, benchmark, seed), "cohorts": cohorts})
    return {
        "immediate": _scores(immediate, benchmark, seed),
        "collapsed_after": ruined[0] if ruined else None,
        "checkpoints": checkpoints,
    }


def has_fallen(lines: Lines, unedited: Path, benchmark: Benchmark[Any]) -> bool:
    """Return whether texts tell that the model has collapsed: by a metric far below the unedited model's.

    Both means are over the records that have both values, so that a run without texts is not judged by them.

    Args:
        lines: of a checkpoint.
        unedited: folder of what the unedited model says about the same records.
        benchmark: gives the metrics of texts; `collapsed_below` says what is far.
    """
    telling = [
        (metric.key, share) for metric in benchmark.text_metrics if (share := metric.collapsed_below) is not None
    ]
    if not telling:
        return False
    now, before = (
        {line["case_id"]: line[side] for line in some if side in line}
        for some, side in ((lines, "post"), (read_jsonl(unedited / PRE), "pre"))
    )
    for key, share in telling:
        pairs = [(block.get(key), before.get(i, {}).get(key)) for i, block in now.items()]
        there = [pair for pair in pairs if None not in pair]
        if there and fsum(a for a, _ in there) < share * fsum(b for _, b in there):
            return True
    return False


def _scores(lines: Lines, benchmark: Benchmark[Any], seed: int) -> dict[str, Any]:
    computed = summarise(blocks_of(lines, "post"), benchmark, seed)
    metrics = {name: summary.as_json() for name, summary in computed.items()}
    return {"n": counts_of(lines, "post", benchmark), "metrics": metrics}
