"""Perplexity of passages of text under an edit."""

import math
from collections.abc import Sequence

import torch

from counterfact.lm.edits.apply import Edit, per_row
from counterfact.lm.forward.blocks import pad_right
from counterfact.lm.model.loading import LM

ROWS = 16
"""Texts in a batch."""
MAX_TOKENS = 100
"""Texts are cut to this many tokens."""


def text_perplexities(
    lm: LM, texts: Sequence[str], edit_index: Sequence[int], edits: Sequence[Edit]
) -> list[float | None]:
    """Return the perplexity of each text, cut to 100 tokens, under its edit (-1: unedited).

    Returns:
        `None` for a text of fewer than two tokens, or without a number.
    """
    result: list[float | None] = []
    for start in range(0, len(texts), ROWS):
        rows = [lm.prompt_tokens(text)[: min(MAX_TOKENS, lm.max_length)] for text in texts[start : start + ROWS]]
        with per_row(lm, edits, edit_index[start : start + ROWS]), torch.no_grad():
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
