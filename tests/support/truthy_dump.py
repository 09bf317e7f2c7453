"""A WikiData truthy dump of any size for tests: the entities of a made-up world among many of no use, and every trap.

In the form of `latest-truthy.nt`: all lines of an entity together behind those of its data page; labels, descriptions
and aliases in many languages, letters outside ASCII as `\\u` escapes; statements with strings, dates, quantities,
coordinates and unknown values; deprecated statements are not there at all.
"""

import bz2
import gzip
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from counterfact.builders.sources.queries import ALIAS, DIRECT, ENTITY, LABEL, SITELINKS
from tests.support.made_up_world import World

_DATA = "https://www.wikidata.org/wiki/Special:EntityData/"
_DESCRIPTION = "http://schema.org/description"
_INTEGER = "http://www.w3.org/2001/XMLSchema#integer"
_FOREIGN = {"de": "Ding Nummer", "ru": "вещь", "ja": "物", "ar": "شيء", "en-gb": "thing", "zh-hans": "东西"}


def escaped(text: str) -> str:
    """Return a literal as the dump writes it."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + "".join(c if ord(c) < 128 else f"\\u{ord(c):04X}" for c in plain) + '"'


def head(entity: str) -> Iterator[str]:
    yield f"<{_DATA}{entity}> <http://schema.org/about> <{ENTITY}{entity}> .\n"
    yield f'<{_DATA}{entity}> <http://schema.org/dateModified> "2026-01-01T00:00:00Z" .\n'
    yield f"<{ENTITY}{entity}> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <http://wikiba.se/ontology#Item> .\n"


def useless(number: int) -> str:
    """An entity of some five kilobytes that nobody asks for: its number stands for `#`."""
    lines = [*head("Q#")]
    for language, text in _FOREIGN.items():
        lines.append(f"<{ENTITY}Q#> <{LABEL}> {escaped(f'{text} #')}@{language} .\n")
        lines.append(
            f"<{ENTITY}Q#> <{_DESCRIPTION}> {escaped(f'{text}, said at length of no. # {text}')}@{language} .\n"
        )
        lines.append(f"<{ENTITY}Q#> <{ALIAS}> {escaped(f'{text} called {text}')}@{language} .\n")
    lines.append(f'<{ENTITY}Q#> <{LABEL}> "thing # of no use"@en .\n')
    for relation in range(20):
        lines.append(f'<{ENTITY}Q#> <{DIRECT}P9{relation:03}> "an identifier {relation}-#" .\n')
    lines.append(f"<{ENTITY}Q#> <{DIRECT}P31> <{ENTITY}Q5> .\n")
    lines.append(f"<{ENTITY}Q#> <{DIRECT}P1030> <{ENTITY}Q1> .\n")
    lines.append(f'<{ENTITY}Q#> <{DIRECT}P625> "Point(1.5 2.5)"^^<http://www.opengis.net/ont/geosparql#wktLiteral> .\n')
    return "".join(lines).replace("#", str(number)).replace(f"core{number}", "core#")


def useful(world: World) -> dict[str, list[str]]:
    """Entity to its lines, with traps between them."""
    facts: defaultdict[str, list[str]] = defaultdict(list)
    for subject, relation, object in world.facts:
        facts[subject].append(f"<{ENTITY}{subject}> <{DIRECT}{relation}> <{ENTITY}{object}> .\n")
    entities = {}
    for entity, label in world.labels.items():
        tags = ["mul"] if entity in world.mul else ["en", "mul"] if int(entity[1:]) % 3 == 0 else ["en"]
        lines = [*head(entity)]
        lines += [f"<{ENTITY}{entity}> <{LABEL}> {escaped(text)}@{tag} .\n" for tag, text in _FOREIGN.items()]
        # Where both are given, `mul` says something else, so that taking the wrong one shows.
        for tag in reversed(tags):
            text = label if tag == tags[0] else f"{label} everywhere"
            lines.append(f"<{ENTITY}{entity}> <{LABEL}> {escaped(text)}@{tag} .\n")
        lines += [
            f"<{ENTITY}{entity}> <{ALIAS}> {escaped(f'{label} by another name')}@{tag} .\n" for tag in ("en", "de")
        ]
        lines.append(f'<{ENTITY}{entity}> <{SITELINKS}> "{world.sitelinks.get(entity, 1)}"^^<{_INTEGER}> .\n')
        if facts[entity]:
            lines.append(f"<{ENTITY}{entity}> <{DIRECT}P103> _:genid{entity}abc .\n")
            lines.append(
                f"<{ENTITY}{entity}> <{DIRECT}P1412> <http://www.wikidata.org/.well-known/genid/{entity}0af> .\n"
            )
        entities[entity] = lines + facts[entity]
    return entities


def write_dump(path: Path, world: World, megabytes: float, fewest: int = 1) -> int:
    """Write a dump of that many megabytes, decompressed, with the world spread evenly over it; return its bytes.

    Args:
        path: `.nt`, `.nt.gz` or `.nt.bz2`.
        world: what is of use.
        megabytes: of all.
        fewest: entities of no use before every one of use, at least.
    """
    with _create(path) as file:
        return sum(file.write(text.encode()) for text in _entities(world, megabytes, fewest))


def _create(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "wb", compresslevel=1))
    if path.suffix == ".bz2":
        return cast(BinaryIO, bz2.open(path, "wb", 1))
    return path.open("wb")


def _entities(world: World, megabytes: float, fewest: int) -> Iterable[str]:
    entities = ["".join(lines) for lines in useful(world).values()]
    fillers = max(fewest, int(megabytes * 1e6 / len(useless(10_000_000)) / max(1, len(entities))))
    number = 10_000_000
    for entity in entities:
        for _ in range(fillers):
            number += 1
            yield useless(number)
        yield entity
