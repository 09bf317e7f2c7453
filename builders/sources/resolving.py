"""Which entities the labels of tuples mean: by their labels, by other forms and names of them, by ids, by vote."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from . import queries
from .labels import clean_label
from .pararel import FactTuple, relation_number
from .queries import entity_id
from .relation_queries import ENTITIES_A_QUERY, RelationQueries, by_number

_Found = defaultdict[tuple[str, str], set[tuple[str, str]]]
"""Labels of subject and object to the ids that they may mean."""

PAIRS_A_QUERY = 200


class _Search(NamedTuple):
    """One way to look for the entities that a pair of labels means."""

    name: str
    """What is counted; empty for the labels as they are."""
    forms: Callable[[str], Iterable[str]]
    tags: tuple[str, ...]
    """Languages of the labels that are looked for."""
    by_own_label: bool = True
    """Whether an entity is found only by the label that it is called by."""
    redirected: bool = False
    aliases: bool = False


def _searches(language: str) -> Iterator[_Search]:
    """Yield the searches in their order; each is made for the pairs that those before it did not find."""
    tags = (language, "mul")
    yield _Search("", lambda label: [label], tags)
    yield _Search("another Unicode form", lambda label: [unicodedata.normalize("NFD", label)], tags)
    yield _Search("another letter case", lambda label: [label, label[:1].swapcase() + label[1:]], tags)
    if language == "en":
        yield _Search("labels in en-gb or en-ca", lambda label: [label], ("en-gb", "en-ca", "en"), by_own_label=False)
    yield _Search("an object that was merged", lambda label: [label], tags, redirected=True)
    yield _Search("another name", lambda label: [label], tags, aliases=True)


class Resolver:
    """Finds the entities that the labels of a relation's tuples mean.

    Attributes:
        other_names: pairs of labels by which not both of the entities are called.
    """

    def __init__(self, asked: RelationQueries) -> None:
        self._asked = asked
        self.other_names: set[tuple[str, str]] = set()

    def resolve(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Return the ids that each pair of labels means, and count by which search it was found."""
        found: _Found = defaultdict(set)
        wanted = {(fact.subject, fact.object): fact.written for fact in self._asked.relation.tuples if fact.named}
        asked: defaultdict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        if with_ids := [fact for fact in self._asked.relation.tuples if fact.named and fact.ids is not None]:
            self._find_by_ids(with_ids, found)
        for search in _searches(self._asked.language):
            pairs: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
            for key in (key for key in wanted if key not in found):
                for form in _forms(search, key, wanted[key]):
                    if not search.by_own_label or search.redirected or search.aliases or form not in asked[key]:
                        asked[key].add(form)
                        pairs[form].append(key)
            before = len(found)
            for row in self._pairs(search, list(pairs)):
                ids = entity_id(row["subject"]), entity_id(row["object"])
                for key in pairs.get((row["subjectLabel"], row["objectLabel"]), ()):
                    found[key].add(ids)
            if search.name:
                self._asked.counts[f"found by {search.name}"] = len(found) - before
            if search.aliases:
                self.other_names.update(list(found)[before:])
        self._find_by_vote(wanted, found)
        self._asked.counts["ambiguous"] = sum(len(ids) > 1 for ids in found.values())
        return {labels: min(ids, key=lambda pair: tuple(map(relation_number, pair))) for labels, ids in found.items()}

    def _find_by_ids(self, facts: Sequence[FactTuple], found: _Found) -> None:
        """Find what a table of ids says, where the source has that fact."""
        known = self._asked.objects(by_number({fact.ids[0] for fact in facts if fact.ids}))
        for fact in facts:
            if fact.ids and fact.ids[1] in known[fact.ids[0]]:
                found[fact.subject, fact.object].add(fact.ids)
        self._asked.counts["found by their ids"] = len(found)

    def _find_by_vote(self, wanted: Iterable[tuple[str, str]], found: _Found) -> None:
        """Find objects that the source calls otherwise than ParaRel: Antarctica, which one table calls Antarctic.

        An object's label that leads to no entity at all means the one that most of the subjects of its tuples have
        instead, of those whose label holds it or is held by it.
        """
        known = {object for _, object in found}
        voters: defaultdict[str, list[str]] = defaultdict(list)
        for subject, object in wanted:
            if object not in known:
                voters[object].append(subject)
        names = sorted({subject for subjects in voters.values() for subject in subjects})
        query = partial(queries.objects_of_named, language=self._asked.language)
        held: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for row in self._asked.rows(names, ENTITIES_A_QUERY, query):
            ids = entity_id(row["subject"]), entity_id(row["object"])
            held[row["subjectLabel"]].append((*ids, clean_label(row["own"]) or ""))
        before = len(found)
        for label, subjects in sorted(voters.items()):
            present = [subject for subject in subjects if subject in held]
            alike = {subject: {one for one in held[subject] if _alike(label, one[2])} for subject in present}
            votes = Counter(object for ones in alike.values() for object in {one[1] for one in ones})
            elected, most = max(votes.items(), key=lambda pair: (pair[1], -relation_number(pair[0])), default=("", 0))
            if most > 1 and 2 * most > len(present):
                for subject, ones in alike.items():
                    found[subject, label].update(one[:2] for one in ones if one[1] == elected)
                    if not found[subject, label]:
                        del found[subject, label]
        self._asked.counts["found by a majority of subjects"] = len(found) - before
        self.other_names.update(list(found)[before:])

    def _pairs(self, search: _Search, pairs: Sequence[tuple[str, str]]) -> Iterator[dict[str, str]]:
        query = partial(
            queries.resolve,
            language=self._asked.language,
            tags=search.tags,
            redirected=search.redirected,
            aliases=search.aliases,
        )
        for row in self._asked.rows(pairs, PAIRS_A_QUERY, query):
            # An entity is called by its `mul` label only where it has none in the language.
            own = all(
                row.get(f"{one}By") == queries.ALIAS or row.get(f"{one}Own", row[f"{one}Label"]) == row[f"{one}Label"]
                for one in ("subject", "object")
            )
            if own or not search.by_own_label:
                yield row


def _forms(search: _Search, cleaned: tuple[str, str], written: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the forms of a pair of labels, the cleaned ones first, then those of the file."""
    pairs = ((s, o) for s, o in dict.fromkeys((cleaned, written)))
    yield from dict.fromkeys((a, b) for s, o in pairs for a in search.forms(s) for b in search.forms(o))


def _alike(first: str, second: str) -> bool:
    a, b = first.casefold(), second.casefold()
    return bool(b) and (a in b or b in a)
