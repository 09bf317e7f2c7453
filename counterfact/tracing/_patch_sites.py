"""What a causal trace restores, and where: patch sites, and groups of them that are walked side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from counterfact.lm.planning.batch_plan import Plan
from counterfact.tracing._base import Base
from counterfact.tracing.cells import Cell, Kind


@dataclass(frozen=True, eq=False)
class Restoration:
    """What a kind of cell puts at a token, whatever token it is."""

    begun: Tensor
    """The state after each layer, (layers, samples, tokens, width): where a cell begins."""
    held: Tensor | None = None
    """What the module's output is held at, (layers, samples, tokens, width)."""

    @property
    def holds(self) -> Tensor:
        """`held`, which is there where a module is."""
        if self.held is None:
            raise ValueError("a restoration that names a module says what its outputs are held at")
        return self.held


@dataclass(frozen=True, eq=False)
class PatchSite:
    """Cells at one token of one prompt, in some of its corrupted runs."""

    base: Base
    restorations: Mapping[Kind, Restoration]
    cells: tuple[Cell, ...]
    """Each once."""
    token: int
    samples: slice

    @property
    def rows(self) -> int:
        """Corrupted runs."""
        return len(range(self.samples.start, self.samples.stop))

    @property
    def stays_clean(self) -> bool:
        """Whether the token's states are the clean run's in all layers above the restored one.

        So it is at the first corrupted token, which has only clean ones before it, where nothing else is held.
        """
        prompt = self.base.prompt
        return self.token == prompt.begin < len(prompt.ids) - 1 and all(cell.module is None for cell in self.cells)

    @property
    def first(self) -> int:
        """The first position that is walked: the token, or the one after it where that stays clean."""
        return self.token + self.stays_clean

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

    def begin(self, kind: Kind, layer: int) -> Tensor:
        """Return the first walked position's state where a cell begins after a layer, (rows, width)."""
        if self.stays_clean:
            return self.corrupted(layer)[:, 0]
        if layer < 0:
            return self.base.embedded[0, self.token].expand(self.rows, -1)
        return self.at(self.restorations[kind].begun[layer])

    def corrupted(self, layer: int) -> Tensor:
        """Return the corrupted runs' states after a layer, (rows, suffix, width); after -1, the embeddings."""
        states = self.base.states[layer] if layer >= 0 else self.base.embedded
        return states[1:][self.samples, self.first :]

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
class PatchGroup:
    """Patch sites one after the other with the same cells, as many positions in a row, and as many before them."""

    sites: tuple[PatchSite, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Cells of each site."""
        return self.sites[0].cells

    @property
    def rows(self) -> int:
        """Corrupted runs of all sites."""
        return sum(site.rows for site in self.sites)

    @property
    def suffix(self) -> int:
        """Positions of a row."""
        return self.sites[0].suffix

    @property
    def first(self) -> int:
        """Positions before them."""
        return self.sites[0].first

    def before(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of a layer before the first position, (rows, heads, first, head width)."""
        keys = [site.before(site.base.keys[layer]) for site in self.sites]
        return together(keys), together([site.before(site.base.values[layer]) for site in self.sites])

    def begin(self, cells: Sequence[Cell], layer: int, states: Tensor) -> None:
        """Write the states of cells that begin after a layer, (rows, cells, suffix, width)."""
        states[:] = together([site.corrupted(layer) for site in self.sites])[:, None]
        for place, cell in enumerate(cells):
            states[:, place, 0] = together([site.begin(cell.kind, layer) for site in self.sites])

    def held(self, cells: Sequence[Cell], layer: int) -> Tensor:
        """Return what the cells' module's output is held at, (rows, cells, width)."""
        found = {
            kind: together([site.at(site.restorations[kind].holds[layer]) for site in self.sites])
            for kind in {cell.kind for cell in cells}
        }
        return torch.stack([found[cell.kind] for cell in cells], 1)


def patch_sites_of(
    base: Base, restorations: Mapping[Kind, Restoration], cells: Sequence[Cell], tokens: Sequence[int]
) -> Iterator[PatchSite]:
    """Yield the sites at some tokens: one for all cells, or two where some cells' states stay clean."""
    every = slice(0, len(base.low))
    states = tuple(cell for cell in cells if cell.module is None)
    others = tuple(cell for cell in cells if cell.module is not None)
    for token in tokens:
        apart = (
            (states, others) if states and PatchSite(base, restorations, states, token, every).stays_clean else (cells,)
        )
        yield from (PatchSite(base, restorations, tuple(part), token, every) for part in apart if part)


def groups_of(sites: Sequence[PatchSite]) -> list[PatchGroup]:
    """Put neighbours together that have the same cells, and equally many positions before and from the first one on."""
    return [PatchGroup(tuple(part)) for _, part in groupby(sites, lambda site: (site.first, site.suffix, site.cells))]


def batches(sites: Sequence[PatchSite], plan: Plan) -> Iterator[list[PatchSite]]:
    """Share sites out over batches with as many positions as the plan has room for; a large site is cut first."""
    pieces = [piece for site in sites for piece in _pieces(site, plan)]
    pieces.sort(key=lambda site: (-site.suffix, site.first, site.cells))
    batch: list[PatchSite] = []
    used = 0
    for piece in pieces:
        size = piece.rows * piece.suffix * len(piece.cells)
        if batch and used + size > plan.tokens_per_batch:
            yield batch
            batch, used = [], 0
        batch.append(piece)
        used += size
    if batch:
        yield batch


def _pieces(site: PatchSite, plan: Plan) -> Iterator[PatchSite]:
    rows = max(1, plan.tokens_per_batch // (len(site.cells) * site.suffix))
    for start in range(site.samples.start, site.samples.stop, rows):
        yield replace(site, samples=slice(start, min(start + rows, site.samples.stop)))


def together(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts one after the other; one alone as it is, without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
