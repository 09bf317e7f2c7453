"""Articles through the MediaWiki API: under whatever name, in however many parts, none is lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from counterfact.builders.sources.articles import LocalArticles, Passage
from counterfact.builders.sources.sparql import SourceError
from counterfact.builders.sources.wikipedia import Wikipedia
from counterfact.core.places import data_folder
from tests.support.fast_client import fast_client
from tests.support.made_up_world import small_world
from tests.support.web_server import Asked, Log, Reply
from tests.support.wiki_server import serve_wiki

ARTICLES = {f"Q{n}": Passage(f"Heron {n}", f"A heron called {n} times.") for n in range(2, 130)}
ARTICLES |= {"Q200": Passage('The "Oar" & Ольга', "Text."), "Q202": Passage("Blank", "  ")}


def wiki(url: str, folder: Path) -> Wikipedia:
    return Wikipedia(fast_client(folder / "a.sqlite"), LocalArticles.open(data_folder() / "articles"), url, url)


def test_titles_come_in_fifties_and_openings_in_twenties(tmp_path: Path) -> None:
    log = Log()
    facts = small_world().write(tmp_path / "world").facts
    with serve_wiki(ARTICLES, log) as url:
        site = wiki(url, tmp_path)
        titles = site.about(list(ARTICLES), facts)
        assert titles == {id: article.name for id, article in ARTICLES.items()}
        found = site.read(list(titles.values()))
        again = site.read(list(titles.values()))
    assert found == again == {article.name: article for id, article in ARTICLES.items() if id != "Q202"}
    kinds = [dict(parse_qsl(asked.body)) for asked in log.asked]
    assert [len(kind["ids"].split("|")) for kind in kinds if "ids" in kind] == [50, 50, 30]
    first_parts = [kind for kind in kinds if "titles" in kind and "excontinue" not in kind]
    assert [len(kind["titles"].split("|")) for kind in first_parts] == [20] * 6 + [10]
    assert len(kinds) > 3 + 2 * len(first_parts)


def test_merged_deleted_and_unlinked_entities(tmp_path: Path) -> None:
    facts = small_world().write(tmp_path / "world").facts
    with serve_wiki(ARTICLES, merged={"Q900": "Q3"}) as url:
        found = wiki(url, tmp_path).about(["Q900", "Q901", "Q902", "Q2"], facts)
    assert found == {"Q900": "Heron 3", "Q2": "Heron 2"}


def test_redirects_and_normalised_titles_lead_to_the_article(tmp_path: Path) -> None:
    with serve_wiki(ARTICLES, moved={"Old heron": "Heron 7", "Lost": "Nowhere"}) as url:
        found = wiki(url, tmp_path).read(["Old heron", "heron_8", "Heron 7", "Lost", "Never written"])
    assert found == {"Old heron": ARTICLES["Q7"], "heron_8": ARTICLES["Q8"], "Heron 7": ARTICLES["Q7"]}


def without(kind: str, key: str) -> Callable[[Reply, Asked], Reply]:
    """Leave something out of an answer that has it."""

    def spoil(reply: Reply, asked: Asked) -> Reply:
        value: dict[str, Any] = json.loads(reply.body)
        if kind == "entities" and kind in value:
            value[kind].pop(key, None)
        if kind == "pages" and "query" in value:
            value["query"][kind] = [page for page in value["query"][kind] if page["title"] != key]
        if kind == "all" and "query" in value:
            value = {"batchcomplete": True}
        return reply._replace(body=json.dumps(value).encode())

    return spoil


@pytest.mark.parametrize("spoil", [without("entities", "Q4"), without("pages", "Heron 4"), without("all", "")])
def test_what_is_left_out_is_never_taken_for_missing(spoil: Callable[[Reply, Asked], Reply], tmp_path: Path) -> None:
    facts = small_world().write(tmp_path / "world").facts
    with serve_wiki(ARTICLES, None, spoil) as url, pytest.raises(SourceError, match="nothing was said of"):
        site = wiki(url, tmp_path)
        site.read(list(site.about(["Q3", "Q4"], facts).values()))


def test_an_answer_that_goes_on_for_ever_is_left(tmp_path: Path) -> None:
    def forever(reply: Reply, asked: Asked) -> Reply:
        value = json.loads(reply.body) | {"continue": {"excontinue": 1, "continue": "||"}}
        return reply._replace(body=json.dumps(value).encode())

    with serve_wiki(ARTICLES, None, forever) as url, pytest.raises(SourceError, match="without end"):
        wiki(url, tmp_path).read(["Heron 4"])
