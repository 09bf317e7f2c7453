r"""The search for v*, the value that makes a model say a new object; many records at once.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, section 3.1, eq. 4.
https://arxiv.org/abs/2202.05262

The output layer has no graph over the vocabulary. For a position whose next token $o$ counts with weight $w$, and one
whose distribution is held to $P_0$ with factor λ,

$$\frac{\partial}{\partial z}\left(-w \ln P(o)\right) = w\,(P - e_o), \qquad
  \frac{\partial}{\partial z}\,\lambda D_{KL}(P \,\|\, P_0) = \lambda\, P \odot \left(\ln P - \ln P_0 - D_{KL}\right),$$

so logits are needed a few positions at a time, and are overwritten by their gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from counterfact.editing.adam import Adam
from counterfact.editing.requests import Encoded
from counterfact.editing.suffixes import Suffixes, split_rows
from counterfact.editing.values import SearchAtLayer, Searched, SearchSettings, Targets, Values
from counterfact.lm.forward.blocks import final_norm, head
from counterfact.lm.forward.products import packed_products, wide_passes
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.memory import SEARCH_LOGITS

COMPACT_AT = 0.8
"""Finished records are dropped from the batch when at most this fraction is still open."""


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


class Loss(NamedTuple):
    """The two terms that depend on the output layer, in nats."""

    nll: Tensor
    """Mean over a record's rows and target tokens, (records,)."""
    kl: Tensor
    """Divergence without its factor, (records,)."""


@dataclass(frozen=True)
class Problem:
    """The records of a search, and where their losses are read."""

    suffixes: Suffixes
    value_norm: Tensor
    """||v_0||, (records,)."""
    targets: tuple[tuple[int, ...], ...]
    """Token ids of each record's new object."""
    reads: LossReads
    """Positions that the loss reads."""

    @classmethod
    def of(cls, suffixes: Suffixes, value_norm: Tensor, targets: Sequence[tuple[int, ...]]) -> "Problem":
        """Find out where the losses are read: at the last tokens of each row but its record's last, and there."""
        return cls(suffixes, value_norm, tuple(targets), _reads(suffixes, targets, value_norm))

    def keep(self, lm: LM, records: Sequence[bool]) -> "Problem":
        """Go on with these records only."""
        rest = torch.tensor([i for i, keep in enumerate(records) if keep], device=self.value_norm.device)
        targets = [self.targets[i] for i in rest.tolist()]
        suffixes = self.suffixes.keep(lm, records, max(map(len, targets)))
        problem = Problem.of(suffixes, self.value_norm[rest], targets)
        reference = None if self.reads.reference is None else self.reads.reference[rest]
        return replace(problem, reads=replace(problem.reads, reference=reference))


def _reads(suffixes: Suffixes, targets: Sequence[tuple[int, ...]], like: Tensor) -> LossReads:
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
    return LossReads(
        places=torch.tensor(places + kl_places, device=device),
        records=torch.tensor([*records, *range(len(targets))], device=device),
        labels=torch.tensor(labels, device=device),
        weights=torch.tensor(weights, dtype=like.dtype, device=device),
    )


def find_values(lm: LM, batch: Sequence[Encoded], settings: SearchAtLayer) -> Values:
    r"""Find keys and values of a batch of records, in one lower pass, one prefix pass and `steps` upper passes.

    $$\delta^* = \arg\min_\delta \frac1N \sum_{j=1}^N -\log P_{m+\delta}\left(o^* \mid x_j + p\right)
      + \lambda\, D_{KL}\left(P_{m+\delta}(x \mid p') \,\|\, P(x \mid p')\right)
      + \gamma\, \frac{\|\delta\|}{\|v_0\|^2}$$

    Passes are in float32 for a model of bfloat16 weights too, so that an edit does not depend on those beside it.

    m+δ: the edited layer's MLP output at the subject is moved by δ in every row. The step that ends a record's search
    evaluates and does not update. After an update δ is cut back to `clamp_norm_factor` times ||v_0||. We follow the
    authors' code where it differs from the paper: the KL term is read at the subject, the weight decay and the clamp
    are as above.

    Args:
        lm: the model.
        batch: records encoded with `kl_row=True`, all with the same number of rows.
        settings: constants of the search.
    """
    count, dtype = len(batch), lm.working_dtype
    each = len(batch[0].rows)
    with packed_products(lm), wide_passes(lm):
        rows = [row for item in batch for row in item.rows]
        at, suffixes = split_rows(lm, rows, each, settings.layer, max(len(item.target) for item in batch))
        # All rows of a record but the last, which is for the KL term alone: (records, templates, d_in or width).
        keys, outputs = (states.to(dtype).view(count, each, -1)[:, :-1] for states in (at.keys, at.outputs))
        problem = Problem.of(suffixes, outputs[:, 0].norm(dim=1), [item.target for item in batch])
        found = search(lm, problem, settings)
    return Values(
        **vars(found),
        bare_key=keys[:, 0],
        mean_key=keys.mean(1),
        bare_output=outputs[:, 0],
        mean_output=outputs.mean(1),
    )


def find_targets(lm: LM, batch: Sequence[Encoded], layer: int, settings: SearchSettings) -> Targets:
    r"""Find what the residual stream after a layer is wanted to be, for a batch of records.

    As `find_values`, but δ is added to the output of the whole block, and its norm is measured by that output's, $z_0$.
    Meng, Sen Sharma, Andonian, Belinkov, Bau. Mass-Editing Memory in a Transformer. ICLR 2023, section 4.3.1.
    https://arxiv.org/abs/2210.07229

    Args:
        lm: the model.
        batch: records encoded with `kl_row=True`, all with the same number of rows.
        layer: after which the stream is moved.
        settings: constants of the search.
    """
    each = len(batch[0].rows)
    with packed_products(lm), wide_passes(lm):
        rows = [row for item in batch for row in item.rows]
        _, suffixes = split_rows(lm, rows, each, layer, max(len(item.target) for item in batch))
        suffixes = replace(suffixes, outputs=None)
        initial = suffixes.hidden[0, suffixes.firsts[::each]].to(lm.working_dtype)
        problem = Problem.of(suffixes, initial.norm(dim=1), [item.target for item in batch])
        return Targets(**vars(search(lm, problem, settings)), initial=initial)


def search(lm: LM, problem: Problem, settings: SearchSettings) -> Searched:
    """Minimise the objective for every record by itself."""
    count, width = len(problem.value_norm), lm.width
    found = problem.value_norm.new_zeros(count, width)
    trace = problem.value_norm.new_full((count, settings.steps, 4), torch.nan)
    passes = torch.zeros(count, dtype=torch.int64, device=found.device)
    alive = torch.arange(count, device=found.device)  # records still in the batch
    is_open = torch.ones_like(alive, dtype=torch.bool)  # of these, the ones whose search goes on
    delta = torch.zeros_like(found)
    adam = Adam(delta, settings.learning_rate)
    for step in range(settings.steps):
        last = step == settings.steps - 1
        now, gradient, problem = objective(lm, problem, delta, settings, gradient=not last)
        trace[alive, step] = torch.where(is_open[:, None], now, torch.nan)
        passes[alive] += is_open
        ends = is_open if last else is_open & ~(now[:, 0] >= settings.stop_loss)  # NaN ends too
        found[alive] = torch.where(ends[:, None], delta, found[alive])
        is_open = is_open & ~ends
        still: list[bool] = is_open.tolist()
        if gradient is None or not any(still):
            break
        adam.step_(delta, gradient)
        delta *= (settings.clamp_norm_factor * problem.value_norm / delta.norm(dim=1)).clamp(max=1)[:, None]
        if sum(still) <= COMPACT_AT * len(still):
            rest = torch.tensor([i for i, keep in enumerate(still) if keep], device=alive.device)
            problem, alive, is_open, delta = problem.keep(lm, still), alive[rest], is_open[rest], delta[rest]
            adam.keep(rest)
    return Searched(found, trace, passes)


def objective(
    lm: LM, problem: Problem, delta: Tensor, settings: SearchSettings, *, gradient: bool
) -> tuple[Tensor, Tensor | None, Problem]:
    """Evaluate the objective of every record.

    Returns:
        The loss and its terms NLL, KL and weight decay, (records, 4); the loss's gradient by delta if it is requested,
        a record's its own, as rows do not meet; and the problem, with the reference distributions after the first pass.
    """
    variable = delta.detach().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        hidden = problem.suffixes.run(lm, variable)
        normed = final_norm(lm, hidden[0, problem.reads.places])
    losses, slopes, reads = read_out(lm, normed, problem.reads, settings.kl_factor, gradient=gradient)
    norm = delta.norm(dim=1)
    scale = settings.weight_decay / problem.value_norm**2
    nll, kl, decay = losses.nll, settings.kl_factor * losses.kl, scale * norm
    now = torch.stack([nll + kl + decay, nll, kl, decay], 1)
    if slopes is None:
        return now, None, replace(problem, reads=reads)
    (slope,) = torch.autograd.grad(normed, variable, slopes)
    slope += torch.where(norm > 0, scale / norm, 0)[:, None] * delta  # at 0 the norm's subgradient is 0
    return now, slope, replace(problem, reads=reads)


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
        Losses; the gradient by `normed`, of its shape, or `None`; and the reads with `reference` filled in.
    """
    scored = len(reads.labels)
    count = len(reads.places) - scored
    nll = reads.weights.new_zeros(count)
    kl = torch.zeros_like(nll)
    first = reads.reference is None
    reference = nll.new_empty(count, lm.vocabulary) if reads.reference is None else reads.reference
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
                labels, weights = reads.labels[part, None], reads.weights[part]
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
    return Loss(nll, kl), slopes, replace(reads, reference=reference)


def _divergence(log_p: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """KL(P || P_0) of each row, and its gradient by the logits."""
    p, change = log_p.exp(), log_p - before
    divergence = (p * change).sum(1)
    return divergence, p * (change - divergence[:, None])
