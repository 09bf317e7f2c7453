"""What a model says at one prompt, with and without an edit: the next-token probabilities and a text."""

from dataclasses import dataclass

import torch

from counterfact.core.seeds import derive_seed
from counterfact.lm.edits.apply import Edit, per_row
from counterfact.lm.edits.edit import in_context
from counterfact.lm.forward.packed_products import packed_products
from counterfact.lm.generation import Generation, generate
from counterfact.lm.model.loading import LM


@dataclass(frozen=True)
class Saying:
    """What a model says after a prompt."""

    next_tokens: tuple[tuple[str, float], ...]
    """The likeliest next tokens and their probabilities, best first."""
    text: str
    """A text sampled from the prompt, prompt included."""


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
    edits, edit_index = ([], [-1]) if edit is None else ([edit], [0])
    ids = torch.tensor(lm.encoding.prompts(in_context([prompt], edit_index, edits)), device=lm.device)
    with packed_products(lm):
        with torch.inference_mode(), per_row(lm, edits, edit_index):
            logits = lm.model(input_ids=ids).logits[0, -1].float()
        [generated] = generate(lm, [prompt], [derive_seed(seed, "say", prompt)], edit_index, edits, length=length)
    probabilities, tokens = logits.softmax(-1).topk(top)
    pairs = zip(tokens.tolist(), probabilities.tolist(), strict=True)
    if not isinstance(generated, Generation):
        raise ValueError(f"no text could be generated: {generated.reason}")
    return Saying(tuple((lm.decode([token]), probability) for token, probability in pairs), generated.text)
