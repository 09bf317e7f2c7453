"""What a model says at one prompt, with and without an edit, and whether the edit took."""

from dataclasses import dataclass

import torch

from counterfact.core.records import Request
from counterfact.core.seeds import derive_seed
from counterfact.lm.edits.apply import per_row
from counterfact.lm.edits.edit import Edit, in_context
from counterfact.lm.forward.products import packed_products
from counterfact.lm.generation import Generation, before_end, generate
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.precision import float32_products
from counterfact.lm.queries import Query, Unscored
from counterfact.lm.scoring import score

SAMPLED_AMONG = 5
"""Tokens of which a sample's next one is drawn."""


@dataclass(frozen=True)
class Saying:
    """What a model says after a prompt."""

    next_tokens: tuple[tuple[str, float], ...]
    """The likeliest next tokens and their probabilities, best first."""
    text: str
    """The prompt, and what the model goes on with by its likeliest tokens."""
    samples: tuple[str, ...] = ()
    """The prompt, and what it goes on with where tokens are drawn at random."""


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
    with float32_products(lm.precision), packed_products(lm), torch.inference_mode(), per_row(lm, edits, edit_index):
        logits = lm.model(input_ids=ids).logits[0, -1].float()
    probabilities, tokens = logits.softmax(-1).topk(top)
    pairs = zip(tokens.tolist(), probabilities.tolist(), strict=True)
    return tuple((lm.decode([token]), probability) for token, probability in pairs)


def say(
    lm: LM,
    prompt: str,
    edit: Edit | None = None,
    *,
    seed: int = 0,
    length: int = 40,
    samples: int = 0,
    top: int = 5,
) -> Saying:
    """Return the next-token probabilities at `prompt` and what follows, of the model or of the edited model.

    Args:
        lm: the model.
        prompt: text, subject filled in.
        edit: the edit; None: the model as it is.
        seed: seed of the samples; the same for both models, so that the texts can be compared.
        length: tokens after the prompt, at most; a text ends earlier where the model ends it.
        samples: how many texts to draw, beside the one of the likeliest tokens.
        top: how many next tokens to return.

    Raises:
        ValueError: the text could not be generated; the message says why.
    """
    edits, [index] = _alone(edit)

    def go_on(count: int, top_k: int) -> list[str]:
        seeds = [derive_seed(seed, "say", prompt, number) for number in range(count)]
        given = (lm, [prompt] * count, seeds, [index] * count, edits)
        with float32_products(lm.precision):
            made = generate(*given, length=lm.max_length, top_k=top_k, ending=before_end(lm, length))
        return [_text(each) for each in made]

    [text] = go_on(1, 1)
    return Saying(next_tokens(lm, prompt, edit, top=top), text, tuple(go_on(samples, SAMPLED_AMONG)))


def why_not_taken(lm: LM, request: Request, edit: Edit) -> str | None:
    """Return what the edited model says instead, where an edit did not take; None where it did.

    An edit takes if after its own prompt the new object is likelier, per token, than the true one; where the true one
    is not given, if the model's likeliest continuation is the new one.

    Args:
        lm: the model.
        request: what was requested.
        edit: what was made of it.

    Raises:
        ValueError: the prompt cannot be scored; the message says why.
    """
    targets = [request.target_new] if request.target_true is None else [request.target_new, request.target_true]
    with float32_products(lm.precision):
        [scores] = score(lm, [Query(request.filled, tuple(targets), request.joiner)], [0], [edit])
    if isinstance(scores, Unscored):
        raise ValueError(f"the prompt could not be scored: {scores.reason}")
    new, *true = scores
    if new.mean_nll < true[0].mean_nll if true else all(new.correct):
        return None
    other = request.target_true or "something else"
    found = f"after it the model still prefers {other} to {request.target_new} ({new.mean_nll:.2f} nats a token)"
    if (loss := edit.diagnostics.get("loss")) is not None:
        found += f"; its search ended at a loss of {loss:.2f} nats, where 0 would be certainty of {request.target_new}"
    return found


def _text(made: Generation | Unscored) -> str:
    if isinstance(made, Unscored):
        raise ValueError(f"no text could be generated: {made.reason}")
    return made.text


def _alone(edit: Edit | None) -> tuple[list[Edit], list[int]]:
    """Return the edits, and the index, of one row."""
    return ([], [-1]) if edit is None else ([edit], [0])
