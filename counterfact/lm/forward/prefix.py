"""Keys and values of tokens that were run before: recorded in one pass, and put before rows as a constant prefix.

A prefix is a constant: a search passes by it many times, and no gradient is computed for it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KV = tuple[Tensor, Tensor]
"""Keys and values."""


class KVRecorder:
    """Keeps the keys and values of one pass, by layer; the pass itself has no prefix in its cache."""

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> KV:  # noqa: ARG002
        """Keep a layer's keys and values (rows, heads, tokens, head width), and hand them back."""
        self.keys[layer_idx], self.values[layer_idx] = key, value
        return key, value

    def length(self, layer: int) -> int:  # noqa: ARG002
        """Return 0."""
        return 0


@dataclass(frozen=True, eq=False)
class PrefixKV:
    """Constant keys and values before the rows of one layout, group by group."""

    of: Callable[[int, int], KV]
    """Layer and number of a group -> keys and values, (prefixes, heads, prefix tokens, head width) each. A group has as
    many prefixes as rows, or fewer, each for equally many consecutive rows."""
    masks: Sequence[Tensor]
    """For each group, 0 where a prefix has a token and the dtype's lowest number at padding, (prefixes or 1, prefix
    tokens)."""
    padded: bool = False
    """Whether any token is padding."""

    def hold(self, layers: Iterable[int]) -> "PrefixKV":
        """Return the same, computed once for all passes through `layers`."""
        held = {(layer, group): _held(*self.of(layer, group)) for layer in layers for group in range(len(self.masks))}
        return PrefixKV(lambda layer, group: held[layer, group], self.masks, self.padded)

    def keep(self, layers: Iterable[int], groups: Sequence[int], places: Sequence[Tensor]) -> "PrefixKV":
        """Return the prefixes of some rows: `places` in each group of `groups`; held for `layers`."""

        def of(layer: int, group: int) -> KV:
            keys, values = (states[places[group].to(states.device)] for states in self.of(layer, groups[group]))
            return keys, values

        masks = [
            self.masks[group][rows.to(self.masks[group].device)] for group, rows in zip(groups, places, strict=True)
        ]
        return PrefixKV(of, masks, self.padded).hold(layers)


def _held(keys: Tensor, values: Tensor) -> KV:
    """Lay keys out for the product with queries, head width before tokens, and values for the product with weights."""
    return keys.transpose(2, 3).contiguous().transpose(2, 3), values.contiguous()


def padding_mask(lengths: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the mask of prefixes padded on the right, (prefixes, longest).

    >>> padding_mask([1, 2], torch.device("cpu"), torch.float32) == 0
    tensor([[ True, False],
            [ True,  True]])
    """
    missing = torch.arange(max(lengths)) >= torch.tensor(list(lengths))[:, None]
    mask = torch.zeros(missing.shape, dtype=dtype).masked_fill(missing, torch.finfo(dtype).min)
    return mask.to(device)


@dataclass(frozen=True, eq=False)
class RecordedKV:
    """Keys and values of tokens that lie in one line, and which of them stand before each of some rows."""

    keys: Mapping[int, Tensor]
    """Keys by layer, (heads, tokens, head width)."""
    values: Mapping[int, Tensor]
    """Values by layer, (heads, tokens, head width)."""
    places: Sequence[Sequence[int]]
    """Tokens that stand before each row, in order."""

    def beside(self, other: "RecordedKV") -> "RecordedKV":
        """Return both, the other's tokens after this one's; layers that only one has are left out."""
        layers = self.keys.keys() & other.keys.keys()
        count = next(iter(self.keys.values())).shape[1]
        return RecordedKV(
            {layer: torch.cat([self.keys[layer], other.keys[layer]], 1) for layer in layers},
            {layer: torch.cat([self.values[layer], other.values[layer]], 1) for layer in layers},
            [[*mine, *(count + i for i in his)] for mine, his in zip(self.places, other.places, strict=True)],
        )

    def before(self, members: Sequence[Sequence[int]], dtype: torch.dtype) -> PrefixKV:
        """Put them before the rows of each group, `members`, padded on the right; masks are of `dtype`.

        They are gathered whenever a layer asks, which suits a pass that is made once; see `PrefixKV.hold`.
        """
        device = next(iter(self.keys.values())).device
        index, masks, padded = [], [], False
        for rows in members:
            mine = [self.places[row] for row in rows]
            lengths = [len(row) for row in mine]
            whole = [[*row, *[0] * (max(lengths) - len(row))] for row in mine]
            index.append(torch.tensor(whole, dtype=torch.long).to(device))
            masks.append(padding_mask(lengths, device, dtype))
            padded = padded or min(lengths) < max(lengths)

        def of(layer: int, group: int) -> KV:
            keys, values = (states[layer][:, index[group]].transpose(0, 1) for states in (self.keys, self.values))
            return keys, values

        return PrefixKV(of, masks, padded)
