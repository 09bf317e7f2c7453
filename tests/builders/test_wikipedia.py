"""Articles through the MediaWiki API: under whatever name, in however many parts, none is lost."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from counterfact.builders.sources.articles import LocalArticles, Passage
from counterfact.builders.sources.options import SourceOptions
from counterfact.builders.sources.sparql import SourceError
from counterfact.builders.sources.wikipedia import Wikipedia
from counterfact.core.errors import BadInput
from counterfact.core.places import data_folder
from tests.support.fast_client import fast_client
from tests.support.made_up_world import small_world
from tests.support.web_server import Asked, Log, Reply
from tests.support.wiki_server import serve_wiki

ARTICLES = {f"Q{n}": Passage(f"Heron {n}", f"A heron called {n} times.") for n in range(2, 130)}
ARTICLES |= {"Q200": Passage('The "Oar" & Ольга', "Text."), "Q202": Passage("Blank", "  ")}


def texts(found: dict[str, Passage]) -> dict[str, str]:
    return {title: article.text for title, article in found.items()}


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
    assert (
        texts(found) == texts(again) == {article.name: article.text for id, article in ARTICLES.items() if id != "Q202"}
    )
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
    assert {title: article[:2] for title, article in found.items()} == {
        "Old heron": ARTICLES["Q7"][:2],
        "heron_8": ARTICLES["Q8"][:2],
        "Heron 7": ARTICLES["Q7"][:2],
    }
    assert found["heron_8"].origin == {
        "page_id": 596,
        "revision_id": 4172,
        "url": "https://wiki.invalid/Heron_8",
        "time": "2026-01-02T03:04:05Z",
        "licence": "CC BY-SA 4.0",
    }


def test_whole_articles_come_one_by_one_under_another_identity(tmp_path: Path) -> None:
    log = Log()
    with serve_wiki(ARTICLES, log) as url:
        openings = wiki(url, tmp_path)
        site = replace(openings, whole=True)
        found = site.read([f"Heron {n}" for n in range(2, 9)])
    assert texts(found) == {f"Heron {n}": f"A heron called {n} times." for n in range(2, 9)}
    kinds = [dict(parse_qsl(asked.body)) for asked in log.asked]
    assert len(kinds) == 7 and not any("exintro" in kind for kind in kinds)
    assert site.identity()["whole"] and not openings.identity()["whole"]
    with pytest.raises(BadInput, match="--whole-articles"):
        SourceOptions(whole_articles=True).open()


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
