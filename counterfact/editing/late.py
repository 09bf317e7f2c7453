"""Flags on a device, looked at some steps after they were set, so that no step of a loop waits for the device."""

from collections import deque

import torch
from torch import Tensor

STEPS = {"cuda": 2}
"""How many steps late, by kind of device: the host runs ahead of a GPU, and elsewhere there is nothing to gain."""


class LateLook:
    """Copies flags to the host and hands them over a fixed number of steps later, whatever the device has done by then.

    What depends on a look is therefore the same in every run.

    >>> late = LateLook(torch.device("cpu"), steps=1)
    >>> late.look(torch.tensor([True, False])), late.look(torch.tensor([False, False]))
    (None, [True, False])
    """

    def __init__(self, device: torch.device, steps: int | None = None) -> None:
        self._device = device
        self._steps = STEPS.get(device.type, 0) if steps is None else steps
        self._waiting: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def look(self, flags: Tensor) -> list[bool] | None:
        """Take this step's flags; return those of an earlier step, or `None` while there are none yet."""
        event = None
        if self._device.type == "cuda":
            copy = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True).copy_(flags, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        else:
            copy = flags.clone()
        self._waiting.append((copy, event))
        if len(self._waiting) <= self._steps:
            return None
        found, event = self._waiting.popleft()
        if event is not None:
            event.synchronize()
        return [bool(flag) for flag in found.tolist()]

    def forget(self) -> None:
        """Drop the flags that were not handed over: they are of a batch that is no more."""
        self._waiting.clear()
