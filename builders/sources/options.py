"""The sources of a build, opened by name: a service's short name, an address, a folder, or the embedded world."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from counterfact.core.errors import BadInput
from counterfact.core.places import cache_folder, data_folder
from counterfact.core.texts import load_texts

from .articles import ArticleSource, LocalArticles
from .cache import ResponseCache
from .client import Client, RetryPolicy, user_agent
from .endpoint import ENDPOINTS, EndpointSource
from .local_store import StoreSource
from .opened import Sources
from .pararel_download import CONTENT_HASH, UPSTREAM, fetch_pararel
from .sparql import SparqlSource
from .wikipedia import WIKIDATA, Wikipedia, wiki_of


@dataclass(frozen=True)
class SourceOptions:
    """Names of sources.

    What has no name comes from the embedded world; once facts come from an endpoint, ParaRel comes from its repository
    and articles from Wikipedia.
    """

    sparql: str | Path | None = None
    """`wdqs`, `qlever`, the address of an endpoint, or files."""
    pararel: str | Path | None = None
    """`upstream`, an address, or a folder."""
    articles: str | Path | None = None
    """`wikipedia`, the address of a MediaWiki API that knows entities too, or files."""
    prompts: str | Path | None = None
    """A folder of generation prompts."""
    templates: str | Path | None = None
    """A folder in ParaRel's layout, whose templates top up relations with too few."""
    texts: str | Path | None = None
    """Texts for contexts, as `core.texts.load_texts` takes them."""
    contact: str | None = None
    """E-mail address or page of the user, for the User-Agent; by default `COUNTERFACT_CONTACT`."""
    cache: str | Path | None = None
    """File in which responses are kept; by default `sources.sqlite` in the cache folder."""
    replay: bool = False
    """Whether to take all responses from the cache, and send nothing."""
    pause: float = RetryPolicy.pause
    """Seconds between a response and the next request."""
    language: str = "en"
    """Code of the language, which chooses the Wikipedia."""
    ids: str | Path | None = None
    """Table of the ids that tuples of ParaRel mean, by their uuids: a file, or a folder of them."""
    whole_articles: bool = False
    """Whether articles of a MediaWiki are read as a whole, and not only up to their first heading."""

    @property
    def embedded(self) -> bool:
        """Whether nothing but the embedded world is named."""
        return not any((self.sparql, self.pararel, self.articles, self.prompts, self.templates, self.texts, self.ids))

    @property
    def live(self) -> bool:
        """Whether facts come from an endpoint."""
        return _is_remote(self.sparql)

    @property
    def fetches_pararel(self) -> bool:
        """Whether ParaRel comes over HTTP."""
        return _is_remote(self.pararel) if self.pararel else self.live

    @property
    def generation(self) -> Path:
        """Folder of generation prompts."""
        return Path(self.prompts) if self.prompts else data_folder() / "prompts" / "generation"

    def topped_up(self) -> "SourceOptions":
        """Return the same, with the templates that ship where none are named, and where there are such."""
        ours = not self.pararel and not self.live
        if self.templates or ours or self.language != "en":
            return self
        return replace(self, templates=data_folder() / "pararel")

    @property
    def more_templates(self) -> Path | None:
        """Folder of the templates that top up relations with too few."""
        return Path(self.templates) if self.templates else None

    @property
    def fetched(self) -> list[str]:
        """What comes over a network, and from where, in words."""
        pararel = UPSTREAM if self.pararel in (None, "upstream") else self.pararel
        articles = self.articles or ("wikipedia" if self.live else None)
        named = [
            ("facts", ENDPOINTS.get(str(self.sparql), self.sparql) if self.live else None),
            ("ParaRel's templates and tuples", pararel if self.fetches_pararel else None),
            ("articles", articles if _is_remote(articles) else None),
        ]
        return [f"{what} from {place}" for what, place in named if place is not None]

    def open(self, *, articles: bool = True, texts: bool = True) -> Sources:
        """Open the sources; ParaRel is fetched now, all else when it is needed.

        Args:
            articles: whether articles are needed.
            texts: whether texts for contexts are needed.

        Raises:
            BadInput: a contact is missing, nothing is there, or only `replay` was given.
            SourceError: ParaRel cannot be fetched.
        """
        named = (self.articles or ("wikipedia" if self.live else None)) if articles else None
        remote = self.live or self.fetches_pararel or _is_remote(named)
        if self.replay and not remote:
            raise BadInput("--replay: expected to know whose answers to take, such as --sparql wdqs")
        client = self._client() if remote else None
        return Sources(
            pararel=self.open_pararel(client),
            facts=self._facts(client),
            generation=self.generation,
            articles=self._articles(named, client) if articles else None,
            templates=self.more_templates,
            texts=load_texts(self.texts) if texts and self.texts else None,
            ids=Path(self.ids) if self.ids else None,
            client=client,
        )

    def open_pararel(self, client: Client | None = None) -> Path:
        """Return the folder of ParaRel, fetched where it comes over HTTP.

        Args:
            client: fetches it; by default a client of its own.
        """
        if not self.fetches_pararel:
            return Path(self.pararel) if self.pararel else data_folder() / "pararel"
        url = UPSTREAM if self.pararel in (None, "upstream") else str(self.pararel).rstrip("/")
        content_hash = CONTENT_HASH if url == UPSTREAM else None
        return fetch_pararel(client or self._client(), cache_folder(), url, content_hash)

    def _client(self) -> Client:
        agent = None if self.replay else user_agent(self.contact or os.environ.get("COUNTERFACT_CONTACT"))
        path = Path(self.cache) if self.cache else cache_folder() / "sources.sqlite"
        return Client(ResponseCache(path, read_only=self.replay), agent, RetryPolicy(pause=self.pause))

    def _facts(self, client: Client | None) -> SparqlSource:
        if client and self.sparql and self.live:
            return EndpointSource(ENDPOINTS.get(str(self.sparql), str(self.sparql)), client)
        return StoreSource.open(Path(self.sparql) if self.sparql else data_folder() / "wikidata")

    def _articles(self, name: str | Path | None, client: Client | None) -> ArticleSource:
        if client and name and _is_remote(name):
            # The sentences that ship are English: before prompts in another language they would be noise.
            contexts = _embedded_articles() if self.language == "en" else None
            api, wiki = wiki_of(self.language)
            addresses = (api, WIKIDATA) if name == "wikipedia" else (str(name), str(name))
            return Wikipedia(client, contexts, *addresses, wiki, self.whole_articles)
        if self.whole_articles:
            raise BadInput("--whole-articles: only where articles come from Wikipedia; articles in files are whole")
        return LocalArticles.open(Path(name)) if name else _embedded_articles()


def _embedded_articles() -> LocalArticles:
    return LocalArticles.open(data_folder() / "articles")


def _is_remote(name: str | Path | None) -> bool:
    return name in (*ENDPOINTS, "upstream", "wikipedia") or str(name).startswith(("http://", "https://"))
