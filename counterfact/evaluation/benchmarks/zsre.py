"""zsRE: questions, their rephrasings, and unrelated questions, in the form of MEND's files.

Levy, Seo, Choi, Zettlemoyer. Zero-Shot Relation Extraction via Reading Comprehension. CoNLL 2017.
https://arxiv.org/abs/1706.04115, in the splits of Mitchell et al. 2022, measured as in Meng et al. 2022,
https://arxiv.org/abs/2202.05262, section 3.3.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from counterfact.contracts.benchmarks import Answers, Benchmark, Lesson, benchmark
from counterfact.core.records import Border, Request
from counterfact.core.subjects import with_slot
from counterfact.lm.queries import Query, TargetScore

from .counterfact import CounterFactRecord

SORTS = ("rewrite", "paraphrase", "neighborhood")


class Question(Border):
    """A prompt, as it is asked, and its true answer."""

    prompt: str
    answer: str


class ZsreRecord(Border):
    """One zsRE record in the schema of MEND's files, reduced to what is evaluated or trained on."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    case_id: int
    subject: str
    src: str
    """The question; it holds the subject."""
    rephrase: str | None
    """Another wording of it; `None` where there is none."""
    answers: list[str]
    loc: str | None
    """An unrelated question, its prefix `nq question: ` included, without its question mark."""
    loc_ans: str | None
    alt: str | None = None
    """A wrong answer, where the file has one: what hypernetworks are trained to edit in."""
    target_true: str | None = None
    """What is true before the edit, where the answers are not."""
    locality: list[Question] = Field(default_factory=list)
    """More unrelated questions."""
    joiner: str | None = None
    """What stands between a question and its answer; `None`: what its language has there."""

    @property
    def request(self) -> Request:
        """The fact that an editor is to change: answer `src` with the first answer.

        The slot is where `core.subjects.with_slot` finds the subject; other places where it stands stay text.
        """
        prompt, subject = with_slot(self.src, self.subject)
        given = {} if self.joiner is None else {"joiner": self.joiner}
        return Request(self.case_id, prompt, subject, self.answers[0], self.target_true, **given)

    @property
    def asked(self) -> dict[str, list[Question]]:
        """By sort, what is asked: the question, its rephrasing, and unrelated questions.

        Unrelated questions have their true answers, not what the unedited model said.
        """
        loc = [] if self.loc is None or self.loc_ans is None else [Question(prompt=f"{self.loc}?", answer=self.loc_ans)]
        asked = ([self.src], [] if self.rephrase is None else [self.rephrase])
        edited = [[Question(prompt=prompt, answer=self.answers[0]) for prompt in prompts] for prompts in asked]
        return dict(zip(SORTS, [*edited, [*loc, *self.locality]], strict=True))


Booleans = Annotated[list[bool], Field(min_length=1, max_length=1000)]


class ZsreBlock(Border):
    """`post` or `pre` of a zsRE record."""

    rewrite_prompts_correct: Booleans
    paraphrase_prompts_correct: Booleans
    neighborhood_prompts_correct: Booleans


def parse(value: Mapping[str, Any], position: int) -> ZsreRecord:
    """Read one record of MEND's files, whose number is its position where it has none, or one of CounterFact."""
    if "requested_rewrite" in value:
        return of_counterfact(CounterFactRecord.model_validate(value))
    record = ZsreRecord.model_validate({**value, "case_id": value.get("case_id", position)})
    if not record.answers:
        raise ValueError("the list of answers is empty")
    if any(not each.answer.strip() for each in record.asked["neighborhood"]):
        raise ValueError("the locality answer is empty")
    return record


def of_counterfact(record: CounterFactRecord) -> ZsreRecord:
    """Return a CounterFact record as zsRE asks it, as EasyEdit measures CounterFact.

    Its prompt is the question, its first paraphrase the rephrasing; neighborhood prompts ask for the true object.
    """
    request, true = record.request, record.request.target_true
    return ZsreRecord(
        case_id=record.case_id,
        subject=request.subject,
        src=request.filled,
        rephrase=next(iter(record.paraphrase_prompts), None),
        answers=[request.target_new],
        loc=None,
        loc_ans=None,
        target_true=true,
        joiner=request.joiner,
        locality=[Question(prompt=near, answer=true) for near in record.neighborhood_prompts if true is not None],
    )


def requested_rewrite(record: ZsreRecord) -> dict[str, Any]:
    """Return the edit as results hold it."""
    request = record.request
    return {"prompt": request.prompt, "subject": request.subject, "target_new": {"str": request.target_new}}


def asked_by_metric(record: ZsreRecord) -> dict[str, list[Query]]:
    """Return everything that is asked, in order, by the metric that counts which tokens of the answers come first."""
    metrics, joiner = ("efficacy", "paraphrase", "specificity"), record.request.joiner
    return {
        metric: [Query(each.prompt, (each.answer,), joiner) for each in mine]
        for metric, mine in zip(metrics, record.asked.values(), strict=True)
    }


def queries(record: ZsreRecord) -> list[Query]:
    """Return everything that is asked, in order."""
    return [query for mine in asked_by_metric(record).values() for query in mine]


def block(record: ZsreRecord, answers: Answers) -> dict[str, Any]:
    """Return `{sort}_prompts_correct`: for each token of the answers, whether the model put it first."""
    scores = _by_sort(record, answers)
    return {f"{sort}_prompts_correct": [right for each in mine for right in each.correct] for sort, mine in scores}


def target_tokens(record: ZsreRecord, answers: Answers) -> dict[str, int]:
    """Return the numbers of tokens of the answer, and of those of all unrelated questions where there are any."""
    counts = {sort: sum(each.tokens for each in mine) for sort, mine in _by_sort(record, answers)}
    return {"new": counts["rewrite"]} | {sort: counts[sort] for sort in SORTS[2:] if counts[sort]}


def _by_sort(record: ZsreRecord, answers: Answers) -> list[tuple[str, list[TargetScore]]]:
    scores = iter(answers.scores)
    return [(sort, [next(scores)[0] for _ in asked]) for sort, asked in record.asked.items()]


def lesson(record: ZsreRecord) -> Lesson:
    """Return what is to be edited in: the wrong answer, else an answer that is not true; and the rephrasing.

    Raises:
        ValueError: the record has only its true answer, which is no edit to learn.
    """
    others = [] if record.rephrase is None else [record.rephrase]
    if record.alt:
        return Lesson(record.alt, record.answers[0], others, [])
    if record.target_true is None:
        raise ValueError("has no wrong answer (`alt`) to learn to edit in")
    return Lesson(record.answers[0], record.target_true, others, [])


ZSRE = benchmark(
    Benchmark(
        name="zsre",
        title="zsRE",
        version=1,
        paper="arXiv:2202.05262",
        parse=parse,
        recognises=lambda value: "src" in value,
        requested_rewrite=requested_rewrite,
        queries=queries,
        asked=asked_by_metric,
        block=block,
        block_form=ZsreBlock,
        target_tokens=target_tokens,
        columns=(("", ("efficacy", "paraphrase", "specificity")),),
        composites={"S": ("efficacy", "paraphrase", "specificity")},
        notation="plus-minus",
        lesson=lesson,
    )
)
