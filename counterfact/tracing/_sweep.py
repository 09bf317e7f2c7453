"""Many restorations of one hidden state each, of all kinds, in one walk up the layers.

Restoring a state at (token t, layer l) changes nothing before t and nothing below l. So a *cell* joins the walk after
its first changed layer, with the positions from t on; keys before t are the corrupted run's. Each layer then runs once
for all cells of all tokens that have joined: their positions lie in one line, without padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from counterfact.lm.forward.attention import attend
from counterfact.lm.forward.blocks import attend_by, call_blocks, logits
from counterfact.lm.forward.caches import PrefixKV
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.model.hooks import Patch, Site, hooked, only
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan
from counterfact.tracing._base import MODULES, Module, probability, site_of
from counterfact.tracing._patch_sites import PatchSite, groups_of
from counterfact.tracing.cells import Cell


@torch.no_grad()
def sweep(lm: LM, sites: Sequence[PatchSite], plan: Plan) -> list[Tensor]:
    """Return the probability of each prompt's answer under each of its site's cells.

    Args:
        lm: the model.
        sites: their cells walk up side by side.
        plan: how many logits are held at once.

    Returns:
        For each site, (rows, cells).
    """
    walk = _CellWalk(lm, sites)
    with attend_by(lm, walk.attend):
        walk.join(-1)
        for layer in range(lm.n_layers):
            walk.run(layer)
            if layer < lm.n_layers - 1:
                walk.join(layer)
    return walk.read(plan)


class _Course:
    """Some cells, and which of them have joined.

    Cells of a kind that begin together take one path until the first of them ends: the longest is walked, others fork
    off.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells
        self.live: list[Cell] = []
        self.longest: dict[tuple[str, int], Cell] = {}
        for cell in sorted(cells):
            self.longest[cell.kind, cell.start] = cell

    def join(self, layer: int) -> tuple[list[Cell], list[int]]:
        """Add the cells that begin after a layer, and those that leave the path they shared.

        Returns:
            The former, and the places of the paths that the latter leave: the last ones of `live` in this order.
        """
        begun, forks = [], []
        for cell in self.cells:
            walked = self.longest[cell.kind, cell.start]
            if cell == walked and cell.start == layer:
                begun.append(cell)
            elif cell != walked and cell.stop - 1 == layer:
                forks.append(cell)
        # A fork that ends where it starts leaves a path that has only now begun.
        self.live += [*begun, *forks]
        return begun, [self.live.index(self.longest[cell.kind, cell.start]) for cell in forks]


class _CellWalk:
    """The states of all cells that have joined: by group, sample and cell, (1, positions, width)."""

    def __init__(self, lm: LM, sites: Sequence[PatchSite]) -> None:
        self.lm = lm
        self.device = lm.device
        self.groups = groups_of(sites)
        self.courses = {group.cells: _Course(group.cells) for group in self.groups}
        self.hidden = torch.empty(1, 0, lm.width, dtype=lm.dtype, device=self.device)
        self._lay_out()

    def _lay_out(self) -> None:
        """Note where the positions of each group's rows and cells lie, and which they are in their prompts."""
        counts = [len(self.courses[group.cells].live) for group in self.groups]
        shapes = [(group.rows, count, group.suffix) for group, count in zip(self.groups, counts, strict=True)]
        sizes = [rows * count * suffix for rows, count, suffix in shapes]
        positions = torch.arange(max(group.first + group.suffix for group in self.groups), device=self.device)
        self.total = sum(sizes)
        every = torch.arange(self.total, device=self.device)
        self.places = [part.view(shape) for part, shape in zip(torch.split(every, sizes), shapes, strict=True)]
        self.positions = torch.cat(
            [
                positions[group.first : group.first + group.suffix].repeat(size // group.suffix)
                for group, size in zip(self.groups, sizes, strict=True)
            ]
        )[None]
        layout = RaggedLayout.of_groups([(rows * count, suffix) for rows, count, suffix in shapes if count])
        live = [group for group, count in zip(self.groups, counts, strict=True) if count]
        prefix = PrefixKV(
            lambda layer, number: live[number].before(layer),
            [self.hidden.new_zeros(1, group.first) for group in live],
        )
        self.rows = RaggedRows(layout, self.device, prefix)

    def attend(self, *of_module: Any) -> Tensor:
        """Attend as the layer that is being run shall; see `forward.attention.attend`."""
        return attend(self.rows, *of_module)

    def _by_group(self, states: Tensor) -> list[Tensor]:
        """Cut (1, positions, width) into (rows, cells, suffix, width) of each group."""
        parts = torch.split(states[0], [place.numel() for place in self.places])
        return [part.view(*place.shape, self.lm.width) for part, place in zip(parts, self.places, strict=True)]

    def run(self, layer: int) -> None:
        """Run one layer for all cells that have joined."""
        if not self.total:
            return
        if layer == self.lm.n_layers - 1:
            self.rows = replace(self.rows, tail=1)
        with hooked(self.lm.model, *self._patches(layer), outermost=True):
            self.hidden = call_blocks(self.lm, self.hidden, [layer], self.positions)

    def _patches(self, layer: int) -> list[tuple[Site, Patch]]:
        """Hold the modules' outputs where cells cover the layer; skip what is held, or never read."""
        last = layer == self.lm.n_layers - 1
        needed = torch.full((self.total,), not last, device=self.device)
        if last:
            needed[torch.cat([places[:, :, -1].flatten() for places in self.places])] = True
        patches = only(self.lm.layout.out_proj(layer), needed.nonzero()[:, 0]) if last else []
        for module in MODULES:
            held = self._held(module, layer, last_only=last)
            rows = torch.cat([rows for rows, _ in held]) if held else self.places[0].new_empty(0)
            if module == "mlp" and (last or held):
                needed[rows] = False
                patches += only(self.lm.layout.mlp(layer), needed.nonzero()[:, 0])
            if held:
                values = torch.cat([value for _, value in held])
                patches.append((site_of(self.lm, module, layer), partial(_put, rows, values)))
        return patches

    def _held(self, module: Module, layer: int, *, last_only: bool) -> list[tuple[Tensor, Tensor]]:
        """Return where a module's output is held in each group, (positions,), and at what, (positions, width)."""
        found = []
        for group, places in zip(self.groups, self.places, strict=True):
            # In the last layer only the last position is read.
            if last_only and not group.sites[0].is_last:
                continue
            live = enumerate(self.courses[group.cells].live)
            held = [(place, cell) for place, cell in live if cell.module == module and layer < cell.stop]
            if held:
                values = group.held([cell for _, cell in held], layer).flatten(0, 1)
                found.append((places[:, [place for place, _ in held], 0].flatten(), values))
        return found

    def join(self, layer: int) -> None:
        """Add the cells that begin after a layer, and those that leave the path they shared."""
        joined = {cells: course.join(layer) for cells, course in self.courses.items()}
        if not any(begun or sources for begun, sources in joined.values()):
            return
        before = self._by_group(self.hidden)
        self._lay_out()
        self.hidden = self.hidden.new_empty(1, self.total, self.lm.width)
        for group, states, old in zip(self.groups, self._by_group(self.hidden), before, strict=True):
            begun, sources = joined[group.cells]
            walked = old.shape[1] + len(begun)
            states[:, : old.shape[1]] = old
            group.begin(begun, layer, states[:, old.shape[1] : walked])
            for place, source in enumerate(sources, walked):
                states[:, place] = states[:, source]

    def read(self, plan: Plan) -> list[Tensor]:
        """Return the answer's probability for each site, (rows, cells); as corrupted where a cell changes nothing."""
        read = list(self._last_states())
        states = torch.cat([own.flatten(0, 1) for _, _, own in read])
        answers = [site.base.answer for site, cells, _ in read for _ in range(site.rows * len(cells))]
        chances = chances_of(self.lm, states, torch.tensor(answers, device=self.device), plan.logit_rows)
        parts = torch.split(chances, [site.rows * len(cells) for site, cells, _ in read])
        found = []
        for (site, cells, _), part in zip(read, parts, strict=True):
            found.append(site.base.low[site.samples, None].repeat(1, len(site.cells)))
            found[-1][:, [site.cells.index(cell) for cell in cells]] = part.view(site.rows, len(cells))
        return found

    def _last_states(self) -> Iterator[tuple[PatchSite, list[Cell], Tensor]]:
        """Yield for each site the cells that change the prompt's last state, and that state, (rows, cells, width)."""
        top = self.lm.n_layers - 1
        for group, states in zip(self.groups, self._by_group(self.hidden), strict=True):
            live, rows = self.courses[group.cells].live, [site.rows for site in group.sites]
            for site, own in zip(group.sites, torch.split(states[:, :, -1], rows), strict=True):
                # A state after the last layer is read at the prompt's last token only, and there at once.
                ends = [cell for cell in site.cells if cell.start == top and site.is_last]
                yield site, [*live, *ends], torch.cat([own, *(site.begin(cell.kind, top)[:, None] for cell in ends)], 1)


def chances_of(lm: LM, states: Tensor, answers: Tensor, at_once: int) -> Tensor:
    """Return the probability of each answer after last states (rows, width), some rows at once."""
    parts = [
        probability(logits(lm, states[start : start + at_once]), answers[start : start + at_once])
        for start in range(0, len(states), at_once)
    ]
    return torch.cat(parts) if parts else states.new_empty(0)


def _put(rows: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Put values (rows, width) in the place of some rows of an output."""
    return output.index_copy_(1, rows, value[None])
