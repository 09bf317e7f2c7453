"""Facts to trace: read a `known_1000.json`, or find out which facts a model knows; and see them as tokens.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix B.1.
https://arxiv.org/abs/2202.05262
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from counterfact.contracts.formats import format_of
from counterfact.core.errors import BadInput
from counterfact.core.files import read_json
from counterfact.core.prompts import fill
from counterfact.core.records import Border
from counterfact.core.subjects import joiner_after, with_slot
from counterfact.lm.model.language_model import LM
from counterfact.lm.queries import Query, Unscored
from counterfact.lm.scoring import score


class Fact(Border):
    """One fact of `known_1000.json`: `prompt` holds `subject`, and goes on with `attribute`."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    known_id: int
    subject: str
    attribute: str
    prompt: str
    template: str = ""
    """The prompt's beginning, with `{}` for the subject, before the model's own words were added to it."""
    prediction: str = ""
    """What the model went on with after the template."""
    relation_id: str | None = None

    @property
    def slotted(self) -> tuple[str, str]:
        """The prompt with `{}` where its subject stands, and the subject as it stands there.

        Where the template begins the prompt, its slot is the place; else `core.subjects.with_slot` finds it.

        Raises:
            ValueError: the subject is not in the prompt for certain.
        """
        if self.template.count("{}") == 1 and self.prompt.startswith(begin := fill(self.template, self.subject)):
            return self.template + self.prompt.removeprefix(begin), self.subject
        return with_slot(self.prompt, self.subject)

    @property
    def asked(self) -> Query:
        """The prompt, and the attribute to score after it."""
        return Query(self.prompt, (self.attribute,), joiner_after(self.prompt))


@dataclass(frozen=True)
class BadFact:
    """A fact that cannot be used, and why."""

    known_id: int
    reason: str


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens, with its subject at positions `begin` to `end - 1`."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """The text of each token."""
    begin: int
    end: int
    corrupted_end: int
    """The corrupted positions are `begin` to `corrupted_end - 1`: the subject, and perhaps one token more."""


def read_facts(path: Path, limit: int | None = None) -> list[Fact | BadFact]:
    """Read the facts of a file like `known_1000.json`, in order.

    Raises:
        BadInput: the file is no JSON list, is empty, holds no fact that can be used, or two facts share a `known_id`.
    """
    values = read_json(path)
    if not isinstance(values, list) or not values:
        raise BadInput(f"{path}: expected a JSON list of facts, got {type(values).__name__} of no use")
    facts = [_parse(value, place) for place, value in enumerate(values)]
    bad = [fact for fact in facts if isinstance(fact, BadFact)]
    if len(bad) == len(facts):
        form = next((format_of(value) for value in values if isinstance(value, dict)), None)
        if form is not None and form.name != "known_facts":
            raise BadInput(
                f"{path} is {form.title}: records to edit, not facts to trace; make facts of those that a model knows "
                f"with `counterfact known --dataset {path} --out known.json`"
            )
        raise BadInput(f"{path}: none of {len(facts)} facts can be used; the first: {bad[0].reason}")
    ids = [fact.known_id for fact in facts]
    if len(set(ids)) < len(ids):
        twice = next(known_id for known_id in ids if ids.count(known_id) > 1)
        raise BadInput(f"{path}: known_id {twice} stands more than once; each fact needs an id of its own")
    return facts[:limit]


def _parse(value: object, place: int) -> Fact | BadFact:
    known_id = value.get("known_id", place) if isinstance(value, dict) else place
    try:
        fact = Fact.model_validate({"known_id": place, **value} if isinstance(value, dict) else value)
        _ = fact.slotted  # which raises where the subject is not to be found
        if not fact.attribute.strip():
            raise ValueError("the attribute is empty")
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        return BadFact(known_id if isinstance(known_id, int) else place, reason)
    except ValueError as error:
        return BadFact(known_id, str(error))
    return fact


def is_known(lm: LM, fact: Fact) -> bool:
    """Return whether a model says a fact's attribute: each token is the likeliest, given those before it.

    An attribute that cannot be scored is not known.
    """
    [found] = score(lm, [fact.asked])
    return not isinstance(found, Unscored) and all(found[0].correct)


def encode(lm: LM, fact: Fact, *, extra_token: bool = False) -> Prompt:
    """Turn a fact into tokens.

    Args:
        lm: the model.
        fact: what to trace.
        extra_token: whether the token after the subject is corrupted too (figures 12 and 15).

    Raises:
        ValueError: the subject has no token, the prompt is too long, or ends in the subject where a token after it is
            to be corrupted.
    """
    template, subject = fact.slotted
    ids, last = lm.locate([template], [subject])[0]
    begin = lm.subject_position(template, subject, "subject_first")
    if len(ids) > lm.max_length:
        raise ValueError(f"the prompt takes {len(ids)} tokens, the model at most {lm.max_length}")
    if extra_token and last + 1 == len(ids):
        raise ValueError("the prompt ends in its subject: there is no token after it to corrupt")
    tokens = tuple(lm.decode([token]) for token in ids)
    return Prompt(tuple(ids), tokens, begin, last + 1, last + 1 + extra_token)
