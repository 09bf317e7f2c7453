"""zsRE: questions, their rephrasings, and unrelated questions, in the form of MEND's files.

Levy, Seo, Choi, Zettlemoyer. Zero-Shot Relation Extraction via Reading Comprehension. CoNLL 2017.
https://arxiv.org/abs/1706.04115, in the splits of Mitchell et al. 2022, measured as in Meng et al. 2022,
https://arxiv.org/abs/2202.05262, section 3.3.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from counterfact.contracts.benchmarks import Answers, Benchmark, Lesson, benchmark
from counterfact.core.records import Border, Request
from counterfact.lm.queries import Query

SORTS = ("rewrite", "paraphrase", "neighborhood")


class ZsreRecord(Border):
    """One zsRE record in the schema of MEND's files, reduced to what is evaluated."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    case_id: int
    subject: str
    src: str
    """The question; it holds the subject."""
    rephrase: str
    answers: list[str]
    loc: str
    """An unrelated question, its prefix `nq question: ` included."""
    loc_ans: str
    alt: str | None = None
    """A wrong answer, where the file has one: what hypernetworks are trained to edit in."""

    @property
    def request(self) -> Request:
        """The fact that an editor is to change: answer `src` with the first answer.

        A subject that occurs more than once fills the slot at its last whole-word occurrence; the others stay text.
        """
        found = list(re.finditer(rf"(?<!\w){re.escape(self.subject)}(?!\w)", self.src))
        if not found:
            raise ValueError(f"the subject {self.subject!r} is not in the question {self.src!r}")
        start, end = found[-1].span()
        prompt = f"{self.src[:start]}{{}}{self.src[end:]}"
        return Request(id=self.case_id, prompt=prompt, subject=self.subject, target_new=self.answers[0])


Booleans = Annotated[list[bool], Field(min_length=1, max_length=1000)]


class ZsreBlock(Border):
    """`post` or `pre` of a zsRE record."""

    rewrite_prompts_correct: Booleans
    paraphrase_prompts_correct: Booleans
    neighborhood_prompts_correct: Booleans


def parse(value: Mapping[str, Any], position: int) -> ZsreRecord:
    """Read one record of MEND's files, whose number is its position where it has none."""
    record = ZsreRecord.model_validate({**value, "case_id": value.get("case_id", position)})
    if not record.answers:
        raise ValueError("the list of answers is empty")
    if not record.loc_ans.strip():
        raise ValueError("the locality answer is empty")
    return record


def requested_rewrite(record: ZsreRecord) -> dict[str, Any]:
    """Return the edit as results hold it."""
    request = record.request
    return {"prompt": request.prompt, "subject": request.subject, "target_new": {"str": request.target_new}}


def queries(record: ZsreRecord) -> list[Query]:
    """Return the question, its rephrasing, and the unrelated question with a question mark, each with its answer.

    The unrelated question is scored against its true answer, not against what the unedited model said.
    """
    answer = (record.answers[0],)
    return [Query(record.src, answer), Query(record.rephrase, answer), Query(f"{record.loc}?", (record.loc_ans,))]


def block(_record: ZsreRecord, answers: Answers) -> dict[str, Any]:
    """Return `{sort}_prompts_correct`: for each token of the answer, whether the model put it first."""
    scored = zip(SORTS, answers.scores, strict=True)
    return {f"{sort}_prompts_correct": list(score.correct) for sort, (score,) in scored}


def target_tokens(_record: ZsreRecord, answers: Answers) -> dict[str, int]:
    """Return the numbers of tokens of the answer, and of the unrelated question's."""
    return {"new": answers.scores[0][0].tokens, "neighborhood": answers.scores[2][0].tokens}


def lesson(record: ZsreRecord) -> Lesson:
    """Return the wrong answer as what is to be edited in, where there is one, and the rephrasing."""
    return Lesson(record.alt or record.answers[0], record.answers[0], [record.rephrase], [])


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
        block=block,
        block_form=ZsreBlock,
        target_tokens=target_tokens,
        columns=(("", ("efficacy", "paraphrase", "specificity")),),
        composites={"S": ("efficacy", "paraphrase", "specificity")},
        notation="plus-minus",
        lesson=lesson,
    )
)
