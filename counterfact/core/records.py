"""The data that flows: requests to edit, records that hold one and say what is asked about it, and reference texts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

from pydantic import BaseModel, ConfigDict

from counterfact.core.prompts import check_template, fill
from counterfact.core.subjects import joiner_after


@dataclass(frozen=True)
class Request:
    """One fact to edit: after the edit, `prompt` with `subject` in its slot goes on with `target_new`."""

    id: int
    prompt: str
    """Template with one `{}`."""
    subject: str
    target_new: str
    """o*, without what joins it to the prompt."""
    target_true: str | None = None
    """o_c, where it is known."""
    relation_id: str | None = None
    joiner: str = cast(str, None)
    """What stands between the prompt and a target; by default one space, or nothing where the prompt's script has none.
    """

    def __post_init__(self) -> None:
        """Take the joiner from the prompt where none is given."""
        if cast(str | None, self.joiner) is None:
            object.__setattr__(self, "joiner", joiner_after(self.prompt))

    @property
    def filled(self) -> str:
        """The prompt with the subject in its slot."""
        return fill(self.prompt, self.subject)


class Border(BaseModel):
    """A value read from a file: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Record(Protocol):
    """One record of a benchmark."""

    @property
    def case_id(self) -> int:
        """Its number in the data set."""

    @property
    def request(self) -> Request:
        """The fact that an editor is to change."""


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be used, and why. It is counted, and costs nothing else."""

    case_id: int
    reason: str


def check_request(request: Request) -> None:
    """Raise `ValueError` where a request cannot be edited or scored: no or two slots, an empty target or subject."""
    if not request.subject.strip():
        raise ValueError("the subject is empty")
    check_template(request.prompt)
    if not request.target_new.strip():
        raise ValueError("the new target is empty")
    if request.target_true is not None and not request.target_true.strip():
        raise ValueError("the true target is empty")
    if request.target_new == request.target_true:
        raise ValueError(f"the new target equals the true one: {request.target_new!r}")


def has_outer_blanks(request: Request) -> bool:
    """Return whether prompt, subject or a target begins or ends with a blank.

    >>> [has_outer_blanks(Request(0, "{} is in", "Rome", target)) for target in ("Chad", "Chad ")]
    [False, True]
    """
    texts = (request.prompt, request.subject, request.target_new, request.target_true or "")
    return any(text != text.strip() for text in texts)


@dataclass(frozen=True)
class Snippet:
    """One reference text: an article about a subject for which the object is true."""

    name: str
    text: str


class ReferenceTexts:
    """Articles that generated texts are compared with, by (relation id, target id), in file order."""

    def __init__(self, entries: Iterable[dict[str, Any]]) -> None:
        self._snippets: dict[tuple[str, str], list[Snippet]] = {}
        for entry in entries:
            key = (entry["relation_id"], entry["target_id"])
            samples = [Snippet(sample["name"], sample["text"]) for sample in entry["samples"]]
            self._snippets.setdefault(key, []).extend(samples)

    def get(self, relation_id: str | None, target_id: str | None) -> list[Snippet]:
        """Return the texts for one object; an empty list where there is none."""
        if relation_id is None or target_id is None:
            return []
        return self._snippets.get((relation_id, target_id), [])

    def documents(self) -> Iterator[str]:
        """Yield every text, in file order: what the TF-IDF vectoriser is fitted on."""
        for snippets in self._snippets.values():
            for snippet in snippets:
                yield snippet.text
