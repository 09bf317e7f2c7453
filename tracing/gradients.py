r"""Integrated gradients of a prediction with respect to hidden states and module outputs.

Sundararajan, Taly, Yan. Axiomatic Attribution for Deep Networks. ICML 2017. https://arxiv.org/abs/1703.01365; as a map
over tokens and layers: figure 16 of Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT.
NeurIPS 2022. https://arxiv.org/abs/2202.05262
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import BadInput
from lm.hooks import Patch, Site, hooked
from lm.loading import LM
from lm.products import packed_products
from lm.stack import ConstantPrefix, causal_mask, logits, run_blocks
from tracing._base import Base, instead, probability, run_base, site_of
from tracing._paths import slopes
from tracing._sweep import last_position_only
from tracing.facts import BadFact, Fact, Prompt, encode

Part = Literal["state", "mlp", "attn"]
PARTS: tuple[Part, ...] = ("state", "mlp", "attn")
Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gradients:
    """Integrated gradients of one kind of part, for one fact."""

    norm: Numbers
    """Euclidean norm of the integrated gradient, (tokens, layers)."""
    contribution: Numbers
    """Its sum over the components, (tokens, layers): over the tokens of a layer it adds up to p(x) - p(baseline)."""
    gap: Numbers
    """How far it is from that, the quadrature's error: (layers,), or (tokens, layers) for single states. It is large
    where a layer norm follows at once: that makes p jump near zero, where no node is."""


@dataclass(frozen=True, eq=False)
class Attributed:
    """All integrated gradients of one fact."""

    fact: Fact
    prompt: Prompt
    answer: int
    answer_text: str
    correct: bool
    high: float
    """Probability of the answer."""
    parts: dict[Part, Gradients]


def quadrature(nodes: int) -> tuple[Numbers, Numbers]:
    """Return Gauss-Legendre nodes and weights on [0, 1].

    >>> nodes, weights = quadrature(2)
    >>> round(float(weights @ nodes**3), 12)
    0.25
    """
    at, weights = np.polynomial.legendre.leggauss(nodes)
    return (at + 1) / 2, weights / 2


def attribute(
    lm: LM,
    facts: Sequence[Fact],
    parts: Sequence[Part] = PARTS,
    *,
    nodes: int = 50,
    single: bool = False,
) -> list[Attributed | BadFact]:
    r"""Integrate gradients of p(o), o the likeliest next token, along $\alpha h$ from zero to the state itself.

    $$\mathrm{IG}(t, l) = h \odot \sum_i w_i \frac{\partial p(o)}{\partial h}\Big|_{\alpha_i h}$$

    with $h$ the state, MLP output or attention output at token t of layer l, and $(\alpha_i, w_i)$ the nodes and
    weights of `quadrature`. The paper's caption does not say whether a layer's tokens are scaled together (as captum's
    `LayerIntegratedGradients` does, here the default) or one at a time (`single`).

    Args:
        lm: the model.
        facts: what to attribute.
        parts: of which tensors.
        nodes: of the quadrature.
        single: scale one token's state at a time, the others staying as they are.

    Returns:
        In order; `BadFact` where a fact cannot be attributed.

    Raises:
        BadInput: an unknown part, or no node.
    """
    if nodes < 1 or any(part not in PARTS for part in parts):
        raise BadInput(f"expected one node or more and parts among {', '.join(PARTS)}, got {nodes} and {list(parts)}")
    results: list[Attributed | BadFact] = []
    for fact in facts:
        try:
            results.append(_attribute(lm, fact, parts, nodes, single))
        except (ValueError, torch.OutOfMemoryError) as error:
            results.append(BadFact(fact.known_id, str(error)))
    return results


def _attribute(lm: LM, fact: Fact, parts: Sequence[Part], nodes: int, single: bool) -> Attributed:
    prompt = encode(lm, fact)
    # A base without noise: its row 1 is as clean as row 0.
    clean = torch.zeros(1, prompt.corrupted_end - prompt.begin, lm.width)
    with torch.no_grad():
        base = run_base(lm, prompt, clean, replace=False)
    with packed_products(lm):
        found = {part: _integrate(lm, base, part, nodes, single) for part in parts}
    return Attributed(
        fact=fact,
        prompt=prompt,
        answer=base.answer,
        answer_text=lm.decode([base.answer]),
        correct=base.answer == lm.target_tokens(fact.attribute)[0],
        high=base.high,
        parts=found,
    )


def _integrate(lm: LM, base: Base, part: Part, nodes: int, single: bool) -> Gradients:
    length = len(base.prompt.ids)
    norm, contribution = np.zeros((length, lm.n_layers)), np.zeros((length, lm.n_layers))
    gaps = np.zeros((length if single else 1, lm.n_layers))
    for layer, token, attributions, zero in (_one_at_a_time if single else _layers)(lm, base, part, nodes):
        scaled = slice(token, token + 1) if single else slice(0, length)
        norm[scaled, layer] = attributions.norm(dim=-1).cpu().numpy()
        contribution[scaled, layer] = attributions.sum(-1).cpu().numpy()
        gaps[token, layer] = float(attributions.sum()) - (base.high - zero)
    return Gradients(norm, contribution, gaps if single else gaps[0])


Found = Iterator[tuple[int, int, Tensor, float]]
"""Layer, first scaled token, integrated gradients (scaled tokens, width) in float64, probability at zero."""


def _layers(lm: LM, base: Base, part: Part, nodes: int) -> Found:
    at, weights = quadrature(nodes)
    alphas = torch.tensor([*at, 0.0]).to(base.states)
    for layer, found in enumerate(slopes(lm, base, None if part == "state" else part, alphas)):
        value = base.states[layer, 0] if part == "state" else base.outputs[part][layer, 0]
        yield layer, 0, _weighed(value, weights, found.gradients), float(found.probabilities[-1])


def _one_at_a_time(lm: LM, base: Base, part: Part, nodes: int) -> Found:
    for layer in range(lm.n_layers):
        # A token's state acts on the positions from it on.
        for token in range(len(base.prompt.ids)):
            yield layer, token, *_Path(lm, base, part, layer, token).integrate(nodes)


def _weighed(value: Tensor, weights: Numbers, gradients: Tensor) -> Tensor:
    """Return value times the weighted sum of the gradients, the one at zero aside: (tokens, width), float64."""
    return value.double() * torch.einsum(
        "i,itd->td", torch.from_numpy(weights).to(value.device), gradients[:-1].double()
    )


@dataclass(frozen=True, eq=False)
class _Path:
    """The straight path from zero to one token's tensor, with all that stays as it is."""

    lm: LM
    base: Base
    part: Part
    layer: int
    begin: int
    """The token that moves along the path; those before it never change, and are not run."""

    @property
    def scaled(self) -> slice:
        """The token, as a range of one."""
        return slice(self.begin, self.begin + 1)

    def integrate(self, nodes: int) -> tuple[Tensor, float]:
        """Return the integrated gradients (scaled tokens, width), float64, and the probability at zero."""
        table = self.base.states if self.part == "state" else self.base.outputs[self.part]
        value = table[self.layer, 0, self.scaled]
        at, weights = quadrature(nodes)
        alphas = torch.tensor([*at, 0.0]).to(value)
        leaf = (alphas[:, None, None] * value).requires_grad_()
        with torch.enable_grad():
            found = self._probability(leaf)
            (slope,) = torch.autograd.grad(found.sum(), leaf)
        return _weighed(value, weights, slope), float(found[-1].detach())

    def _probability(self, leaf: Tensor) -> Tensor:
        hidden = self._after_layer(leaf)
        above = self.layer + 1
        if above < self.lm.n_layers:
            hidden = self._run(hidden, above, self.lm.n_layers)
        answers = torch.full((len(leaf),), self.base.answer, device=leaf.device)
        return probability(logits(self.lm, hidden[:, -1]), answers)

    def _after_layer(self, leaf: Tensor) -> Tensor:
        """Return the block's output, (nodes, positions, width), with the part's tensor in place."""
        base, layer = self.base, self.layer
        if self.part == "state":
            return self._put(leaf, base.states[layer, 0])
        if self.part == "mlp":
            rest = base.states[layer, 0] - base.outputs["mlp"][layer, 0]
            return self._put(leaf, base.outputs["mlp"][layer, 0]) + rest[self.begin :]
        # What follows the attention within its block is the model's own to know: the block runs, its output replaced.
        before = base.embedded[0] if layer == 0 else base.states[layer - 1, 0]
        rows = before[self.begin :].expand(len(leaf), -1, -1)
        value = self._put(leaf, base.outputs["attn"][layer, 0])
        return self._run(rows, layer, layer + 1, (site_of(self.lm, "attn", layer), partial(instead, value)))

    def _put(self, leaf: Tensor, clean: Tensor) -> Tensor:
        parts = [clean[self.begin : self.scaled.start], clean[self.scaled.stop :]]
        before, after = (part.expand(len(leaf), -1, -1) for part in parts)
        return torch.cat([before, leaf, after], dim=1)

    def _run(self, hidden: Tensor, start: int, stop: int, *pairs: tuple[Site, Patch]) -> Tensor:
        lm, rows, positions = self.lm, len(hidden), hidden.shape[1]
        cache = _prefix(self.base, self.begin, rows) if self.begin else None
        mask = causal_mask(lm, positions, self.begin)
        at = torch.arange(self.begin, self.begin + positions, device=hidden.device)
        last = last_position_only(lm, lm.n_layers - 1, positions) if stop == lm.n_layers else []
        with hooked(lm.model, *last, *pairs):
            return run_blocks(lm, hidden, start, stop, positions=at, mask=mask, cache=cache)


def _prefix(base: Base, begin: int, rows: int) -> ConstantPrefix:
    """Return the clean keys and values before a position: row 0 of a base without noise is every row."""
    keys, values = (
        {layer: table[:1, :, :begin].expand(rows, -1, -1, -1) for layer, table in enumerate(tables)}
        for tables in (base.keys, base.values)
    )
    return ConstantPrefix(keys, values)
