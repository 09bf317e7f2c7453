"""The data that flows: requests to edit, and the records of CounterFact and zsRE that hold them.

CounterFact: Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262. zsRE: Levy et al. 2017, in the splits of Mitchell et al. 2022.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from counterfact.core.prompts import check_template, fill

Kind = Literal["counterfact", "zsre"]


@dataclass(frozen=True)
class Request:
    """One fact to edit: after the edit, `prompt` with `subject` in its slot goes on with `target_new`."""

    id: int
    prompt: str
    """Template with one `{}`."""
    subject: str
    target_new: str
    """o*, without the leading space."""
    target_true: str | None = None
    """o_c, where it is known."""
    relation_id: str | None = None

    @property
    def filled(self) -> str:
        """The prompt with the subject in its slot."""
        return fill(self.prompt, self.subject)


class Border(BaseModel):
    """A value read from a file: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Entity(Border):
    """A label and, where it is known, its WikiData id."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, serialize_by_alias=True)

    text: str = Field(alias="str")
    """The label; `str` in files."""
    id: str | None = None


class RequestedRewrite(Border):
    """{s, r, o_c, o*, p*} of the paper, appendix D."""

    prompt: str
    relation_id: str | None = None
    target_new: Entity
    target_true: Entity
    subject: str


class CounterFactRecord(Border):
    """One CounterFact record, with the keys of the released file, and its provenance where we built it."""

    case_id: int
    pararel_idx: int | None = None
    requested_rewrite: RequestedRewrite
    paraphrase_prompts: list[str]
    neighborhood_prompts: list[str]
    attribute_prompts: list[str]
    generation_prompts: list[str]
    provenance: dict[str, Any] | None = None

    @property
    def request(self) -> Request:
        """What an editor is asked to do."""
        rewrite = self.requested_rewrite
        return Request(
            id=self.case_id,
            prompt=rewrite.prompt,
            subject=rewrite.subject,
            target_new=rewrite.target_new.text,
            target_true=rewrite.target_true.text,
            relation_id=rewrite.relation_id,
        )


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
        """What an editor is asked to do: answer `src` with the first answer.

        A subject that occurs more than once fills the slot at its last whole-word occurrence; the others stay text.
        """
        found = list(re.finditer(rf"(?<!\w){re.escape(self.subject)}(?!\w)", self.src))
        if not found:
            raise ValueError(f"the subject {self.subject!r} is not in the question {self.src!r}")
        start, end = found[-1].span()
        prompt = f"{self.src[:start]}{{}}{self.src[end:]}"
        return Request(id=self.case_id, prompt=prompt, subject=self.subject, target_new=self.answers[0])


Record = CounterFactRecord | ZsreRecord


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be used, and why. It is counted, and costs nothing else."""

    case_id: int
    reason: str


def parse_record(kind: Kind, value: object, position: int) -> Record | BadRecord:
    """Check one record read from a file.

    Args:
        kind: the schema to read it by.
        value: the JSON value.
        position: its place in the file, its `case_id` where it has none (zsRE).
    """
    if not isinstance(value, dict):
        return BadRecord(position, f"expected a JSON object, got {type(value).__name__}")
    case_id = value.get("case_id", position)
    if not isinstance(case_id, int):
        return BadRecord(position, f"expected an integer case_id, got {case_id!r}")
    try:
        record: Record
        if kind == "counterfact":
            record = CounterFactRecord.model_validate(value)
        else:
            record = ZsreRecord.model_validate({**value, "case_id": case_id})
        check_record(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return BadRecord(case_id, f"{where}: {first['msg']}")
    except ValueError as error:
        return BadRecord(case_id, str(error))
    return record


def check_record(record: Record) -> None:
    """Raise `ValueError` where a record cannot be edited or scored: no or two slots, an empty target or subject."""
    if isinstance(record, ZsreRecord) and not record.answers:
        raise ValueError("the list of answers is empty")
    request = record.request
    if not request.subject.strip():
        raise ValueError("the subject is empty")
    check_template(request.prompt)
    if not request.target_new.strip():
        raise ValueError("the new target is empty")
    if request.target_true is not None and not request.target_true.strip():
        raise ValueError("the true target is empty")
    if request.target_new == request.target_true:
        raise ValueError(f"the new target equals the true one: {request.target_new!r}")
    if isinstance(record, ZsreRecord) and not record.loc_ans.strip():
        raise ValueError("the locality answer is empty")
