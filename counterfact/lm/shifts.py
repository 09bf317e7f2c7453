"""How far an edit moves a model's next-token distribution: Kullback-Leibler divergences in both directions."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from counterfact.core.files import finite
from counterfact.lm.edits.apply import EditStack
from counterfact.lm.edits.edit import Edit, in_context
from counterfact.lm.forward.blocks import embed, logits, run_blocks
from counterfact.lm.forward.fused_activations import fused_activations
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.model.loading import LM
from counterfact.lm.planning.batch_plan import Plan, cut_at, default_plan, in_halves
from counterfact.lm.queries import Shift, Unscored


class _ShiftRow(NamedTuple):
    number: int
    plain: list[int]
    edited: list[int]
    edit_index: int


def next_token_shifts(
    lm: LM, prompts: Sequence[str], edit_index: Sequence[int], edits: Sequence[Edit], *, plan: Plan | None = None
) -> list[Shift | Unscored]:
    r"""Compare the next-token distribution after each prompt under its edit with the unedited model's.

    $$D_{KL}(P \,\|\, P_{edited}) = \sum_t P(t \mid p) \ln \frac{P(t \mid p)}{P_{edited}(t \mid p)}$$

    Args:
        lm: the model.
        prompts: texts; the edited model reads each after its edit's context, the unedited model without.
        edit_index: for each prompt, the index of its edit; at -1 the unedited model is compared with itself, and
            nothing is run.
        edits: what `edit_index` points into.
        plan: sizes of batches, by default those for the model on its device.

    Returns:
        In order; `Unscored` where the prompt has no tokens, is longer than the model takes, or memory does not suffice
        for one row.
    """
    plan = plan or default_plan(lm)
    results: dict[int, Shift | Unscored] = {}
    rows = []
    plain, _ = lm.encoding.each_prompt(prompts)
    edited, unread = lm.encoding.each_prompt(in_context(prompts, edit_index, edits))
    for i, (before, after, index) in enumerate(zip(plain, edited, edit_index, strict=True)):
        if i in unread:
            results[i] = Unscored(unread[i])
        elif not before or len(after) > lm.max_length:
            results[i] = Unscored(f"the prompt has {len(after)} tokens, the model takes 1 to {lm.max_length}")
        elif index < 0:
            results[i] = Shift(0.0, 0.0, lm.vocabulary)
        else:
            rows.append(_ShiftRow(i, before, after, index))
    with torch.inference_mode(), fused_activations(lm):
        stack = EditStack(lm, edits) if edits else None

        def run(batch: Sequence[_ShiftRow]) -> None:
            old = _next_token_log_probabilities(lm, [row.plain for row in batch])
            ragged = _ragged(lm, [row.edited for row in batch])
            with stack.rows([row.edit_index for row in batch], ragged) if stack else nullcontext():
                new = _next_token_log_probabilities(lm, [row.edited for row in batch], ragged)
            forward, reverse = _divergence(old, new).tolist(), _divergence(new, old).tolist()
            for row, one, other in zip(batch, forward, reverse, strict=True):
                results[row.number] = Shift(finite(one), finite(other), lm.vocabulary)

        ordered, most = sorted(rows, key=lambda row: len(row.edited)), max(1, plan.logit_rows // 2)
        for batch in cut_at(ordered, lambda row: len(row.edited), plan.tokens_per_batch, most):
            for row in in_halves("score", batch, run, plan):
                results[row.number] = Unscored(f"out of memory with one row of {len(row.edited)} tokens")
    return [results[i] for i in range(len(prompts))]


def _ragged(lm: LM, rows: Sequence[list[int]]) -> RaggedRows:
    return RaggedRows(RaggedLayout.of([len(row) for row in rows]), lm.device, tail=1)


def _next_token_log_probabilities(lm: LM, rows: Sequence[list[int]], ragged: RaggedRows | None = None) -> Tensor:
    """Return log-probabilities after the last token of each row, (rows, vocabulary), float32 or wider."""
    ragged = ragged or _ragged(lm, rows)
    layout = ragged.layout
    ids = torch.tensor([layout.flat(rows)], device=lm.device)
    positions = torch.tensor([layout.counted()], device=lm.device)
    states = run_blocks(lm, embed(lm, ids, positions), 0, lm.n_layers, positions=positions, rows=ragged)[0]
    scores = logits(lm, states)
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1)


def _divergence(one: Tensor, other: Tensor) -> Tensor:
    """D_KL of each row of log-probabilities from the other's, (rows,), summed in float64."""
    return (one.double().exp() * (one.double() - other.double())).sum(-1)
