"""A decode cache: keys and values of texts that grow token by token."""

from typing import Any

import torch
from torch import Tensor

STEP = 16
"""Tokens by which the room of a text grows on a processor."""


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
