"""Candidates for records: complete but for a case id, in a seeded order."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from counterfact.core.seeds import derive_seed
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord, Entity, RequestedRewrite

from ..fact_ids import fact_id
from ..sources.knowledge import LabelledEntity
from ..sources.pararel import FactTuple
from .conflicts import Claim
from .sampling import Draw
from .settings import BuildSettings

Reason = Literal[
    "too few templates",
    "no generation prompts",
    "uuid of another tuple",
    "a label names nothing",
    "no such fact",
    "several objects",
    "too few sitelinks",
    "subject of another kind",
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
    neighborhood: Draw
    attribute: Draw
    generation: tuple[str, ...]
    topped_up: bool = False
    """Whether the prompts about other subjects needed the templates of another collection."""

    @property
    def claim(self) -> Claim:
        """What its record asks for."""
        return Claim(self.fact.subject, self.fact.relation, self.edited_prompts, self.new.label)

    def record(self, case_id: int, settings: BuildSettings) -> CounterFactRecord:
        """Return the finished record."""
        true = Entity(str=self.fact.object, id=self.true_id)
        neighborhood, attribute = (
            [prompt.id for prompt in draw.prompts] for draw in (self.neighborhood, self.attribute)
        )
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
            neighborhood_prompts=[drawn.prompt for drawn in self.neighborhood.prompts],
            attribute_prompts=[drawn.prompt for drawn in self.attribute.prompts],
            generation_prompts=list(self.generation),
            provenance={
                "pararel_uuid": self.fact.uuid,
                "fact_id": fact_id(self.subject_id, self.fact.relation, self.true_id),
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
