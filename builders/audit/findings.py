"""An audit of a CounterFact data set: what a careful reader would mark in every record and every prompt.

Works on a data set from anywhere, from its texts alone; where the provenance names the subjects of neighborhood
prompts, it is not needed, since the edited facts of other records tell who holds what.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from counterfact.core.prompts import fill
from counterfact.core.records import BadRecord
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord

from .prompt_form import holds_label, malformations, normal_form
from .reading import Templates, bad_ending, cut_context, not_latin, odd_label


class Kind(NamedTuple):
    """A kind of finding, and what it means."""

    name: str
    meaning: str


UNUSABLE = "unusable record"
KINDS = (
    Kind("duplicate record", "the same fact with the same new object stands twice"),
    Kind("near-duplicate record", "subjects that differ by case, accents, punctuation or word order alone"),
    Kind("repeated prompt", "a record has the same prompt twice, generation prompts apart"),
    Kind("subject twice in a relation", "two records edit one subject in one relation"),
    Kind("subject in several relations", "fine one by one; edited together, the texts about it mix"),
    Kind("prompt holds the true object", "a prompt about the subject gives the answer away"),
    Kind("prompt holds the new object", "a prompt about the subject names the edit"),
    Kind("neighbor names its object", "a neighborhood prompt holds the answer that is expected of it"),
    Kind("attribute names its object", "an attribute prompt holds the answer that is expected of it"),
    Kind("neighbor is the subject", "a neighborhood prompt is about the edited subject, or a name that holds it"),
    Kind(
        "neighbor holds the new object", "a neighborhood prompt is also an attribute prompt, or another record's fact"
    ),
    Kind("neighbor edited elsewhere", "another record edits this neighbor; matters where many edits are made at once"),
    Kind("malformed prompt", "double spaces, a word twice, an empty slot, a space before a comma"),
    Kind("a or an", "a prompt ends in an article that one of the objects does not take"),
    Kind("subject missing", "a prompt about the subject does not name it"),
    Kind("objects hold one another", "the new object is the true one, or one name holds the other"),
    Kind("context cut", "the text before a paraphrase starts inside a sentence, or ends in none"),
    Kind("odd label", "letters of another script, notes, quotes, ids or nothing at all where a name is expected"),
    Kind("few neighbors", "one or two subjects behind three neighborhood prompts or more"),
    Kind("template reads badly", "it ends so that the object cannot follow: an article before a name, plays in"),
    Kind(UNUSABLE, "it cannot be read, and counts in nothing else"),
)
"""All kinds, in the order in which they are shown."""


FEWEST_NEIGHBORS = 3
"""Subjects behind the neighborhood prompts of a record, at least, in the released data."""
TOGETHER = frozenset({"subject in several relations", "neighbor edited elsewhere"})
"""Kinds that matter only where many records are edited at once."""


class Finding(NamedTuple):
    """One finding."""

    kind: str
    case_id: int
    text: str


@dataclass(frozen=True)
class Audit:
    """Findings of an audit."""

    records: int
    """Number of records, those that cannot be used among them."""
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Kind to the numbers of findings and of records with one."""
        found = Counter(finding.kind for finding in self.findings)
        records = Counter(kind for kind, _ in {(finding.kind, finding.case_id) for finding in self.findings})
        return {kind.name: (found[kind.name], records[kind.name]) for kind in KINDS}

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        counts = {kind: {"found": count, "records": records} for kind, (count, records) in self.counts.items()}
        return {"records": self.records, "found": counts}

    def of(self, case_id: int) -> list[Finding]:
        """Return what was found in one record, taken by itself."""
        return self._by_case.get(case_id, [])

    @cached_property
    def _by_case(self) -> dict[int, list[Finding]]:
        found: defaultdict[int, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            if finding.kind not in TOGETHER:
                found[finding.case_id].append(finding)
        return dict(found)


def audit(records: Sequence[CounterFactRecord], unusable: Sequence[BadRecord] = ()) -> Audit:
    """Audit a data set; findings are hints to a reader, and the released data have some of them too.

    Args:
        records: those that can be used.
        unusable: the others, each of which is a finding.
    """
    index = _Index(records)
    found = [finding for record in records for finding in _of_record(record, index)]
    found += [Finding(UNUSABLE, record.case_id, record.reason) for record in unusable]
    return Audit(len(records) + len(unusable), tuple(found))


class _Index:
    """Index of what all records say together."""

    def __init__(self, records: Sequence[CounterFactRecord]) -> None:
        self.edits: Counter[tuple[object, ...]] = Counter()
        self.facts: Counter[tuple[object, ...]] = Counter()
        self.relations: defaultdict[str, set[str | None]] = defaultdict(set)
        self.names: defaultdict[tuple[str | None, str], set[str]] = defaultdict(set)
        self.true: defaultdict[str, set[str]] = defaultdict(set)
        """Bare prompt about an edited subject to the true objects of the records that have it."""
        self.shapes = Templates(records)
        for record in records:
            rewrite = record.requested_rewrite
            key = (rewrite.relation_id, rewrite.subject)
            self.facts[key] += 1
            self.edits[(*key, rewrite.true_text, rewrite.target_new.text)] += 1
            self.relations[rewrite.subject].add(rewrite.relation_id)
            self.names[rewrite.relation_id, normal_form(rewrite.subject)].add(rewrite.subject)
        templates: defaultdict[str | None, set[str]] = defaultdict(set)
        for record in records:
            templates[record.requested_rewrite.relation_id].add(record.requested_rewrite.prompt)
        for record in records:
            rewrite = record.requested_rewrite
            for template in templates[rewrite.relation_id]:
                self.true[fill(template, rewrite.subject)].add(rewrite.true_text)


def _of_record(record: CounterFactRecord, index: _Index) -> Iterator[Finding]:
    for kind, text in (*_as_a_whole(record, index), *_own_prompts(record), *_other_prompts(record, index)):
        yield Finding(kind, record.case_id, text)
    for kind, text in (*_malformed(record), *_as_read(record, index)):
        yield Finding(kind, record.case_id, text)


def _as_a_whole(record: CounterFactRecord, index: _Index) -> Iterator[tuple[str, str]]:
    rewrite = record.requested_rewrite
    key = (rewrite.relation_id, rewrite.subject)
    said = f"{fill(rewrite.prompt, rewrite.subject)} {rewrite.true_text} → {rewrite.target_new.text}"
    if index.edits[(*key, rewrite.true_text, rewrite.target_new.text)] > 1:
        yield "duplicate record", said
    if index.facts[key] > index.edits[(*key, rewrite.true_text, rewrite.target_new.text)]:
        yield "subject twice in a relation", said
    if len(names := index.names[rewrite.relation_id, normal_form(rewrite.subject)]) > 1:
        yield "near-duplicate record", " · ".join(sorted(names))
    if len(relations := index.relations[rewrite.subject]) > 1:
        yield "subject in several relations", f"{rewrite.subject}: {', '.join(sorted(map(str, relations)))}"
    if holds_label(rewrite.true_text, rewrite.target_new.text) or holds_label(
        rewrite.target_new.text, rewrite.true_text
    ):
        yield "objects hold one another", said
    own = [fill(rewrite.prompt, rewrite.subject), *record.paraphrase_prompts]
    for prompts in (Counter(own + record.neighborhood_prompts), Counter(record.attribute_prompts)):
        yield from (("repeated prompt", prompt) for prompt, count in prompts.items() if count > 1)


def _own_prompts(record: CounterFactRecord) -> Iterator[tuple[str, str]]:
    rewrite = record.requested_rewrite
    rewriting = fill(rewrite.prompt, rewrite.subject)
    for prompt in dict.fromkeys([rewriting, *record.paraphrase_prompts, *record.generation_prompts]):
        if rewrite.subject.casefold() not in prompt.casefold():
            yield "subject missing", f"{prompt} [{rewrite.subject}]"
        for which, label in (("true", rewrite.true_text), ("new", rewrite.target_new.text)):
            if holds_label(label, prompt):
                yield f"prompt holds the {which} object", f"{prompt} [{label}]"


def _other_prompts(record: CounterFactRecord, index: _Index) -> Iterator[tuple[str, str]]:
    rewrite = record.requested_rewrite
    new, true = rewrite.target_new.text, rewrite.true_text
    attributes = set(record.attribute_prompts)
    for prompt in record.neighborhood_prompts:
        if holds_label(true, prompt):
            yield "neighbor names its object", f"{prompt} [{true}]"
        if holds_label(rewrite.subject, prompt):
            yield "neighbor is the subject", prompt
        edited = index.true.get(prompt, set())
        if prompt in attributes or new in edited:
            yield "neighbor holds the new object", f"{prompt} [{new}]"
        if edited:
            yield "neighbor edited elsewhere", prompt
    for prompt in record.attribute_prompts:
        if holds_label(new, prompt):
            yield "attribute names its object", f"{prompt} [{new}]"


def _as_read(record: CounterFactRecord, index: _Index) -> Iterator[tuple[str, str]]:
    """Yield what a reader marks in names, contexts and templates."""
    rewrite, shapes = record.requested_rewrite, index.shapes
    relation = rewrite.relation_id
    others = dict.fromkeys([*record.neighborhood_prompts, *record.attribute_prompts])
    names = {prompt: shapes.name_in(prompt, relation) for prompt in others}
    for label in dict.fromkeys([rewrite.subject, rewrite.true_text, rewrite.target_new.text]):
        if (why := odd_label(label)) is not None:
            yield "odd label", f"{label}: {why}"
    for prompt, name in names.items():
        why = (None if name is None else odd_label(name)) or ("letters that are not Latin" * not_latin(prompt) or None)
        if why is not None:
            yield "odd label", f"{prompt}: {why}"
    bare = list(shapes.bare(record))
    for prompt in record.paraphrase_prompts:
        if not prompt.startswith(rewrite.subject) and (why := cut_context(prompt, bare)) is not None:
            yield "context cut", f"{prompt}: {why}"
    neighbors = dict.fromkeys(record.neighborhood_prompts)
    ids = set((record.provenance or {}).get("neighborhood_ids", ()))
    subjects = ids or {names[prompt] or prompt for prompt in neighbors}
    if len(subjects) < min(FEWEST_NEIGHBORS, len(neighbors)):
        yield "few neighbors", f"{len(neighbors)} prompts about {len(subjects)}: {', '.join(list(neighbors)[:3])}"
    own = (fill(rewrite.prompt, rewrite.subject), *record.paraphrase_prompts)
    endings = {bad_ending(prompt, relation): prompt for prompt in (*own, *others)}
    yield from (("template reads badly", prompt) for end, prompt in endings.items() if end is not None)


def _malformed(record: CounterFactRecord) -> Iterator[tuple[str, str]]:
    rewrite = record.requested_rewrite
    rewriting = fill(rewrite.prompt, rewrite.subject)
    both = (rewrite.true_text, rewrite.target_new.text)
    answered = [
        *((prompt, both) for prompt in (rewriting, *record.paraphrase_prompts)),
        *((prompt, both[:1]) for prompt in record.neighborhood_prompts),
        *((prompt, both[1:]) for prompt in record.attribute_prompts),
        *((prompt, ()) for prompt in dict.fromkeys(record.generation_prompts)),
    ]
    for prompt, objects in answered:
        yield from malformations(prompt, objects)
