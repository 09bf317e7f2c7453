"""Train on the tokens of new objects, each given the true ones before it; one request alone, or a group together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from counterfact.contracts.editors import Edited, Group, Progress
from counterfact.editing.requests import Encoded, encode, encode_group, failures_of
from counterfact.editing.values import DescentSettings
from counterfact.lm.edits.edit import Delta, Edit
from counterfact.lm.forward.blocks import logits
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan, in_halves

B = TypeVar("B")


@dataclass(frozen=True)
class Labels:
    """Where the tokens of new objects are scored, in rows of one record each: (records, tokens of the longest)."""

    scored: Tensor
    """Positions whose next token is scored."""
    tokens: Tensor
    """These next tokens."""
    weights: Tensor
    """1/L for the L tokens of a target, 0 for padding."""

    @classmethod
    def of(cls, lm: LM, items: Sequence[Encoded]) -> "Labels":
        """Label the last tokens of each item's first row and its target's last token."""
        longest = max(len(item.target) for item in items)
        scored, tokens, weights = [], [], []
        for item in items:
            count, end = len(item.target), len(item.rows[0].ids)
            padding = [0] * (longest - count)
            scored.append([*range(end - count, end), *padding])
            tokens.append([*item.target, *padding])
            weights.append([*[1 / count] * count, *padding])
        of_weights = torch.tensor(weights, dtype=lm.working_dtype, device=lm.device)
        return cls(torch.tensor(scored, device=lm.device), torch.tensor(tokens, device=lm.device), of_weights)

    def keep(self, records: Tensor) -> "Labels":
        """Go on with these records only."""
        return Labels(self.scored[records], self.tokens[records], self.weights[records])

    def nll(self, lm: LM, hidden: Tensor) -> Tensor:
        """Return the mean -log p of each record's target tokens, (records,), in nats.

        Args:
            lm: the model.
            hidden: last states of the rows, (records, tokens, width).
        """
        read = hidden.gather(1, self.scored[..., None].expand(-1, -1, hidden.shape[-1]))
        log_p = logits(lm, read).to(self.weights.dtype).log_softmax(-1)
        return -(log_p.gather(2, self.tokens[..., None])[..., 0] * self.weights).sum(1)


class GroupSettings(DescentSettings, Protocol):
    """What the training of a group reads of an editor's settings."""

    @property
    def batch_size(self) -> int: ...


class Trainable(Protocol[B]):
    """Parameters that start from nothing for a group, and what they make of it."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """Leaves that are trained."""

    def lay_out(self, items: Sequence[Encoded]) -> B:
        """Turn the requests of one step into tensors."""

    def losses(self, batch: B) -> Tensor:
        """Return the loss of each request, (records,), in nats a token."""

    def after_step(self) -> None:
        """Bring the parameters back to where they must lie."""

    def deltas(self) -> tuple[Delta, ...]:
        """Return what was trained as changes of weights."""


def descend(
    parts: Trainable[B],
    batches: Sequence[B],
    settings: GroupSettings,
    progress: Progress | None = None,
) -> list[float]:
    """Train by Adam, one batch after another, for `steps` rounds.

    A batch with a loss below `stop_loss` is passed over, and training ends with a round whose mean is below it, or with
    a loss that is no number.

    Args:
        parts: what is trained.
        batches: the requests, step by step.
        settings: how long, and how fast.
        progress: told after each round how many are done, where a round has several steps.

    Returns:
        The mean loss of each batch before its step, in nats a token.
    """
    adam = torch.optim.Adam(parts.parameters, lr=settings.learning_rate)
    history: list[float] = []
    for done in range(1, settings.steps + 1):
        total, count = 0.0, 0
        for batch in batches:
            with torch.enable_grad():
                losses = parts.losses(batch)
                loss = losses.mean()
            history.append(loss.item())
            if not math.isfinite(history[-1]):
                return history
            if history[-1] >= settings.stop_loss:
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                parts.after_step()
            total, count = total + history[-1] * len(losses), count + len(losses)
        if progress is not None and len(batches) > 1:
            progress("rounds of training", done, settings.steps)
        if total / count < settings.stop_loss:
            break
    return history


@dataclass(frozen=True)
class GroupTraining(Generic[B]):
    """A prepared editor that trains on all requests of a group together."""

    lm: LM
    settings: GroupSettings
    plan: Plan
    start: Callable[[int, Sequence[int]], Trainable[B]]
    """The run's seed and the ids of a group's requests -> parameters before training."""
    progress: Progress | None = None
    """As in `descend`."""

    def __call__(self, groups: Sequence[Group], seed: int, /) -> list[Edited]:
        """Edit; see `contracts.editors.Editor`."""
        return [self._edit(group, seed) for group in groups]

    def _edit(self, group: Group, seed: int) -> Edited:
        encoded, failed = encode_group(group, lambda request: encode(self.lm, request, ["{}"], "last", kl_row=False))
        items, ids = list(encoded.values()), tuple(group[i].id for i in encoded)
        made: list[Edit] = []

        def run(_: Sequence[int]) -> None:
            parts, size = self.start(seed, ids), self.settings.batch_size
            batches = [parts.lay_out(items[at : at + size]) for at in range(0, len(items), size)]
            history = descend(parts, batches, self.settings, self.progress)
            edit = Edit(parts.deltas(), ids)
            facts = {"update_frobenius": edit.frobenius(), "steps": float(len(history)), "loss": history[-1]}
            made.append(Edit(edit.deltas, ids, facts))

        if items and len(in_halves("edit", [0], run, self.plan)):
            failed.update(dict.fromkeys(encoded, "out of memory with the requests of one step"))
        for edit in made:
            if not all(map(math.isfinite, edit.diagnostics.values())):
                steps, loss = edit.diagnostics["steps"], edit.diagnostics["loss"]
                failed.update(dict.fromkeys(encoded, f"the loss became {loss} at forward pass {steps:.0f}"))
        failures = failures_of(group, failed)
        return Edited(None if len(failures) == len(group) else made[0], failures)
