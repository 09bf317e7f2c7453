r"""The loss of a batch of edits: $c_{edit} L_{edit} + c_{loc} L_{loc}$, through the edited model into the network.

Mitchell et al. Fast Model Editing at Scale. ICLR 2022. https://arxiv.org/abs/2110.11309, eq. 4 and section 3.2.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from counterfact.editing.networks import Hypernetwork, NetworkSettings
from counterfact.lm.edits.apply import low_rank_pairs
from counterfact.lm.edits.gradient_factors import Factors, LabelledRows, gradient_factors, label_losses, run_below
from counterfact.lm.forward.blocks import logits, run_blocks
from counterfact.lm.model.hooks import hooked
from counterfact.lm.model.language_model import LM
from counterfact.training.examples import Example

Changes = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Losses:
    """Of each example of a batch, all (examples,)."""

    edit: Tensor
    """-log p of the labels of the outer text under the edit, nats a label."""
    locality: Tensor
    """KL(p before || p after) at the tokens of the locality text, nats a token."""
    success: Tensor
    """Share of the outer text's labels that are the edited model's first choice."""
    drawdown: Tensor
    """Share of the locality text's tokens that the model foretold before the edit, less after it."""

    def total(self, settings: NetworkSettings) -> Tensor:
        """The weighted sum, (examples,)."""
        return settings.edit_weight * self.edit + settings.locality_weight * self.locality

    def means(self, settings: NetworkSettings) -> dict[str, float]:
        """The means over the batch, for people."""
        values = {**vars(self), "total": self.total(settings)}
        return {name: float(value.detach().mean()) for name, value in values.items()}


@dataclass(frozen=True)
class Step:
    """One batch through the model and the network.

    Args:
        lm: the model; it stays as it is.
        network: the network that is trained.
        autocast: run the model's products in bfloat16; sums, losses and the network stay in float32.
    """

    lm: LM
    network: Hypernetwork
    autocast: bool = False

    def factors(self, examples: Sequence[Example]) -> tuple[Factors, LabelledRows]:
        """Return the gradient of each edit's loss as factors, and the rows they are of."""
        rows = self._rows([(example.edit, example.labels) for example in examples])
        with self._precision():
            below = run_below(self.lm, rows.ids, self.network.start)
            return gradient_factors(self.lm, below, self.network.start, rows, self.network.edited), rows

    def losses(self, examples: Sequence[Example], *, observe: bool = False) -> Losses:
        """Return the losses; gradients reach the network, and nothing else.

        Args:
            examples: the batch.
            observe: whether the network takes note of the factors first, as it does in training.
        """
        factors, rows = self.factors(examples)
        if observe:
            self.network.observe(factors)
        changes = self.network(factors, rows)
        outer = self._rows([(example.outer, example.labels) for example in examples])
        still = self._rows([(example.locality, len(example.locality) - 1) for example in examples])
        with self._precision():
            hidden = self._edited(outer, changes)
            edit, success = label_losses(self.lm, hidden, outer), self._success(hidden, outer)
            locality, drawdown = self._divergence(still, changes)
        return Losses(edit, locality, success, drawdown)

    @torch.no_grad()
    def unedited(self, examples: Sequence[Example]) -> Losses:
        """Return the losses of making no edit at all, which any network has to beat."""
        outer = self._rows([(example.outer, example.labels) for example in examples])
        with self._precision():
            below = run_below(self.lm, outer.ids, self.network.start)
            hidden = run_blocks(self.lm, below, self.network.start, self.lm.n_layers)
            edit, success = label_losses(self.lm, hidden, outer), self._success(hidden, outer)
        return Losses(edit, torch.zeros_like(edit), success, torch.zeros_like(edit))

    def _edited(self, rows: LabelledRows, changes: Changes) -> Tensor:
        return self._run(run_below(self.lm, rows.ids, self.network.start), changes)

    def _run(self, below: Tensor, changes: Changes) -> Tensor:
        pairs = [
            pair
            for name, (left, right) in zip(self.network.edited, changes, strict=True)
            for pair in low_rank_pairs(name, left, right)
        ]
        with hooked(self.lm.model, *pairs):
            return run_blocks(self.lm, below, self.network.start, self.lm.n_layers)

    @torch.no_grad()
    def _success(self, hidden: Tensor, rows: LabelledRows) -> Tensor:
        row, place = torch.nonzero(rows.labelled, as_tuple=True)
        right = (logits(self.lm, hidden[row, place]).argmax(-1) == rows.ids[row, place + 1]).float()
        return _mean_by_row(right, row, len(rows.ids))

    def _divergence(self, rows: LabelledRows, changes: Changes) -> tuple[Tensor, Tensor]:
        below = run_below(self.lm, rows.ids, self.network.start)
        row, place = torch.nonzero(rows.real, as_tuple=True)
        with torch.no_grad():
            before = run_blocks(self.lm, below, self.network.start, self.lm.n_layers)[row, place]
            log_p = logits(self.lm, before).to(self.lm.working_dtype).log_softmax(-1)
        log_q = logits(self.lm, self._run(below, changes)[row, place]).to(self.lm.working_dtype).log_softmax(-1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        with torch.no_grad():
            labelled = rows.labelled[row, place]
            wanted = rows.ids[row[labelled], place[labelled] + 1]
            lost = [(it[labelled].argmax(-1) == wanted).float() for it in (log_p, log_q)]
            drawdown = _mean_by_row(lost[0] - lost[1], row[labelled], len(rows.ids))
        return _mean_by_row(kl, row, len(rows.ids)), drawdown

    def _rows(self, sequences: Sequence[tuple[list[int], int]]) -> LabelledRows:
        ids, labels = zip(*sequences, strict=True)
        return LabelledRows.of(ids, labels, self.lm.device)

    def _precision(self) -> Any:
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self.lm.device.type, dtype=torch.bfloat16)


def _mean_by_row(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Mean of the values of each row; `row` says whose each is."""
    sums = values.new_zeros(rows).index_add(0, row, values)
    return sums / torch.bincount(row, minlength=rows).to(values.dtype)
