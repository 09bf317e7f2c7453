"""Many restorations of one hidden state each, in one walk up the layers.

Restoring a state at (token t, layer l) changes nothing before t and nothing below l. So a *cell* joins the walk after
its first changed layer, with the positions from t on; keys before t are the corrupted run's. Each layer then runs once
for all cells of all tokens that have joined: their positions lie in one line, without padding.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lm.hooks import Patch, Site, find_module, hooked
from lm.loading import LM
from lm.plan import Plan
from lm.stack import logits, run_blocks
from tracing._attention import PackedAttention
from tracing._base import probability, site_of
from tracing._spots import Group, Span, Spot, groups_of


@torch.no_grad()
def sweep(lm: LM, spots: Sequence[Spot], spans: Sequence[Span], plan: Plan) -> Tensor:
    """Return the probability of each prompt's answer under each span, at each spot.

    Args:
        lm: the model.
        spots: all with the same module in their restorations.
        spans: cells; equal ones are computed once.
        plan: how many logits are held at once.

    Returns:
        (spots' rows, one after the other; spans).
    """
    walk = _Walk(lm, spots, spans)
    with walk.attention.in_place():
        walk.join(-1)
        for layer in range(lm.n_layers):
            walk.run(layer)
            if layer < lm.n_layers - 1:
                walk.join(layer)
    found = walk.read(plan)
    return torch.stack([found[span] for span in spans], dim=1)


class _Walk:
    """The states of all cells that have joined: by group, sample and cell, (1, positions, width)."""

    def __init__(self, lm: LM, spots: Sequence[Spot], spans: Sequence[Span]) -> None:
        self.lm = lm
        self.groups = groups_of(spots)
        self.module = spots[0].restoration.module
        # Spans that begin together take one path until the first of them ends: the widest is walked, others fork off.
        self.widest = {start: max(span.stop for span in spans if span.start == start) for start, _ in spans}
        self.spans = sorted(set(spans))
        self.live: list[Span] = []
        self.hidden = torch.empty(1, 0, lm.width, dtype=lm.dtype, device=lm.device)
        self.attention = PackedAttention(lm, self.groups)
        self._lay_out()

    def _lay_out(self) -> None:
        """Note where the positions of each group's rows and cells lie, and which they are in their prompts."""
        places, positions, bounds, start = [], [], [], 0
        for group in self.groups:
            shape = (group.rows, len(self.live), group.suffix)
            stop = start + group.positions * len(self.live)
            places.append(torch.arange(start, stop, device=self.lm.device).view(shape))
            offsets = torch.arange(group.first, group.first + group.suffix, device=self.lm.device)
            positions.append(offsets.expand(shape).flatten())
            bounds.append(slice(start, stop))
            start = stop
        self.places, self.positions, self.bounds, self.total = places, torch.cat(positions)[None], bounds, start
        self.attention.cells = len(self.live)

    def run(self, layer: int) -> None:
        """Run one layer for all cells that have joined."""
        if not self.live:
            return
        with hooked(self.lm.model, *self._patches(layer)):
            # Attention sees to what a position may look at; a mask is given so that none is made.
            mask = self.hidden.new_zeros(1, 1, 1, 1)
            self.hidden = run_blocks(self.lm, self.hidden, layer, layer + 1, positions=self.positions, mask=mask)

    def _patches(self, layer: int) -> list[tuple[Site, Patch]]:
        """Hold the module's output where a span covers the layer; skip what is held, or never read."""
        last = layer == self.lm.n_layers - 1
        cells = [] if self.module is None else [place for place, span in enumerate(self.live) if layer < span.stop]
        # In the last layer only the last position is read.
        groups = [group for group in self.groups if cells and (not last or group.spots[0].is_last)]
        held = self._rows(groups, lambda places: places[:, cells, 0])
        needed = torch.full((self.total,), not last, device=self.lm.device)
        needed[self._rows(self.groups, lambda places: places[:, :, -1])] = True
        patches = _only(_output_projection(self.lm, layer), needed) if last else []
        if self.module == "mlp":
            needed[held] = False
        if last or (groups and self.module == "mlp"):
            patches += _only(self.lm.layout.mlp(layer), needed)
        if groups and self.module is not None:
            value = torch.cat([group.held(layer).repeat_interleave(len(cells), 0) for group in groups])
            patches.append((site_of(self.lm, self.module, layer), partial(_put, held, value)))
        return patches

    def _rows(self, groups: Sequence[Group], choose: Any) -> Tensor:
        chosen = [
            choose(places).flatten() for group, places in zip(self.groups, self.places, strict=True) if group in groups
        ]
        return torch.cat(chosen) if chosen else torch.empty(0, dtype=torch.long, device=self.lm.device)

    def join(self, layer: int) -> None:
        """Add the cells that begin after a layer, and those that leave the path they shared."""
        begin, fork = [], []
        for span in self.spans:
            is_widest = span.stop == self.widest[span.start]
            if is_widest and span.start == layer:
                begin.append(span)
            elif not is_widest and span.stop - 1 == layer:
                fork.append(span)
        if not begin and not fork:
            return
        before, bounds = self.hidden[0], self.bounds
        # A fork that ends where it starts leaves a path that has only now begun.
        self.live += [*begin, *fork]
        sources = [self.live.index(Span(span.start, self.widest[span.start])) for span in fork]
        old = len(self.live) - len(begin) - len(fork)
        self._lay_out()
        self.hidden = before.new_empty(1, self.total, self.lm.width)
        for group, was, now in zip(self.groups, bounds, self.bounds, strict=True):
            states = self.hidden[0, now].view(group.rows, len(self.live), group.suffix, -1)
            if old:
                states[:, :old] = before[was].view(group.rows, old, group.suffix, -1)
            if begin:
                states[:, old : old + len(begin)] = group.begin(layer)[:, None]
            for place, source in enumerate(sources, old + len(begin)):
                states[:, place] = states[:, source]

    def read(self, plan: Plan) -> dict[Span, Tensor]:
        """Return the answer's probability, (rows,), for each span; without restoration's where it changes nothing."""
        lm, top = self.lm, self.lm.n_layers - 1
        spots = [spot for group in self.groups for spot in group.spots]
        low = torch.cat([spot.base.low[spot.samples] for spot in spots])
        found = {span: low.clone() for span in self.spans}
        cells = len(self.live)
        answers = torch.tensor([spot.base.answer for spot in spots for _ in range(spot.rows)], device=lm.device)
        states = [self.hidden[0, self._rows(self.groups, lambda places: places[:, :, -1])]] if cells else []
        wanted = [answers.repeat_interleave(cells)]
        # A state after the last layer is read at the prompt's last token only, and there at once.
        ends = [span for span in self.spans if span.start == top and span not in self.live]
        at_end = torch.tensor([spot.is_last for spot in spots for _ in range(spot.rows)], device=lm.device)
        if ends and at_end.any():
            states += [spot.begin(top)[:, -1] for spot in spots if spot.is_last]
            wanted.append(answers[at_end])
        if not states:
            return found
        chances = chances_of(lm, torch.cat(states), torch.cat(wanted), plan.logit_rows)
        if cells:
            table = chances[: len(answers) * cells].view(len(answers), cells)
            found |= dict(zip(self.live, table.unbind(1), strict=True))
        for span in ends:
            found[span][at_end] = chances[len(answers) * cells :]
        return found


def chances_of(lm: LM, states: Tensor, answers: Tensor, at_once: int) -> Tensor:
    """Return the probability of each answer after last states (rows, width), some rows at once."""
    parts = [
        probability(logits(lm, states[start : start + at_once]), answers[start : start + at_once])
        for start in range(0, len(states), at_once)
    ]
    return torch.cat(parts)


def _put(rows: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Put values (rows, width) in the place of some rows of an output."""
    return output.index_copy(1, rows, value[None])


def _only(module: str, needed: Tensor) -> list[tuple[Site, Patch]]:
    """Let a module see only the rows that are needed, (positions,); its output is zero at the others."""
    rows = needed.nonzero()[:, 0]

    def spread(output: Tensor) -> Tensor:
        return output.new_zeros(1, len(needed), output.shape[2]).index_copy_(1, rows, output)

    return [(Site(module, "in"), lambda states: states[:, rows]), (Site(module), spread)]


def _output_projection(lm: LM, layer: int) -> str:
    """Return the name of an attention's last projection, which works on each position alone."""
    attention = lm.layout.attention(layer)
    children = find_module(lm.model, attention).named_children()
    return f"{attention}.{[name for name, child in children if isinstance(child, nn.Linear | Conv1D)][-1]}"
