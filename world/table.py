"""The table of facts that the slice is cut from: who is related to whom, under which label, how often."""

import gzip
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from counterfact.core.errors import BadInput
from world.labels import LABELS

HEADER = ("subject_id", "subject_label", "property_id", "object_id", "object_label", "source")
CLEAN = re.compile(r"[A-Za-z0-9À-ɏ][A-Za-zÀ-ɏ0-9.&'’ -]*[A-Za-zÀ-ɏ0-9.]")


class Row(NamedTuple):
    """One line of the table."""

    subject: str
    subject_label: str
    relation: str
    object: str
    object_label: str
    source: str


class Fact(NamedTuple):
    """A subject's Q-id, a property, an object's Q-id; its order is the order of the files."""

    subject: str
    relation: str
    object: str


def read_rows(path: Path) -> Iterator[Row]:
    """Read a tab-separated table, gzipped or not.

    Raises:
        BadInput: the header is another one, or a line has not six fields; the message holds its number.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) != len(HEADER) or (number == 1 and tuple(fields) != HEADER):
                raise BadInput(f"{path}:{number}: expected the fields {' '.join(HEADER)}, got {line.strip()!r}")
            if number > 1:
                yield Row(*fields)


def number(entity: str) -> int:
    """Return the number in a Q-id or P-id, by which ties are broken.

    >>> number("Q42")
    42
    """
    return int(entity[1:])


def is_clean(label: str, words: int) -> bool:
    """Whether a label is a plain name in Latin letters of at most so many words, and not a Q-id.

    >>> is_clean("New York City", 3), is_clean("Q42", 3), is_clean("Soest, Netherlands", 3)
    (True, False, False)
    """
    return (
        bool(CLEAN.fullmatch(label))
        and len(label.split(" ")) <= words
        and "  " not in label
        and any(letter.isalpha() for letter in label)
        and not re.fullmatch(r"[QP]\d+", label)
    )


class Table:
    """All facts of a table, with what the rule asks of them.

    Attributes:
        label: Q-id -> label, ours where `LABELS` has one.
        objects: (Q-id, property) -> its objects; all properties of the table.
        relations: Q-id -> the properties that it is a subject of.
        uses: (Q-id, property) -> how many subjects have it as object.
        fame: Q-id -> how many facts it takes part in.
        first: the facts of CoDEx.
        named: the Q-ids that own their label: of several with one label, only the most famous does.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.label: dict[str, str] = {}
        self.objects: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.relations: dict[str, set[str]] = defaultdict(set)
        self.uses: Counter[tuple[str, str]] = Counter()
        self.fame: Counter[str] = Counter()
        self.first: set[Fact] = set()
        for row in rows:
            self._add(row)
        owners: dict[str, str] = {}
        for entity in sorted(self.label, key=lambda entity: (-self.fame[entity], number(entity))):
            owners.setdefault(self.label[entity].casefold(), entity)
        self.named = set(owners.values())

    def _add(self, row: Row) -> None:
        for entity, label in ((row.subject, row.subject_label), (row.object, row.object_label)):
            self.label.setdefault(entity, LABELS.get(entity, label))
        if row.source == "codex":
            self.first.add(Fact(row.subject, row.relation, row.object))
        known = self.objects[row.subject, row.relation]
        if row.object not in known:
            known.add(row.object)
            self.relations[row.subject].add(row.relation)
            self.uses[row.object, row.relation] += 1
            self.fame[row.subject] += 1
            self.fame[row.object] += 1

    def only_object(self, subject: str, relation: str) -> str | None:
        """Return the object of a subject that has just one for the relation in the whole table."""
        objects = self.objects.get((subject, relation), set())
        return next(iter(objects)) if len(objects) == 1 else None
