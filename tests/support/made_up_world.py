"""A small world of our own for tests of the builders: invented people, tongues and towns, in the real file formats."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from counterfact.builders.sources.articles import EMBEDDED_SITE, LocalArticles
from counterfact.builders.sources.local_store import StoreSource
from counterfact.builders.sources.opened import Sources
from counterfact.builders.sources.queries import ABOUT, DIRECT, ENTITY, LABEL, SITELINKS, literal

Fact = tuple[str, str, str]
PATTERNS = ("[X] speaks [Y].", "[X] dreams in [Y] .", "The tongue of [X] is [Y].", "[X] sings in [Y].")
TONGUES = ("Aldic", "Borrish", "Cemmic", "Dovian", "Esk")


@dataclass
class World:
    """Facts by ids, labels, and the tuples that ParaRel would hold."""

    labels: dict[str, str]
    facts: list[Fact]
    tuples: dict[str, list[tuple[str, str, str]]]
    """Relation to (uuid, subject's label, object's label)."""
    patterns: Sequence[str] = PATTERNS
    generation: Sequence[str] = ("Late at night {} whispered in", "At the market {} haggled in")
    mul: set[str] = field(default_factory=set)
    """Entities whose label is tagged `mul`."""
    titles: dict[str, str] = field(default_factory=dict)
    """Titles of articles, where they are not the labels."""
    sitelinks: dict[str, int] = field(default_factory=dict)
    tag: str = "en"
    """Language of the other labels."""

    def triples(self) -> Iterable[str]:
        for entity, label in self.labels.items():
            tag = "mul" if entity in self.mul else self.tag
            yield f"<{ENTITY}{entity}> <{LABEL}> {literal(label)}@{tag} ."
        for subject, relation, object in self.facts:
            yield f"<{ENTITY}{subject}> <{DIRECT}{relation}> <{ENTITY}{object}> ."
        for entity, count in self.sitelinks.items():
            yield f'<{ENTITY}{entity}> <{SITELINKS}> "{count}"^^<http://www.w3.org/2001/XMLSchema#integer> .'
        for subject in sorted({fact[0] for fact in self.facts}):
            yield f"<{EMBEDDED_SITE}{subject}> <{ABOUT}> <{ENTITY}{subject}> ."

    def write(self, folder: Path) -> Sources:
        """Write all files and open them."""
        for relation, tuples in self.tuples.items():
            lines = [{"sub_label": s, "obj_label": o, "uuid": uuid} for uuid, s, o in tuples]
            _write(folder / f"pararel/trex_lms_vocab/{relation}.jsonl", map(json.dumps, lines))
            patterns = [json.dumps({"pattern": pattern}) for pattern in self.patterns]
            _write(folder / f"pararel/pattern_data/graphs_json/{relation}.jsonl", patterns)
            _write(folder / f"generation/{relation}.txt", self.generation)
        _write(folder / "wikidata/facts.nt", self.triples())
        articles = [
            {
                "id": id,
                "title": self.titles.get(id, self.labels[id]),
                "text": f"Nobody counted the {n} grey geese. A heron called {n} times.",
            }
            for n, id in enumerate(sorted({fact[0] for fact in self.facts if fact[0] in self.labels}))
        ]
        _write(folder / "articles/articles.jsonl", map(json.dumps, articles))
        return Sources(
            pararel=folder / "pararel",
            facts=StoreSource.open(folder / "wikidata"),
            generation=folder / "generation",
            articles=LocalArticles.open(folder / "articles"),
        )


def small_world(relations: Sequence[str] = ("P103", "P1412"), people: int = 40) -> World:
    """Every person has one tongue a relation, but for every seventh, who has two."""
    labels = {f"Q{i + 1}": tongue for i, tongue in enumerate(TONGUES)}
    facts: list[Fact] = []
    tuples: dict[str, list[tuple[str, str, str]]] = {}
    for r, relation in enumerate(relations):
        tuples[relation] = []
        for person in range(people):
            id, label = f"Q{100 * (r + 1) + person}", f"{_name(person)} {_name(7 * person + r + 1)}"
            labels[id] = label
            tongue = person * (r + 3) % len(TONGUES)
            facts.append((id, relation, f"Q{tongue + 1}"))
            if person % 7 == 6:
                facts.append((id, relation, f"Q{(tongue + 1) % len(TONGUES) + 1}"))
            tuples[relation].append((f"{relation}-{person}", label, TONGUES[tongue]))
    return World(labels, facts, tuples)


def crowded(world: World, people: int) -> World:
    """A world in which very many others, of no tuple, have one object, and some of them another one too."""
    for n in range(people):
        world.labels[f"Q{5000 + n}"] = f"Vir {n}"
        world.facts.append((f"Q{5000 + n}", "P103", "Q1"))
        if n % 10 == 0 and n < 5_000:
            world.facts.append((f"Q{5000 + n}", "P103", "Q2"))
    return world


def _name(number: int) -> str:
    first, second = divmod(number % 210, 14)
    return (
        "BDFGHJKLMNPRTVZ"[first]
        + "aeiou"[second % 5]
        + "lmnrstvz"[number % 8]
        + "oaiu"[second % 4]
        + "r" * (second > 6)
    )


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
