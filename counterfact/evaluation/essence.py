"""Perplexity of reference texts about the edited subjects, for the few records that have any."""

from collections.abc import Sequence

import torch

from counterfact.lm.edits.apply import Edit, per_row
from counterfact.lm.model.loading import LM
from counterfact.metrics.perplexity import MAX_TOKENS, perplexity

ROWS = 16
"""Texts a batch; there are hardly ever two in a chunk."""


def text_perplexities(lm: LM, texts: Sequence[str], owners: Sequence[int], edits: Sequence[Edit]) -> list[float | None]:
    """Return the perplexity of each text, cut to 100 tokens, under its edit (-1: unedited).

    Returns:
        `None` for a text of fewer than two tokens, or without a number.
    """
    result: list[float | None] = []
    for start in range(0, len(texts), ROWS):
        rows = [lm.prompt_tokens(text)[: min(MAX_TOKENS, lm.max_length)] for text in texts[start : start + ROWS]]
        with per_row(lm, edits, owners[start : start + ROWS]), torch.no_grad():
            result += [perplexity(nlls) for nlls in _token_nlls(lm, rows)]
    return result


def _token_nlls(lm: LM, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return -log p of every token of each row but its first, in nats."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), max(width, 1), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    ids = ids.to(lm.device)
    # Padding stands on the right, where a causal model never sees it from the left: no mask is needed.
    logits = lm.model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    nlls: list[list[float]] = (-logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]).tolist()
    return [nlls[index][: max(len(row) - 1, 0)] for index, row in enumerate(rows)]
