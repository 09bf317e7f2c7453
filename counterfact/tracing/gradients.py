r"""Integrated gradients of a prediction with respect to hidden states and module outputs.

Sundararajan, Taly, Yan. Axiomatic Attribution for Deep Networks. ICML 2017. https://arxiv.org/abs/1703.01365; as a map
over tokens and layers: figure 16 of Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT.
NeurIPS 2022. https://arxiv.org/abs/2202.05262
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from counterfact.core.errors import BadInput
from counterfact.lm.forward.products import packed_products
from counterfact.lm.model.language_model import LM
from counterfact.tracing._base import Base, costs_a_fact, run_base
from counterfact.tracing._paths import slopes
from counterfact.tracing.facts import BadFact, Fact, Prompt, encode, is_known

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
        except (ValueError, RuntimeError, MemoryError) as error:
            if not costs_a_fact(error):
                raise
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
        correct=is_known(lm, fact),
        high=base.high,
        parts=found,
    )


def _integrate(lm: LM, base: Base, part: Part, nodes: int, single: bool) -> Gradients:
    length = len(base.prompt.ids)
    norm, contribution = np.zeros((length, lm.n_layers)), np.zeros((length, lm.n_layers))
    gaps = np.zeros((length if single else 1, lm.n_layers))
    at, weights = quadrature(nodes)
    # One more node, at zero: what the sum is held against.
    alphas = torch.tensor([*at, 0.0]).to(base.states)
    for path, value, gradients, chances in slopes(lm, base, None if part == "state" else part, alphas, single=single):
        weighed = torch.einsum("i,itd->td", torch.from_numpy(weights).to(value.device), gradients[:-1].double())
        attributions = value.double() * weighed
        scaled = slice(path.first, path.first + len(value))
        norm[scaled, path.layer] = attributions.norm(dim=-1).cpu().numpy()
        contribution[scaled, path.layer] = attributions.sum(-1).cpu().numpy()
        gaps[path.first, path.layer] = float(attributions.sum()) - (base.high - float(chances[-1]))
    return Gradients(norm, contribution, gaps if single else gaps[0])
