"""What `speed.tracing` times: each kind of trace against loops over cells, the rest, gradients, growth."""

import importlib.util
import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from counterfact.lm.forward.products import packed_products, packs_products
from counterfact.lm.model.language_model import LM
from counterfact.tracing.causal import Traced, trace
from counterfact.tracing.cells import KINDS, SEVERED, Kind, Scan
from counterfact.tracing.corruption import Corruption, make_corruption
from counterfact.tracing.facts import BadFact, Fact, Prompt, encode
from counterfact.tracing.gradients import PARTS, Attributed, attribute
from speed.machine import synchronize
from speed.tracers import PlainLoop, Pyvene, Tracer, TransformerLens, captum_gradients, captum_single

TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-9, torch.bfloat16: 0.2}
"""How far a probability may lie from the loops'.

Held against float64 on GPT-2 small's shape, where random logits are large: TransformerLens lies up to 3e-5 from it (two
threads), we 9e-6, the plain loop 3e-6.
"""

NORM = 1e-3
"""Norms of attributions below this are compared as if they were this large."""

LONG = 3.0
"""Seconds from which on one run has to do, after the first ones that warmed the machine up."""


@dataclass(frozen=True)
class Job:
    """What is measured, and how often."""

    lm: LM
    facts: Sequence[Fact]
    noise: Corruption
    window: int
    cells: int
    times: int
    nodes: int

    @property
    def own_time(self) -> bool:
        """Whether seconds are the process's, whatever else the machine does."""
        return self.lm.device.type == "cpu" and torch.get_num_threads() == 1

    @property
    def clock(self) -> Callable[[], float]:
        """What runs are timed by, in seconds."""
        return time.process_time if self.own_time else time.perf_counter

    @property
    def clock_name(self) -> str:
        """What seconds are."""
        return "seconds of this process, one thread" if self.own_time else "seconds of the clock"

    def seconds(self, run: Callable[[], Any]) -> float:
        """Return how long a run takes."""
        synchronize(self.lm.device)
        start = self.clock()
        run()
        synchronize(self.lm.device)
        return self.clock() - start

    def repeated(self, run: Callable[[], Any]) -> float:
        """Return the median of some runs, or one run's seconds where it takes long."""
        first = self.seconds(run)
        return first if first > LONG else median([first, *(self.seconds(run) for _ in range(self.times - 1))])

    def trace(self, kinds: Sequence[Kind] = KINDS, facts: Sequence[Fact] | None = None, **more: Any) -> Any:
        """Trace facts, by default the first one."""
        at = more.pop("at", "all")
        return trace(self.lm, facts or self.facts[:1], self.noise, Scan(tuple(kinds), self.window, at), **more)

    @cached_property
    def loops(self) -> dict[str, Tracer]:
        """All loops over cells that there are, for the first fact."""
        fact = self.facts[0]
        prompt = encode(self.lm, fact)
        noise = self.noise.noise(fact.known_id, prompt.end - prompt.begin, self.lm.width)
        made: dict[str, Tracer] = {"plain": PlainLoop(self.lm, prompt, noise, self.window)}
        for package, name, make in (
            ("transformer_lens", "TransformerLens", TransformerLens),
            ("pyvene", "pyvene", Pyvene),
        ):
            if importlib.util.find_spec(package) and self.lm.layout.family == "gpt2":
                made[name] = make(self.lm, prompt, noise, self.window)
        return made


def gflop(run: Callable[[], Any]) -> float:
    """Count the products of one run, in 1e9 operations."""
    # The counter does not see packed products; without oneDNN the same ones are torch's own.
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 1e9


def measure_kinds(job: Job) -> list[dict[str, Any]]:
    """Measure each kind of one fact's trace against all loops."""
    length, layers = len(encode(job.lm, job.facts[0]).ids), job.lm.n_layers
    every = [(token, layer) for token in range(length) for layer in range(layers)]
    chosen = [every[place] for place in np.linspace(0, len(every) - 1, min(job.cells, len(every)), dtype=int)]
    rows = []
    for kind in KINDS:
        [found] = job.trace([kind])
        assert isinstance(found, Traced), found
        sides = _sides(job)
        ours: list[float] = []
        spent: dict[str, list[float]] = {name: [] for name in sides}
        worst = dict.fromkeys(sides, 0.0)
        for turn in range(job.times):
            ours.append(job.seconds(partial(job.trace, [kind])))
            for name, side in sides.items():
                for cell in chosen[turn :: job.times]:
                    seconds, score = side(kind, *cell)
                    spent[name].append(seconds)
                    worst[name] = max(worst[name], abs(score - found.traces[kind].scores[cell]))
        wrong = {name: value for name, value in worst.items() if value > TOLERANCE[job.lm.dtype]}
        assert not wrong, f"{kind}: others give other scores: {wrong}"
        work, own = gflop(partial(job.trace, [kind])), median(ours)
        against = {
            name: {
                "seconds": mean(some) * (len(every) + 2 * (name == "plain")),
                "ratio": mean(some) * len(every) / own,
                "cells_run": len(some),
                "cells": len(every),
                "worst_difference": worst[name],
            }
            for name, some in spent.items()
        }
        rows.append(
            {"what": kind, "seconds": own, "turns": ours, "gflop": work, "gflops": work / own}
            | {"high": found.high, "low": found.low, "against": against}
        )
    return rows


def _sides(job: Job) -> dict[str, Callable[..., tuple[float, float]]]:
    """Return what gives seconds and score of a cell, for each loop; the plain one with packed products too."""

    def timing(loop: Tracer) -> Callable[..., tuple[float, float]]:
        def side(kind: str, token: int, layer: int) -> tuple[float, float]:
            score: list[float] = []
            seconds = job.seconds(lambda: score.append(loop.cell(kind, token, layer)))
            return seconds, score[0]

        side("state", 0, 0)  # the first cell of a loop also pays for what is made once
        return side

    def packed(kind: str, token: int, layer: int) -> tuple[float, float]:
        with packed_products(job.lm):
            return plain(kind, token, layer)

    sides = {name: timing(loop) for name, loop in job.loops.items()}
    plain = sides["plain"]
    if packs_products(job.lm):
        packed("state", 0, 0)
        sides["plain, oneDNN packed"] = packed
    return sides


def measure_others(job: Job) -> list[dict[str, Any]]:
    """Measure the rest, against the plain loop's mean seconds a cell times the cells of each."""
    lm, facts = job.lm, job.facts
    plain = job.loops["plain"]
    each = mean(
        job.seconds(partial(plain.cell, kind, token, lm.n_layers // 2))
        for kind in KINDS
        for token in (0, len(plain.prompt.ids) - 1)
    )
    cells = [3 * (len(encode(lm, fact).ids) * lm.n_layers + 2) for fact in facts]
    # A row of 11 prompts costs what its tokens cost; other facts' rows are scaled by theirs.
    scale = [len(encode(lm, fact).ids) / len(plain.prompt.ids) for fact in facts]
    several = sum(count * factor for count, factor in zip(cells, scale, strict=True)) * each
    kinds: tuple[Kind, ...] = ("state", *SEVERED)
    one, count = cells[0] * each, len(facts)
    runs: list[tuple[str, Callable[[], Any], float]] = [
        (f"three kinds, {count} facts at once", lambda: job.trace(facts=facts), several),
        (f"three kinds, {count} facts one by one", lambda: [job.trace(facts=[fact]) for fact in facts], several),
        ("three kinds, one fact", job.trace, one),
        ("three kinds, extra token", lambda: job.trace(extra_token=True), one),
        # The frozen outputs are one pass more for each of the two.
        (
            "severed, last subject token",
            lambda: job.trace(kinds, at="last_subject"),
            (3 * lm.n_layers + 2 + 2) * each,
        ),
    ]
    rows = []
    for name, run, other in runs[:1] + runs[3 if count == 1 else 1 :]:
        own = job.repeated(run)
        rows.append({"what": name, "seconds": own, "plain": other, "ratio": other / own})
    return rows


def measure_gradients(job: Job) -> list[dict[str, Any]]:
    """Measure integrated gradients of all layers' states against captum's: by layer, and of each single token.

    By layer captum starts from another baseline, so that only single tokens are compared.
    """
    return [_gradients(job, single=single) for single in (False, True)]


def _gradients(job: Job, *, single: bool) -> dict[str, Any]:
    lm, fact = job.lm, job.facts[0]
    prompt, answer = encode(lm, fact), job.loops["plain"].answer
    attribute(lm, [fact], PARTS[:1], nodes=2, single=single)  # packs what the way back needs, once for a model
    kept: list[Attributed | BadFact] = []
    own = job.repeated(lambda: kept.extend(attribute(lm, [fact], PARTS[:1], nodes=job.nodes, single=single)))
    found = kept[-1]
    assert isinstance(found, Attributed), found
    row: dict[str, Any] = {"what": "single tokens" if single else "layers", "nodes": job.nodes, "seconds": own}
    if not importlib.util.find_spec("captum"):
        return row
    # A pass from a layer costs the same each time; every third layer is run on deep models, and scaled.
    layers = range(0, lm.n_layers, 1 if lm.n_layers <= 6 else 3)
    tokens = (0, len(prompt.ids) // 2, len(prompt.ids) - 1) if single else (None,)
    norms = found.parts["state"].norm
    passes = [_captum(job, prompt, answer, layer, token, norms) for layer, token in product(layers, tokens)]
    theirs = mean(seconds for seconds, _ in passes) * lm.n_layers * (len(prompt.ids) if single else 1)
    row |= {"captum": theirs, "ratio": theirs / own, "passes_run": len(passes)}
    if single:
        worst = max(difference for _, difference in passes)
        # A gradient near zero is large, and as inexact on their side as on ours.
        assert worst <= 100 * TOLERANCE[lm.dtype], f"captum's norms differ by {worst:.1e} of ours"
        row["worst_difference"] = worst
    return row


def _captum(
    job: Job, prompt: Prompt, answer: int, layer: int, token: int | None, norms: NDArray[np.float64]
) -> tuple[float, float]:
    """Return captum's seconds for a layer or one of its tokens, and of a token, how far its norm is from ours."""
    if token is None:
        return job.seconds(partial(captum_gradients, job.lm, prompt, answer, job.nodes, layer)), math.nan
    found: list[Tensor] = []
    seconds = job.seconds(lambda: found.append(captum_single(job.lm, prompt, answer, job.nodes, layer, token)))
    ours = norms[token, layer]
    return seconds, abs(float(found[0].double().norm()) - ours) / max(ours, NORM)


def growth(make: Callable[[int], LM]) -> dict[str, Any]:
    """Measure one fact's three kinds by tokens and layers, smallest first, and the memory held at most so far."""
    rows = []
    for lm, fact in _growing(make):
        prompt = encode(lm, fact)
        noise = make_corruption(lm, "s3", subjects=[fact.subject])
        job = Job(lm, [fact], noise, max(1, lm.n_layers // 2), 0, 3, 0)
        job.trace()
        tokens, layers = len(prompt.ids), lm.n_layers
        size = tokens * (tokens + 1) / 2 * layers * (layers - 1) / 2
        row = {
            "tokens": tokens,
            "layers": layers,
            "positions": size,
            "seconds": min(job.seconds(job.trace) for _ in range(3)),
        }
        row["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(row)
        rows.append(row)
    sizes, seconds = (np.array([row[name] for row in rows]) for name in ("positions", "seconds"))
    slope, start = np.polyfit(sizes, seconds, 1)
    explained = 1 - ((seconds - start - slope * sizes) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    print(f"seconds = {start:.4f} + {slope:.3e} positions x layers, {explained:.1%} explained")
    return {"what": "growth", "rows": rows, "start": start, "slope": slope, "explained": explained}


def _growing(make: Callable[[int], LM]) -> Iterator[tuple[LM, Fact]]:
    """Yield models of growing depth, each with prompts of growing length that begin with the subject."""
    for depth in (4, 8, 16):
        lm = make(depth)
        for words in range(1, 11, 3):
            prompt = "Winnipeg is in" + " the" * words
            yield lm, Fact(known_id=words, subject="Winnipeg", attribute=" a", prompt=prompt)
