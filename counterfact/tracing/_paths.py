"""Gradients along straight paths of many tensors, in a few walks up the layers, each with one way back.

A *path* scales what stands at one layer, at one token or at all of them. Its rows, one for each node of the quadrature,
join the walk after that layer with the positions from the first scaled token on, so each layer runs once for all paths
that begin below it. Rows of all lengths lie in one line, after keys and values of the clean run.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from counterfact.lm.forward.blocks import logits, run_blocks
from counterfact.lm.forward.caches import KV, PrefixKV
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.model.language_model import LM
from counterfact.tracing._base import Base, Module, probability, run_beside
from counterfact.tracing._patch_sites import together

LOGIT_ROWS = {"cpu": 128}
"""Positions whose logits are held at once; 2048 on an accelerator."""
GRAPH_BYTES = 2**30
"""What the activations of one walk may take; more paths than that are walked in several."""
FLOATS_A_POSITION = 16
"""Activations that a block keeps for its way back, in units of the model's width: a rough count."""


class Path(NamedTuple):
    """What is scaled: a layer's tensor, at one token or at all."""

    layer: int
    token: int | None = None

    @property
    def first(self) -> int:
        """The first scaled token; those before it never change, and are not walked."""
        return self.token or 0


class Slopes(NamedTuple):
    """What is found along a path."""

    path: Path
    value: Tensor
    """The clean run's tensor that is scaled, (scaled tokens, width)."""
    gradients: Tensor
    """Gradients of the answer's probability at each node, (nodes, scaled tokens, width)."""
    probabilities: Tensor
    """(nodes,)."""


def slopes(lm: LM, base: Base, module: Module | None, alphas: Tensor, *, single: bool) -> Iterator[Slopes]:
    """Yield gradients along alpha times the clean run's tensor of each layer, from the first layer on.

    Single tokens of the last layer but the prompt's last are left out: nothing reads them, their gradients are zero.

    Args:
        lm: the model.
        base: its first row is the clean run.
        module: whose output is scaled; None for the state after each block.
        alphas: the nodes.
        single: scale each token alone, one after the other; else all of a layer together.
    """
    length = len(base.prompt.ids)
    tokens: Sequence[int | None] = range(length) if single else [None]
    top, last = lm.n_layers - 1, length - 1
    paths = [
        Path(layer, token) for layer in range(lm.n_layers) for token in tokens if layer < top or token in {None, last}
    ]
    for share in _shares(lm, paths, length, len(alphas)):
        yield from _PathWalk(lm, base, module, alphas, share).run()


def _shares(lm: LM, paths: Sequence[Path], length: int, nodes: int) -> Iterator[list[Path]]:
    """Cut the paths so that the activations of each share fit; a path that is too large alone is tried alone."""
    size = 4 if lm.dtype != torch.float64 else 8
    room = GRAPH_BYTES / (size * FLOATS_A_POSITION * lm.width * nodes)
    share: list[Path] = []
    used = 0
    for path in paths:
        needed = (lm.n_layers - path.layer) * (length - path.first)
        if share and used + needed > room:
            yield share
            share, used = [], 0
        share.append(path)
        used += needed
    yield share


def _clean_prefix(base: Base, firsts: Sequence[int]) -> PrefixKV:
    """The clean run's keys and values before the rows of each group, the same for all of them.

    Args:
        base: its first row is the clean run.
        firsts: for each group, the number of tokens before it.
    """

    def of(layer: int, group: int) -> KV:
        keys, values = (tables[layer][:1, :, : firsts[group]] for tables in (base.keys, base.values))
        return keys, values

    return PrefixKV(of, [base.embedded.new_zeros(1, first) for first in firsts])


class _PathWalk:
    """The states of all paths that have joined, by the token that they begin with: (rows, positions, width)."""

    def __init__(self, lm: LM, base: Base, module: Module | None, alphas: Tensor, paths: Sequence[Path]) -> None:
        self.lm = lm
        self.base = base
        self.module = module
        self.alphas = alphas
        self.paths = paths
        # Short rows first, as rows of unequal length lie in one line.
        self.live: dict[int, Tensor] = {}
        self.joined: dict[int, list[Path]] = {first: [] for first in sorted({path.first for path in paths})[::-1]}
        self.leaves: dict[Path, Tensor] = {}

    def run(self) -> Iterator[Slopes]:
        """Walk up, read what comes out, go back; yield what is found in the order of the paths."""
        lm, top = self.lm, self.lm.n_layers - 1
        with torch.enable_grad():
            for layer in range(self.paths[0].layer, lm.n_layers):
                if self.live:
                    self._step(layer)
                self._join([path for path in self.paths if path.layer == layer], last_only=layer == top)
            last = torch.cat([states[:, -1] for states in self.live.values()])
            found, slope = _at_the_end(lm, last.detach(), self.base.answer)
            gradients = torch.autograd.grad(last, [self.leaves[path] for path in self.paths], slope)
        order = [path for joined in self.joined.values() for path in joined]
        chances = dict(zip(order, torch.split(found, len(self.alphas)), strict=True))
        for path, gradient in zip(self.paths, gradients, strict=True):
            yield Slopes(path, self._value(path), gradient, chances[path])

    def _step(self, layer: int) -> None:
        """Run one layer; of the last one, only what the last position needs."""
        lm, device = self.lm, self.lm.device
        firsts, shapes = list(self.live), [(len(states), states.shape[1]) for states in self.live.values()]
        positions = [
            torch.arange(first, first + length, device=device).expand(rows, -1).flatten()
            for first, (rows, length) in zip(firsts, shapes, strict=True)
        ]
        prefix = _clean_prefix(self.base, firsts) if any(firsts) else None
        tail = 1 if layer == lm.n_layers - 1 else None
        ragged = RaggedRows(RaggedLayout.of_groups(shapes), device, prefix, tail)
        hidden = together([states.flatten(0, 1) for states in self.live.values()])[None]
        hidden = run_blocks(lm, hidden, layer, layer + 1, positions=torch.cat(positions)[None], rows=ragged)
        kept = ragged.layout_of(hidden).groups
        parts = torch.split(hidden[0], [group.rows * group.length for group in kept])
        self.live = {
            first: part.view(group.rows, group.length, -1)
            for first, group, part in zip(firsts, kept, parts, strict=True)
        }

    def _join(self, paths: Sequence[Path], *, last_only: bool) -> None:
        begun: dict[int, list[Tensor]] = {first: [] for first in self.joined}
        for path in paths:
            self.leaves[path], states = self._begin(path)
            begun[path.first].append(states[:, -1:] if last_only else states)
            self.joined[path.first].append(path)
        parts = {
            first: [*([self.live[first]] if first in self.live else ()), *states] for first, states in begun.items()
        }
        self.live = {first: together(states) for first, states in parts.items() if states}

    @property
    def _table(self) -> Tensor:
        """What is scaled, of all layers."""
        return self.base.states if self.module is None else self.base.outputs[self.module]

    def _value(self, path: Path) -> Tensor:
        return self._table[path.layer, 0, slice(None) if path.token is None else slice(path.token, path.token + 1)]

    def _begin(self, path: Path) -> tuple[Tensor, Tensor]:
        """Return the scaled tensor, a leaf, and the block's output from the first scaled token on with it in place."""
        base, layer = self.base, path.layer
        leaf = (self.alphas[:, None, None] * self._value(path)).requires_grad_()
        clean = self._table[layer, :1, path.first :]
        output = torch.cat([leaf, clean[:, leaf.shape[1] :].expand(len(leaf), -1, -1)], 1)
        if self.module is None:
            return leaf, output
        if self.module == "mlp":
            return leaf, output + (base.states[layer, :1, path.first :] - clean)
        # What follows the attention within its block is the model's own to know. One row goes in, which the attention's
        # output turns into one for each node.
        before = (base.embedded if layer == 0 else base.states[layer - 1])[:1, path.first :]
        return leaf, run_beside(self.lm, before, layer, output)


def _at_the_end(lm: LM, last: Tensor, answer: int) -> tuple[Tensor, Tensor]:
    """Return the answer's probability for last states (rows, width), and its gradient; some rows at once."""
    found, slope = [], []
    for states in torch.split(last, LOGIT_ROWS.get(lm.device.type, 2048)):
        leaf = states.clone().requires_grad_()
        chance = probability(logits(lm, leaf), torch.full((len(leaf),), answer, device=leaf.device))
        slope.append(torch.autograd.grad(chance.sum(), leaf)[0])
        found.append(chance.detach())
    return torch.cat(found), torch.cat(slope)
