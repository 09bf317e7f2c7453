"""How much of another CounterFact a build recovers, relation by relation, and why it lacks the rest.

A fact is a relation with the labels of subject and true object, cleaned as sources are. Flat forms name no relation:
a record belongs to the one whose tuples have its subject and object, or whose templates have its prompt, as far as the
build tells which those are.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json, read_json, read_jsonl, write_json
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.statistics.intervals import Estimate, mean_interval

from ..build_folder import BUILD_FILE
from ..sources.labels import clean_label
from ..sources.pararel import relation_number
from .loading import CounterFactData, load_counterfact

RECOVERY_FILE = "recovery.json"
WHOLE = 0.5
"""Facts that a data set must have for each of a build's, for the share of the build's that it has to mean something."""

Triple = tuple[str | None, str, str]
"""Relation, and the labels of subject and true object."""


class RelationRecovery(NamedTuple):
    """What a build recovers of one relation, or of all."""

    relation: str | None
    """None where it is not known."""
    built: int
    """Number of the build's facts."""
    official: int
    """Number of the other's facts."""
    recovered: int
    """Number of facts in both."""
    missing: Counter[str]
    """Reason to the number of the other's facts that the build lacks."""
    whole: bool
    """Whether the other is large enough for its share of the build to mean something."""

    @property
    def recovery(self) -> Estimate:
        """Share of the other's facts that the build has, with an interval for a sample of facts."""
        return _share(self.recovered, self.official)

    @property
    def precision(self) -> Estimate:
        """Share of the build's facts that the other has; None where the other is only a small part."""
        return _share(self.recovered, self.built if self.whole else 0)


class MissingFact(NamedTuple):
    """A fact of the other data set that the build lacks."""

    relation: str | None
    """None where it is not known."""
    subject: str
    object: str
    """The true one."""
    case_ids: tuple[int, ...]
    """Of the other's records about it."""
    reason: str


@dataclass(frozen=True)
class Recovery:
    """What a build recovers of another data set."""

    build: str
    """Label of the build."""
    other: str
    """Label of the other."""
    relations: tuple[RelationRecovery, ...]
    total: RelationRecovery
    missing: tuple[MissingFact, ...]
    """All that the build lacks, in the other's order."""
    assigned: int
    """Number of the other's records whose relation was found by template or tuple."""
    unusable: int
    """Number of the other's records that cannot be read, which count in no share."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "build": self.build,
            "other": self.other,
            "records_assigned": self.assigned,
            "records_not_usable": self.unusable,
            "total": _row_json(self.total),
            "relations": [_row_json(row) for row in self.relations],
            "missing_facts": [fact._asdict() for fact in self.missing],
        }


def measure_recovery(build: str, other: str) -> Recovery:
    """Read a build and another data set, and say what the one recovers of the other.

    Args:
        build: a data set, as `contracts.datasets.load_dataset` takes it; reasons are known where it is a folder with
            `dropped.jsonl`.
        other: another, of any form that becomes CounterFact records, a flat one too.

    Raises:
        BadInput: there is no such data set, or it holds no CounterFact records.
    """
    return recovery_of(Path(build), load_counterfact(build), load_counterfact(other))


def recovery_of(folder: Path, ours: CounterFactData, theirs: CounterFactData) -> Recovery:
    """Say what a build recovers of another data set; both are read already (see `measure_recovery`)."""
    dropped = _dropped(folder)
    built = dict.fromkeys(map(triple, ours.records))
    relation_of = _Relations([*built, *dropped], folder, ours.records)
    wanted: defaultdict[Triple, list[int]] = defaultdict(list)
    assigned = 0
    for record in theirs.records:
        relation, subject, object = triple(record)
        if relation is None and (relation := relation_of(record)) is not None:
            assigned += 1
        wanted[relation, subject, object].append(record.case_id)
    with_tuples = {relation for relation, _, _ in [*built, *dropped]}

    def reason(fact: Triple) -> str:
        unknown = "no such tuple" if fact[0] in with_tuples else "no tuples of the relation"
        return dropped.get(fact, unknown if fact[0] else "no such tuple")

    missing = {fact: MissingFact(*fact, tuple(ids), reason(fact)) for fact, ids in wanted.items() if fact not in built}
    counted: defaultdict[str | None, list[Triple]] = defaultdict(list)
    for fact in wanted:
        counted[fact[0]].append(fact)
    sizes = Counter(relation for relation, _, _ in built)
    whole = len(wanted) >= WHOLE * len(built)
    rows = [
        _row(relation, sizes[relation], counted[relation], missing, whole=whole)
        for relation in sorted(
            {*counted, *(sizes if whole else ())}, key=lambda name: (name is None, relation_number(name) if name else 0)
        )
    ]
    total = _row(None, len(built), list(wanted), missing, whole=whole)
    return Recovery(ours.label, theirs.label, tuple(rows), total, tuple(missing.values()), assigned, len(theirs.bad))


def write_recovery(folder: Path, found: Recovery) -> None:
    """Keep what was measured beside a build, bound to its records, so that its card can say it.

    Raises:
        BadInput: no build wrote the folder.
    """
    if not (folder / BUILD_FILE).is_file():
        raise BadInput(f"{folder} is no folder that a build wrote; what it recovers cannot be kept there")
    write_json(folder / RECOVERY_FILE, {"content_hash": _content_hash(folder), **found.to_json()})


def read_recovery(folder: Path) -> dict[str, Any] | None:
    """Return what was measured of the records that are there now, as `Recovery.to_json` has it, or None."""
    if not (folder / RECOVERY_FILE).is_file():
        return None
    found: dict[str, Any] = read_json(folder / RECOVERY_FILE)
    return found if found.pop("content_hash", None) == _content_hash(folder) else None


def triple(record: CounterFactRecord) -> Triple:
    """Return the true fact that a record edits, its labels cleaned."""
    rewrite = record.requested_rewrite
    return rewrite.relation_id, _name(rewrite.subject), _name(rewrite.true_text)


class _Relations:
    """Finder of the relation of a record that names none."""

    def __init__(self, facts: Iterable[Triple], folder: Path, records: Sequence[CounterFactRecord]) -> None:
        self._by_tuple: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._by_template: defaultdict[str, set[str]] = defaultdict(set)
        for relation, subject, object in facts:
            if relation is not None:
                self._by_tuple[subject, object].add(relation)
        for relation, template in _templates(folder, records):
            self._by_template[template].add(relation)

    def __call__(self, record: CounterFactRecord) -> str | None:
        """Return the one relation that tuple and template agree on, or that one of them leaves, or None."""
        _, subject, object = triple(record)
        by_tuple = self._by_tuple.get((subject, object), set())
        by_template = self._by_template.get(" ".join(record.requested_rewrite.prompt.split()), set())
        for candidates in (by_tuple & by_template, by_tuple, by_template):
            if len(candidates) == 1:
                return next(iter(candidates))
        return None


def _templates(folder: Path, records: Sequence[CounterFactRecord]) -> Iterator[tuple[str, str]]:
    """Yield relation and template: those of records, and those that a build cut from its patterns."""
    for record in records:
        if (relation := record.requested_rewrite.relation_id) is not None:
            yield relation, record.requested_rewrite.prompt
    if (folder / BUILD_FILE).is_file():
        for relation, counts in (read_json(folder / BUILD_FILE).get("relations") or {}).items():
            for decision in counts.get("decisions", ()):
                # What stands before the object of a pattern is a template of others too, even one that reads badly.
                before = decision["pattern"].partition("[Y]")[0]
                if before.count("[X]") == 1:
                    yield relation, " ".join(before.replace("[X]", "{}").split())


def _dropped(folder: Path) -> dict[Triple, str]:
    path = folder / "dropped.jsonl"
    if not path.is_file():
        return {}
    found: dict[Triple, str] = {}
    for line in read_jsonl(path):
        if "subject" in line:
            found.setdefault((line["relation_id"], _name(line["subject"]), _name(line["object"])), line["reason"])
    return found


def _row(
    relation: str | None,
    built: int,
    official: Sequence[Triple],
    missing: Mapping[Triple, MissingFact],
    *,
    whole: bool,
) -> RelationRecovery:
    reasons = Counter(missing[fact].reason for fact in official if fact in missing)
    return RelationRecovery(relation, built, len(official), len(official) - reasons.total(), reasons, whole)


def _share(count: int, of: int) -> Estimate:
    return mean_interval([1.0] * count + [0.0] * (of - count) if of else [], "wilson", (0.0, 1.0))


def _row_json(row: RelationRecovery) -> dict[str, Any]:
    return {
        "relation": row.relation,
        "built": row.built,
        "official": row.official,
        "recovered": row.recovered,
        "recovery": _estimate_json(row.recovery),
        "precision": _estimate_json(row.precision),
        "missing": dict(row.missing.most_common()),
    }


def _estimate_json(found: Estimate) -> list[float] | None:
    parts = (found.value, found.low, found.high)
    return None if found.value is None else [round(part, 4) for part in parts if part is not None]


def _name(label: str) -> str:
    return clean_label(label) or label


def _content_hash(folder: Path) -> str:
    return hash_json(list(read_jsonl(folder / "records.jsonl")))
