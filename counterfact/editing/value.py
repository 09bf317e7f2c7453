"""The search for v*, the value that makes a model say a new object; many records at once.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, section 3.1, eq. 4.
https://arxiv.org/abs/2202.05262
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from counterfact.editing.adam import Adam
from counterfact.editing.late import LateLook
from counterfact.editing.output import Reads, read_out
from counterfact.editing.requests import Encoded
from counterfact.editing.split import split_rows
from counterfact.editing.upper import Upper
from counterfact.lm.forward.blocks import final_norm
from counterfact.lm.forward.packed_products import packed_products
from counterfact.lm.model.loading import LM

COMPACT_AT = 0.8
"""Finished records are dropped from the batch when at most this fraction is still open."""


class SearchSettings(Protocol):
    """What the search reads of an editor's settings."""

    @property
    def layer(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def kl_factor(self) -> float: ...
    @property
    def clamp_norm_factor(self) -> float: ...
    @property
    def stop_loss(self) -> float: ...


@dataclass(frozen=True)
class Values:
    """Keys and values of a batch of records, in float32 (float64 for a float64 model)."""

    bare_key: Tensor
    """k_0, the edited module's input at the subject of the bare prompt, (records, d_in)."""
    mean_key: Tensor
    """k_bar, its mean over the context templates, (records, d_in)."""
    bare_output: Tensor
    """v_0, the module's output at the subject of the bare prompt, (records, width)."""
    mean_output: Tensor
    """Its mean over the context templates, (records, width)."""
    delta: Tensor
    """v* - v_0, (records, width)."""
    trace: Tensor
    """Loss, NLL, KL and weight-decay term at each forward pass, (records, steps, 4), nats; NaN after the last."""
    passes: Tensor
    """Forward passes, (records,), int64."""

    def at(self, record: int) -> "Values":
        """One record, without the first dimension."""
        return Values(**{field.name: getattr(self, field.name)[record] for field in fields(self)})

    @property
    def loss(self) -> Tensor:
        """The loss of the returned delta."""
        return self.trace[..., 0].gather(-1, self.passes[..., None] - 1)[..., 0]


@dataclass(frozen=True)
class Problem:
    """What the search runs on."""

    upper: Upper
    value_norm: Tensor
    """||v_0||, (records,)."""
    targets: tuple[tuple[int, ...], ...]
    """Token ids of each record's new object."""
    reads: Reads
    """Where its loss is read."""

    @classmethod
    def of(cls, upper: Upper, value_norm: Tensor, targets: Sequence[tuple[int, ...]]) -> "Problem":
        """Find out where the losses are read: at the last tokens of each row but its record's last, and there."""
        return cls(upper, value_norm, tuple(targets), _reads(upper, targets, value_norm))

    def keep(self, records: Sequence[bool]) -> "Problem":
        """Go on with these records only."""
        rest = torch.tensor([i for i, keep in enumerate(records) if keep], device=self.value_norm.device)
        targets = [self.targets[i] for i in rest.tolist()]
        upper = self.upper.keep(records, max(map(len, targets)))
        problem = Problem.of(upper, self.value_norm[rest], targets)
        held = None if self.reads.held is None else self.reads.held[rest]
        return replace(problem, reads=replace(problem.reads, held=held))


def _reads(upper: Upper, targets: Sequence[tuple[int, ...]], like: Tensor) -> Reads:
    layout, each = upper.layout, upper.each
    place = {token: i for i, token in enumerate(upper.rows.asked_for.tolist())}
    places: list[int] = []
    records: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    held: list[int] = []
    for record, target in enumerate(targets):
        rows = range(record * each, (record + 1) * each)
        for row in rows[:-1]:
            end = layout.starts[row] + layout.lengths[row]
            places += [place[token] for token in range(end - len(target), end)]
            labels += target
            records += [record] * len(target)
            weights += [1 / len(target) / (each - 1)] * len(target)
        held.append(place[layout.starts[rows[-1]]])
    device = like.device
    return Reads(
        places=torch.tensor(places + held, device=device),
        records=torch.tensor([*records, *range(len(targets))], device=device),
        labels=torch.tensor(labels, device=device),
        weights=torch.tensor(weights, dtype=like.dtype, device=device),
    )


def find_values(lm: LM, batch: Sequence[Encoded], settings: SearchSettings) -> Values:
    r"""Find keys and values of a batch of records, in one lower pass, one prefix pass and `steps` upper passes.

    $$\delta^* = \arg\min_\delta \frac1N \sum_{j=1}^N -\log P_{m+\delta}\left(o^* \mid x_j + p\right)
      + \lambda\, D_{KL}\left(P_{m+\delta}(x \mid p') \,\|\, P(x \mid p')\right)
      + \gamma\, \frac{\|\delta\|}{\|v_0\|^2}$$

    m+δ: the edited layer's MLP output at the subject is moved by δ in every row. The step that ends a record's search
    evaluates and does not update. After an update δ is cut back to `clamp_norm_factor` times ||v_0||. We follow the
    authors' code where it differs from the paper: the KL term is read at the subject, the weight decay and the clamp
    are as above.

    Args:
        lm: the model.
        batch: records encoded with `hold=True`, all with the same number of rows.
        settings: constants of the search.
    """
    count, dtype = len(batch), lm.working_dtype
    each = len(batch[0].rows)
    with packed_products(lm):
        rows = [row for item in batch for row in item.rows]
        at, upper = split_rows(lm, rows, each, settings.layer, max(len(item.target) for item in batch))
        # All rows of a record but the last, which is only held still: (records, templates, d_in or width).
        keys, outputs = (states.to(dtype).view(count, each, -1)[:, :-1] for states in (at.keys, at.outputs))
        problem = Problem.of(upper, outputs[:, 0].norm(dim=1), [item.target for item in batch])
        delta, trace, passes = search(lm, problem, settings)
    return Values(keys[:, 0], keys.mean(1), outputs[:, 0], outputs.mean(1), delta, trace, passes)


def search(lm: LM, problem: Problem, settings: SearchSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Minimise the objective for every record by itself; return delta, trace and passes, as in `Values`."""
    count, width = len(problem.value_norm), lm.width
    found = problem.value_norm.new_zeros(count, width)
    trace = problem.value_norm.new_full((count, settings.steps, 4), torch.nan)
    passes = torch.zeros(count, dtype=torch.int64, device=found.device)
    alive = torch.arange(count, device=found.device)  # records still in the batch
    is_open = torch.ones_like(alive, dtype=torch.bool)  # of these, the ones whose search goes on
    delta = torch.zeros_like(found)
    adam, late = Adam(delta, settings.learning_rate), LateLook(delta.device)
    for step in range(settings.steps):
        last = step == settings.steps - 1
        now, gradient, problem = objective(lm, problem, delta, settings, gradient=not last)
        trace[alive, step] = torch.where(is_open[:, None], now, torch.nan)
        passes[alive] += is_open
        ends = is_open if last else is_open & ~(now[:, 0] >= settings.stop_loss)  # NaN ends too
        found[alive] = torch.where(ends[:, None], delta, found[alive])
        is_open = is_open & ~ends
        still = late.look(is_open)
        if gradient is None or (still is not None and not any(still)):
            break
        adam.step_(delta, gradient)
        delta *= (settings.clamp_norm_factor * problem.value_norm / delta.norm(dim=1)).clamp(max=1)[:, None]
        if still is not None and sum(still) <= COMPACT_AT * len(still):
            rest = torch.tensor([i for i, keep in enumerate(still) if keep], device=alive.device)
            problem, alive, is_open, delta = problem.keep(still), alive[rest], is_open[rest], delta[rest]
            adam.keep(rest)
            late.forget()
    return found, trace, passes


def objective(
    lm: LM, problem: Problem, delta: Tensor, settings: SearchSettings, *, gradient: bool
) -> tuple[Tensor, Tensor | None, Problem]:
    """Evaluate the objective of every record.

    Returns:
        The loss and its terms NLL, KL and weight decay, (records, 4); the loss's gradient by delta if it is asked for,
        a record's its own, as rows do not meet; and the problem, with the held distributions after the first pass.
    """
    variable = delta.detach().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        hidden = problem.upper.run(lm, variable)
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
