"""Candidates for records: complete but for a case id, in a seeded order, without those that contradict others.

Meng, Sen Sharma, Andonian, Belinkov, Bau. Mass-Editing Memory in a Transformer. ICLR 2023.
https://arxiv.org/abs/2210.07229, whose MultiCounterFact is the part of CounterFact without contradictions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from counterfact.core.seeds import derive_seed
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord, Entity, RequestedRewrite

from ..sources.knowledge import LabelledEntity
from ..sources.pararel import FactTuple
from .sampling import DrawnPrompt
from .settings import BuildSettings

Reason = Literal[
    "too few templates",
    "no generation prompts",
    "uuid of another tuple",
    "no such fact",
    "several objects",
    "too few sitelinks",
    "label of subject or object in the other",
    "too few neighborhood prompts",
    "no new object with enough prompts",
    "no unrelated sentence",
    "subject and relation of another record",
    "contradicts another record",
]
"""Reason why a tuple gave no record, in the order in which they are checked."""


class DroppedTuple(NamedTuple):
    """A tuple that gave no record."""

    fact: FactTuple
    reason: Reason

    def to_json(self) -> dict[str, str]:
        """Return the line of `dropped.jsonl`."""
        fact = self.fact
        labels = {"subject": fact.subject, "object": fact.object}
        return {"relation_id": fact.relation, "pararel_uuid": fact.uuid, **labels, "reason": self.reason}


@dataclass(frozen=True)
class Candidate:
    """A record without its case id, and the ids by which its reference texts are found."""

    fact: FactTuple
    subject_id: str
    true_id: str
    new: LabelledEntity
    prompt: str
    paraphrases: tuple[str, ...]
    edited_prompts: frozenset[str]
    """Rewriting and paraphrase prompts, without the sentences before them."""
    neighborhood: tuple[DrawnPrompt, ...]
    attribute: tuple[DrawnPrompt, ...]
    generation: tuple[str, ...]
    topped_up: bool = False
    """Whether the prompts about other subjects needed the templates of another collection."""

    def record(self, case_id: int, settings: BuildSettings) -> CounterFactRecord:
        """Return the finished record."""
        true = Entity(str=self.fact.object, id=self.true_id)
        neighborhood, attribute = [p.id for p in self.neighborhood], [p.id for p in self.attribute]
        return CounterFactRecord(
            case_id=case_id,
            pararel_idx=self.fact.line,
            requested_rewrite=RequestedRewrite(
                prompt=self.prompt,
                relation_id=self.fact.relation,
                target_new=Entity(str=self.new.label, id=self.new.id),
                target_true=true,
                subject=self.fact.subject,
            ),
            paraphrase_prompts=list(self.paraphrases),
            neighborhood_prompts=[drawn.prompt for drawn in self.neighborhood],
            attribute_prompts=[drawn.prompt for drawn in self.attribute],
            generation_prompts=list(self.generation),
            provenance={
                "pararel_uuid": self.fact.uuid,
                "subject_id": self.subject_id,
                "paraphrase_context": settings.paraphrase_context,
                **({"neighborhood_templates": "topped up"} if self.topped_up else {}),
                "neighborhood_subjects": len(set(neighborhood)),
                "neighborhood_ids": neighborhood,
                "attribute_subjects": len(set(attribute)),
                "attribute_ids": attribute,
            },
        )


def in_seeded_order(candidates: Iterable[Candidate], seed: int) -> list[Candidate]:
    """Put candidates in a seeded order, so that any prefix is a random sample."""

    def place(candidate: Candidate) -> tuple[int, str]:
        return derive_seed(seed, "order", candidate.fact.relation, candidate.fact.uuid), candidate.fact.uuid

    return sorted(candidates, key=place)


def without_conflicts(candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[DroppedTuple]]:
    """Leave out every candidate that gives a prompt another answer than a candidate before it.

    One relation has a subject once, but two relations may share a template ("{} was created in" may mean the place
    where a band was formed or its country), and then their records contradict each other.

    Args:
        candidates: all candidates, in order of preference.

    Returns:
        the candidates that are kept, and the tuples of the others.
    """
    answers: dict[str, str] = {}
    left: list[Candidate] = []
    dropped: list[DroppedTuple] = []
    for candidate in candidates:
        if any(answers.get(prompt, candidate.new.label) != candidate.new.label for prompt in candidate.edited_prompts):
            dropped.append(DroppedTuple(candidate.fact, "contradicts another record"))
            continue
        answers.update(dict.fromkeys(candidate.edited_prompts, candidate.new.label))
        left.append(candidate)
    return left, dropped
