"""Keys and values of tokens that were run before: recorded in one pass, put before rows, or growing with texts.

A prefix is a constant: a search passes by it many times, and no gradient is computed for it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

KV = tuple[Tensor, Tensor]
"""Keys and values."""
STEP = 16
"""Tokens by which the room of a text grows on a processor."""


class Cache(Protocol):
    """A KV cache, as the blocks ask for it."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take a layer's new keys and values (rows, heads, tokens, head width); return all that it may look at."""

    def length(self, layer: int) -> int:
        """Return how many tokens of a layer it holds."""


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

    def of_line(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Return keys and values by layer, (heads, tokens, head width) each, where all tokens stand in one line."""
        keys, values = ({layer: it[0] for layer, it in side.items()} for side in (self.keys, self.values))
        return keys, values


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


class DecodeCache:
    """Keys and values of up to `length` tokens of `rows` rows, filled from the left.

    A processor reads ahead in what lies side by side, and loses its way where unused room lies between the rows: one
    token's attention then takes up to three times as long. So room grows by `STEP` tokens, and what is there is moved
    into one more buffer, which changes places with the old one; no memory is taken after the first batch. Elsewhere
    there is room for all from the start.

    `begin(rows)` empties it for the next batch, which uses the same memory if it has as many rows.
    """

    def __init__(self, rows: int, length: int) -> None:
        self.rows = rows
        self.room = length
        self._tables: dict[int, list[_Table]] = {}
        self._spare: list[Tensor] = []
        self._filled: dict[int, int] = {}

    def begin(self, rows: int) -> "DecodeCache":
        """Forget all tokens; the next batch has `rows` rows."""
        if rows != self.rows:
            # Half a batch that was out of memory must not find the memory taken by what was made for the whole.
            self._tables, self._spare = {}, []
        self.rows = rows
        self._filled = {}
        return self

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Write the new tokens behind the earlier ones; return views of all of them."""
        start = self.length(layer_idx)
        stop = start + key.shape[2]
        if stop > self.room or key.shape[0] != self.rows:
            raise ValueError(
                f"expected {self.rows} rows and at most {self.room} tokens, got {key.shape[0]} rows and {stop} tokens"
            )
        if layer_idx not in self._tables:
            self._tables[layer_idx] = [_Table(states, self.room) for states in (key, value)]
        for table, states in zip(self._tables[layer_idx], (key, value), strict=True):
            if start == 0 or stop > table.room:
                table.make_room(start, self._room_for(stop, key.device), self._spare)
            table.tokens[:, :, start:stop] = states
        self._filled[layer_idx] = stop
        keys, values = (table.tokens[:, :, :stop] for table in self._tables[layer_idx])
        return keys, values

    def whole(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return all that there is room for, zeros where no token is yet: (rows, heads, room, head width) each."""
        keys, values = (table.tokens for table in self._tables[layer])
        return keys, values

    def length(self, layer: int) -> int:
        """Return how many tokens the layer holds."""
        return self._filled.get(layer, 0)

    def _room_for(self, tokens: int, device: torch.device) -> int:
        return min(-(-tokens // STEP) * STEP, self.room) if device.type == "cpu" else self.room


class _Table:
    """Keys or values of one layer: the front of a buffer, without gaps between the rows."""

    def __init__(self, states: Tensor, room: int) -> None:
        rows, heads, _, width = states.shape
        self.shape = (rows, heads, -1, width)
        self.size = rows * heads * width
        self.room = 0
        self.buffer = states.new_empty(self.size * room)
        self.tokens = self.buffer[:0]

    def make_room(self, filled: int, room: int, spare: list[Tensor]) -> None:
        """Lay the buffer out for `room` tokens and put the `filled` ones of before there; zeros after them."""
        before, source = self.tokens, self.buffer
        if filled:
            self.buffer = spare.pop() if spare and spare[0].shape == source.shape else torch.empty_like(source)
            spare[:] = [source]
        self.tokens, self.room = self.buffer[: self.size * room].view(self.shape), room
        if filled:
            self.tokens[:, :, :filled] = before[:, :, :filled]
        self.tokens[:, :, filled:] = 0
