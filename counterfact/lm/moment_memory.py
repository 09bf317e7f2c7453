"""How much memory a pass for second moments takes, and how many passes there must be."""

import os
from collections.abc import Sequence

import torch

from counterfact.core.errors import BadInput
from counterfact.lm._moment_sums import key_width
from counterfact.lm.loading import LM


def sum_bytes(lm: LM, layer: int) -> int:
    """Return how many bytes a layer's sums take during a pass: two of D x D in float64, D the MLP's inner width.

    A checkpoint takes as many on the disk; a finished file half as many.
    """
    return 2 * 8 * key_width(lm, layer) ** 2


def plan_passes(lm: LM, layers: Sequence[int], max_bytes: int | None) -> list[list[int]]:
    """Cut layers into as few passes as memory for sums allows; a moment is the same whatever others share its pass.

    Raises:
        BadInput: not even one layer's sums fit.
    """
    passes: list[list[int]] = [[]]
    for layer in layers:
        needed = sum_bytes(lm, layer)
        if max_bytes is not None and needed > max_bytes:
            raise BadInput(f"the sums of layer {layer} take {needed / 1e9:.2f} GB; {max_bytes / 1e9:.2f} are allowed")
        if max_bytes is not None and sum(sum_bytes(lm, other) for other in passes[-1]) + needed > max_bytes:
            passes.append([])
        passes[-1].append(layer)
    return passes


def usual_limit(device: torch.device) -> int | None:
    """Return half of a device's memory, in bytes: the other half is for the model and for what it computes.

    Of all its memory, not of what is free, so that a pass that is gone on with later is cut the same way.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory // 2)
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return None
