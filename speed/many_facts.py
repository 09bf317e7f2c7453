"""Times editors of many facts: the whole edit against one request at a time, and the closed form at a large width.

    python -m speed.many_facts --model factlm --counts 1 10 100 1000 2000 --alone 8
    python -m speed.many_facts --width 16384 --counts 1 10 100 1000 10000

The first is MEMIT on a model: its search for z, its keys layer by layer, its closed form. Beside it stands the same by
the plain engine, one request after another, with whole passes of the model for each layer and each solution by
Gaussian elimination; its time for a request does not depend on how many there are, and the solution of all is timed
once for each count. Both have the same context templates and second moments, and must come to the same update.

The second is the closed form alone, float64, on random keys of a width, 16,384 being GPT-J's. The factor of the second
moment is timed apart, as it is kept on disk. Operations are counted by the formulas of `counterfact.editing.ridge`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterfact.contracts.editors import EDITORS, Resources
from counterfact.core.files import write_json
from counterfact.core.places import cache_folder
from counterfact.core.process import keep_freed_memory
from counterfact.core.records import Request
from counterfact.core.texts import load_texts
from counterfact.editing import plain
from counterfact.editing.goals import Goal
from counterfact.editing.mass_edits import LayerMoments, MassEditor, layer_moments
from counterfact.editing.requests import encode
from counterfact.editing.ridge import ridge_factor
from counterfact.editing.value_search import find_targets
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.moments.second_moment import SecondMoment
from speed.machine import describe, device_name, forget_peak, peak_memory, resident_memory, synchronize
from speed.main_job import RESULTS, command_of, rounded, slug
from speed.setting import open_model, open_records, repeated

AGREE = 1e-3
"""The most that the two sides' updates may be apart, as a share of their norm."""
MATRIX_TEXTS = 2000
"""Texts of the second moments: their content does not matter for speed."""


@dataclass
class Clock:
    """Seconds by stage."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add what a block takes to a stage."""
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def clocked(editor: MassEditor, clock: Clock) -> MassEditor:
    """The editor with its search and its closed form on a clock; what is left of its time are the keys.

    The search is the editor's own without its cache, so that nothing is read that an earlier count has found.
    """
    write = editor.write

    def search(*given: Any) -> Any:
        with clock.of("z"):
            return find_targets(*given)

    def solve(*given: Any) -> Tensor:
        with clock.of("solve"):
            return write(*given)

    parts = vars(editor) | {"write": solve, "goal": Goal(search, editor.goal.module, editor.goal.divisor)}
    return type(editor)(**parts)


def together(editor: MassEditor, requests: Sequence[Request]) -> tuple[Edit, dict[str, float], float]:
    """Edit all requests at once; return the edit, seconds by stage, and memory in use beyond what was, 1e9 bytes.

    Raises:
        ValueError: a request could not be edited.
    """
    clock = Clock(editor.lm.device)
    before = resident_memory() if editor.lm.device.type == "cpu" else 0.0
    forget_peak(editor.lm.device)
    with clock.of("total"):
        [done] = clocked(editor, clock)([list(requests)], 0)
    if done.edit is None or done.failures:
        raise ValueError(f"{len(done.failures)} of {len(requests)} requests failed: {done.failures[:1]}")
    clock.seconds["keys"] = clock.seconds["total"] - clock.seconds["z"] - clock.seconds["solve"]
    return done.edit, clock.seconds, peak_memory(editor.lm.device) - before


def alone(editor: MassEditor, moments: LayerMoments, weight: float, requests: Sequence[Request]) -> Any:
    """MEMIT as its authors wrote it: every request and layer by itself; return the edit and seconds by stage."""
    lm, settings, clock = editor.lm, editor.settings, Clock(editor.lm.device)
    layers, written = settings.layers, list[LowRank]()
    rows = [encode(lm, request, editor.templates, settings.position, kl_row=True) for request in requests]
    with clock.of("z"):
        wanted = torch.cat([plain.find_targets(lm, [record], layers[-1], settings).wanted for record in rows]).double()
    goal = Site(lm.layout.block(layers[-1]))
    for place, layer in enumerate(layers):
        with clock.of("keys"), merged(lm, [Edit(tuple(written), ())]), torch.no_grad():
            keys, present = zip(*(_look(lm, record, layer, goal) for record in rows), strict=True)
        with clock.of("solve"):
            k = torch.stack(keys).double()
            left = by_elimination(k, weight, moments[layer])
        residual = (wanted - torch.stack(present).double()) / (len(layers) - place)
        written.append(LowRank(lm.layout.fc_out(layer), left.to(lm.working_dtype), residual.to(lm.working_dtype)))
    return Edit(tuple(written), ()), clock.seconds


def _look(lm: LM, record: Any, layer: int, goal: Site) -> tuple[Tensor, Tensor]:
    """One request's mean key at a layer, and what stands at the goal: two whole passes, as there."""
    keys, _ = plain.keys_and_outputs(lm, record, layer)
    tape, bare = Tape(), record.rows[0]
    with hooked(lm.model, tape.read(goal)):
        plain.forward(lm, [bare.ids])
    mean = (keys[0] + keys[1:].mean(0)) / 2 if len(keys) > 1 else keys[0]
    return mean, tape[goal][0, bare.lookup]


def by_elimination(keys: Tensor, weight: float, moment: SecondMoment) -> Tensor:
    """The closed form by its definition."""
    found: Tensor = torch.linalg.solve(weight * moment.matrix + keys.T @ keys, keys.T).T
    return found


def whole_edit(model: str, device: str | None, counts: Sequence[int], few: int, overrides: Sequence[str]) -> Any:
    """Measure MEMIT on a model for each count, in turns with the plain way on a few requests."""
    dataset, records = open_records(None)
    lm = open_model(model, records, device)
    spec = EDITORS.get("memit")
    settings = spec.resolve(lm.name, lm.n_layers, list(overrides)).settings
    resources = Resources(
        second_moment_texts=load_texts("embedded"), second_moment_max_texts=MATRIX_TEXTS, cache=cache_folder()
    )
    editor = spec.prepare(lm, settings, resources)
    assert isinstance(editor, MassEditor)
    weight = editor.facts["moment_weight"]
    moments, _ = layer_moments(lm, editor.settings.layers, resources)
    requests = [record.request for record in repeated(records, max(counts))]
    together(editor, requests[: min(8, len(requests))])  # what is set up on first use is no part of it
    plain_edit, plain_seconds = alone(editor, moments, weight, requests[:few])
    ours, _, _ = together(editor, requests[:few])
    apart = _apart(ours, plain_edit)
    points = []
    for count in counts:
        edit, seconds, memory = together(editor, requests[:count])
        again = alone(editor, moments, weight, requests[:1])[1]
        clock = Clock(lm.device)
        keys = torch.randn(count, len(moments[editor.settings.layers[0]].matrix), dtype=torch.float64)
        with clock.of("solve"):
            for layer in editor.settings.layers:
                by_elimination(keys.to(lm.device), weight, moments[layer])
        plainly = {stage: plain_seconds[stage] / few * count for stage in ("z", "keys")} | clock.seconds
        points.append(
            {
                "count": count,
                "seconds": seconds,
                "one_at_a_time": plainly | {"total": sum(plainly.values())},
                "one_alone_again": sum(again.values()),
                "ratio": sum(plainly.values()) / seconds["total"],
                "added_gigabytes": memory,
                "factor_gigabytes": sum(d.left.nbytes + d.right.nbytes for d in edit.deltas if isinstance(d, LowRank))
                / 1e9,
            }
        )
        print(json.dumps(rounded(points[-1])), flush=True)
    return lm.device, {
        "what": "MEMIT on all requests at once, seconds; beside it one request after another by the plain engine, "
        "timed on a few and multiplied",
        "model": {"layers": lm.n_layers, "width": lm.width, **lm.identity},
        "dataset": dataset,
        "distinct": len(records),
        "settings": editor.settings.model_dump(),
        "templates": len(editor.templates),
        "alone": few,
        "update_relative": apart,
        "agrees": apart <= AGREE,
        "points": points,
        "growth": _growth(points),
    }


def _apart(ours: Edit, theirs: Edit) -> float:
    def dense(edit: Edit) -> Tensor:
        return torch.cat([d.left.double().T @ d.right.double() for d in edit.deltas if isinstance(d, LowRank)])

    return float((dense(ours) - dense(theirs)).norm() / dense(theirs).norm())


def _growth(points: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Exponent of a power of n laid through the seconds of the larger counts, by stage."""
    large = [point for point in points if point["count"] >= 100]
    if len(large) < 2:
        return None
    x = np.log([point["count"] for point in large])
    return {
        stage: float(np.polyfit(x, np.log([point["seconds"][stage] for point in large]), 1)[0])
        for stage in ("z", "keys", "solve", "total")
    }


def closed_form(width: int, counts: Sequence[int], device: torch.device, plain_at: Sequence[int]) -> dict[str, Any]:
    """Measure the closed form alone."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    matrix = torch.eye(width, dtype=torch.float64, device=device)
    for _ in range(max(1, width // 4096)):
        some = draw(1024, width).to(device)
        matrix.addmm_(some.T, some, alpha=1 / 1024)
    moment, clock = SecondMoment(matrix, 1024, 0, "random", "random"), Clock(device)
    with clock.of("factor"):
        assert moment.ridge == 0
    ceiling, reading = _ceiling(device), _reading(device)
    points, weight = [], 0.92 * width
    for count in counts:
        keys = draw(count, width).to(device)
        timer = Clock(device)
        forget_peak(device)
        before = resident_memory() if device.type == "cpu" else 0.0
        with timer.of("ours"):
            left = ridge_factor(keys, weight, moment)
        memory = peak_memory(device) - before
        few = 2 * count <= width
        flop = operations(count, width, of_keys=few)
        read = 8 * (2 * width**2 / 2 if few else 3 * width**2)
        least = max(flop / ceiling, read / reading)
        point: dict[str, Any] = {
            "count": count,
            "system": "of keys" if few else "of the width",
            "seconds": timer.seconds["ours"],
            "gflop": flop / 1e9,
            "gflop_a_second": flop / timer.seconds["ours"] / 1e9,
            "of_product_ceiling": flop / timer.seconds["ours"] / ceiling,
            "of_least_time": least / timer.seconds["ours"],
            "added_gigabytes": memory,
        }
        if count in plain_at:
            with timer.of("elimination"):
                plainly = by_elimination(keys, weight, moment)
            point["elimination"] = timer.seconds["elimination"]
            point["ratio"] = timer.seconds["elimination"] / timer.seconds["ours"]
            point["apart"] = float((left - plainly).norm() / plainly.norm())
        points.append(point)
        print(json.dumps(rounded(point)), flush=True)
    return {
        "what": "the closed form of n keys, float64, seconds; the factor of the second moment apart",
        "width": width,
        "factor_seconds": clock.seconds["factor"],
        "product_ceiling_gflops": ceiling / 1e9,
        "reading_gigabytes": reading / 1e9,
        "agrees": all(point.get("apart", 0.0) <= AGREE for point in points),
        "points": points,
    }


def operations(count: int, width: int, *, of_keys: bool) -> float:
    """Multiplications and additions of the closed form; see `counterfact.editing.ridge`.

    >>> operations(1, 1000, of_keys=True), operations(1000, 1000, of_keys=False) / 1e9
    (2004000.3333333333, 4.333333333333333)
    """
    if of_keys:
        return 2 * width**2 * count + 4 * width * count**2 + count**3 / 3
    return 4 * width**2 * count + width**3 / 3


def _ceiling(device: torch.device) -> float:
    """Operations a second of float64 products, the best of some."""
    a = torch.rand(4096, 4096, dtype=torch.float64, device=device)
    return float(2 * 4096**3 / min(_once(lambda: a @ a, device) for _ in range(3)))


def _reading(device: torch.device) -> float:
    """Bytes a second that are read."""
    big = torch.rand(2**27, device=device)
    return big.nbytes / min(_once(big.sum, device) for _ in range(5))


def _once(work: Any, device: torch.device) -> float:
    clock = Clock(device)
    with clock.of("it"):
        work()
    return clock.seconds["it"]


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit status: 1 where the sides do not agree."""
    given = sys.argv[1:] if given is None else given
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="factlm", help="folder, Hub id or embedded name")
    parser.add_argument("--width", type=int, help="the closed form alone, at this width")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 10, 100], help="numbers of facts")
    parser.add_argument("--alone", type=int, default=8, help="requests that are edited one at a time")
    parser.add_argument("--elimination", type=int, nargs="*", help="counts with elimination beside; default: all")
    parser.add_argument("--set", action="append", default=[], help="a setting of MEMIT, as name=value")
    parser.add_argument("--device", help="cpu, cuda ...")
    parser.add_argument("--out", type=Path, help="the file to write; by default in speed/results")
    arguments = parser.parse_args(given)
    keep_freed_memory(os.environ)  # as the command line does
    if arguments.width:
        device, name = torch.device(arguments.device or "cpu"), f"closed_form-{arguments.width}"
        plain_at = arguments.counts if arguments.elimination is None else arguments.elimination
        result = closed_form(arguments.width, arguments.counts, device, plain_at)
    else:
        device, result = whole_edit(arguments.model, arguments.device, arguments.counts, arguments.alone, arguments.set)
        name = f"many_facts-{Path(arguments.model).name}"
    result = rounded({"command": command_of("many_facts", given), "machine": describe(device), **result})
    path = arguments.out or RESULTS / f"{slug(name, device_name(device))}.json"
    write_json(path, json.loads(json.dumps(result)))
    print(f"written to {path}")
    return 0 if result["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
