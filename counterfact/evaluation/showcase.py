"""What a model says at one prompt, with and without an edit: the next-token probabilities and a text."""

from dataclasses import dataclass

import torch

from counterfact.core.seeds import derive_seed
from counterfact.lm.edits.apply import Edit, per_row
from counterfact.lm.edits.edit import in_context
from counterfact.lm.generation import Generation, generate
from counterfact.lm.model.loading import LM
from counterfact.lm.model.precision import float32_products


@dataclass(frozen=True)
class Saying:
    """What a model says after a prompt."""

    next_tokens: tuple[tuple[str, float], ...]
    """The likeliest next tokens and their probabilities, best first."""
    text: str
    """A text sampled from the prompt, prompt included."""


def next_tokens(lm: LM, prompt: str, edit: Edit | None = None, *, top: int = 5) -> tuple[tuple[str, float], ...]:
    """Return the likeliest next tokens at `prompt` and their probabilities, best first.

    Args:
        lm: the model.
        prompt: text, subject filled in.
        edit: the edit; None: the model as it is.
        top: how many tokens to return.
    """
    edits, edit_index = _alone(edit)
    ids = torch.tensor(lm.encoding.prompts(in_context([prompt], edit_index, edits)), device=lm.device)
    with float32_products(lm.precision), torch.inference_mode(), per_row(lm, edits, edit_index):
        logits = lm.model(input_ids=ids).logits[0, -1].float()
    probabilities, tokens = logits.softmax(-1).topk(top)
    pairs = zip(tokens.tolist(), probabilities.tolist(), strict=True)
    return tuple((lm.decode([token]), probability) for token, probability in pairs)


def say(lm: LM, prompt: str, edit: Edit | None = None, *, seed: int = 0, length: int = 60, top: int = 5) -> Saying:
    """Return the next-token probabilities at `prompt` and a sampled text, of the model or of the edited model.

    Args:
        lm: the model.
        prompt: text, subject filled in.
        edit: the edit; None: the model as it is.
        seed: seed of the sample; the same for both models, so that the texts can be compared.
        length: tokens of the text, prompt included.
        top: how many next tokens to return.

    Raises:
        ValueError: the text could not be generated; the message says why.
    """
    edits, edit_index = _alone(edit)
    with float32_products(lm.precision):
        [generated] = generate(lm, [prompt], [derive_seed(seed, "say", prompt)], edit_index, edits, length=length)
    if not isinstance(generated, Generation):
        raise ValueError(f"no text could be generated: {generated.reason}")
    return Saying(next_tokens(lm, prompt, edit, top=top), generated.text)


def _alone(edit: Edit | None) -> tuple[list[Edit], list[int]]:
    """Return the edits, and the index, of one row."""
    return ([], [-1]) if edit is None else ([edit], [0])
