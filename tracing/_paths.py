"""Gradients along the straight paths of many layers' tensors, in one walk up the layers and one way back.

The rows of a layer's path, one for each node of the quadrature, join the walk after that layer, so each layer runs once
for all paths that begin below it; and one backward pass gives the gradients of all.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lm.hooks import hooked
from lm.loading import LM
from lm.stack import logits, run_blocks
from tracing._base import Base, Module, instead, probability, site_of
from tracing._sweep import last_position_only

LOGIT_ROWS = {"cpu": 128}
"""Positions whose logits are held at once; 2048 on an accelerator."""
GRAPH_BYTES = 2**30
"""What the activations of one walk may take; deeper models are walked several times."""
FLOATS_A_POSITION = 16
"""Activations that a block keeps for its way back, in units of the model's width: a rough count."""


class Slopes(NamedTuple):
    """What is found along the path of one layer."""

    gradients: Tensor
    """Of the answer's probability at each node, (nodes, tokens, width)."""
    probabilities: Tensor
    """(nodes,)."""


def slopes(lm: LM, base: Base, module: Module | None, alphas: Tensor) -> Iterator[Slopes]:
    """Return gradients along alpha times the clean run's tensor of each layer, from the first layer on.

    Args:
        lm: the model.
        base: its first row is the clean run.
        module: whose output is scaled; None for the state after each block.
        alphas: the nodes.
    """
    start = 0
    for stop in _shares(lm, len(base.prompt.ids) * len(alphas)):
        yield from _walk(lm, base, module, alphas, range(start, stop))
        start = stop


def _shares(lm: LM, positions: int) -> Iterator[int]:
    """Yield where to cut the layers, so that the activations of each share fit."""
    size = 4 if lm.dtype != torch.float64 else 8
    room = GRAPH_BYTES / (size * FLOATS_A_POSITION * lm.width * positions)
    used = 0
    for layer in range(lm.n_layers):
        above = lm.n_layers - layer
        if used and used + above > room:
            yield layer
            used = 0
        used += above
    yield lm.n_layers


def _walk(lm: LM, base: Base, module: Module | None, alphas: Tensor, layers: range) -> list[Slopes]:
    leaves = []
    with torch.enable_grad():
        hidden: Tensor | None = None
        for layer in range(layers.start, lm.n_layers):
            if hidden is not None:
                hidden = _run(lm, hidden, layer)
            if layer in layers:
                leaf, joined = _begin(lm, base, module, alphas, layer)
                leaves.append(leaf)
                hidden = joined if hidden is None else torch.cat([hidden, joined])
        if hidden is None:
            return []
        last = hidden[:, -1]
        found, slope = _at_the_end(lm, last.detach(), base.answer)
        gradients = torch.autograd.grad(last, leaves, slope)
    return [Slopes(*both) for both in zip(gradients, torch.split(found, len(alphas)), strict=True)]


def _run(lm: LM, hidden: Tensor, layer: int) -> Tensor:
    last = layer == lm.n_layers - 1
    with hooked(lm.model, *(last_position_only(lm, layer, hidden.shape[1]) if last else ())):
        return run_blocks(lm, hidden, layer, layer + 1)


def _begin(lm: LM, base: Base, module: Module | None, alphas: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Return the scaled tensor, a leaf, and the block's output with it in place, both (nodes, tokens, width)."""
    value = base.states[layer, 0] if module is None else base.outputs[module][layer, 0]
    leaf = (alphas[:, None, None] * value).requires_grad_()
    if module is None:
        return leaf, leaf
    if module == "mlp":
        return leaf, leaf + (base.states[layer, 0] - value)
    # What follows the attention within its block is the model's own to know. One row goes in, which the attention's
    # output turns into one for each node.
    before = base.embedded[:1] if layer == 0 else base.states[layer - 1, :1]
    with hooked(lm.model, (site_of(lm, "attn", layer), partial(instead, leaf))):
        return leaf, run_blocks(lm, before, layer, layer + 1)


def _at_the_end(lm: LM, last: Tensor, answer: int) -> tuple[Tensor, Tensor]:
    """Return the answer's probability for last states (rows, width), and its gradient; some rows at once."""
    found, slope = [], []
    for states in torch.split(last, LOGIT_ROWS.get(lm.device.type, 2048)):
        leaf = states.clone().requires_grad_()
        chance = probability(logits(lm, leaf), torch.full((len(leaf),), answer, device=leaf.device))
        slope.append(torch.autograd.grad(chance.sum(), leaf)[0])
        found.append(chance.detach())
    return torch.cat(found), torch.cat(slope)
