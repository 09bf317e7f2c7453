r"""The search for v*, the value that makes a model say a new object; many records at once.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, section 3.1, eq. 4.
https://arxiv.org/abs/2202.05262
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from counterfact.editing.adam import Adam
from counterfact.editing.output_loss import LossReads, read_out
from counterfact.editing.requests import Encoded
from counterfact.editing.suffixes import Suffixes, split_rows
from counterfact.editing.values import ENOUGH, Projections, SearchAtLayer, Searched, SearchSettings, Targets, Values
from counterfact.lm.forward.blocks import block_change, final_norm, stream_change
from counterfact.lm.forward.products import packed_products, wide_passes
from counterfact.lm.model.hooks import Site
from counterfact.lm.model.language_model import LM

COMPACT_AT = 0.8
"""Finished records are dropped from the batch when at most this fraction is still open."""


@dataclass(frozen=True)
class Problem:
    """The records of a search, and where their losses are read."""

    suffixes: Suffixes
    value_norm: Tensor
    """||v_0||, (records,); where δ is added at several sites, (records, sites)."""
    targets: tuple[tuple[int, ...], ...]
    """Token ids of each record's new object."""
    reads: LossReads
    """Positions that the loss reads."""

    @classmethod
    def of(cls, suffixes: Suffixes, value_norm: Tensor, targets: Sequence[tuple[int, ...]]) -> "Problem":
        """Find out where the losses are read."""
        return cls(suffixes, value_norm, tuple(targets), LossReads.of(suffixes, targets, value_norm))

    def keep(self, lm: LM, records: Sequence[bool]) -> "Problem":
        """Go on with these records only."""
        rest = torch.tensor([i for i, keep in enumerate(records) if keep], device=self.value_norm.device)
        targets = [self.targets[i] for i in rest.tolist()]
        suffixes = self.suffixes.keep(lm, records, max(map(len, targets)))
        problem = Problem.of(suffixes, self.value_norm[rest], targets)
        return replace(problem, reads=problem.reads.carry(self.reads, rest))

    def is_done(self, now: Tensor, stop_loss: float) -> Tensor:
        """Return which searches end at a loss and its terms, (records, 4): below `stop_loss`, or by PMET's rule."""
        low = ~(now[:, 0] >= stop_loss)  # NaN ends too
        said = self.reads.said
        return low if said is None else low | (said & (now[:, 2] <= ENOUGH))


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
    each, module = len(batch[0].rows), lm.layout.fc_out(settings.layer)
    with packed_products(lm), wide_passes(lm):
        at, suffixes = split_rows(lm, batch, settings.layer, Site(module, "in"), Site(module))
        suffixes = replace(suffixes, change=stream_change, standing=(at[1],))
        # All rows of a record but the last, which is for the KL term alone: (records, templates, d_in or width).
        keys, outputs = (states.to(dtype).view(count, each, -1)[:, :-1] for states in at)
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
    with packed_products(lm), wide_passes(lm):
        [stream], suffixes = split_rows(lm, batch, layer, Site(lm.layout.block(layer)))
        initial = stream[:: suffixes.each].to(lm.working_dtype)
        problem = Problem.of(suffixes, initial.norm(dim=1), [item.target for item in batch])
        return Targets(**vars(search(lm, problem, settings)), initial=initial)


def find_projections(lm: LM, batch: Sequence[Encoded], layer: int, settings: SearchSettings) -> Projections:
    r"""Find what the last projections of a layer's attention and MLP are wanted to give, for a batch of records.

    As `find_values`, but there are two δ, each added to the output of one of the two and measured by that output's
    norm, and the objective and the end are PMET's:

    $$f \cdot \mathrm{NLL} + \lambda\, D_{KL} + \gamma \left(\frac{\|\delta_a\|}{\|a_0\|^2}
      + \frac{\|\delta_m\|}{\|m_0\|^2}\right)$$

    with f = 1, and 0.1 after a pass in which every token of the new object was the likeliest, in every context. A
    search ends below `stop_loss`, and where the new object is said and the KL term is at most 0.01 nats.
    Li, Li, Song, Yang, Ma, Yu. PMET: Precise Model Editing in a Transformer. AAAI 2024.
    https://arxiv.org/abs/2308.08742

    Args:
        lm: the model.
        batch: records encoded with `kl_row=True`, all with the same number of rows.
        layer: whose attention and MLP.
        settings: constants of the search.
    """
    layout = lm.layout
    block, attention, mlp = Site(layout.block(layer)), Site(layout.out_proj(layer)), Site(layout.fc_out(layer))
    with packed_products(lm), wide_passes(lm):
        at, suffixes = split_rows(lm, batch, layer, Site(block.module, "in"), attention, block, mlp)
        suffixes = replace(suffixes, change=block_change, standing=tuple(at[:3]))
        initial = torch.stack([at[1], at[3]], 1)[:: suffixes.each].to(lm.working_dtype)
        problem = Problem.of(suffixes, initial.norm(dim=2), [item.target for item in batch])
        unsaid = torch.zeros(len(batch), dtype=torch.bool, device=lm.device)
        problem = replace(problem, reads=replace(problem.reads, said=unsaid))
        return Projections(**vars(search(lm, problem, settings)), initial=initial)


def search(lm: LM, problem: Problem, settings: SearchSettings) -> Searched:
    """Minimise the objective for every record by itself."""
    count = len(problem.value_norm)
    found = problem.value_norm.new_zeros(*problem.value_norm.shape, lm.width)
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
        ends = is_open if last else is_open & problem.is_done(now, settings.stop_loss)
        found[alive] = torch.where(ends.view(-1, *[1] * (delta.dim() - 1)), delta, found[alive])
        is_open = is_open & ~ends
        still: list[bool] = is_open.tolist()
        if gradient is None or not any(still):
            break
        adam.step_(delta, gradient)
        delta *= (settings.clamp_norm_factor * problem.value_norm / delta.norm(dim=-1)).clamp(max=1)[..., None]
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
    norm = delta.norm(dim=-1)
    scale = settings.weight_decay / problem.value_norm**2
    nll, kl, decay = losses.nll, settings.kl_factor * losses.kl, (scale * norm).view(len(norm), -1).sum(1)
    now = torch.stack([nll + kl + decay, nll, kl, decay], 1)
    if slopes is None:
        return now, None, replace(problem, reads=reads)
    (slope,) = torch.autograd.grad(normed, variable, slopes)
    slope += torch.where(norm > 0, scale / norm, 0)[..., None] * delta  # at 0 the norm's subgradient is 0
    return now, slope, replace(problem, reads=reads)
