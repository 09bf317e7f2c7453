"""Opens what a user names as sources: a service by its short name, an address, a folder, or the embedded world."""

import os
from dataclasses import dataclass
from pathlib import Path

from counterfact.core.errors import BadInput
from counterfact.core.places import cache_folder
from counterfact.core.texts import load_texts

from ..counterfact import BuildSettings, Sources, embedded_sources
from ..texts.generation_prompts import load_generation_prompts
from .articles import ArticleSource, LocalArticles
from .cache import ResponseCache
from .client import Client, Manners, user_agent
from .endpoint import ENDPOINTS, EndpointSource
from .pararel import Relation, language_folder
from .pararel_download import CONTENT_HASH, UPSTREAM, fetch_pararel
from .relations import load_relations, needed
from .sparql import SparqlSource, StoreSource
from .wikipedia import WIKIDATA, Wikipedia, wiki_of


@dataclass(frozen=True)
class Named:
    """Sources as they are named; what is not comes from the embedded world, or, once facts come from an endpoint,
    from ParaRel's repository and from Wikipedia."""

    sparql: str | None = None
    """`wdqs`, `qlever`, an address of an endpoint, or files."""
    pararel: str | None = None
    """`upstream`, an address, or a folder."""
    articles: str | None = None
    """`wikipedia`, the address of a MediaWiki API that knows entities too, or files."""
    prompts: Path | None = None
    """A folder of generation prompts."""
    templates: Path | None = None
    """A folder in ParaRel's layout, whose templates top up relations with too few."""
    texts: str | None = None
    """Texts for contexts, as `core.texts.load_texts` takes them."""
    contact: str | None = None
    """Who asks."""
    cache: Path | None = None
    """Where responses are kept; by default `sources.sqlite` in the cache folder."""
    replay: bool = False
    """Take all from the cache, and ask nobody."""
    pause: float = Manners.pause
    """Seconds between an answer and the next question."""
    language: str = "en"
    """Chooses the Wikipedia."""

    @property
    def live(self) -> bool:
        """Whether facts come from an endpoint."""
        return _is_remote(self.sparql)

    def open(self) -> "Opened":
        """Open all sources; what is fetched now is ParaRel.

        Raises:
            BadInput: a contact is missing, nothing is there, or only `replay` was given.
            SourceError: ParaRel cannot be fetched.
        """
        articles = self.articles or ("wikipedia" if self.live else None)
        remote = self.live or self.fetches_pararel or _is_remote(articles)
        if self.replay and not remote:
            raise BadInput("--replay: expected to know whose answers to take, such as --sparql wdqs")
        client = self._client() if remote else None
        embedded = embedded_sources()
        sources = Sources(
            pararel=self._pararel(client) or embedded.pararel,
            facts=_facts(self.sparql, client) if self.sparql else embedded.facts,
            generation=self.prompts or embedded.generation,
            articles=_articles(articles, client, self.language) if articles else embedded.articles,
            templates=self.templates,
            texts=load_texts(self.texts) if self.texts else None,
        )
        return Opened(sources, client)

    @property
    def fetches_pararel(self) -> bool:
        """Whether ParaRel comes over HTTP."""
        return _is_remote(self.pararel) if self.pararel else self.live

    def open_pararel(self) -> Path:
        """Open ParaRel alone."""
        return self._pararel(self._client() if self.fetches_pararel else None) or embedded_sources().pararel

    def needed_relations(self, settings: BuildSettings) -> list[Relation]:
        """Open ParaRel alone, and return the relations whose facts a build with these settings asks for."""
        language = settings.language
        templates = self.templates and language_folder(self.templates, language)
        prompts = load_generation_prompts(language_folder(self.prompts or embedded_sources().generation, language))
        folder, fewest = language_folder(self.open_pararel(), language), 1 + settings.paraphrase_prompts
        return needed(load_relations(folder, templates, language, settings.relations, fewest), prompts, settings)

    def _pararel(self, client: Client | None) -> Path | None:
        if client is None or not self.fetches_pararel:
            return Path(self.pararel) if self.pararel else None
        url = UPSTREAM if self.pararel in (None, "upstream") else str(self.pararel).rstrip("/")
        return fetch_pararel(client, cache_folder(), url, CONTENT_HASH if url == UPSTREAM else None)

    def _client(self) -> Client:
        contact = self.contact or os.environ.get("COUNTERFACT_CONTACT")
        agent = None if self.replay else user_agent(contact)
        path = self.cache or cache_folder() / "sources.sqlite"
        return Client(ResponseCache(path, read_only=self.replay), agent, Manners(pause=self.pause))


@dataclass(frozen=True)
class Opened:
    """Sources, and the client of those that are asked over HTTP."""

    sources: Sources
    client: Client | None


def _facts(name: str, client: Client | None) -> SparqlSource:
    url = ENDPOINTS.get(name, name)
    return EndpointSource(url, client) if client and _is_url(url) else StoreSource.open(Path(name))


def _articles(name: str, client: Client | None, language: str) -> ArticleSource:
    if client and (name == "wikipedia" or _is_url(name)):
        # The sentences that ship are English: before prompts in another language they would be noise.
        contexts = embedded_sources().articles if language == "en" else None
        api, wiki = wiki_of(language)
        return Wikipedia(client, contexts, *((api, WIKIDATA) if name == "wikipedia" else (name, name)), wiki)
    return LocalArticles.open(Path(name))


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def _is_remote(name: str | None) -> bool:
    return name is not None and (name in (*ENDPOINTS, "upstream", "wikipedia") or _is_url(name))
