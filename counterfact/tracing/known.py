"""Find out which facts a model knows, as the paper chose the facts it traced.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix B.1.
https://arxiv.org/abs/2202.05262
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from counterfact.core.prompts import fill
from counterfact.lm.generation import Generation, generate
from counterfact.lm.model.language_model import LM
from counterfact.tracing.facts import BadFact, Fact

NEW_TOKENS = 10
"""Tokens that are read after the prompt, as in the released file."""
ROWS = 256


@dataclass(frozen=True)
class Question:
    """A fact that a model may know or not."""

    template: str
    """Prompt with one `{}` for the subject."""
    subject: str
    attribute: str
    relation_id: str | None = None


def known_facts(
    lm: LM, questions: Sequence[Question], progress: Callable[[int, int], None] | None = None
) -> list[Fact | BadFact]:
    """Keep what a model's greedy text names: the attribute comes before any other capitalised word.

    The prompt of a kept fact is the filled template and the model's own words up to the attribute, so that the
    attribute comes next. A `known_id` is the question's place, so that the facts of two models can be told apart.

    Args:
        lm: the model.
        questions: what may be known.
        progress: function called with the number of questions done and their total.

    Returns:
        The facts that are known, and questions that cannot be asked, in order.
    """
    found: dict[int, Fact | BadFact] = {}
    by_length: dict[int, list[int]] = defaultdict(list)
    filled: dict[int, str] = {}
    for place, question in enumerate(questions):
        try:
            filled[place] = fill(question.template, question.subject)
            if not question.attribute.strip() or question.subject not in filled[place]:
                raise ValueError("the subject or the attribute is empty")
            by_length[len(lm.prompt_tokens(filled[place]))].append(place)
        except ValueError as error:
            found[place] = BadFact(place, str(error))
    done = len(found)
    for length, places in sorted(by_length.items()):
        for start in range(0, len(places), ROWS):
            part = places[start : start + ROWS]
            for place, text in zip(part, _go_on(lm, [filled[place] for place in part], length), strict=True):
                fact = _judge(place, questions[place], filled[place], text)
                if fact is not None:
                    found[place] = fact
            done += len(part)
            if progress:
                progress(done, len(questions))
    return [found[place] for place in sorted(found)]


def words_before(text: str, attribute: str) -> str | None:
    """Return what stands in a text before an attribute, or `None` if another capitalised word or nothing comes first.

    >>> words_before(" the city of Paris, France", "Paris")
    ' the city of '
    >>> words_before(" France and Paris", "Paris") is None, words_before(" Parisian", "Paris") is None
    (True, True)
    """
    found = re.search(rf"(?<!\w){re.escape(attribute.strip())}(?!\w)", text)
    if found is None:
        return None
    before = text[: found.start()]
    return None if any(word[0].isupper() for word in re.findall(r"\w+", before)) else before


def _go_on(lm: LM, prompts: Sequence[str], length: int) -> list[str | None]:
    """Return the greedy text after each prompt; all are `length` tokens long."""
    total = min(length + NEW_TOKENS, lm.max_length)
    if total <= length:
        return [None] * len(prompts)
    made = generate(lm, prompts, [0] * len(prompts), length=total, top_k=1)
    return [lm.decode(one.ids[length:]) if isinstance(one, Generation) else None for one in made]


def _judge(place: int, question: Question, filled: str, text: str | None) -> Fact | BadFact | None:
    if text is None:
        return BadFact(place, "the model cannot go on with this prompt: it is too long, or its logits are no numbers")
    before = words_before(text, question.attribute)
    if before is None:
        return None
    return Fact(
        known_id=place,
        subject=question.subject,
        attribute=question.attribute,
        template=question.template,
        prediction=text,
        prompt=(filled + before).rstrip(),
        relation_id=question.relation_id,
    )
