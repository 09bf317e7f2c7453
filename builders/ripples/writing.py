"""The lines of `ripples.jsonl`: for each record its edit in KnowEdit's form, with questions around it by criterion."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from counterfact.core.seeds import derive_seed
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord

from ..sources.sparql import SparqlSource
from .criteria import FOLLOWS, STAYS, Criterion, Ripple, RippleEdit, World, answer_names, as_json, unfit
from .facts import FactsAround
from .relations import Relations


class Ripples(NamedTuple):
    """What was made of records."""

    lines: list[dict[str, Any]]
    """One for each record whose subject and objects have ids."""
    counts: dict[str, Any]
    """By criterion: prompts, records with one, and what was left out, by reason."""


def ripples_of(
    records: Sequence[CounterFactRecord],
    source: SparqlSource,
    relations: Relations,
    *,
    language: str = "en",
    most: int = 5,
    seed: int = 0,
) -> Ripples:
    """Derive ripples of records from the facts that they were built from.

    Args:
        records: with ids in `provenance`, as `counterfact build` writes them.
        source: the facts.
        relations: relations in words of the language.
        language: of names.
        most: questions of one criterion in a record, at most; of more they are drawn.
        seed: of these draws.

    Raises:
        SourceError: the source could not answer.
    """
    edits = [(record, edit) for record in records if (edit := edit_of(record)) is not None]
    world = World(_facts_around([edit for _, edit in edits], source, relations, language), relations)
    writer = _Writer(world, most, seed)
    lines = [writer.line(record, edit) for record, edit in edits]
    return Ripples(lines, {"records": len(lines), **world.facts.counts, **writer.counts()})


def edit_of(record: CounterFactRecord) -> RippleEdit | None:
    """Return the edit of a record, or None where an id is missing."""
    rewrite, provenance = record.requested_rewrite, record.provenance or {}
    subject, true = provenance.get("subject_id"), rewrite.target_true
    if subject is None or true is None or true.id is None or rewrite.target_new.id is None or not rewrite.relation_id:
        return None
    return RippleEdit(
        subject=subject,
        relation=rewrite.relation_id,
        true=true.id,
        new=rewrite.target_new.id,
        prompt=rewrite.prompt,
        name=rewrite.subject,
        neighborhood=tuple(zip(provenance.get("neighborhood_ids", ()), record.neighborhood_prompts, strict=False)),
        attribute=tuple(zip(provenance.get("attribute_ids", ()), record.attribute_prompts, strict=False)),
    )


def _facts_around(
    edits: Sequence[RippleEdit], source: SparqlSource, relations: Relations, language: str
) -> FactsAround:
    facts = FactsAround(source, list(relations.words), language)
    subjects = {edit.subject for edit in edits}
    ends = subjects | {end for edit in edits for end in (edit.true, edit.new)}
    facts.learn_objects(ends)
    facts.learn_leading_to(subjects | {edit.new for edit in edits if relations.inverse(edit.relation) is not None})
    before = {other for end in ends for other, _ in facts.leading_to(end)}
    facts.learn_objects(before - ends)
    named = ends | before
    named |= {object for end in ends | before for objects in facts.about(end).values() for object in objects}
    facts.learn_names(named)
    return facts


class _Writer:
    def __init__(self, world: World, most: int, seed: int) -> None:
        self._world = world
        self._most = most
        self._seed = seed
        self._made: Counter[str] = Counter()
        self._records: Counter[str] = Counter()
        self._left_out: dict[str, Counter[str]] = {criterion: Counter() for criterion in (*FOLLOWS, *STAYS)}

    def line(self, record: CounterFactRecord, edit: RippleEdit) -> dict[str, Any]:
        """Return the line of one record."""
        rewrite = record.requested_rewrite
        found = {
            part: {name: asked for name, criterion in criteria.items() if (asked := self._asked(name, criterion, edit))}
            for part, criteria in (("portability", FOLLOWS), ("locality", STAYS))
        }
        return {
            "case_id": record.case_id,
            "subject": rewrite.subject,
            "prompt": record.request.filled,
            "target_new": rewrite.target_new.text,
            "ground_truth": self._names([edit.true]) or [rewrite.true_text],
            "rephrase": list(record.paraphrase_prompts),
            "ripples_of": [edit.subject, edit.relation, edit.true, edit.new],
            **found,
        }

    def counts(self) -> dict[str, Any]:
        """Return what was made and left out, by criterion."""
        return {
            criterion: {
                "prompts": self._made[criterion],
                "records": self._records[criterion],
                "left_out": dict(sorted(reasons.items())),
            }
            for criterion, reasons in self._left_out.items()
        }

    def _asked(self, name: str, criterion: Criterion, edit: RippleEdit) -> list[dict[str, Any]]:
        if edit.relation not in self._world.relations.words:
            return []
        fit = list(self._fit(name, criterion(edit, self._world)))
        random = Random(derive_seed(self._seed, "ripples", name, edit.subject, edit.relation))
        chosen = sorted(random.sample(range(len(fit)), min(self._most, len(fit))))
        self._made[name] += len(chosen)
        self._records[name] += bool(chosen)
        if more := len(fit) - len(chosen):
            self._left_out[name]["more than wanted"] += more
        return [as_json(fit[place], self._names) for place in chosen]

    def _fit(self, name: str, found: Iterable[Ripple]) -> Iterator[Ripple]:
        for ripple in found:
            reason = unfit(ripple.prompt, self._names(ripple.answers), self._names(ripple.before))
            if reason is None and not all(self._names(step.answers) for step in ripple.needs):
                reason = "answer without a name"
            if reason is None:
                yield ripple
            else:
                self._left_out[name][reason] += 1

    def _names(self, entities: Sequence[str]) -> list[str]:
        return [name for entity in entities for name in answer_names(self._world.facts.names(entity))]
