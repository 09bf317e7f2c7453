"""Articles about entities: reference texts, and the sentences that stand before paraphrase prompts.

A site of articles is an `ArticleSource`. `LocalArticles` reads ours from files; each is known by its IRI, which
`schema:about` joins to the entity, as WikiData does for Wikipedia.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl

from . import queries
from .batches import query_in_batches
from .local_store import hash_files
from .queries import entity_id
from .sparql import SparqlSource

EMBEDDED_SITE = "https://articles.counterfact.invalid/"
"""Namespace of the articles in this repository; nothing is served there."""

_ENTITIES_A_QUERY = 500
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“])")
_SENTENCE_START = re.compile(r"[\"“(]?[A-Z0-9]")
_NO_END = re.compile(
    r"(?:\b[A-Z]|\b(?:[A-Za-z]\.)+[A-Za-z]|\b(?:Adm|Br|Bros|Capt|Cf|Co|Col|Corp|Dr|Ft|Gen|Gov|Hon|Inc|Jr|Lt|Ltd|Maj|Messrs|"
    r"Mr|Mrs|Ms|Mt|No|Nos|Op|Pres|Prof|Pvt|Rep|Rev|Sen|Sgt|Sr|St|Ste|Vol|c|ca|cf|ed|est|etc|no|op|pp?|viz|vol|vs))\.$"
)
"""End of a piece that an initial or an abbreviation cuts off, where a sentence goes on."""
_SENTENCE_LENGTH = range(20, 201)


class Passage(NamedTuple):
    """An article, or a sentence of one."""

    name: str
    """Name of the article."""
    text: str
    origin: Mapping[str, str | int] = MappingProxyType({})
    """Where it was read: page, revision, address, time and licence, where it has such."""


class ArticleSource(Protocol):
    """A site of articles."""

    def about(self, entities: Sequence[str], facts: SparqlSource) -> dict[str, str]:
        """Return entity to the IRI of its article, for the entities that have one."""
        ...

    def read(self, iris: Sequence[str]) -> dict[str, Passage]:
        """Return the articles there are, by IRI."""
        ...

    @property
    def sentences(self) -> Sequence[Passage]:
        """Sentences to draw contexts from, in a fixed order."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what this source is, for `build.json`."""
        ...


@dataclass(frozen=True)
class LocalArticles:
    """Articles in `.jsonl` files, `{"id", "title", "text"}` a line; the IRI is the site and the id."""

    files: tuple[Path, ...]
    site: str = EMBEDDED_SITE

    @classmethod
    def open(cls, path: Path, site: str = EMBEDDED_SITE) -> "LocalArticles":
        """Take a file, or all `.jsonl` files of a folder.

        Raises:
            BadInput: there is none.
        """
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not files or not all(file.is_file() for file in files):
            raise BadInput(f"no articles at {path}: expected .jsonl files with id, title and text in every line")
        return cls(tuple(files), site)

    def about(self, entities: Sequence[str], facts: SparqlSource) -> dict[str, str]:
        """Return entity to the IRI of its article, the first in order where it has several, as the facts say."""
        iris: dict[str, str] = {}
        for answer in query_in_batches(
            facts, entities, _ENTITIES_A_QUERY, lambda batch: queries.articles(batch, self.site)
        ):
            for row in answer.rows:
                iris.setdefault(entity_id(row["entity"]), row["article"])
        return iris

    def read(self, iris: Sequence[str]) -> dict[str, Passage]:
        """Return the articles there are, by IRI."""
        return {iri: self._articles[iri] for iri in iris if iri in self._articles}

    @cached_property
    def sentences(self) -> list[Passage]:
        """Sentences of 20 to 200 characters with a full stop or the like at the end, in file order, each once."""
        found = (Passage(article.name, text) for article in self._articles.values() for text in split(article.text))
        return list({sentence.text: sentence for sentence in found}.values())

    def identity(self) -> dict[str, Any]:
        """Return the site, and name and sha256 of every file."""
        return {"kind": "files", "site": self.site, "files": hash_files(self.files)}

    @cached_property
    def _articles(self) -> dict[str, Passage]:
        return {self.site + key: article for file in self.files for key, article in _read(file)}


def split(text: str) -> list[str]:
    """Split a text into its sentences, and keep those fit to stand alone.

    A stop after an initial or an abbreviation ends no sentence, and one starts with a capital or a figure.

    >>> split("The bridge was opened in 1926. It is long! Ships pass below the bridge of St. Ives every day.")
    ['The bridge was opened in 1926.', 'Ships pass below the bridge of St. Ives every day.']
    """
    sentences, started = [], ""
    for piece in _SENTENCE_END.split(text):
        started = f"{started} {' '.join(piece.split())}".strip()
        if not _NO_END.search(started):
            sentences.append(started)
            started = ""
    sentences += [started] if started else []
    return [sentence for sentence in sentences if _stands_alone(sentence)]


def _stands_alone(sentence: str) -> bool:
    return len(sentence) in _SENTENCE_LENGTH and sentence[-1] in ".!?" and bool(_SENTENCE_START.match(sentence))


def _read(file: Path) -> Iterator[tuple[str, Passage]]:
    for value in read_jsonl(file):
        try:
            key, title, text = value["id"], value["title"], value["text"]
        except (KeyError, TypeError) as error:
            raise BadInput(f"{file}: expected id, title and text in every line, got {value!r}") from error
        if not all(isinstance(part, str) for part in (key, title, text)):
            raise BadInput(f"{file}: expected texts under id, title and text, got {value!r}")
        yield key, Passage(title, text)
