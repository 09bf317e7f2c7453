"""What is restored, and where: spans of layers, spots of tokens, and groups of spots that are walked side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from lm.plan import Plan
from tracing._base import Base, Module


class Span(NamedTuple):
    """A cell: the state after layer `start` is given, and in the layers after it, before `stop`, an output is held.

    A `start` of -1 gives the state before the first layer, the embedding.
    """

    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Restoration:
    """What is put at a token, whatever token it is."""

    begun: Tensor
    """The state after each layer, (layers, samples, tokens, width): where a cell begins."""
    module: Module | None = None
    """Whose output is held at the token in the further layers of a span."""
    held: Tensor | None = None
    """What it is held at, (layers, samples, tokens, width)."""

    @property
    def holds(self) -> Tensor:
        """`held`, which is there where a module is."""
        if self.held is None:
            raise ValueError("a restoration that names a module says what its outputs are held at")
        return self.held


@dataclass(frozen=True, eq=False)
class Spot:
    """One token of one prompt, in some of its corrupted runs."""

    base: Base
    restoration: Restoration
    token: int
    samples: slice

    @property
    def rows(self) -> int:
        """Corrupted runs."""
        return len(range(self.samples.start, self.samples.stop))

    @property
    def first(self) -> int:
        """The first position that is walked.

        The first corrupted token has only clean ones before it: once its state is clean it stays so in all layers
        above, and only the positions after it need to be walked.
        """
        prompt = self.base.prompt
        stays_clean = self.restoration.module is None and self.token == prompt.begin < len(prompt.ids) - 1
        return self.token + stays_clean

    @property
    def suffix(self) -> int:
        """Positions that are walked."""
        return len(self.base.prompt.ids) - self.first

    @property
    def is_last(self) -> bool:
        """Whether the token is the prompt's last."""
        return self.token == len(self.base.prompt.ids) - 1

    def at(self, table: Tensor) -> Tensor:
        """Return (rows, width) of a table (samples, tokens, width) at the token."""
        return table[self.samples, self.token]

    def begin(self, layer: int) -> Tensor:
        """Return the states after a layer, (rows, suffix, width), the token's restored; layer -1 is the embedding."""
        base = self.base
        states = (base.states[layer] if layer >= 0 else base.embedded)[1:][self.samples, self.first :]
        if self.first > self.token:
            return states
        restored = self.at(self.restoration.begun[layer]) if layer >= 0 else base.embedded[0, self.token]
        return torch.cat([restored.expand(self.rows, -1)[:, None], states[:, 1:]], dim=1)

    def before(self, table: Tensor) -> Tensor:
        """Return keys or values before the first position, (rows, heads, first, head width).

        Args:
            table: of one layer, (1 + samples, heads, tokens, head width), the clean run first.
        """
        kept = table[1:][self.samples, :, : self.first]
        if self.first == self.token:
            return kept
        clean = table[:1, :, self.token : self.first].expand(self.rows, -1, -1, -1)
        return torch.cat([kept[:, :, : self.token], clean], dim=2)


@dataclass(frozen=True, eq=False)
class Group:
    """Spots one after the other whose rows have equally many positions, and as many before them."""

    spots: tuple[Spot, ...]

    @property
    def rows(self) -> int:
        """Corrupted runs of all spots."""
        return sum(spot.rows for spot in self.spots)

    @property
    def suffix(self) -> int:
        """Positions of a row."""
        return self.spots[0].suffix

    @property
    def first(self) -> int:
        """Positions before them."""
        return self.spots[0].first

    @property
    def positions(self) -> int:
        """Positions of all rows."""
        return self.rows * self.suffix

    def before(self, tables: str, layer: int) -> Tensor:
        """Return `keys` or `values` of a layer before the first position, (rows, heads, first, head width)."""
        return together([spot.before(getattr(spot.base, tables)[layer]) for spot in self.spots])

    def begin(self, layer: int) -> Tensor:
        """Return the states of a cell that begins after a layer, (rows, suffix, width)."""
        return together([spot.begin(layer) for spot in self.spots])

    def held(self, layer: int) -> Tensor:
        """Return what the module's output is held at, (rows, width)."""
        return together([spot.at(spot.restoration.holds[layer]) for spot in self.spots])


def groups_of(spots: Sequence[Spot]) -> list[Group]:
    """Put neighbours together that have equally many positions before and from the first one on."""
    return [Group(tuple(part)) for _, part in groupby(spots, lambda spot: (spot.first, spot.suffix))]


def batches(spots: Sequence[Spot], cells: int, plan: Plan) -> Iterator[list[Spot]]:
    """Share spots out over batches with as many positions as the plan has room for; a large spot is cut first."""
    pieces = [piece for spot in spots for piece in _pieces(spot, cells, plan)]
    pieces.sort(key=lambda spot: (-spot.suffix, spot.first))
    batch: list[Spot] = []
    used = 0
    for piece in pieces:
        size = piece.rows * piece.suffix * cells
        if batch and used + size > plan.tokens_per_batch:
            yield batch
            batch, used = [], 0
        batch.append(piece)
        used += size
    if batch:
        yield batch


def _pieces(spot: Spot, cells: int, plan: Plan) -> Iterator[Spot]:
    rows = max(1, plan.tokens_per_batch // (cells * spot.suffix))
    for start in range(spot.samples.start, spot.samples.stop, rows):
        yield replace(spot, samples=slice(start, min(start + rows, spot.samples.stop)))


def together(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts one after the other; one alone as it is, without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
