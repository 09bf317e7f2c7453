"""How an edit changes what a model makes of whole texts: likelihood and divergence at every token."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from counterfact.core.files import finite
from counterfact.lm.edits.apply import Edit, EditStack
from counterfact.lm.forward.blocks import embed, logits, pad_right, run_blocks
from counterfact.lm.forward.fused_activations import fused_activations
from counterfact.lm.model.loading import LM
from counterfact.lm.planning.batch_plan import Plan, cut_at, default_plan, in_halves
from counterfact.lm.queries import Drift, Unscored


class _DriftRow(NamedTuple):
    number: int
    text: int
    ids: list[int]
    """Context, then text."""
    first: int
    """Index of the text's first token."""
    edit_index: int


def text_drifts(
    lm: LM, texts: Sequence[str], edit_index: Sequence[int], edits: Sequence[Edit], *, plan: Plan | None = None
) -> list[list[Drift | Unscored]]:
    r"""Compare what each edit and the unedited model make of the same texts.

    For a text of tokens $x_1 \ldots x_T$, over $t = 2 \ldots T$: the mean of $-\ln P_{edited}(x_t \mid x_{<t})$, the
    same of the unedited model, and the mean of $D_{KL}(P(\cdot \mid x_{<t}) \,\|\, P_{edited}(\cdot \mid x_{<t}))$.
    A text that is longer than the model takes is cut.

    Args:
        lm: the model.
        texts: read by every edit, after its context.
        edit_index: indices of edits; at -1 nothing differs, and nothing is run.
        edits: what `edit_index` points into.
        plan: sizes of batches, by default those for the model on its device.

    Returns:
        For each index, one for each text; `Unscored` where a text has fewer than two tokens, or memory does not suffice
        for one row.
    """
    plan, start = plan or default_plan(lm), list(lm.encoding.start)
    tokens = lm.encoding.texts(texts)
    contexts = lm.encoding.texts([edits[i].context if i >= 0 else "" for i in edit_index])
    results: dict[int, Drift | Unscored] = {}
    rows = []
    for owner, (context, index) in enumerate(zip(contexts, edit_index, strict=True)):
        head = [*start, *context]
        for text, ids in enumerate(tokens):
            row = _DriftRow(len(texts) * owner + text, text, [*head, *ids][: lm.max_length], len(head), index)
            if len(row.ids) < len(head) + 2:
                results[row.number] = Unscored("a text has fewer than two tokens, or the edit's context leaves no room")
            else:
                rows.append(row)
    with torch.inference_mode(), fused_activations(lm):
        stack = EditStack(lm, edits) if edits else None
        before = {}
        for text in {row.text for row in rows}:
            plain = _DriftRow(0, text, [*start, *tokens[text]][: lm.max_length], len(start), -1)
            [before[text]] = _log_probabilities(lm, [plain])
        results |= {row.number: _drift(before[row.text], before[row.text], row) for row in rows if row.edit_index < 0}

        def run(batch: Sequence[_DriftRow]) -> None:
            with stack.rows([row.edit_index for row in batch]) if stack else nullcontext():
                after = _log_probabilities(lm, batch)
            results.update(
                {row.number: _drift(before[row.text], now, row) for row, now in zip(batch, after, strict=True)}
            )

        edited = sorted((row for row in rows if row.edit_index >= 0), key=lambda row: len(row.ids))
        longest = max((len(row.ids) for row in edited), default=1)
        for batch in cut_at(edited, lambda _row: longest, plan.tokens_per_batch, max(1, plan.logit_rows // longest)):
            for row in in_halves("score", batch, run, plan):
                results[row.number] = Unscored(f"out of memory with one row of {len(row.ids)} tokens")
    return [[results[len(texts) * owner + text] for text in range(len(texts))] for owner in range(len(edit_index))]


def _log_probabilities(lm: LM, rows: Sequence[_DriftRow]) -> list[Tensor]:
    """Return for each row the log-probabilities after all tokens of its text but the last, (tokens - 1, vocabulary)."""
    ids, _ = pad_right([row.ids for row in rows], lm.device)
    states = run_blocks(lm, embed(lm, ids), 0, lm.n_layers)
    wanted = [state[row.first : len(row.ids) - 1] for state, row in zip(states, rows, strict=True)]
    scores = logits(lm, torch.cat(wanted))
    return list(torch.split(scores.to(lm.working_dtype).log_softmax(-1), [len(each) for each in wanted]))


def _drift(before: Tensor, after: Tensor, row: _DriftRow) -> Drift:
    """Return the drift between two sets of log-probabilities after a text's tokens, (tokens - 1, vocabulary)."""
    said = torch.tensor(row.ids[row.first + 1 :], device=before.device)[:, None]
    before = before[: len(said)]
    old, new = (-each.gather(-1, said).double().mean() for each in (before, after))
    kl = (before.exp() * (before - after)).sum(-1).double().mean()
    return Drift(finite(float(new)), finite(float(old)), finite(float(kl)))
