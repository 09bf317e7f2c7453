"""Keys and values of tokens that were run before, and the rows that they stand before.

They are constants: a search passes by them many times, and no gradient is computed for them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from counterfact.lm.forward.layout import RaggedLayout


class Earlier(Protocol):
    """Constant keys and values before the rows of one layout, group by group."""

    @property
    def masks(self) -> Sequence[Tensor]:
        """For each group, 0 where a row has an earlier token and the lowest number elsewhere, (rows or 1, earlier)."""

    def of(self, layer: int, group: int) -> tuple[Tensor, Tensor]:
        """Return keys (rows, heads, head width, earlier) and values (rows, heads, earlier, head width).

        Where all rows of the group have the same earlier tokens, once for all of them: `rows` is 1 then.
        """


@dataclass(frozen=True, eq=False)
class Recorded:
    """Keys and values of tokens that were run before, and which of them stand before each of some rows."""

    keys: Mapping[int, Tensor]
    """By layer, (heads, tokens, head width)."""
    values: Mapping[int, Tensor]
    places: Sequence[Sequence[int]]
    """For each row the tokens before it, in order."""

    def beside(self, other: "Recorded") -> "Recorded":
        """Return both, the other's tokens after this one's; layers that only one has are left out."""
        layers = self.keys.keys() & other.keys.keys()
        count = next(iter(self.keys.values())).shape[1]
        return Recorded(
            {layer: torch.cat([self.keys[layer], other.keys[layer]], 1) for layer in layers},
            {layer: torch.cat([self.values[layer], other.values[layer]], 1) for layer in layers},
            [[*mine, *(count + i for i in his)] for mine, his in zip(self.places, other.places, strict=True)],
        )

    def before(self, layout: RaggedLayout, dtype: torch.dtype) -> "Picked":
        """Lay them out before the rows of a layout, padded on the right in each group; masks are of `dtype`."""
        device = next(iter(self.keys.values())).device
        index, masks = [], []
        for members in layout.members:
            mine = [self.places[row] for row in members]
            width = max(map(len, mine))
            index.append(torch.tensor([[*row, *[0] * (width - len(row))] for row in mine], dtype=torch.long).to(device))
            missing = torch.arange(width) >= torch.tensor([len(row) for row in mine])[:, None]
            mask = torch.zeros(missing.shape, dtype=dtype).masked_fill(missing, torch.finfo(dtype).min)
            masks.append(mask.to(device))
        return Picked(self.keys, self.values, index, masks)


@dataclass(frozen=True, eq=False)
class Picked:
    """Earlier tokens that are put beside their rows when a layer asks: for a pass that is made once."""

    keys: Mapping[int, Tensor]
    values: Mapping[int, Tensor]
    index: Sequence[Tensor]
    """For each group the tokens before its rows, (rows, earlier)."""
    masks: Sequence[Tensor]

    def of(self, layer: int, group: int) -> tuple[Tensor, Tensor]:
        """Keys and values; see `Earlier`."""
        at = self.index[group]
        return self.keys[layer][:, at].permute(1, 0, 3, 2), self.values[layer][:, at].transpose(0, 1)

    def held(self, layers: Iterable[int]) -> "Held":
        """Return the same, put beside the rows once for all passes through `layers`."""
        made = {layer: [self.of(layer, group) for group in range(len(self.index))] for layer in layers}
        return Held(
            {layer: [keys.contiguous() for keys, _ in parts] for layer, parts in made.items()},
            {layer: [values.contiguous() for _, values in parts] for layer, parts in made.items()},
            self.masks,
        )


@dataclass(frozen=True, eq=False)
class Held:
    """Earlier tokens beside their rows: for a search, which passes by them many times."""

    keys: Mapping[int, Sequence[Tensor]]
    """By layer, for each group (rows, heads, head width, earlier)."""
    values: Mapping[int, Sequence[Tensor]]
    """By layer, for each group (rows, heads, earlier, head width)."""
    masks: Sequence[Tensor]

    def of(self, layer: int, group: int) -> tuple[Tensor, Tensor]:
        """Keys and values; see `Earlier`."""
        return self.keys[layer][group], self.values[layer][group]

    def keep(self, groups: Sequence[int], places: Sequence[Tensor]) -> "Held":
        """Go on with some rows: `places` of each group of `groups`."""

        def of_layer(parts: Sequence[Tensor]) -> list[Tensor]:
            return [parts[g].index_select(0, rows.to(parts[g].device)) for g, rows in zip(groups, places, strict=True)]

        return Held(
            {layer: of_layer(parts) for layer, parts in self.keys.items()},
            {layer: of_layer(parts) for layer, parts in self.values.items()},
            [self.masks[g][rows.to(self.masks[g].device)] for g, rows in zip(groups, places, strict=True)],
        )
