"""One pass over a corpus, for several layers: reading, batching, checkpoints, and how long it will take."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.core.texts import TextSource
from counterfact.lm.forward.products import fused_activations
from counterfact.lm.model.language_model import LM
from counterfact.lm.moments.files import State, find_unfinished, write_state
from counterfact.lm.moments.sums import SAMPLE, Batch, Row, Sums, add_batch, key_width

log = logging.getLogger(__name__)

GROUP = 100
"""Texts that are sorted by length together; also the unit in which work is saved, so that a run that was interrupted
adds up the same sums in the same order as one that was not."""
RUN = 10
"""Texts in a row that belong to one half of the corpus; the next ten belong to the other."""
SECONDS = 60.0
"""Least time between two checkpoints."""
SHARE = 0.05
"""Largest share of the time that may go into writing checkpoints."""


@dataclass(frozen=True)
class Advance:
    """How far a pass has come, and how fast this run of it is."""

    texts: int
    total: int | None
    """How many texts there are to read, if that is known."""
    tokens: int
    tokens_per_second: float


Progress = Callable[[Advance], None]
"""Called before the first batch, and after each."""


@dataclass(frozen=True)
class PassLimits:
    """Where a pass ends before its texts do."""

    texts: int | None = None
    tokens: int | None = None
    """Tokens after which the pass stops, at the end of their group of 100 texts."""


class Pass:
    """Sums by layer, and how many texts they hold."""

    def __init__(
        self, lm: LM, layers: Sequence[int], source: TextSource, limits: PassLimits, folder: Path, facts: dict[str, Any]
    ) -> None:
        self.lm = lm
        self.layers = list(layers)
        self.source = source
        self.limits = limits
        self.folder = folder
        self.facts = facts
        self.resume()

    @property
    def unfinished(self) -> Path:
        """Where this pass keeps its checkpoints."""
        layers = "-".join(map(str, (self.layers[0], self.layers[-1], len(self.layers))))
        return self.folder / f"unfinished-{self.facts['key'][:16]}-{layers}.safetensors"

    def resume(self) -> None:
        """Take up the checkpoint that has come furthest, or begin."""
        state = find_unfinished(self.folder, self.facts["key"], set(self.layers))
        if state is None:
            self.read = self.tokens = 0
            self.sums = {layer: Sums.empty(self.lm, layer) for layer in self.layers}
        else:
            self.read, self.tokens = state.facts["read"], state.facts["tokens"]
            self.sums = {layer: sums_of(state, layer, self.lm.device) for layer in self.layers}
            log.info("second moment: going on after %d texts", self.read)

    def go(self, budget: int, progress: Progress | None, checkpoint_every: int | None) -> int:
        """Add up the rest of the corpus; return how many tokens a batch may have had in the end.

        Out of memory, the pass goes back to its last checkpoint, with batches half as large.
        """
        while True:
            try:
                with fused_activations(self.lm):
                    self._go(budget, progress, checkpoint_every)
                return budget
            except (torch.OutOfMemoryError, MemoryError):
                if budget <= self.lm.max_length:
                    raise
            budget //= 2  # after the block: until then the traceback keeps the batch's tensors alive
            log.warning(
                "second moment: out of memory; going on from the last checkpoint with %d tokens a batch", budget
            )
            self.resume()

    def _go(self, budget: int, progress: Progress | None, checkpoint_every: int | None) -> None:
        limits = self.limits
        clock = _Clock(self.tokens, limits, self.source)
        if progress is not None:
            progress(clock.tell(self.read, self.tokens))
        keeper = _Keeper(self.save, self.read, checkpoint_every)
        rest = islice(self.source.texts(), self.read, limits.texts)
        while limits.tokens is None or self.tokens < limits.tokens:
            try:
                group = list(islice(rest, GROUP))
            except BaseException:
                self.save()  # nothing is half done while texts are read
                raise
            if not group:
                break
            done = self.read + len(group) - len(rows := self._rows(group))
            for batch in batches(rows, budget, self.lm.device):
                add_batch(self.lm, self.sums, batch)
                self.tokens += sum(len(row.ids) for row in batch.rows)
                done += len(batch.rows)
                if progress is not None:
                    progress(clock.tell(done, self.tokens))
            self.read += len(group)
            keeper.offer(self.read)

    def _rows(self, group: Sequence[str]) -> list[Row]:
        coded = enumerate(self.lm.encoding.each_text(group)[0], self.read)
        return [Row(ids[: self.lm.max_length], i // RUN % 2, i < SAMPLE) for i, ids in coded if ids]

    def save(self) -> None:
        """Write a checkpoint; a disk that is full costs this one only."""
        if not self.read:
            return
        tensors, counts = {}, {}
        for layer, sums in self.sums.items():
            tensors[str(layer)] = sums.halves
            if sums.sample:
                tensors[f"{layer}.sample"] = torch.stack(sums.sample)
            counts[str(layer)] = {"halves": sums.counts, "not_finite": sums.not_finite}
        facts = {
            **self.facts,
            "layers": self.layers,
            "read": self.read,
            "tokens": self.tokens,
            "counts": counts,
            "unreadable": self.source.unreadable.count,
        }
        try:
            write_state(self.unfinished, tensors, facts)
        except OSError as error:
            log.warning("no checkpoint could be written, the one before stays: %s", error)


def sums_of(state: State, layer: int, device: torch.device) -> Sums:
    """Return one layer's sums as a checkpoint holds them."""
    counts = state.facts["counts"][str(layer)]
    sample: Tensor | None = state.tensors.get(f"{layer}.sample")
    halves = state.tensors[str(layer)].to(device)
    return Sums(halves, list(counts["halves"]), counts["not_finite"], [] if sample is None else list(sample))


def batches(rows: Sequence[Row], budget: int, device: torch.device) -> Iterator[Batch]:
    """Cut rows, longest first, into batches of at most `budget` tokens, padding included."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids), reverse=True):
        if batch and len(batch[0].ids) * (len(batch) + 1) > budget:
            yield Batch(batch, len(batch[0].ids), device)
            batch = []
        batch.append(row)
    if batch:
        yield Batch(batch, len(batch[0].ids), device)


class _Clock:
    """Tells how fast this run is, from where it began."""

    def __init__(self, tokens: int, limits: PassLimits, source: TextSource) -> None:
        self._tokens = tokens
        self._total = source.size() if limits == PassLimits() else limits.texts
        self._since = time.monotonic()

    def tell(self, texts: int, tokens: int) -> Advance:
        seconds = max(time.monotonic() - self._since, 1e-6)
        return Advance(texts, self._total, tokens, (tokens - self._tokens) / seconds)


class _Keeper:
    """Writes a checkpoint when one is due: after so many texts, or by time."""

    def __init__(self, save: Callable[[], None], read: int, every: int | None) -> None:
        self._save, self._read, self._every = save, read, every
        self._saved = time.monotonic()
        self._cost = 0.0

    def offer(self, read: int) -> None:
        now = time.monotonic()
        waited = now - self._saved >= max(SECONDS, self._cost / SHARE)
        if waited if self._every is None else read - self._read >= self._every:
            self._save()
            self._read, self._saved = read, time.monotonic()
            self._cost = self._saved - now


def sum_bytes(lm: LM, layer: int) -> int:
    """Return how many bytes a layer's sums take during a pass: two of D x D in float64, D the MLP's inner width.

    A checkpoint takes as many on the disk; a finished file half as many.
    """
    return 2 * 8 * key_width(lm, layer) ** 2


def plan_passes(lm: LM, layers: Sequence[int], max_bytes: int | None) -> list[list[int]]:
    """Cut layers into as few passes as memory for sums allows; a moment is the same whatever others share its pass.

    Raises:
        BadInput: not even one layer's sums fit.
    """
    passes: list[list[int]] = [[]]
    for layer in layers:
        needed = sum_bytes(lm, layer)
        if max_bytes is not None and needed > max_bytes:
            raise BadInput(f"the sums of layer {layer} take {needed / 1e9:.2f} GB; {max_bytes / 1e9:.2f} are allowed")
        if max_bytes is not None and sum(sum_bytes(lm, other) for other in passes[-1]) + needed > max_bytes:
            passes.append([])
        passes[-1].append(layer)
    return passes


def usual_limit(device: torch.device) -> int | None:
    """Return half of a device's memory, in bytes: the other half is for the model and for what it computes.

    A share of all memory, not of what is free, so that a pass that is resumed later is cut the same way.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory // 2)
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return None
