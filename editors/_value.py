"""The search for v*, the value that makes a model say a new object; many records at once.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, section 3.1, eq. 4.
https://arxiv.org/abs/2202.05262
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from editors._adam import Adam
from editors._rows import Encoded, pad, run_lower
from editors._upper import Upper, run_prefix
from lm.loading import LM
from lm.stack import logits

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


class Terms(NamedTuple):
    """The parts of the objective, each (records,), nats."""

    nll: Tensor
    kl: Tensor
    weight_decay: Tensor

    @property
    def total(self) -> Tensor:
        return self.nll + self.kl + self.weight_decay


@dataclass(frozen=True)
class Problem:
    """What the search runs on; the first dimension of every tensor is the record."""

    upper: Upper
    value_norm: Tensor
    """||v_0||, (records,)."""
    scored: Tensor
    """Suffix positions whose next token is scored, (records, rows - 1, target tokens)."""
    labels: Tensor
    """Target ids, (records, target tokens)."""
    weights: Tensor
    """1/L for the L tokens of a target, 0 for padding, (records, target tokens)."""
    held: Tensor | None = None
    """Log-probabilities of the held row on the first pass, (records, vocabulary)."""

    def keep(self, records: Tensor) -> "Problem":
        """Go on with these records only."""
        kept = {f.name: getattr(self, f.name)[records] for f in fields(self) if f.name not in ("upper", "held")}
        held = None if self.held is None else self.held[records]
        return replace(self, upper=self.upper.keep(records), held=held, **kept)


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
    ids, lookup, lengths = pad([row for item in batch for row in item.rows], lm.device)
    dtype, count = lm.working_dtype, len(batch)
    lower = run_lower(lm, ids, settings.layer)
    rows = torch.arange(len(ids), device=ids.device)
    # All rows of a record but the last, which is only held still: (records, templates, d_in or width).
    keys, outputs = (
        states[rows, lookup].to(dtype).view(count, -1, states.shape[-1])[:, :-1]
        for states in (lower.keys, lower.outputs)
    )
    upper = run_prefix(lm, lower, lookup, lengths, count, settings.layer + 1)
    del lower
    delta, trace, passes = search(lm, _problem(batch, upper, outputs[:, 0]), settings)
    return Values(keys[:, 0], keys.mean(1), outputs[:, 0], outputs.mean(1), delta, trace, passes)


def _problem(batch: Sequence[Encoded], upper: Upper, bare_output: Tensor) -> Problem:
    longest = max(len(item.target) for item in batch)
    scored, labels, weights = [], [], []
    for item in batch:
        count = len(item.target)
        padding = [0] * (longest - count)
        ends = [len(row.ids) - row.lookup for row in item.rows[:-1]]
        scored.append([[*range(end - count, end), *padding] for end in ends])
        labels.append([*item.target, *padding])
        weights.append([*[1 / count] * count, *padding])
    device = bare_output.device
    return Problem(
        upper=upper,
        value_norm=bare_output.norm(dim=1),
        scored=torch.tensor(scored, device=device),
        labels=torch.tensor(labels, device=device),
        weights=torch.tensor(weights, dtype=bare_output.dtype, device=device),
    )


def search(lm: LM, problem: Problem, settings: SearchSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Minimise the objective for every record by itself; return delta, trace and passes, as in `Values`."""
    count, width = len(problem.value_norm), lm.width
    found = problem.value_norm.new_zeros(count, width)
    trace = problem.value_norm.new_full((count, settings.steps, 4), torch.nan)
    passes = torch.zeros(count, dtype=torch.int64, device=found.device)
    alive = torch.arange(count, device=found.device)  # records still in the batch
    is_open = torch.ones_like(alive, dtype=torch.bool)  # of these, the ones whose search goes on
    delta = torch.zeros_like(found)
    adam = Adam(delta, settings.learning_rate)
    for step in range(settings.steps):
        with torch.enable_grad():
            variable = delta.detach().requires_grad_()
            terms, held = objective(lm, problem, variable, settings)
            loss = terms.total
            whole = loss.sum()  # a record's gradient is its own: rows do not meet
        if problem.held is None:
            problem = replace(problem, held=held)
        now = torch.stack([loss, *terms], 1).detach()
        trace[alive, step] = torch.where(is_open[:, None], now, torch.nan)
        passes[alive] += is_open
        ends = is_open & ~(now[:, 0] >= settings.stop_loss)  # NaN ends too
        if step == settings.steps - 1:
            ends = is_open
        found[alive] = torch.where(ends[:, None], delta, found[alive])
        is_open = is_open & ~ends
        n_open = int(is_open.sum())  # the only wait for the device in a step
        if n_open == 0:
            break
        (gradient,) = torch.autograd.grad(whole, variable)
        adam.step_(delta, gradient)
        delta *= (settings.clamp_norm_factor * problem.value_norm / delta.norm(dim=1)).clamp(max=1)[:, None]
        if n_open <= COMPACT_AT * len(alive):
            rest = is_open.nonzero()[:, 0]
            problem, alive, is_open, delta = problem.keep(rest), alive[rest], is_open[rest], delta[rest]
            adam.keep(rest)
    return found, trace, passes


def objective(lm: LM, problem: Problem, delta: Tensor, settings: SearchSettings) -> tuple[Terms, Tensor]:
    """Evaluate the objective of every record.

    Returns:
        Its terms, and the log-probabilities of the held row (records, vocabulary), detached.
    """
    hidden = problem.upper.run(lm, delta)
    records, rows, tokens = problem.scored.shape
    index = problem.scored[..., None].expand(-1, -1, -1, hidden.shape[-1])
    scored = hidden[:, :-1].gather(2, index).flatten(1, 2)
    read = torch.cat([scored, hidden[:, -1, :1]], 1)  # only here are logits needed
    log_p = logits(lm, read).to(delta.dtype).log_softmax(-1)
    labels = problem.labels[:, None].expand(-1, rows, -1).reshape(records, -1, 1)
    new = log_p[:, :-1].gather(2, labels)[..., 0].view(records, rows, tokens)
    nll = -(new * problem.weights[:, None]).sum(2).mean(1)
    now = log_p[:, -1]
    before = now.detach() if problem.held is None else problem.held
    kl = settings.kl_factor * (now.exp() * (now - before)).sum(1)
    decay = settings.weight_decay * delta.norm(dim=1) / problem.value_norm**2
    return Terms(nll, kl, decay), now.detach()
