"""Articles of Wikipedia through the MediaWiki API: titles by WikiData's sitelinks, and each article's opening, or all.

Sitelinks come through `wbgetentities`, fifty entities a request, openings twenty articles a request, whole articles
one by one; each text comes with the page and the revision it is from, as its licence requires. Redirects and
normalised titles are followed back to the title that was requested, answers in parts are put together, and a site that
is behind with its copies (`maxlag`) is waited for. https://www.mediawiki.org/wiki/API:Etiquette
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from .articles import ArticleSource, Passage
from .batches import batches
from .client import Client
from .http import Response, ServerRequest, TransientError, post_form
from .sparql import SourceError, SparqlSource

WIKIPEDIA = "https://{}.wikipedia.org/w/api.php"
"""Address of a Wikipedia's API, with `{}` for its language."""
WIKIDATA = "https://www.wikidata.org/w/api.php"
ENTITIES_A_REQUEST = 50
ARTICLES_A_REQUEST = 20

_ELSEWHERE = {
    "nb": ("no", "nowiki"),
    "be-tarask": ("be-tarask", "be_x_oldwiki"),
    "yue": ("zh-yue", "zh_yuewiki"),
    "lzh": ("zh-classical", "zh_classicalwiki"),
    "nan": ("zh-min-nan", "zh_min_nanwiki"),
    "gsw": ("als", "alswiki"),
    "sgs": ("bat-smg", "bat_smgwiki"),
    "vro": ("fiu-vro", "fiu_vrowiki"),
    "rup": ("roa-rup", "roa_rupwiki"),
}
"""Languages whose Wikipedia has another name than their code: in its address, and in WikiData."""
_WHOLE = {"nds-nl", "map-bms", "roa-tara", "cbk-zam"}
"""Codes with a hyphen that have a Wikipedia of their own; of others the part before it has one."""
_BUSY = {"maxlag", "ratelimited", "readonly", "internal_api_error_DBQueryError", "internal_api_error_DBConnectionError"}
_ALWAYS = {"format": "json", "formatversion": "2", "maxlag": "5"}
_EXTRACTS = {
    "action": "query",
    "prop": "extracts|info|revisions",
    "explaintext": "1",
    "exsectionformat": "plain",
    "inprop": "url",
    "rvprop": "ids|timestamp",
    "redirects": "1",
}
_LICENCE = "CC BY-SA 4.0"
_IN_PARENTHESES = re.compile(r"\s?\(([^()]*)\)")
_SPOKEN = re.compile(r"[ˈˌəɛɪɔʊʌʒʃθðŋɑɐɒæɡɹʁɾ]|^/.*/$|\blisten\b")


@dataclass(frozen=True)
class Wikipedia:
    """Wikipedia's articles, or their openings; an article is known by its title."""

    client: Client
    contexts: ArticleSource | None
    """Source of sentences for contexts, which are about nothing in particular; None for no sentences."""
    api: str = WIKIPEDIA.format("en")
    """Address of the wiki's own API."""
    entities: str = WIKIDATA
    """Address of the API that knows which title belongs to which entity."""
    wiki: str = "enwiki"
    """Name of the wiki in that API."""
    whole: bool = False
    """Whether articles are read as a whole, one a request, and not only up to their first heading."""
    _titles: dict[str, str | None] = field(default_factory=dict, repr=False, compare=False)
    _articles: dict[str, Passage | None] = field(default_factory=dict, repr=False, compare=False)

    def about(self, entities: Sequence[str], facts: SparqlSource) -> dict[str, str]:  # noqa: ARG002
        """Return entity to the title of its article.

        Raises:
            SourceError: the API refuses, or leaves out an entity that was requested.
        """
        for batch in batches([id for id in entities if id not in self._titles], ENTITIES_A_REQUEST):
            parameters = {
                "action": "wbgetentities",
                "ids": "|".join(batch),
                "props": "sitelinks",
                "sitefilter": self.wiki,
            }
            found = self._request(self.entities, parameters).get("entities", {})
            if missing := [id for id in batch if id not in found]:
                raise SourceError(
                    f"{self.entities}: nothing was said of {', '.join(missing)}; nothing is concluded from that"
                )
            for id in batch:
                # A merged entity comes under the id that was requested; a deleted one without sitelinks.
                self._titles[id] = found[id].get("sitelinks", {}).get(self.wiki, {}).get("title")
        return {id: title for id in entities if (title := self._titles[id]) is not None}

    def read(self, iris: Sequence[str]) -> dict[str, Passage]:
        """Return the articles of these titles, or their openings, where there are any.

        Raises:
            SourceError: the API refuses, or leaves out an article that was requested.
        """
        size = 1 if self.whole else ARTICLES_A_REQUEST
        for batch in batches([title for title in iris if title not in self._articles], size):
            self._articles.update(self._extracts(batch))
        return {title: article for title in iris if (article := self._articles[title]) is not None}

    @property
    def sentences(self) -> Sequence[Passage]:
        """Sentences to draw contexts from, in a fixed order."""
        return () if self.contexts is None else self.contexts.sentences

    def identity(self) -> dict[str, Any]:
        """Return both addresses, what was taken from each, and where contexts come from."""
        taken = {url: self.client.used(url) for url in sorted({self.api, self.entities})}
        contexts = None if self.contexts is None else self.contexts.identity()
        return {"kind": "mediawiki", "wiki": self.wiki, "whole": self.whole, "taken": taken, "contexts": contexts}

    def _extracts(self, titles: Sequence[str]) -> dict[str, Passage | None]:
        names = {title: title for title in titles}
        pages: dict[str, dict[str, Any]] = {}
        few = {"exlimit": "1"} if self.whole else {"exlimit": str(ARTICLES_A_REQUEST), "exintro": "1"}
        for part in self._parts({**_EXTRACTS, **few, "titles": "|".join(titles)}):
            for kind in ("normalized", "redirects"):
                moved = {move["from"]: move["to"] for move in part.get(kind, ())}
                names = {title: _follow(name, moved) for title, name in names.items()}
            for page in part.get("pages", ()):
                pages.setdefault(page["title"], {}).update(page)
        if missing := [title for title, name in names.items() if name not in pages]:
            raise SourceError(f"{self.api}: nothing was said of {', '.join(missing)}; nothing is concluded from that")
        return {title: _passage(name, pages[name]) for title, name in names.items()}

    def _parts(self, parameters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the answers of the action `query` until the last one."""
        more: dict[str, Any] = {}
        seen = []
        while more not in seen:
            seen.append(more)
            value = self._request(self.api, {**parameters, **more})
            yield value.get("query", {})
            if "continue" not in value:
                return
            more = {key: str(token) for key, token in value["continue"].items()}
        raise SourceError(f"{self.api}: continues with {more} without end; nothing is concluded from that")

    def _request(self, url: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        text = urlencode(sorted({**_ALWAYS, **parameters}.items()))
        return self.client.fetch(ServerRequest(url, text), post_form, lambda response: read_api(response, url))


def wiki_of(language: str) -> tuple[str, str]:
    """Return the Wikipedia of a language, by the code of WikiData's labels: the address of its API, and its name.

    >>> wiki_of("fr"), wiki_of("pt-br")[1], wiki_of("nb")[1]
    (('https://fr.wikipedia.org/w/api.php', 'frwiki'), 'ptwiki', 'nowiki')
    """
    own = language if language in _WHOLE else language.split("-")[0]
    host, name = _ELSEWHERE.get(language, (own, f"{own.replace('-', '_')}wiki"))
    return WIKIPEDIA.format(host), name


def _passage(name: str, page: Mapping[str, Any]) -> Passage | None:
    if not (text := readable(page.get("extract") or "")):
        return None
    revision: Mapping[str, Any] = next(iter(page.get("revisions", ())), {})
    origin = {
        "page_id": page.get("pageid"),
        "revision_id": revision.get("revid"),
        "url": page.get("fullurl"),
        "time": revision.get("timestamp"),
        "licence": _LICENCE,
    }
    return Passage(name, text, {key: value for key, value in origin.items() if value is not None})


def readable(text: str) -> str:
    """Return an extract without pronunciations, and without what the extraction left of them.

    >>> readable("Ada (English: ; born 1815) wrote. Bo ( BOH; Welsh: [ˈboː]) sang. Cy () slept.")
    'Ada (born 1815) wrote. Bo (BOH) sang. Cy slept.'
    """
    return _IN_PARENTHESES.sub(_without_pronunciation, text).strip()


def _without_pronunciation(found: re.Match[str]) -> str:
    parts = [part.strip(" ,") for part in found[1].split(";")]
    kept = [part for part in parts if part and not part.endswith(":") and not _SPOKEN.search(part)]
    if kept == found[1].split("; "):
        return found[0]
    return f" ({'; '.join(kept)})" if kept else ""


def _follow(name: str, moved: Mapping[str, str]) -> str:
    for _ in moved:
        name = moved.get(name, name)
    return name


def read_api(response: Response, where: str) -> dict[str, Any]:
    """Read an answer of the MediaWiki API, whose failures come with HTTP 200 too.

    Raises:
        TransientError: it is cut off, or the site is too busy.
        SourceError: it is an error, or no answer of this API.
    """
    try:
        value = json.loads(response.body)
    except ValueError as error:
        raise TransientError(f"{len(response.body)} bytes that are no whole JSON ({error})") from error
    if not isinstance(value, dict):
        raise SourceError(f"{where}: expected an answer of the MediaWiki API, got {response.said!r}")
    failure = value.get("error")
    if not failure:
        return value
    code = failure.get("code") if isinstance(failure, dict) else None
    if code in _BUSY:
        raise TransientError(f"the API is too busy ({code})")
    raise SourceError(f"{where}: the API refused: {failure!r}")
