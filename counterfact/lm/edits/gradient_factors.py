r"""What a projection was given and what the loss asks of its output, for every row of a batch from one backward pass.

For $y_t = x_t W$ the gradient of a row's loss is $\nabla_W L = \sum_t x_t^\top g_t$, $g_t = \partial L / \partial y_t$:
the pairs (x, g) hold it in far fewer numbers, and rows of one batch do not mix. Mitchell et al. Fast Model Editing at
Scale. ICLR 2022. https://arxiv.org/abs/2110.11309, section 3.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterfact.lm.forward.blocks import embed, logits, pad_right, run_blocks
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM


@dataclass(frozen=True)
class LabelledRows:
    """Rows of tokens of which some are to be predicted, padded on the right."""

    ids: Tensor
    """(rows, tokens)."""
    labelled: Tensor
    """(rows, tokens), whether the *next* token is to be predicted; true at least once in each row."""
    lengths: Tensor
    """(rows,): tokens without padding."""

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], labels: Sequence[int], device: torch.device) -> "LabelledRows":
        """Lay sequences out; of each the last `labels[i]` tokens are to be predicted.

        Raises:
            ValueError: a sequence has no token before its labels, or no labels.

        >>> rows = LabelledRows.of([[5, 6, 7], [8, 9]], [2, 1], torch.device("cpu"))
        >>> rows.ids.tolist(), rows.labelled.int().tolist()
        ([[5, 6, 7], [8, 9, 0]], [[1, 1, 0], [1, 0, 0]])
        """
        ids, lengths = pad_right(sequences, device)
        labelled = torch.zeros(ids.shape, dtype=torch.bool)
        for row, (sequence, count) in enumerate(zip(sequences, labels, strict=True)):
            if not 0 < count < len(sequence):
                raise ValueError(f"expected 1 to {len(sequence) - 1} labels in {len(sequence)} tokens, got {count}")
            labelled[row, len(sequence) - count - 1 : len(sequence) - 1] = True
        return cls(ids, labelled.to(device), lengths)

    @property
    def real(self) -> Tensor:
        """(rows, tokens), false at padding."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]


@dataclass(frozen=True)
class Factors:
    """Factors of the gradients of several projections, in one order."""

    inputs: tuple[Tensor, ...]
    """x, (rows, tokens, d_in), a projection each."""
    gradients: tuple[Tensor, ...]
    """g, (rows, tokens, d_out): of each row's own loss; 0 at padding and wherever the loss does not reach."""
    losses: Tensor
    """(rows,), nats a label token."""


@torch.no_grad()
def run_below(lm: LM, ids: Tensor, start: int) -> Tensor:
    """Return the states before block `start`, (rows, tokens, width), of rows padded on the right."""
    return run_blocks(lm, embed(lm, ids), 0, start)


def label_losses(lm: LM, hidden: Tensor, rows: LabelledRows) -> Tensor:
    r"""Return $-\frac{1}{n} \sum_t \log p(i_{t+1} \mid i_{\le t})$ over the n labels of each row of ids i, in nats.

    Args:
        hidden: the states after the last block, (rows, tokens, width); logits are computed only where they are needed.
        rows: tokens and labels.
    """
    row, log_p = label_log_probabilities(lm, hidden, rows)
    count = rows.labelled.sum(1).to(log_p.dtype)
    return -log_p.new_zeros(len(count)).index_add(0, row, log_p) / count


def label_log_probabilities(lm: LM, hidden: Tensor, rows: LabelledRows) -> tuple[Tensor, Tensor]:
    """Return the row and the log-probability of every label, both (labels,), row by row."""
    row, place = torch.nonzero(rows.labelled, as_tuple=True)
    log_p = logits(lm, hidden[row, place]).to(lm.working_dtype).log_softmax(-1)
    return row, log_p.gather(1, rows.ids[row, place + 1][:, None])[:, 0]


def gradient_factors(lm: LM, below: Tensor, start: int, rows: LabelledRows, modules: Sequence[str]) -> Factors:
    """Run the blocks from `start` on, forward and back, and keep what `modules` were given and are requested.

    Args:
        lm: the model; it stays as it is, and no parameter gets a gradient.
        below: the states before block `start`, of `run_below`.
        start: the first block that holds one of `modules`.
        rows: tokens and labels.
        modules: names of projections, in the order wanted.
    """
    tape = Tape()
    with torch.enable_grad(), hooked(lm.model, *(tape.read(site) for site in _sites(modules))):
        hidden = run_blocks(lm, below.detach().requires_grad_(), start, lm.n_layers)
        losses = label_losses(lm, hidden, rows)
        gradients = torch.autograd.grad(losses.sum(), [tape[Site(name)] for name in modules])
    inputs = tuple(tape[Site(name, "in")].detach() for name in modules)
    return Factors(inputs, tuple(gradients), losses.detach())


def _sites(modules: Sequence[str]) -> list[Site]:
    return [Site(name, side) for name in modules for side in ("in", "out")]
