"""The sources of a data set, opened: what a build reads, and the hashes of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from counterfact.core.files import hash_file
from counterfact.core.places import data_folder
from counterfact.core.texts import TextSource

from ..texts.generation_prompts import generation_files
from .articles import ArticleSource, LocalArticles
from .client import Client
from .entity_ids import id_files
from .local_store import StoreSource, hash_files
from .pararel import language_folder, pararel_files
from .sparql import SparqlSource


@dataclass(frozen=True)
class Sources:
    """Sources of a data set, opened."""

    pararel: Path
    """A folder in ParaRel's layout."""
    facts: SparqlSource
    generation: Path
    """A folder of generation prompts."""
    articles: ArticleSource | None
    """Reference texts and contexts; None for neither."""
    templates: Path | None = None
    """A folder in ParaRel's layout, whose templates top up relations with too few in `pararel`, and records with too
    few neighborhood prompts."""
    texts: TextSource | None = None
    """Texts with sentences to put before paraphrase prompts, instead of the articles."""
    ids: Path | None = None
    """A table of the ids that tuples mean (see `entity_ids`)."""
    client: Client | None = None
    """Client of the sources that answer over HTTP; None where there are none."""

    @property
    def embedded(self) -> bool:
        """Whether all of it is the embedded world."""
        files = self.facts.files if isinstance(self.facts, StoreSource) else ()
        articles = self.articles.files if isinstance(self.articles, LocalArticles) else ()
        places = {"pararel": [self.pararel], "wikidata": [file.parent for file in files], "prompts": [self.generation]}
        places["articles"] = [file.parent for file in articles]
        inside = all(
            place.resolve().is_relative_to((data_folder() / name).resolve())
            for name, given in places.items()
            for place in given
        )
        others = (self.templates, self.texts, self.ids, self.client)
        return bool(files) and inside and all(other is None for other in others)

    def in_language(self, language: str) -> Self:
        """Return the same, with the templates and prompts of a language."""
        return replace(
            self,
            pararel=language_folder(self.pararel, language),
            generation=language_folder(self.generation, language),
            templates=self.templates and language_folder(self.templates, language),
        )

    def described(self) -> dict[str, Any]:
        """Return names and hashes of everything that a build reads."""
        return {
            "pararel": _hashes(self.pararel),
            "facts": self.facts.identity(),
            "generation_prompts": hash_files(generation_files(self.generation)),
            "articles": None if self.articles is None else self.articles.identity(),
            "templates": None if self.templates is None else _hashes(self.templates),
            "texts": None if self.texts is None else {"name": self.texts.name, "hash": self.texts.content_hash},
            "ids": None if self.ids is None else hash_files(id_files(self.ids)),
        }


def _hashes(pararel: Path) -> dict[str, str]:
    return {name: hash_file(file) for name, file in pararel_files(pararel).items()}
