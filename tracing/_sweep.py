"""Many restorations of one hidden state each, in one walk up the layers.

Restoring a state at (token t, layer l) changes nothing before t and nothing below l. So a *cell* joins the walk after
its first changed layer, with the positions from t on; keys before t are the corrupted run's. Each layer then runs once
for all cells that have joined.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lm.hooks import Patch, Site, hooked
from lm.loading import LM
from lm.plan import Plan
from lm.stack import causal_mask, logits, run_blocks
from tracing._base import Base, Module, probability, site_of


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
    def suffix(self) -> int:
        """Positions from the token on."""
        return len(self.base.prompt.ids) - self.token

    def at(self, table: Tensor) -> Tensor:
        """Return (rows, width) of a table (samples, tokens, width) at the token."""
        return table[self.samples, self.token]


def batches(spots: Sequence[Spot], cells: int, plan: Plan) -> Iterator[list[Spot]]:
    """Put spots with equally many positions together, as many as the plan has room for; a large one is cut first."""
    pieces = [piece for spot in spots for piece in _pieces(spot, cells, plan)]
    pieces.sort(key=lambda spot: -spot.suffix)
    batch: list[Spot] = []
    for piece in pieces:
        used = sum(spot.rows * spot.suffix for spot in batch) * cells
        if batch and (
            piece.suffix != batch[0].suffix or used + piece.rows * piece.suffix * cells > plan.tokens_per_batch
        ):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _pieces(spot: Spot, cells: int, plan: Plan) -> Iterator[Spot]:
    rows = max(1, plan.tokens_per_batch // (cells * spot.suffix))
    for start in range(spot.samples.start, spot.samples.stop, rows):
        stop = min(start + rows, spot.samples.stop)
        yield Spot(spot.base, spot.restoration, spot.token, slice(start, stop))


@torch.no_grad()
def sweep(lm: LM, spots: Sequence[Spot], spans: Sequence[Span], plan: Plan) -> Tensor:
    """Return the probability of each prompt's answer under each span, at each spot.

    Args:
        lm: the model.
        spots: all with the same `suffix`, and the same module in their restorations.
        spans: cells; equal ones are computed once.
        plan: how many logits are held at once.

    Returns:
        (spots' rows, one after the other; spans).
    """
    walk = _Walk(lm, spots, spans)
    walk.join(-1)
    for layer in range(lm.n_layers):
        walk.run(layer)
        walk.join(layer)
    found = walk.read(plan)
    return torch.stack([found[span] for span in spans], dim=1)


class _Walk:
    """The rows of all cells that have joined: (cells x rows, suffix, width), cell by cell."""

    def __init__(self, lm: LM, spots: Sequence[Spot], spans: Sequence[Span]) -> None:
        self.lm = lm
        self.spots = spots
        self.rows = sum(spot.rows for spot in spots)
        self.suffix = spots[0].suffix
        self.module = spots[0].restoration.module
        # Spans that begin together take one path until the first of them ends: the widest is walked, others fork off.
        self.widest = {start: max(span.stop for span in spans if span.start == start) for start, _ in spans}
        self.spans = sorted(set(spans))
        self.live: list[Span] = []
        self.hidden = torch.empty(0, self.suffix, lm.width, dtype=lm.dtype, device=lm.device)
        self.prefix = _SharedPrefix(spots)
        self.positions, self.mask = _positions_and_mask(lm, spots)

    def run(self, layer: int) -> None:
        """Run one layer for all cells that have joined."""
        if not self.live:
            return
        last = layer == self.lm.n_layers - 1
        pairs = [*self._holding(layer), *(last_position_only(self.lm, layer, self.suffix) if last else ())]
        mask, positions = self.mask, self.positions
        if positions.dim() == 2:
            mask, positions = mask.repeat(len(self.live), 1, 1, 1), positions.repeat(len(self.live), 1)
        with hooked(self.lm.model, *pairs):
            self.hidden = run_blocks(
                self.lm, self.hidden, layer, layer + 1, positions=positions, mask=mask, cache=self.prefix
            )

    def _holding(self, layer: int) -> list[tuple[Site, Patch]]:
        """Hold the module's output at the token, in the cells whose span covers the layer."""
        cells = [place for place, span in enumerate(self.live) if layer < span.stop]
        acts = layer < self.lm.n_layers - 1 or self.suffix == 1
        if self.module is None or not cells or not acts:
            return []
        value = torch.cat([spot.at(_held(spot)[layer]) for spot in self.spots])

        def hold(output: Tensor) -> Tensor:
            output = output.clone(memory_format=torch.contiguous_format)
            output.view(len(self.live), self.rows, *output.shape[1:])[cells, :, 0] = value
            return output

        return [(site_of(self.lm, self.module, layer), hold)]

    def join(self, layer: int) -> None:
        """Add the cells that begin after a layer, and those that leave the path they shared."""
        if layer == self.lm.n_layers - 1 and self.suffix > 1:
            return  # after the last layer only the last token's state is read
        new: list[Span] = []
        parts: list[Tensor] = []
        for span in self.spans:
            is_widest = span.stop == self.widest[span.start]
            if (span.start if is_widest else span.stop - 1) != layer:
                continue
            if span.start == layer:
                parts.append(self._begin(layer))
            else:
                source = self.live.index(Span(span.start, self.widest[span.start]))
                parts.append(self.hidden[source * self.rows : (source + 1) * self.rows])
            new.append(span)
        self.live += new
        self.hidden = torch.cat([self.hidden, *parts])

    def _begin(self, layer: int) -> Tensor:
        parts = []
        for spot in self.spots:
            base = spot.base
            part = (base.states[layer] if layer >= 0 else base.embedded)[1:][spot.samples, spot.token :].clone()
            part[:, 0] = spot.at(spot.restoration.begun[layer]) if layer >= 0 else base.embedded[0, spot.token]
            parts.append(part)
        return torch.cat(parts)

    def read(self, plan: Plan) -> dict[Span, Tensor]:
        """Return the answer's probability, (rows,), for each span; without restoration's where it changes nothing."""
        low = torch.cat([spot.base.low[spot.samples] for spot in self.spots])
        found = dict.fromkeys(self.spans, low)
        if not self.live:
            return found
        answers = torch.tensor([spot.base.answer for spot in self.spots for _ in range(spot.rows)])
        answers = answers.to(self.lm.device).repeat(len(self.live))
        last = self.hidden[:, -1]
        parts = [
            probability(logits(self.lm, last[i : i + plan.logit_rows]), answers[i : i + plan.logit_rows])
            for i in range(0, len(last), plan.logit_rows)
        ]
        return found | dict(zip(self.live, torch.cat(parts).view(len(self.live), -1), strict=True))


class _SharedPrefix:
    """Keys and values of the corrupted runs before the token, the same for all cells of a row."""

    def __init__(self, spots: Sequence[Spot]) -> None:
        self.width = max(spot.token for spot in spots)
        layers = range(len(spots[0].base.keys))
        self.keys = [self._side_by_side(spots, [spot.base.keys[layer] for spot in spots]) for layer in layers]
        self.values = [self._side_by_side(spots, [spot.base.values[layer] for spot in spots]) for layer in layers]

    def _side_by_side(self, spots: Sequence[Spot], tables: Sequence[Tensor]) -> Tensor:
        parts = []
        for spot, table in zip(spots, tables, strict=True):
            kept = table[spot.samples, :, : spot.token]
            parts.append(torch.nn.functional.pad(kept, (0, 0, self.width - spot.token, 0)))
        return torch.cat(parts)

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return prefix and new tokens, side by side, (cells x rows, heads, tokens, head width)."""
        return _prepend(self.keys[layer_idx], key), _prepend(self.values[layer_idx], value)

    def length(self, layer: int) -> int:  # noqa: ARG002
        """Return the prefix's width."""
        return self.width


def _prepend(prefix: Tensor, new: Tensor) -> Tensor:
    rows, heads, width, size = prefix.shape
    whole = new.new_empty(len(new) // rows, rows, heads, width + new.shape[2], size)
    whole[..., :width, :] = prefix
    whole[..., width:, :] = new.reshape(-1, rows, *new.shape[1:])
    return whole.flatten(0, 1)


def _positions_and_mask(lm: LM, spots: Sequence[Spot]) -> tuple[Tensor, Tensor]:
    """Return positions (suffix,) and a mask; one for all rows where all prefixes are equally long."""
    suffix, width = spots[0].suffix, max(spot.token for spot in spots)
    offsets = torch.arange(suffix, device=lm.device)
    if all(spot.token == width for spot in spots):
        return width + offsets, causal_mask(lm, suffix, width)
    tokens = torch.tensor([spot.token for spot in spots for _ in range(spot.rows)], device=lm.device)
    valid = torch.arange(width, device=lm.device) >= (width - tokens)[:, None]
    return tokens[:, None] + offsets, causal_mask(lm, suffix, width, valid)


def last_position_only(lm: LM, layer: int, suffix: int) -> list[tuple[Site, Patch]]:
    """Let the MLP of the last layer see only the last position: nothing else is read after it."""
    mlp = lm.layout.mlp(layer)
    return [
        (Site(mlp, "in"), lambda states: states[:, -1:]),
        (Site(mlp), lambda output: output.expand(-1, suffix, -1)),
    ]


def _held(spot: Spot) -> Tensor:
    if spot.restoration.held is None:
        raise ValueError("a restoration that names a module says what its outputs are held at")
    return spot.restoration.held
