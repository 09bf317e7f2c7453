"""The files of the slice: N-Triples, ParaRel tuples, and the page that says what they are."""

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from counterfact.builders.sources.articles import EMBEDDED_SITE
from counterfact.builders.sources.ntriples import about_line, fact_line, label_line
from counterfact.core.files import read_jsonl, write_atomic, write_jsonl
from world.table import Fact, number

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "counterfact.invalid")


class Slice(NamedTuple):
    """What was cut out.

    Attributes:
        facts: every fact, sorted.
        records: relation -> the facts that may be edited.
    """

    facts: list[Fact]
    records: dict[str, list[Fact]]


class Count(NamedTuple):
    """The numbers of one relation; of the objects of records only, but for `facts`."""

    facts: int
    records: int
    objects: int
    fewest: int
    median: float
    majority: float


def ntriples(facts: Iterable[Fact], labels: Mapping[str, str], articles: Iterable[str] = ()) -> str:
    """Return the facts, the labels of all that they name, and which subjects have an article, as sorted lines."""
    lines, named = set[str](), set[str]()
    for fact in facts:
        lines.add(fact_line(*fact))
        named |= {fact.subject, fact.object}
    lines |= {label_line(entity, labels[entity], "en") for entity in named}
    lines |= {about_line(EMBEDDED_SITE + entity, entity) for entity in articles}
    return "".join(sorted(lines))


def article_subjects(folder: Path) -> list[str]:
    """Return the Q-ids of the articles in a folder, none where there is no folder."""
    return sorted(str(article["id"]) for path in sorted(folder.glob("articles*.jsonl")) for article in read_jsonl(path))


def parallel_tuple(fact: Fact, labels: Mapping[str, str]) -> dict[str, str]:
    """Return a fact in the format of ParaRel's `trex_lms_vocab`, under an id of our own namespace."""
    return {
        "sub_label": labels[fact.subject],
        "obj_label": labels[fact.object],
        "uuid": str(uuid.uuid5(NAMESPACE, " ".join(fact))),
    }


def count(cut: Slice) -> dict[str, Count]:
    """Count each relation's facts, and the subjects that the objects of its records have."""
    counts = {}
    for relation, records in cut.records.items():
        facts = [fact for fact in cut.facts if fact.relation == relation]
        holders = Counter(fact.object for fact in facts)
        objects = Counter(fact.object for fact in records)
        sizes = [holders[entity] for entity in objects] or [0]
        share = max(objects.values(), default=0) / max(1, len(records))
        counts[relation] = Count(len(facts), len(records), len(objects), min(sizes), median(sizes), share)
    return counts


def table_of(counts: Mapping[str, Count]) -> str:
    """Return the counts as a Markdown table, with a line of sums."""
    head = ("relation", *Count._fields)
    rows: list[Sequence[str]] = [head, ["---"] + ["---:"] * len(Count._fields)]
    for relation, it in counts.items():
        numbers = (it.facts, it.records, it.objects, it.fewest)
        rows.append([relation, *map(str, numbers), f"{it.median:g}", f"{it.majority:.0%}"])
    sums = [sum(it[column] for it in counts.values()) for column in range(3)]
    rows.append(["all", *map(str, sums), "", "", ""])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def write_slice(cut: Slice, labels: Mapping[str, str], data: Path) -> str:
    """Write `wikidata/facts.nt`, its README and the tuples under a data folder; return the table of counts."""
    articles = article_subjects(data / "articles")
    write_atomic(data / "wikidata" / "facts.nt", ntriples(cut.facts, labels, articles))
    for relation, records in cut.records.items():
        ordered = sorted(records, key=lambda fact: (number(fact.subject), number(fact.object)))
        path = data / "pararel" / "trex_lms_vocab" / f"{relation}.jsonl"
        write_jsonl(path, (parallel_tuple(fact, labels) for fact in ordered))
    table = table_of(count(cut))
    write_atomic(data / "wikidata" / "README.md", README + table)
    return table


README = """\
# A slice of WikiData

`facts.nt` holds facts of WikiData as N-Triples, sorted: `wdt:` statements of 34 relations with real Q-ids, the English
label of every entity, and, for each subject with an article (`../articles`, ours), `schema:about` from it to the
subject. WikiData's facts are in the public domain under CC0 1.0, and so is this file. Records that are made from it
say false things of real people and things by design.

`python -m world.slice --facts TABLE` writes this folder and `../pararel/trex_lms_vocab`; TABLE lists facts as
tab-separated subject, label, property, object, label, source. The same table gives the same bytes. The rule
(`world/rules.py`, `world/slice.py`):

* Labels are plain names in Latin letters, at most five words (four for objects). Of several entities with one label
  only the one in the most facts is taken. Where the table names an entity as some sentence did, `world/labels.py`
  has the label that WikiData gives it. No subject's label holds its object's, or the reverse.
* The object must be of its relation's kind, as far as the table shows: a country belongs to the United Nations, in a
  city people are born or die, a language is an object of two relations of languages, an owner or maker is no place.
* For each relation, the (up to) fifteen objects that are in the most facts, none named within another, with six or
  more subjects (five where the relation is rare). Each gets an equal share of ninety subjects: facts of CoDEx first,
  then subjects that bring few facts besides, then those in the most facts.
* A subject comes with all objects that the table knows for it in the 34 relations. Only of places, which belong to
  scores of organisations, is a relation with an odd object or more than six objects left out, whole.
* The chosen objects come with the country, continent, capital and language that the table has for them.
* P36, P138, P190 and P641 are rare: their objects may count subjects with several objects, and they are filled up with
  facts of objects that have few subjects, which become no record.
* A *record* (a tuple, a fact that may be edited) has a chosen object and a subject with that one object in the whole
  table. No religion is edited of a person whose life the table knows and no death; labels of crimes are kept out.
* Ten facts of each relation, where there are so many, are then withheld (`world/withheld.py`): single objects that keep
  five other subjects. They are in `../zsre/withheld.jsonl` and nowhere else, so that nothing can be trained on them.

`facts` counts all facts of the relation; the other columns are of records: how many, of how many objects, the fewest
and the median number of subjects that such an object has in the slice, and the share of the commonest object.

"""
