"""Portability and locality: what follows from an edit, and what must not change, in records as KnowEdit has them.

Yao, Wang, Tian, Cheng, Li, Deng, Chen, Zhang. Editing Large Language Models: Problems, Methods, and Opportunities.
EMNLP 2023. https://arxiv.org/abs/2305.13172; its data in Zhang et al. 2024, https://arxiv.org/abs/2401.01286, which has
many questions of Cohen, Biran, Yoran, Globerson, Geva. Evaluating the Ripple Effects of Knowledge Editing in Language
Models. TACL 2024. https://arxiv.org/abs/2307.12976

The model answers by itself, and any name of an answer counts. As in the last of these papers, a question counts only
where the unedited model knows what is needed for it beside the edit: a model that does not know Syria's currency cannot
follow an edit there.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field

from counterfact.contracts.benchmarks import Answers, Benchmark, benchmark
from counterfact.contracts.metrics import Block, metric
from counterfact.core.records import Border, Request
from counterfact.core.subjects import with_slot
from counterfact.lm.queries import Continuation, OpenQuery, Query
from counterfact.statistics.values import mean

from ._answers import Correct, Said, SaidTexts, check_answer, holds_answer, normalised, open_queries, said
from ._questions import Neighbor, Questions, questions_of, rewrite_of
from .counterfact import target_tokens

NAME, PAPER = "portability", "arXiv:2307.12976"
_PHRASE = re.compile(r"The names? of (?P<phrase>.+) (?:is|are)")
"""A prompt that asks for a thing, and the phrase that stands for the thing elsewhere."""


def _flat(value: Any) -> Any:
    """Return one answer, a list of them, or a list of lists of names, as one list."""
    return [each for part in value for each in _flat(part)] if isinstance(value, list) else [value]


Names = Annotated[list[str], BeforeValidator(_flat), Field(min_length=1)]
"""All names of all answers, in any of the forms that files have."""
OneOrMore = Annotated[list[str], BeforeValidator(_flat)]


class Fact(Border):
    """A prompt and what answers it."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    prompt: str
    ground_truth: Names


class Question(Fact):
    """A question around an edit."""

    needs: list[Fact] | None = None
    """What must be known beside the edit, where a file says so."""


QuestionsBySort = dict[str, list[Question]]


class PortabilityRecord(Border):
    """One record as KnowEdit has them, reduced to what is evaluated."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, populate_by_name=True)

    case_id: int
    subject: str
    prompt: str
    """The edited prompt; it holds the subject."""
    target_new: str
    ground_truth: Names
    rephrase: OneOrMore = Field(default=[], validation_alias=AliasChoices("rephrase", "rephrase_prompt"))
    portability: QuestionsBySort = Field(default={})
    locality: QuestionsBySort = Field(default={})

    @property
    def request(self) -> Request:
        """The fact that an editor is to change; the subject is named as the prompt has it."""
        template, subject = with_slot(self.prompt, self.subject)
        true = next((name for name in self.ground_truth if name.strip() and name != self.target_new), None)
        return Request(self.case_id, template, subject, self.target_new, true)

    def needed(self, question: Question) -> list[Fact] | None:
        """Return what the unedited model must know for a question of portability; `None` where that cannot be told.

        What the file says; else, where the new object is the answer, that the question is about the subject, in other
        words: the unedited model answers it with the old object. Where the question holds the phrase that the edited
        prompt asks for ("the country of X"), the answer for the new object itself. Where it names the new object and
        asks for the subject, nothing.
        """
        if question.needs is not None:
            return question.needs
        names = {normalised(name) for name in question.ground_truth}
        if normalised(self.target_new) in names:
            return [Fact(prompt=question.prompt, ground_truth=self.ground_truth)]
        phrase = _PHRASE.fullmatch(self.prompt)
        if phrase and phrase["phrase"] in question.prompt:
            asked = question.prompt.replace(phrase["phrase"], self.target_new)
            return [Fact(prompt=asked, ground_truth=question.ground_truth)]
        if self.target_new in question.prompt and normalised(self.subject) in names:
            return []
        return None

    @property
    def around(self) -> list[tuple[str, str, Fact, Sequence[Fact] | None]]:
        """Each question around the edit: whether of portability or locality, its sort, itself, and what it needs."""
        follows = [(sort, each) for sort, questions in self.portability.items() for each in questions]
        stays = [(sort, each) for sort, questions in self.locality.items() for each in questions]
        return [
            *(("portability", sort, each, self.needed(each)) for sort, each in follows),
            *(("locality", sort, each, [each]) for sort, each in stays),
        ]


@questions_of.register
def _(record: PortabilityRecord) -> Questions:
    neighbors = [Neighbor(each.prompt, each.ground_truth[0]) for sort in record.locality.values() for each in sort]
    return Questions((record.target_new,), tuple(record.rephrase), tuple(neighbors))


def is_ripples(value: Mapping[str, Any]) -> bool:
    """Return whether a record is a line of `ripples.jsonl`, which is asked about by criterion."""
    return "ripples_of" in value


class Around(Said):
    """What the model said to a question around an edit."""

    sort: Annotated[str, Field(max_length=1000)]
    """As the file names it."""
    known: bool | None
    """Whether the unedited model knows what is needed; `None` where it cannot be told what that is."""


AroundTexts = Annotated[list[Around], Field(max_length=1000)]


class PortabilityBlock(Border):
    """`post` or `pre` of a record."""

    rewrite_prompts_correct: Correct
    paraphrase_prompts_correct: Correct
    rewrite_prompts_said: SaidTexts
    paraphrase_prompts_said: SaidTexts
    portability_prompts_said: AroundTexts
    locality_prompts_said: AroundTexts


def parse(value: Mapping[str, Any], position: int) -> PortabilityRecord:
    """Read one record, whose number is its position where it has none."""
    record = PortabilityRecord.model_validate({**value, "case_id": value.get("case_id", position)})
    check_answer(record.target_new)
    return record


def about(record: PortabilityRecord) -> list[str]:
    """Return the edited prompt and its paraphrases."""
    return [record.prompt, *record.rephrase]


def queries(record: PortabilityRecord) -> list[Query]:
    """Return the edited prompt and its paraphrases with the new object, for teacher forcing."""
    request = record.request
    return [Query(prompt, (request.target_new,), request.joiner) for prompt in about(record)]


def spoken(record: PortabilityRecord) -> list[OpenQuery]:
    """Return all prompts, and for the unedited model what the questions around the edit need."""
    around = record.around
    needs = [fact.prompt for *_, needed in around for fact in needed or []]
    return open_queries([*about(record), *(each.prompt for _, _, each, _ in around)]) + open_queries(
        needs, unedited=True
    )


def block(record: PortabilityRecord, answers: Answers) -> dict[str, Any]:
    """Return `{sort}_prompts_correct` of the edit's own prompts, and `{sort}_prompts_said` of all."""
    around, continuations = record.around, iter(answers.continuations)
    tokens = [list(score.correct) for (score,) in answers.scores]
    own = [said(next(continuations), (record.target_new,)) for _ in about(record)]
    texts = [said(next(continuations), each.ground_truth) for _, _, each, _ in around]
    found: dict[str, Any] = {
        "rewrite_prompts_correct": tokens[0],
        "paraphrase_prompts_correct": [right for each in tokens[1:] for right in each],
        "rewrite_prompts_said": own[:1],
        "paraphrase_prompts_said": own[1:],
        "portability_prompts_said": [],
        "locality_prompts_said": [],
    }
    for (part, sort, _, needed), text in zip(around, texts, strict=True):
        known = None if needed is None else _known(needed, [next(continuations) for _ in needed])
        found[f"{part}_prompts_said"].append({**text, "sort": sort, "known": known})
    return found


def _known(needed: Sequence[Fact], continuations: Sequence[Continuation]) -> bool:
    """Return whether the unedited model answered everything that is needed."""
    pairs = zip(needed, continuations, strict=True)
    return all(holds_answer(each.text or "", fact.ground_truth) for fact, each in pairs)


@metric("portability", "% of questions", "higher", PAPER, NAME)
def portability(block: Block) -> float | None:
    """Portability: of what follows from an edit, the share that the edited model answers where it knew what is needed.

    A question counts if the unedited model knows what it takes beside the edit: as the file says; else, where the new
    object is the answer, that the question is about the subject (the unedited model answers with the old object);
    where the question holds the phrase that is edited ("the country of X"), the answer for the new object; where it
    leads back from the new object to the subject, nothing. Others do not count. A text answers if it holds any name of
    an answer as whole words, in lower case, without ASCII punctuation and articles.

    >>> texts = [("Damascus", True), ("Rome", True), ("Rome", False), ("Damascus", None)]
    >>> said = [{"text": text, "answers": ["Damascus"], "known": known} for text, known in texts]
    >>> portability({"portability_prompts_said": said})
    0.5
    """
    return share_of(block, "portability")


@metric("portability_all", "% of questions", "higher", PAPER, NAME)
def portability_of_all(block: Block) -> float | None:
    """Portability whatever the model knew: of all that follows from the edit, the share that the edited model answers.

    >>> said = {"answers": ["Damascus"], "known": False}
    >>> portability_of_all({"portability_prompts_said": [{"text": "Rome", **said}, {"text": "Damascus", **said}]})
    0.5
    """
    return share_of(block, "portability", known_only=False)


@metric("locality", "% of questions", "higher", PAPER, NAME)
def locality(block: Block) -> float | None:
    """Locality: of the other facts that the unedited model answers rightly, the share that the edited model does too.

    A text answers as for portability.

    >>> texts = [("his wife Ada", True), ("Bea", True), ("Bea", False)]
    >>> locality({"locality_prompts_said": [{"text": t, "answers": ["Ada"], "known": k} for t, k in texts]})
    0.5
    """
    return share_of(block, "locality")


def share_of(block: Block, part: str, *sorts: str, known_only: bool = True) -> float | None:
    """Return the share of questions that are answered.

    Args:
        block: of a record.
        part: `portability` or `locality`.
        sorts: as the file names them; none for all.
        known_only: whether only those count for which the unedited model knew what is needed.
    """
    asked = [each for each in block.get(f"{part}_prompts_said") or [] if not sorts or each.get("sort") in sorts]
    asked = [each for each in asked if each.get("known") or not known_only]
    return mean([float(holds_answer(each["text"] or "", each["answers"])) for each in asked])


PORTABILITY = benchmark(
    Benchmark(
        name=NAME,
        title="Portability and locality",
        version=1,
        paper=PAPER,
        parse=parse,
        recognises=lambda value: "portability" in value and "locality" in value and not is_ripples(value),
        requested_rewrite=rewrite_of,
        queries=queries,
        open_queries=spoken,
        block=block,
        block_form=PortabilityBlock,
        target_tokens=target_tokens,
        columns=(
            ("Reliability", ("efficacy", "contains")),
            ("Generalization", ("contains_para",)),
            ("Portability", ("portability", "portability_all")),
            ("Locality", ("locality",)),
        ),
        composites={"S": ("contains", "portability", "locality")},
        adopted_metrics=("efficacy", "paraphrase", "exact", "exact_para", "contains", "contains_para"),
    )
)
