"""Reference texts: articles about things of which an object is true, which generated texts are compared with."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Snippet:
    """One reference text: an article about a subject for which the object is true."""

    name: str
    text: str


class ReferenceTexts:
    """Reference texts by (relation id, target id), in file order."""

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
