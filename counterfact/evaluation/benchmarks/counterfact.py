"""CounterFact: counterfactual edits, their paraphrases, and neighbors that an edit should leave alone.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262, section 3.4 and appendix D.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from counterfact.contracts.benchmarks import Answers, Benchmark, Lesson, benchmark
from counterfact.core.files import finite
from counterfact.core.records import Border, Record, ReferenceTexts, Request
from counterfact.lm.queries import Query

OFFICIAL = "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f"
"""sha256 of the released `counterfact.json`, 45,108,470 bytes."""


PromptsBySort = Mapping[str, Sequence[str]]
"""Prompts after which both objects are scored, by sort: rewrite, paraphrase, neighborhood ..."""


class Entity(Border):
    """A label and, where it is known, its WikiData id."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, populate_by_name=True, serialize_by_alias=True)

    text: str = Field(alias="str")
    """The label; `str` in files."""
    id: str | None = None


class RequestedRewrite(Border):
    """{s, r, o_c, o*, p*} of the paper, appendix D."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    prompt: str
    relation_id: str | None = None
    target_new: Entity
    target_true: Entity | None = None
    """`None` where it is not known: then nothing is asked that compares with it."""
    subject: str

    @property
    def true_text(self) -> str:
        """The true object's label; raises `ValueError` where it is not known."""
        if self.target_true is None:
            raise ValueError("the record has no true object")
        return self.target_true.text


class CounterFactRecord(Border):
    """One CounterFact record, with the keys of the released file, and its provenance where we built it."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    case_id: int
    pararel_idx: int | None = None
    requested_rewrite: RequestedRewrite
    paraphrase_prompts: list[str]
    neighborhood_prompts: list[str]
    attribute_prompts: list[str]
    generation_prompts: list[str]
    distracting_neighborhood_prompts: list[str] | None = None
    """Neighborhood prompts right after the edited fact, where CounterFact+ publishes them."""
    provenance: dict[str, Any] | None = None
    joiner: str | None = None
    """What stands between a prompt and an object; `None`: what its language has there."""

    @property
    def request(self) -> Request:
        """The fact that an editor is to change."""
        rewrite = self.requested_rewrite
        return Request(
            id=self.case_id,
            prompt=rewrite.prompt,
            subject=rewrite.subject,
            target_new=rewrite.target_new.text,
            target_true=None if rewrite.target_true is None else rewrite.target_true.text,
            relation_id=rewrite.relation_id,
            **({} if self.joiner is None else {"joiner": self.joiner}),
        )

    @property
    def scored_prompts(self) -> PromptsBySort:
        """By sort, the 1 + 2 + 10 + 10 prompts after which both objects are scored."""
        return {
            "rewrite": [self.request.filled],
            "paraphrase": self.paraphrase_prompts,
            "neighborhood": self.neighborhood_prompts,
            "attribute": self.attribute_prompts,
        }


Nats = Annotated[float, Field(ge=-1e-6, le=1e6)]


class Pair(Border):
    """Nats per token of both objects after one prompt."""

    target_new: Nats | None
    target_true: Nats | None


Pairs = Annotated[list[Pair], Field(max_length=1000)]


class ScoredBlock(Border):
    """Scores of both objects after every prompt of a record."""

    rewrite_prompts_probs: Annotated[list[Pair], Field(min_length=1, max_length=1)]
    paraphrase_prompts_probs: Pairs
    neighborhood_prompts_probs: Pairs
    attribute_prompts_probs: Pairs


class CounterFactBlock(ScoredBlock):
    """`post` or `pre` of a CounterFact record."""

    essence_score: Annotated[float, Field(ge=0)] | None


def parse(value: Mapping[str, Any], _position: int) -> CounterFactRecord:
    """Read one record of the released file's form."""
    return CounterFactRecord.model_validate(value)


def requested_rewrite(record: CounterFactRecord) -> dict[str, Any]:
    """Return the edit with the released file's keys."""
    known = record.requested_rewrite.model_dump(by_alias=True)
    return {key: value for key, value in known.items() if key != "target_true" or value is not None}


def both_objects(record: CounterFactRecord, prompts: PromptsBySort) -> list[Query]:
    """Return one query for each prompt, with the new and the true object; without a true one, the edit's own prompt."""
    request = record.request
    if request.target_true is None:
        return [Query(request.filled, (request.target_new,), request.joiner)]
    targets = (request.target_new, request.target_true)
    return [Query(prompt, targets, request.joiner) for mine in prompts.values() for prompt in mine]


def nats_of_both(prompts: PromptsBySort, answers: Answers) -> dict[str, Any]:
    """Return `{sort}_prompts_probs`: nats per target token, `None` where the model gave no number (NaN, infinity).

    All are empty for a record without a true object.
    """
    if len(answers.scores[0]) == 1:
        return {f"{sort}_prompts_probs": [] for sort in prompts}
    scores = iter(answers.scores)
    pairs = {sort: [next(scores) for _ in mine] for sort, mine in prompts.items()}
    return {
        f"{sort}_prompts_probs": [
            {"target_new": finite(new.mean_nll), "target_true": finite(true.mean_nll)} for new, true in mine
        ]
        for sort, mine in pairs.items()
    }


def asked_by_metric(record: CounterFactRecord) -> dict[str, list[Query]]:
    """Return by success score, for each prompt, the object that must be likelier, then the other one."""
    request = record.request
    if request.target_true is None:
        return {}
    new_first = (request.target_new, request.target_true)
    prompts = record.scored_prompts
    return {
        metric: [Query(prompt, targets, request.joiner) for prompt in prompts[sort]]
        for metric, sort, targets in (
            ("ES", "rewrite", new_first),
            ("PS", "paraphrase", new_first),
            ("NS", "neighborhood", new_first[::-1]),
        )
    }


def target_tokens(_record: Record, answers: Answers) -> dict[str, int]:
    """Return the numbers of tokens of the new and, where it is known, the true object."""
    return {name: score.tokens for name, score in zip(("new", "true"), answers.scores[0], strict=False)}


def reference_key(record: CounterFactRecord) -> tuple[str | None, str | None]:
    """Return relation and new object: reference texts are about things of which the new object is true."""
    return record.requested_rewrite.relation_id, record.requested_rewrite.target_new.id


def essence_text(record: CounterFactRecord, references: ReferenceTexts) -> str | None:
    """Return the reference texts of (relation, new object) that are about the subject itself, joined; `None` if none.

    The subject has another object, so that there is such a text only where it has both.
    """
    mine = [s.text for s in references.get(*reference_key(record)) if s.name == record.requested_rewrite.subject]
    return " ".join(mine) or None


def lesson(record: CounterFactRecord) -> Lesson:
    """Return the edit in the words of its paraphrases, and its neighborhood.

    Raises:
        ValueError: the record has no true object.
    """
    request = record.request
    if request.target_true is None:
        raise ValueError("has no true object")
    return Lesson(request.target_new, request.target_true, record.paraphrase_prompts, record.neighborhood_prompts)


COUNTERFACT = benchmark(
    Benchmark(
        name="counterfact",
        title="CounterFact",
        version=1,
        paper="arXiv:2202.05262",
        parse=parse,
        recognises=lambda value: isinstance(value.get("requested_rewrite"), Mapping),
        requested_rewrite=requested_rewrite,
        queries=lambda record: both_objects(record, record.scored_prompts),
        block=lambda record, answers: nats_of_both(record.scored_prompts, answers),
        block_form=CounterFactBlock,
        target_tokens=target_tokens,
        columns=(
            ("Score", ("S",)),
            ("Efficacy", ("ES", "EM")),
            ("Generalization", ("PS", "PM")),
            ("Specificity", ("NS", "NM")),
            ("Fluency", ("GE",)),
            ("Consistency", ("RS",)),
        ),
        composites={"S": ("ES", "PS", "NS"), "S_total": ("ES_total", "PS_total", "NS_total")},
        generation_prompts=lambda record: list(record.generation_prompts),
        asked=asked_by_metric,
        passages=lambda record, references: {"essence_score": essence_text(record, references)},
        reference_key=reference_key,
        lesson=lesson,
        released={OFFICIAL: ("counterfact", "official")},
    )
)
