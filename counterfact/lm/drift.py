"""What a model expects of texts under an edit: how far next-token distributions move after a prompt and along a text.

And the perplexity of passages, which the edited model alone says.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from counterfact.core.files import finite
from counterfact.lm.edits.apply import EditStack, per_row
from counterfact.lm.edits.edit import Edit, in_context
from counterfact.lm.forward.blocks import embed, logits, pad_right, run_blocks
from counterfact.lm.forward.products import fused_activations
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan, cut_at, default_plan, in_halves
from counterfact.lm.queries import Drift, Shift, Unscored

PASSAGE_ROWS = 16
"""Passages in a batch."""
PASSAGE_TOKENS = 100
"""Passages are cut to this many tokens."""


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


def text_perplexities(
    lm: LM, texts: Sequence[str], edit_index: Sequence[int], edits: Sequence[Edit]
) -> list[float | None]:
    """Return the perplexity of each text, cut to 100 tokens, under its edit (-1: unedited).

    Returns:
        `None` for a text of fewer than two tokens, or without a number.
    """
    result: list[float | None] = []
    for start in range(0, len(texts), PASSAGE_ROWS):
        rows = [
            lm.prompt_tokens(text)[: min(PASSAGE_TOKENS, lm.max_length)] for text in texts[start : start + PASSAGE_ROWS]
        ]
        with per_row(lm, edits, edit_index[start : start + PASSAGE_ROWS]), torch.no_grad():
            result += [perplexity(nlls) for nlls in _token_nlls(lm, rows)]
    return result


def _token_nlls(lm: LM, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return -log p of every token of each row but its first, in nats."""
    ids, _ = pad_right(rows, lm.device, max(1, *map(len, rows)))
    # Padding stands on the right, where a causal model never sees it from the left: no mask is needed.
    logits = lm.model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    nlls: list[list[float]] = (-logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]).tolist()
    return [nlls[index][: max(len(row) - 1, 0)] for index, row in enumerate(rows)]


def perplexity(nlls: Sequence[float]) -> float | None:
    r"""Return $\exp\left(\frac{1}{T} \sum_{t=2}^{T} -\log p(x_t \mid x_{<t})\right)$ of a text of T tokens.

    The divisor is T, as the reference has it, though the first token is not predicted.

    Args:
        nlls: of the tokens from the second on, in nats: T - 1 values.

    Returns:
        `None` where there is no number, or it is too large for one.

    >>> round(perplexity([math.log(4), math.log(4), math.log(4)]), 9), perplexity([])
    (2.828427125, None)
    """
    mean = math.fsum(nlls) / (len(nlls) + 1)
    if not nlls or not math.isfinite(mean):
        return None
    try:
        return math.exp(mean)
    except OverflowError:
        return None
