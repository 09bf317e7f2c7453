r"""The output layer of a search: the loss of many positions and its gradient, without a graph over the vocabulary.

For a position whose next token $o$ counts with weight $w$, and one whose distribution is held to $P_0$ with factor λ,

$$\frac{\partial}{\partial z}\left(-w \ln P(o)\right) = w\,(P - e_o), \qquad
  \frac{\partial}{\partial z}\,\lambda D_{KL}(P \,\|\, P_0) = \lambda\, P \odot \left(\ln P - \ln P_0 - D_{KL}\right),$$

so logits are needed a few positions at a time, and are overwritten by their gradient.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from counterfact.lm.forward.blocks import head
from counterfact.lm.model.loading import LM
from counterfact.lm.planning.memory import SEARCH_LOGITS


@dataclass(frozen=True)
class Reads:
    """Positions that a loss reads: first those whose next token is scored, then one for each record that is held."""

    places: Tensor
    """Among the tokens that are run last, (scored + records,)."""
    records: Tensor
    """Whose they are, (scored + records,)."""
    labels: Tensor
    """Next tokens, (scored,)."""
    weights: Tensor
    """Of their nats, (scored,); a record's add up to 1."""
    held: Tensor | None = None
    """Log-probabilities that each held position began with, (records, vocabulary); `None` on the first pass."""


class Loss(NamedTuple):
    """Of each record, in nats."""

    nll: Tensor
    """(records,)."""
    kl: Tensor
    """Without its factor, (records,)."""


def read_out(
    lm: LM, normed: Tensor, reads: Reads, kl_factor: float, *, gradient: bool
) -> tuple[Loss, Tensor | None, Reads]:
    """Compute losses, and the gradient of their sum over records, nll + kl_factor kl.

    Args:
        lm: the model.
        normed: states after the last norm at `reads.places`, (scored + records, width); no graph is made.
        reads: what is read there.
        kl_factor: λ.
        gradient: whether it is asked for.

    Returns:
        Losses; the gradient by `normed`, of its shape, or `None`; and the reads with `held` filled in.
    """
    scored = len(reads.labels)
    count = len(reads.places) - scored
    nll = reads.weights.new_zeros(count)
    kl = torch.zeros_like(nll)
    first = reads.held is None
    held = nll.new_empty(count, lm.vocabulary) if reads.held is None else reads.held
    slopes = torch.empty_like(normed) if gradient else None
    size = max(1, SEARCH_LOGITS.get(lm.device.type, SEARCH_LOGITS["cpu"]) // lm.vocabulary)
    for start in range(0, len(normed), size):
        stop = min(start + size, len(normed))
        cut = min(max(scored - start, 0), stop - start)  # positions before it are scored, the others held
        leaf = normed[start:stop].detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            scores = head(lm, leaf)
        with torch.no_grad():
            z = scores.detach().to(nll.dtype)
            z -= z.logsumexp(1, keepdim=True)
            if cut:
                part = slice(start, start + cut)
                labels, weights = reads.labels[part, None], reads.weights[part]
                nll.index_add_(0, reads.records[part], -weights * z[:cut].gather(1, labels)[:, 0])
                if gradient:
                    z[:cut].exp_().scatter_add_(1, labels, -torch.ones_like(weights)[:, None]).mul_(weights[:, None])
            if cut < stop - start:
                mine = slice(max(start, scored) - scored, stop - scored)
                if first:
                    held[mine] = z[cut:]
                kl[mine], slope = _divergence(z[cut:], held[mine])
                if gradient:
                    z[cut:] = kl_factor * slope
            if slopes is not None:
                (slopes[start:stop],) = torch.autograd.grad(scores, leaf, z.to(scores.dtype))
    return Loss(nll, kl), slopes, replace(reads, held=held)


def _divergence(log_p: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """KL(P || P_0) of each row, and its gradient by the logits."""
    p, change = log_p.exp(), log_p - before
    divergence = (p * change).sum(1)
    return divergence, p * (change - divergence[:, None])
