"""Times the main job, an edit by ROME and its measurement, against the same job done one record at a time.

    python -m benchmarks.main_job --model factlm --records 6

Both run in one process, in turns, on the same records, with the same products library and threads. The unedited
model's scores are computed once for a data set and are no part of it; neither are context templates and second moment.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import Ceiling, describe, device_name, measure_ceiling, synchronize
from benchmarks.one_at_a_time import OneAtATime, scored_prompts
from benchmarks.setting import Setting, prepare
from benchmarks.work import Work, edit_work, generate_work, score_work
from core.files import write_json
from core.records import CounterFactRecord
from core.seeds import derive_seed
from editors import EDITORS, Resources
from editors._rows import encode
from lm.deltas import Edit
from lm.generation import generate
from lm.scoring import Query, TargetScore, score

STAGES = ("edit", "score", "generate")
RESULTS = Path(__file__).parent / "results"


class Clock:
    """A stop watch that waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._since = 0.0

    def start(self) -> None:
        """Start, or start again."""
        synchronize(self._device)
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Return seconds since the start."""
        synchronize(self._device)
        return time.perf_counter() - self._since


class WorkCounter:
    """In a stop watch's place: counts 1e9 operations in products, attention included where torch can count it."""

    def __init__(self) -> None:
        self._counter: Any = FlopCounterMode(display=False)

    def start(self) -> None:
        """Start, or start again."""
        self._counter = FlopCounterMode(display=False)
        self._counter.__enter__()

    def lap(self) -> float:
        """Return what was done since the start, and stop."""
        self._counter.__exit__(None, None, None)
        return float(self._counter.get_total_flops()) / 1e9


@dataclass
class Times:
    """Seconds a record (or 1e9 operations, by another clock), by stage, one entry for each turn."""

    clock: Clock | WorkCounter
    seconds: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})

    def mean(self, stage: str) -> float:
        """Mean over the turns; `total` is the sum of the stages."""
        if stage == "total":
            return sum(self.mean(part) for part in STAGES)
        return sum(self.seconds[stage]) / len(self.seconds[stage])

    def turns(self, stage: str) -> list[float]:
        """The stage's entries; `total`: their sums, turn by turn."""
        if stage == "total":
            return [sum(parts) for parts in zip(*self.seconds.values(), strict=True)]
        return self.seconds[stage]


@dataclass(frozen=True)
class Outcome:
    """What one of the two ways came to, for comparison: nats of (new, true) by record and prompt; updates."""

    nats: list[list[list[float]]]
    updates: list[torch.Tensor]
    passes: list[int] = field(default_factory=list)


def many_at_once(setting: Setting, records: Sequence[CounterFactRecord], length: int, times: Times) -> Outcome:
    """Do the job with our code, one chunk."""
    lm, clock = setting.lm, times.clock
    with tempfile.TemporaryDirectory() as folder:  # values found by an earlier turn must not be found again
        resources = Resources(
            second_moments={setting.settings.layer: setting.moment},
            context_templates=setting.templates,
            cache=Path(folder),
        )
        editor = EDITORS.get("rome").prepare(lm, setting.settings, resources)
        clock.start()
        edits = [edit for edit in editor([record.request for record in records], 0) if isinstance(edit, Edit)]
        times.seconds["edit"].append(clock.lap() / len(records))
    if len(edits) < len(records):
        raise ValueError("a record could not be edited; choose other records")
    owners = [i for i, record in enumerate(records) for _ in scored_prompts(record)]
    queries = [
        Query(prompt, (record.requested_rewrite.target_new.text, record.requested_rewrite.target_true.text))
        for record in records
        for prompt in scored_prompts(record)
    ]
    clock.start()
    scores = iter(score(lm, queries, owners, edits))
    times.seconds["score"].append(clock.lap() / len(records))
    writers = [i for i, record in enumerate(records) for _ in record.generation_prompts]
    prompts = [prompt for record in records for prompt in record.generation_prompts]
    seeds = [derive_seed(0, i) for i in range(len(prompts))]
    clock.start()
    generate(lm, prompts, seeds, writers, edits, length=length)
    times.seconds["generate"].append(clock.lap() / len(records))
    nats = [[_means(next(scores)) for _ in scored_prompts(record)] for record in records]
    updates = [edit.deltas[0].weight_change for edit in edits]
    return Outcome(nats, updates, [int(edit.diagnostics["steps"]) for edit in edits])


def one_at_a_time(baseline: OneAtATime, records: Sequence[CounterFactRecord], length: int, times: Times) -> Outcome:
    """Do the job one record after the other."""
    clock, outcome = times.clock, Outcome([], [])
    for record in records:
        clock.start()
        change = baseline.edit(record.request)
        times.seconds["edit"].append(clock.lap())
        with baseline.edited(change):
            clock.start()
            outcome.nats.append(baseline.score(record))
            times.seconds["score"].append(clock.lap())
            clock.start()
            baseline.generate(record, length)
            times.seconds["generate"].append(clock.lap())
        outcome.updates.append(torch.outer(*change))
    return outcome


def _means(found: Any) -> list[float]:
    return [item.mean_nll if isinstance(item, TargetScore) else float("nan") for item in found]


def deviations(ours: Outcome, theirs: Outcome) -> dict[str, float]:
    """Return how far the two ways are apart on the records that both did."""
    nats = [
        abs(a - b)
        for one, other in zip(ours.nats, theirs.nats, strict=False)
        for pair, pair_other in zip(one, other, strict=True)
        for a, b in zip(pair, pair_other, strict=True)
    ]
    updates = [float((a - b).norm() / b.norm()) for a, b in zip(ours.updates, theirs.updates, strict=False)]
    return {"nats_largest": max(nats), "update_relative_largest": max(updates)}


def measure(setting: Setting, count: int, length: int) -> dict[str, Any]:
    """Run both in turns: our chunk, a share of the other's records, again, until these are used up."""
    lm, records = setting.lm, setting.records
    inverse = torch.linalg.inv(setting.moment.matrix).to(lm.device, lm.dtype)
    baseline = OneAtATime(lm, setting.templates, inverse, setting.settings)
    ours, theirs, ceilings = Times(Clock(lm.device)), Times(Clock(lm.device)), []
    many_at_once(setting, records[:2], length, Times(Clock(lm.device)))  # what is set up on first use is no part of it
    theirs_done = Outcome([], [])
    for place in range(count):
        ceilings.append(measure_ceiling(lm.width, lm.device))
        ours_done = many_at_once(setting, records, length, ours)
        done = one_at_a_time(baseline, [records[place]], length, theirs)
        theirs_done.nats.extend(done.nats)
        theirs_done.updates.extend(done.updates)
    ceiling = Ceiling(max(c.gflops for c in ceilings), max(c.gigabytes for c in ceilings))
    work = _work(setting, ours_done.passes, length)
    our_work, their_work = Times(WorkCounter()), Times(WorkCounter())
    many_at_once(setting, records, length, our_work)
    one_at_a_time(baseline, records[:count], length, their_work)
    done_by = {"one_at_a_time_gflop": their_work, "ours_gflop": our_work}
    return {
        "stages": [
            _stage(name, ours, theirs, work[name], ceiling)
            | {side: round(counted.mean(name), 3) for side, counted in done_by.items()}
            for name in (*STAGES, "total")
        ],
        "ceiling": asdict(ceiling),
        "agreement": deviations(ours_done, theirs_done),
    }


def _work(setting: Setting, passes: Sequence[int], length: int) -> dict[str, Work]:
    lm, settings = setting.lm, setting.settings
    rows = [encode(lm, record.request, setting.templates, settings.position, hold=True) for record in setting.records]
    parts = {
        "edit": edit_work(lm, rows, passes, settings.layer),
        "score": score_work(lm, setting.records),
        "generate": generate_work(lm, setting.records, length),
    }
    total = Work(sum(part.gflop for part in parts.values()), sum(part.gigabytes for part in parts.values()))
    return {**parts, "total": total}


def _stage(name: str, ours: Times, theirs: Times, work: Work, ceiling: Ceiling) -> dict[str, Any]:
    floor = work.seconds(ceiling)
    return {
        "stage": name,
        "one_at_a_time": round(theirs.mean(name), 5),
        "one_at_a_time_turns": [round(value, 5) for value in theirs.turns(name)],
        "ours": round(ours.mean(name), 5),
        "ours_turns": [round(value, 5) for value in ours.turns(name)],
        "ratio": round(theirs.mean(name) / ours.mean(name), 2),
        "needed_gflop": round(work.gflop, 3),
        "needed_gigabytes": round(work.gigabytes, 4),
        "floor": round(floor, 5),
        "achieved": round(floor / ours.mean(name), 3),
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    machine, model = result["machine"], result["model"]
    print(
        f"{model['name']}: {model['layers']} layers, width {model['width']}, vocabulary {model['vocabulary']}, float32"
    )
    print(f"{machine['device']}, {machine['threads']} of {machine['cores']} threads, load {machine['load'][0]}")
    print(f"torch {machine['torch']}, products by {machine['product_library']} on both sides")
    print(f"chunk of {result['chunk']} records; one at a time: {result['records']} records, in turns\n")
    print(
        f"{'a record':<10}{'one at a time, s':>23}{'ours, s':>23}{'ratio':>8}{'floor, s':>10}{'achieved':>10}", end=""
    )
    print(f"{'GFLOP: one':>12}{'ours':>8}{'needed':>8}")
    for row in result["stages"]:
        sides = [
            f"{row[side]:.4f} ({min(row[side + '_turns']):.3f}-{max(row[side + '_turns']):.3f})"
            for side in ("one_at_a_time", "ours")
        ]
        line = f"{row['stage']:<10}{sides[0]:>23}{sides[1]:>23}{row['ratio']:>7.1f}x{row['floor']:>10.4f}"
        work = f"{row['one_at_a_time_gflop']:>12.1f}{row['ours_gflop']:>8.2f}{row['needed_gflop']:>8.2f}"
        print(f"{line}{row['achieved']:>10.0%}{work}")
    ceiling = result["ceiling"]
    print(
        f"\nfloor: products at {ceiling['gflops']:.0f} GFLOP/s, reads at {ceiling['gigabytes']:.0f} GB/s, measured here"
    )
    agreement = result["agreement"]
    print(
        f"agreement: updates within {agreement['update_relative_largest']:.1e} of their norm, "
        f"scores within {agreement['nats_largest']:.1e} nats"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="factlm", help="folder, Hub id, embedded name, or `random` (6 x 192)")
    parser.add_argument(
        "--dataset", help="a built folder or counterfact.json; by default built from the embedded world"
    )
    parser.add_argument("--records", type=int, default=6, help="how many are done one at a time")
    parser.add_argument("--chunk", type=int, default=32, help="how many are done at once")
    parser.add_argument("--length", type=int, default=100, help="tokens of a generated text")
    parser.add_argument("--device", help="cpu, cuda ...; by default an accelerator if there is one")
    parser.add_argument("--set", action="append", default=[], help="a setting of ROME, as name=value; may be repeated")
    parser.add_argument("--out", type=Path, help="the file to write; by default in benchmarks/results")
    arguments = parser.parse_args()
    setting = prepare(arguments.model, arguments.dataset, arguments.chunk, arguments.device, arguments.set)
    lm = setting.lm
    count = min(arguments.records, arguments.chunk)
    result = {
        "what": "edit by ROME, scores of 13 prompts, 10 texts; seconds a record, unedited values not counted",
        "made_by": f"python -m benchmarks.main_job --model {arguments.model} --records {arguments.records}",
        "machine": describe(lm.device),
        "model": {"layers": lm.n_layers, "width": lm.width, "vocabulary": lm.vocabulary, **lm.identity},
        "dataset": setting.dataset,
        "settings": setting.settings.model_dump(),
        "chunk": arguments.chunk,
        "records": count,
        "length": arguments.length,
        **measure(setting, count, arguments.length),
    }
    show(result)
    slug = re.sub(r"\W+", "-", device_name(lm.device).lower()).strip("-")
    path = arguments.out or RESULTS / f"main_job-{slug}.json"
    write_json(path, json.loads(json.dumps(result)))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
