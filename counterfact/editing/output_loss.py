r"""The loss of a search at the output layer, and its gradient, with no graph over the vocabulary.

For a position whose next token $o$ counts with weight $w$, and one whose distribution is held to $P_0$ with factor λ,

$$\frac{\partial}{\partial z}\left(-w \ln P(o)\right) = w\,(P - e_o), \qquad
  \frac{\partial}{\partial z}\,\lambda D_{KL}(P \,\|\, P_0) = \lambda\, P \odot \left(\ln P - \ln P_0 - D_{KL}\right),$$

so logits are needed a few positions at a time, and are overwritten by their gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from counterfact.editing.suffixes import Suffixes
from counterfact.editing.values import SAID
from counterfact.lm.forward.blocks import head
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.memory import SEARCH_LOGITS


@dataclass(frozen=True)
class LossReads:
    """Positions that the loss reads: those whose next token is scored, then one for each record's KL term."""

    places: Tensor
    """Places among the tokens that are run last, (scored + records,)."""
    records: Tensor
    """The record of each place, (scored + records,)."""
    labels: Tensor
    """Next tokens, (scored,)."""
    weights: Tensor
    """Weights of their nats, (scored,); a record's add up to 1."""
    reference: Tensor | None = None
    """ln P_0 at the KL term's positions, (records, vocabulary); `None` on the first pass, which finds it."""
    said: Tensor | None = None
    """Whether in the last pass every one of a record's labels was the likeliest, so that f is `SAID` in the next,
    (records,); `None`: f is 1, as in ROME and MEMIT."""

    @classmethod
    def of(cls, suffixes: Suffixes, targets: Sequence[tuple[int, ...]], like: Tensor) -> "LossReads":
        """Find the positions: the last tokens of each row but its record's last, and the first one of that.

        Args:
            suffixes: the rows.
            targets: token ids of each record's new object.
            like: a tensor of the dtype and on the device of the weights.
        """
        layout, each = suffixes.layout, suffixes.each
        place = {token: i for i, token in enumerate(suffixes.rows.asked_for.tolist())}
        places: list[int] = []
        records: list[int] = []
        labels: list[int] = []
        weights: list[float] = []
        kl_places: list[int] = []
        for record, target in enumerate(targets):
            rows = range(record * each, (record + 1) * each)
            for row in rows[:-1]:
                end = layout.starts[row] + layout.lengths[row]
                places += [place[token] for token in range(end - len(target), end)]
                labels += target
                records += [record] * len(target)
                weights += [1 / len(target) / (each - 1)] * len(target)
            kl_places.append(place[layout.starts[rows[-1]]])
        device = like.device
        return cls(
            places=torch.tensor(places + kl_places, device=device),
            records=torch.tensor([*records, *range(len(targets))], device=device),
            labels=torch.tensor(labels, device=device),
            weights=torch.tensor(weights, dtype=like.dtype, device=device),
        )

    def carry(self, earlier: "LossReads", rest: Tensor) -> "LossReads":
        """Take over what passes have found: `rest` are the places that the records have among the earlier ones."""
        reference, said = (None if each is None else each[rest] for each in (earlier.reference, earlier.said))
        return replace(self, reference=reference, said=said)


class Loss(NamedTuple):
    """The two terms that depend on the output layer, in nats."""

    nll: Tensor
    """Mean over a record's rows and target tokens, times f, (records,)."""
    kl: Tensor
    """Divergence without its factor, (records,)."""


def read_out(
    lm: LM, normed: Tensor, reads: LossReads, kl_factor: float, *, gradient: bool
) -> tuple[Loss, Tensor | None, LossReads]:
    """Compute losses, and the gradient of their sum over records, nll + kl_factor kl.

    Args:
        lm: the model.
        normed: states after the last norm at `reads.places`, (scored + records, width); no graph is made.
        reads: what is read there.
        kl_factor: λ.
        gradient: whether it is requested.

    Returns:
        Losses; the gradient by `normed`, of its shape, or `None`; and the reads with what this pass has found.
    """
    scored = len(reads.labels)
    count = len(reads.places) - scored
    nll = reads.weights.new_zeros(count)
    kl = torch.zeros_like(nll)
    first = reads.reference is None
    reference = nll.new_empty(count, lm.vocabulary) if reads.reference is None else reads.reference
    weights_by_f, missed = reads.weights, None
    if reads.said is not None:
        missed = torch.zeros_like(nll)
        weights_by_f = torch.where(reads.said[reads.records[:scored]], SAID * reads.weights, reads.weights)
    slopes = torch.empty_like(normed) if gradient else None
    size = max(1, SEARCH_LOGITS.get(lm.device.type, SEARCH_LOGITS["cpu"]) // lm.vocabulary)
    for start in range(0, len(normed), size):
        stop = min(start + size, len(normed))
        cut = min(max(scored - start, 0), stop - start)  # positions before it are scored, the others are of KL terms
        leaf = normed[start:stop].detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            scores = head(lm, leaf)
        with torch.no_grad():
            z = scores.detach().to(nll.dtype)
            z -= z.logsumexp(1, keepdim=True)
            if cut:
                part = slice(start, start + cut)
                labels, weights = reads.labels[part, None], weights_by_f[part]
                if missed is not None:
                    missed.index_add_(0, reads.records[part], (z[:cut].argmax(1) != labels[:, 0]).to(missed))
                nll.index_add_(0, reads.records[part], -weights * z[:cut].gather(1, labels)[:, 0])
                if gradient:
                    z[:cut].exp_().scatter_add_(1, labels, -torch.ones_like(weights)[:, None]).mul_(weights[:, None])
            if cut < stop - start:
                mine = slice(max(start, scored) - scored, stop - scored)
                if first:
                    reference[mine] = z[cut:]
                kl[mine], slope = _divergence(z[cut:], reference[mine])
                if gradient:
                    z[cut:] = kl_factor * slope
            if slopes is not None:
                (slopes[start:stop],) = torch.autograd.grad(scores, leaf, z.to(scores.dtype))
    said = None if missed is None else missed == 0
    return Loss(nll, kl), slopes, replace(reads, reference=reference, said=said)


def _divergence(log_p: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """KL(P || P_0) of each row, and its gradient by the logits."""
    p, change = log_p.exp(), log_p - before
    divergence = (p * change).sum(1)
    return divergence, p * (change - divergence[:, None])
