"""Sums of k kᵀ, in two halves: what a batch of rows adds to them, and what they come to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from counterfact.lm.forward.blocks import embed, pad_right, run_blocks
from counterfact.lm.model.hooks import Site, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape

BLOCKS, SMALLEST_BLOCK = 8, 128
"""A product is cut into so many bands of rows, each only up to the diagonal: 56 % of the operations of the whole."""
SAMPLE = 64
"""The key of the middle token of each of the first so many texts is kept, to measure the sampling error at."""


class Row(NamedTuple):
    """A text's tokens."""

    ids: Sequence[int]
    half: int
    """0 or 1: the half of the corpus it belongs to."""
    sampled: bool


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right, and where their tokens are once rows and columns are laid end to end."""

    rows: Sequence[Row]
    width: int
    device: torch.device

    @property
    def table(self) -> Tensor:
        """(rows, width) ids."""
        return pad_right([row.ids for row in self.rows], self.device)[0]

    @cached_property
    def halves(self) -> list[tuple[int, list[int], Tensor]]:
        """Number, rows and places of the tokens of each half that has any; the same for every layer."""
        rows = [[i for i, row in enumerate(self.rows) if row.half == half] for half in (0, 1)]
        return [(half, found, self.places(found)) for half, found in enumerate(rows) if found]

    def places(self, rows: Sequence[int]) -> Tensor:
        """Return the places of all tokens of some rows."""
        each = [torch.arange(len(self.rows[row].ids)) + row * self.width for row in rows]
        return torch.cat(each).to(self.device) if each else torch.empty(0, dtype=torch.long, device=self.device)


@dataclass
class Sums:
    """Sums of one layer; those of each half are enough to go on from, or to stop at."""

    halves: Tensor
    """Float64 (2, D, D), on and below the diagonal; above it whatever the bands left."""
    counts: list[int] = field(default_factory=lambda: [0, 0])
    """Tokens of each half."""
    not_finite: int = 0
    """Texts left out because a key was NaN or infinite."""
    sample: list[Tensor] = field(default_factory=list)
    """Keys (D,) in float32, on the CPU."""

    @classmethod
    def empty(cls, lm: LM, layer: int) -> "Sums":
        """Return sums of nothing."""
        size = key_width(lm, layer)
        return cls(torch.zeros(2, size, size, dtype=torch.float64, device=lm.device))

    @property
    def tokens(self) -> int:
        """Tokens of both halves."""
        return sum(self.counts)

    def add(self, batch: Batch, states: Tensor) -> None:
        """Add the keys of a batch, (rows, width, D)."""
        flat = states.flatten(0, 1)
        for half, rows, places in batch.halves:
            self._add_half(half, batch, rows, flat, flat[places])

    def _add_half(self, half: int, batch: Batch, rows: list[int], flat: Tensor, keys: Tensor) -> None:
        if not _is_finite(keys):
            good = [row for row in rows if _is_finite(flat[batch.places([row])])]
            self.not_finite += len(rows) - len(good)
            rows, keys = good, flat[batch.places(good)]
        keys = keys.to(torch.promote_types(keys.dtype, torch.float32))
        add_product(self.halves[half], keys)
        self.counts[half] += len(keys)
        for row in rows:
            if batch.rows[row].sampled:
                middle = row * batch.width + len(batch.rows[row].ids) // 2
                self.sample.append(flat[middle].to("cpu", torch.float32))

    def half(self, half: int) -> Tensor:
        """Return one half's mean of k kᵀ, (D, D)."""
        return _whole(self.halves[half] / max(1, self.counts[half]))

    def mean(self) -> Tensor:
        """Return the mean of k kᵀ over both halves, (D, D)."""
        return _whole((self.halves[0] + self.halves[1]) / self.tokens)


class _Enough(Exception):
    """The last key has been read: nothing above it is needed."""


@torch.no_grad()
def add_batch(lm: LM, sums: dict[int, Sums], batch: Batch) -> None:
    """Run a batch up to the last layer's key, and add every layer's keys to its sums."""
    last = max(sums)

    def read(layer: int, states: Tensor) -> None:
        sums[layer].add(batch, states)
        if layer == last:
            raise _Enough

    pairs = [(Site(lm.layout.fc_out(layer), "in"), partial(read, layer)) for layer in sums]
    with hooked(lm.model, *pairs):
        try:
            run_blocks(lm, embed(lm, batch.table), 0, last + 1)
        except _Enough:
            return


def add_product(total: Tensor, keys: Tensor) -> None:
    """Add kᵀ k to `total` (D, D), on and below the diagonal, for the rows k of `keys` (n, D)."""
    size = len(total)
    band = max(SMALLEST_BLOCK, -(-size // BLOCKS))
    for start in range(0, size, band):
        stop = min(start + band, size)
        total[start:stop, :stop] += keys[:, start:stop].T @ keys[:, :stop]


def key_width(lm: LM, layer: int) -> int:
    """Return D, the inner width of a layer's MLP."""
    return weight_shape(lm.model, lm.layout.fc_out(layer))[0]


def _is_finite(keys: Tensor) -> bool:
    # One number tells: it is read once, and no mask of the keys' size is made.
    return bool(torch.linalg.vector_norm(keys, dtype=torch.promote_types(keys.dtype, torch.float32)).isfinite())


def _whole(lower: Tensor) -> Tensor:
    return lower.tril() + lower.tril(-1).T
