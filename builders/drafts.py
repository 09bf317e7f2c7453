"""A record in the making: what it may hold, the draft of one, and a tuple that gave none with the reason."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import Field

from counterfact.core.prompts import fill
from counterfact.core.settings import Settings
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord, Entity, RequestedRewrite

from .pararel import FactTuple
from .sampling import Drawn

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
"""Why a tuple gave no record, in the order in which it is looked at."""


class RecordSettings(Settings):
    """What a record holds."""

    seed: int = 0
    """Every choice derives from it and from what is chosen for."""
    paraphrase_prompts: int = Field(default=2, ge=0)
    """Paraphrase prompts a record."""
    neighborhood_prompts: int = Field(default=10, ge=0)
    """Prompts about other subjects with the true object, a record."""
    attribute_prompts: int = Field(default=10, ge=0)
    """Prompts about subjects that have the new object, a record."""
    generation_prompts: int = Field(default=10, ge=0)
    """Generation prompts a record, drawn with replacement."""
    objects_in_subjects: Literal["keep", "drop"] = "keep"
    """Whether a subject, or a neighbor, may name its object, as in the released data ("Porsche 911", by Porsche)."""
    paraphrase_context: Literal["articles", "texts", "none"] = "articles"
    """What stands before a paraphrase prompt: a random unrelated sentence of the articles or of texts, or nothing."""
    neighborhood_context: Literal["none", "edited fact"] = "none"
    """What stands before a neighborhood prompt: nothing, or the edited fact, as in CounterFact+ (arXiv 2305.17553)."""
    fewest_sitelinks: int = Field(default=0, ge=0)
    """Sitelinks that the subject of a record has at least, WikiData's own measure of how well known it is."""
    non_conflicting: bool = False
    """Whether no two records may ask for different answers to one prompt, so that all can be edited at once."""


class Object(NamedTuple):
    """An object, true or false of the subject."""

    id: str
    label: str


class Dropped(NamedTuple):
    """A tuple that gave no record."""

    fact: FactTuple
    reason: Reason

    def to_json(self) -> dict[str, str]:
        """Return the line of `dropped.jsonl`."""
        fact = self.fact
        labels = {"subject": fact.subject, "object": fact.object}
        return {"relation_id": fact.relation, "pararel_uuid": fact.uuid, **labels, "reason": self.reason}


@dataclass(frozen=True)
class Draft:
    """A record without its case id, and the ids the reference texts are found by."""

    fact: FactTuple
    subject_id: str
    true_id: str
    new: Object
    prompt: str
    paraphrases: tuple[str, ...]
    taught: frozenset[str]
    """Rewriting and paraphrase prompts, without what stands before them."""
    neighborhood: tuple[Drawn, ...]
    attribute: tuple[Drawn, ...]
    generation: tuple[str, ...]
    topped_up: bool = False
    """Whether the prompts about other subjects needed templates from elsewhere."""

    def record(self, case_id: int, settings: RecordSettings) -> CounterFactRecord:
        """Return the finished record."""
        true = Entity(str=self.fact.object, id=self.true_id)
        neighborhood, attribute = [p.id for p in self.neighborhood], [p.id for p in self.attribute]
        told = settings.neighborhood_context == "edited fact"
        before = f"{fill(self.prompt, self.fact.subject)} {self.new.label}. " if told else ""
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
            neighborhood_prompts=[before + drawn.prompt for drawn in self.neighborhood],
            attribute_prompts=[drawn.prompt for drawn in self.attribute],
            generation_prompts=list(self.generation),
            provenance={
                "pararel_uuid": self.fact.uuid,
                "subject_id": self.subject_id,
                "paraphrase_context": settings.paraphrase_context,
                **({"neighborhood_context": settings.neighborhood_context} if told else {}),
                **({"neighborhood_templates": "topped up"} if self.topped_up else {}),
                "neighborhood_subjects": len(set(neighborhood)),
                "neighborhood_ids": neighborhood,
                "attribute_subjects": len(set(attribute)),
                "attribute_ids": attribute,
            },
        )
