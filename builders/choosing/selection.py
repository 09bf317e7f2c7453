"""From a ParaRel tuple to a CounterFact record: every choice of the pipeline, without a source or a file in sight.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix D.
https://arxiv.org/abs/2202.05262
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Literal

from counterfact.core.prompts import fill
from counterfact.core.seeds import derive_seed

from ..sources.knowledge import Holder, Knowledge
from ..sources.pararel import FactTuple, Relation, relation_number
from ..texts.contexts import Contexts
from .candidates import Draft, Dropped, Object, Reason, RecordSettings
from .sampling import Drawn, WeightedRace, collides, draw_prompts


def never_gives_a_record(relation: Relation, generation: Sequence[str], settings: RecordSettings) -> Reason | None:
    """Return the reason why a relation gives no record whatever its facts are, or None: then its facts are needed."""
    if len(relation.templates) < 1 + settings.paraphrase_prompts:
        return "too few templates"
    if settings.generation_prompts and not generation:
        return "no generation prompts"
    return None


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
        if (reason := never_gives_a_record(self._relation, self._generation, settings)) is not None:
            return reason
        if (fact.subject, fact.object) not in self._knowledge.resolved:
            return "no such fact"
        subject, true = self._knowledge.resolved[fact.subject, fact.object]
        if self._knowledge.objects[subject] != (true,):
            return "several objects"
        if self._sitelinks.get(subject, 0) < settings.fewest_sitelinks:
            return "too few sitelinks"
        if self._trivial(fact):
            return "label of subject or object in the other"
        own, spare = self._relation.templates, self._relation.spare
        made = self._with_others(fact, true, own)
        if isinstance(made, Draft) or not spare:
            return made
        made = self._with_others(fact, true, own + spare)
        return replace(made, topped_up=True) if isinstance(made, Draft) else made

    def _with_others(self, fact: FactTuple, true: str, templates: Sequence[str]) -> Draft | Reason:
        """Choose the new object, and ask about other subjects with these templates."""
        held = Object(true, fact.object)
        for new in self._new_objects(fact, true):
            neighborhood = self._others(fact, "neighborhood", held, new.id, templates)
            if neighborhood is None and self._others(fact, "neighborhood", held, None, templates) is None:
                return "too few neighborhood prompts"
            attribute = self._others(fact, "attribute", new, true, templates)
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
        self,
        fact: FactTuple,
        stage: Literal["neighborhood", "attribute"],
        object: Object,
        without: str | None,
        templates: Sequence[str],
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
        return draw_prompts(held, allowed, templates, count, self._random(fact, stage))

    def _random(self, fact: FactTuple, stage: str) -> Random:
        return Random(derive_seed(self._settings.seed, stage, fact.relation, fact.uuid))


def _ids_by_label(relation: Relation, knowledge: Knowledge) -> dict[str, str]:
    """Give every object's label one id: that of most tuples, then the lowest."""
    ids: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for fact in relation.tuples:
        if (fact.subject, fact.object) in knowledge.resolved:
            ids[fact.object][knowledge.resolved[fact.subject, fact.object][1]] += 1
    return {label: min(counted, key=lambda id: (-counted[id], relation_number(id))) for label, counted in ids.items()}
