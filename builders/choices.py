"""From a ParaRel tuple to a CounterFact record: every choice of the pipeline, without a source or a file in sight.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix D.
https://arxiv.org/abs/2202.05262
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from pydantic import Field

from builders.contexts import Contexts
from builders.knowledge import Holder, Knowledge
from builders.pararel import FactTuple, Relation, relation_number
from builders.sampling import Drawn, WeightedRace, collides, draw_prompts
from core.prompts import fill
from core.records import CounterFactRecord, Entity, RequestedRewrite
from core.seeds import derive_seed
from core.settings import Settings

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
                "neighborhood_subjects": len(set(neighborhood)),
                "neighborhood_ids": neighborhood,
                "attribute_subjects": len(set(attribute)),
                "attribute_ids": attribute,
            },
        )


class Chooser:
    """Makes the drafts of one relation.

    Args:
        relation: its tuples and templates.
        knowledge: the facts.
        generation: its generation prompts; may be empty.
        contexts: what may stand before paraphrase prompts.
        settings: what a record holds.
        sitelinks: how many each subject has, where the settings ask for some.
    """

    def __init__(
        self,
        relation: Relation,
        knowledge: Knowledge,
        generation: Sequence[str],
        contexts: Contexts,
        settings: RecordSettings,
        sitelinks: Mapping[str, int] | None = None,
    ) -> None:
        self._relation = relation
        self._knowledge = knowledge
        self._generation = generation
        self._contexts = contexts
        self._settings = settings
        self._sitelinks = sitelinks or {}
        self._new_ids = _ids_by_label(relation, knowledge)
        weights = Counter(fact.object for fact in relation.tuples)
        self._race = WeightedRace({label: weights[label] for label in self._new_ids})
        self._held_ids = {object: {holder.id for holder in held} for object, held in knowledge.holders.items()}
        self._held_labels = {object: {holder.label for holder in held} for object, held in knowledge.holders.items()}

    def drafts(self) -> tuple[list[Draft], list[Dropped]]:
        """Return the drafts in file order, and the tuples that were dropped.

        No two drafts share their subject, by label or by id: the first of them in file order stays.
        """
        drafts: list[Draft] = []
        dropped: list[Dropped] = []
        uuids: set[str] = set()
        labels: set[str] = set()
        ids: set[str] = set()
        for fact in self._relation.tuples:
            made: Draft | Reason = "uuid of another tuple" if fact.uuid in uuids else self.draft(fact)
            uuids.add(fact.uuid)
            if isinstance(made, Draft) and (fact.subject in labels or made.subject_id in ids):
                made = "subject and relation of another record"
            if isinstance(made, Draft):
                labels.add(fact.subject)
                ids.add(made.subject_id)
                drafts.append(made)
            else:
                dropped.append(Dropped(fact, made))
        return drafts, dropped

    def draft(self, fact: FactTuple) -> Draft | Reason:
        """Make one draft, or say why there is none."""
        settings = self._settings
        if len(self._relation.templates) < 1 + settings.paraphrase_prompts:
            return "too few templates"
        if settings.generation_prompts and not self._generation:
            return "no generation prompts"
        if (fact.subject, fact.object) not in self._knowledge.resolved:
            return "no such fact"
        subject, true = self._knowledge.resolved[fact.subject, fact.object]
        if self._knowledge.objects[subject] != (true,):
            return "several objects"
        if self._sitelinks.get(subject, 0) < settings.fewest_sitelinks:
            return "too few sitelinks"
        if self._trivial(fact):
            return "label of subject or object in the other"
        held = Object(true, fact.object)
        for new in self._new_objects(fact, true):
            neighborhood = self._others(fact, "neighborhood", held, new.id)
            if neighborhood is None and self._others(fact, "neighborhood", held, None) is None:
                return "too few neighborhood prompts"
            attribute = self._others(fact, "attribute", new, true)
            if neighborhood is not None and attribute is not None:
                return self._finish(fact, new, neighborhood, attribute)
        return "no new object with enough prompts"

    def _trivial(self, fact: FactTuple) -> bool:
        subject, object = fact.subject.casefold(), fact.object.casefold()
        return subject in object or self._named(fact.object, fact.subject)

    def _named(self, object: str, subject: str) -> bool:
        return self._settings.objects_in_subjects == "drop" and object.casefold() in subject.casefold()

    def _finish(
        self, fact: FactTuple, new: Object, neighborhood: list[Drawn], attribute: list[Drawn]
    ) -> Draft | Reason:
        settings = self._settings
        prompt, *others = self._random(fact, "templates").sample(
            self._relation.templates, 1 + settings.paraphrase_prompts
        )
        labels = (fact.subject, fact.object, new.label)
        contexts = self._contexts.draw(settings.paraphrase_prompts, labels, self._random(fact, "contexts"))
        if contexts is None:
            return "no unrelated sentence"
        bare = [fill(template, fact.subject) for template in others]
        random = self._random(fact, "generation")
        generation = [random.choice(self._generation) for _ in range(settings.generation_prompts)]
        subject_id, true_id = self._knowledge.resolved[fact.subject, fact.object]
        return Draft(
            fact=fact,
            subject_id=subject_id,
            true_id=true_id,
            new=new,
            prompt=prompt,
            paraphrases=tuple(context + prompt for context, prompt in zip(contexts, bare, strict=True)),
            taught=frozenset([fill(prompt, fact.subject), *bare]),
            neighborhood=tuple(neighborhood),
            attribute=tuple(attribute),
            generation=tuple(fill(template, fact.subject) for template in generation),
        )

    def _new_objects(self, fact: FactTuple, true: str) -> Iterator[Object]:
        """Yield objects that are false of the subject, in the order of a draw weighted by their tuples."""
        for label in self._race.order(derive_seed(self._settings.seed, "new object", fact.relation, fact.uuid)):
            id = self._new_ids[label]
            if id != true and not collides(label, fact.object) and not collides(label, fact.subject):
                yield Object(id, label)

    def _others(
        self, fact: FactTuple, stage: Literal["neighborhood", "attribute"], object: Object, without: str | None
    ) -> list[Drawn] | None:
        """Draw prompts about subjects with `object` and not `without`; None where there are too few."""
        subject, _ = self._knowledge.resolved[fact.subject, fact.object]
        ids = self._held_ids.get(without or "", set())
        labels = self._held_labels.get(without or "", set())

        def allowed(other: Holder) -> bool:
            # A namesake of a subject with the other object would make the prompt true of both.
            known = other.id == subject or other.id in ids or other.label in labels
            return not known and not collides(other.label, fact.subject) and not self._named(object.label, other.label)

        count = getattr(self._settings, f"{stage}_prompts")
        held = self._knowledge.holders[object.id]
        return draw_prompts(held, allowed, self._relation.templates, count, self._random(fact, stage))

    def _random(self, fact: FactTuple, stage: str) -> Random:
        return Random(derive_seed(self._settings.seed, stage, fact.relation, fact.uuid))


def _ids_by_label(relation: Relation, knowledge: Knowledge) -> dict[str, str]:
    """Give every object's label one id: that of most tuples, then the lowest."""
    ids: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for fact in relation.tuples:
        if (fact.subject, fact.object) in knowledge.resolved:
            ids[fact.object][knowledge.resolved[fact.subject, fact.object][1]] += 1
    return {label: min(counted, key=lambda id: (-counted[id], relation_number(id))) for label, counted in ids.items()}
