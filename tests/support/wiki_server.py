"""A server on loopback in the shape of the MediaWiki API: `wbgetentities`, and extracts in parts, with redirects."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

from counterfact.builders.sources.articles import Passage
from tests.support.web_server import Asked, Log, Reply, Spoil, serve_answers

JSON_KIND = "application/json; charset=utf-8"
PART = 7
"""Extracts a part of an answer."""


@contextmanager
def serve_wiki(
    articles: Mapping[str, Passage],
    log: Log | None = None,
    spoil: Spoil = lambda reply, _asked: reply,
    *,
    linked: Mapping[str, str] | None = None,
    moved: Mapping[str, str] | None = None,
    merged: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Serve articles, and yield the address of the API.

    Args:
        articles: entity to its article.
        log: is written.
        spoil: misbehaves.
        linked: entity to the title of its sitelink, where it is not the article's own.
        moved: title to the title it redirects to.
        merged: entity to the one it was merged into.
    """
    titles = {id: article.name for id, article in articles.items()} | dict(linked or {})
    texts = {article.name: article.text for article in articles.values()}

    def answer(asked: Asked) -> Reply:
        given = dict(parse_qsl(asked.body))
        if (given["format"], given["formatversion"], given["maxlag"]) != ("json", "2", "5"):
            return Reply(400, "text/plain", b"expected format, formatversion and maxlag")
        made = _entities(given, titles, merged or {}) if given["action"] == "wbgetentities" else None
        value = made or _extracts(given, texts, moved or {})
        return Reply(200, JSON_KIND, json.dumps(value, ensure_ascii=False).encode())

    with serve_answers(answer, log, spoil) as url:
        yield f"{url}/w/api.php"


def _entities(given: Mapping[str, str], titles: Mapping[str, str], merged: Mapping[str, str]) -> dict[str, Any]:
    ids = given["ids"].split("|")
    if len(ids) > 50:
        return {"error": {"code": "toomanyvalues", "info": "The limit is 50."}}
    found: dict[str, Any] = {}
    for id in ids:
        now = merged.get(id, id)
        links = (
            {given["sitefilter"]: {"site": given["sitefilter"], "title": titles[now], "badges": []}}
            if now in titles
            else {}
        )
        found[id] = {"type": "item", "id": now, "sitelinks": links}
        if now != id:
            found[id]["redirects"] = {"from": id, "to": now}
        if now not in titles and int(id[1:]) % 2:
            found[id] = {"id": id, "missing": ""}
    return {"entities": found, "success": 1}


def _origin(name: str) -> dict[str, Any]:
    number = sum(name.encode())
    url = f"https://wiki.invalid/{name.replace(' ', '_')}"
    revision = {"revid": 7 * number, "parentid": 0, "timestamp": "2026-01-02T03:04:05Z"}
    return {"pageid": number, "fullurl": url, "lastrevid": 7 * number, "revisions": [revision]}


def _extracts(given: Mapping[str, str], texts: Mapping[str, str], moved: Mapping[str, str]) -> dict[str, Any]:
    asked = given["titles"].split("|")
    if len(asked) > (20 if given.get("exintro") == "1" else 1) or len(asked) > int(given["exlimit"]):
        return {"error": {"code": "toomanyvalues", "info": "The limit is 20, and 1 without exintro."}}
    normal = {title: title[:1].upper() + title[1:].replace("_", " ") for title in asked}
    redirects = {name: moved[name] for name in normal.values() if name in moved}
    names = list(dict.fromkeys(moved.get(name, name) for name in normal.values()))
    start = int(given.get("excontinue", 0))
    pages: list[dict[str, Any]] = []
    for place, name in enumerate(names):
        page: dict[str, Any] = {"ns": 0, "title": name} | (_origin(name) if name in texts else {"missing": True})
        if name in texts and start <= place < start + PART:
            page["extract"] = texts[name]
        pages.append(page)
    value: dict[str, Any] = {"query": {"pages": pages}}
    if moves := [{"fromencoded": False, "from": a, "to": b} for a, b in normal.items() if a != b]:
        value["query"]["normalized"] = moves
    if redirects:
        value["query"]["redirects"] = [{"from": a, "to": b} for a, b in redirects.items()]
    if start + PART < len(names):
        value["continue"] = {"excontinue": start + PART, "continue": "||"}
    else:
        value["batchcomplete"] = True
    return value
