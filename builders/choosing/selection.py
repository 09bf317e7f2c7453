"""From a ParaRel tuple to a CounterFact record: every choice of the pipeline, apart from sources and files.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix D.
https://arxiv.org/abs/2202.05262
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Literal

from counterfact.core.prompts import fill
from counterfact.core.seeds import derive_seed

from ..sources.knowledge import Knowledge, LabelledEntity
from ..sources.pararel import FactTuple, Relation, relation_number
from ..texts.contexts import Contexts
from .candidates import Candidate, DroppedTuple, Reason
from .counts import ids_by_label
from .sampling import Draw, WeightedOrder, collides, draw_spread, draw_uniformly
from .settings import BuildSettings


def never_gives_a_record(relation: Relation, generation: Sequence[str], settings: BuildSettings) -> Reason | None:
    """Return the reason why a relation gives no record whatever its facts are, or None: then its facts are needed."""
    if len(relation.templates) < 1 + settings.paraphrase_prompts:
        return "too few templates"
    if settings.generation_prompts and not generation:
        return "no generation prompts"
    return None


def relations_to_query(
    relations: Sequence[Relation], generation: Mapping[str, Sequence[str]], settings: BuildSettings
) -> list[Relation]:
    """Return the relations that can give records, if the facts allow it; the facts of others are not queried.

    Args:
        relations: all relations of a build.
        generation: relation to its generation prompts.
        settings: options of the build.
    """
    return [one for one in relations if not never_gives_a_record(one, generation.get(one.id, ()), settings)]


class RecordSelector:
    """Selector of the candidates of one relation.

    Args:
        relation: its tuples and templates.
        knowledge: the facts.
        generation: its generation prompts; may be empty.
        contexts: sentences that may stand before paraphrase prompts.
        settings: options of the build.
        sitelinks: number of sitelinks of each subject, where the settings require some, and of each that has an
            object, where pools are in their order.
        implied: object to the objects that it is a kind or a part of.
        other_kind: subjects of another kind than the relation is about: they give no record, and are in no pool.
    """

    def __init__(
        self,
        relation: Relation,
        knowledge: Knowledge,
        generation: Sequence[str],
        contexts: Contexts,
        settings: BuildSettings,
        sitelinks: Mapping[str, int] | None = None,
        implied: Mapping[str, Collection[str]] | None = None,
        other_kind: Collection[str] = frozenset(),
    ) -> None:
        self._relation = relation
        self._knowledge = knowledge
        self._generation = generation
        self._contexts = contexts
        self._settings = settings
        self._sitelinks = sitelinks or {}
        self._other_kind = other_kind
        self._new_ids = ids_by_label(relation, knowledge)
        weights = Counter(fact.object for fact in relation.tuples)
        self._weighted_order = WeightedOrder({label: weights[label] for label in self._new_ids})
        self._held_ids = {object: {holder.id for holder in held} for object, held in knowledge.holders.items()}
        self._held_labels = {object: {holder.label for holder in held} for object, held in knowledge.holders.items()}
        self._kin = _kin(implied or {}, knowledge.holders)
        self._pools: dict[str, Sequence[LabelledEntity]] = {}

    def candidates(self) -> tuple[list[Candidate], list[DroppedTuple]]:
        """Return the candidates in file order, and the tuples that were dropped.

        No two candidates share their subject, by label or by id: the first of them in file order stays. Where
        subjects may have several objects, no two share subject and true object.
        """
        candidates: list[Candidate] = []
        dropped: list[DroppedTuple] = []
        uuids: set[str] = set()
        seen: set[tuple[str, str]] = set()
        for fact in self._relation.tuples:
            made: Candidate | Reason = "uuid of another tuple" if fact.uuid in uuids else self.candidate(fact)
            uuids.add(fact.uuid)
            if isinstance(made, Candidate):
                keep = self._settings.several_objects == "keep"
                same = {(fact.subject, fact.object * keep), (made.subject_id, made.true_id * keep)}
                made = "subject and relation of another record" if same & seen else made
            if isinstance(made, Candidate):
                seen |= same
                candidates.append(made)
            else:
                dropped.append(DroppedTuple(fact, made))
        return candidates, dropped

    def candidate(self, fact: FactTuple) -> Candidate | Reason:
        """Make one candidate, or say why there is none."""
        settings = self._settings
        if (reason := never_gives_a_record(self._relation, self._generation, settings)) is not None:
            return reason
        if not fact.named:
            return "a label names nothing"
        if (fact.subject, fact.object) not in self._knowledge.resolved:
            return "no such fact"
        subject, true = self._knowledge.resolved[fact.subject, fact.object]
        if settings.several_objects == "drop" and self._knowledge.objects[subject] != (true,):
            return "several objects"
        if self._sitelinks.get(subject, 0) < settings.fewest_sitelinks:
            return "too few sitelinks"
        if subject in self._other_kind:
            return "subject of another kind"
        if self._trivial(fact):
            return "label of subject or object in the other"
        own, spare = self._relation.templates, self._relation.spare
        made = self._with_templates(fact, true, own)
        if isinstance(made, Candidate) or not spare:
            return made
        made = self._with_templates(fact, true, own + spare)
        return replace(made, topped_up=True) if isinstance(made, Candidate) else made

    def _with_templates(self, fact: FactTuple, true: str, templates: Sequence[str]) -> Candidate | Reason:
        """Choose the new object, and prompts about other subjects from these templates."""
        held = LabelledEntity(true, fact.object)
        for new in self._new_objects(fact):
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

    def _finish(self, fact: FactTuple, new: LabelledEntity, neighborhood: Draw, attribute: Draw) -> Candidate | Reason:
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
        return Candidate(
            fact=fact,
            subject_id=subject_id,
            true_id=true_id,
            new=new,
            prompt=prompt,
            paraphrases=tuple(context + prompt for context, prompt in zip(contexts, bare, strict=True)),
            edited_prompts=frozenset([fill(prompt, fact.subject), *bare]),
            neighborhood=neighborhood,
            attribute=attribute,
            generation=tuple(fill(template, fact.subject) for template in generation),
        )

    def _new_objects(self, fact: FactTuple) -> Iterator[LabelledEntity]:
        """Yield objects that are false of the subject, in the order of a draw weighted by their tuples."""
        subject, true = self._knowledge.resolved[fact.subject, fact.object]
        all_true = {true, *self._knowledge.objects[subject]}
        excluded = all_true.union(*(self._kin.get(one, ()) for one in all_true))
        for label in self._weighted_order.order(
            derive_seed(self._settings.seed, "new object", fact.relation, fact.uuid)
        ):
            id = self._new_ids[label]
            if id not in excluded and not collides(label, fact.object) and not collides(label, fact.subject):
                yield LabelledEntity(id, label)

    def _others(
        self,
        fact: FactTuple,
        stage: Literal["neighborhood", "attribute"],
        object: LabelledEntity,
        without: str | None,
        templates: Sequence[str],
    ) -> Draw | None:
        """Draw prompts about subjects with `object` and not `without`, nor its kin; None where there are too few."""
        subject, _ = self._knowledge.resolved[fact.subject, fact.object]
        others = () if without is None else (without, *self._kin.get(without, ()))
        ids = [self._held_ids.get(other, set()) for other in others]
        labels = [self._held_labels.get(other, set()) for other in others]

        def allowed(other: LabelledEntity) -> bool:
            # A namesake of a subject with the other object would make the prompt true of both.
            known = other.id == subject or any(other.id in held for held in ids)
            known = known or any(other.label in held for held in labels)
            return not known and not collides(other.label, fact.subject) and not self._named(object.label, other.label)

        settings = self._settings
        count = getattr(settings, f"{stage}_prompts")
        draw = draw_uniformly if settings.prompts_drawn == "uniform" else draw_spread
        drawn = draw(self._pool(object.id), allowed, templates, count, self._random(fact, stage))
        if stage == "attribute":
            return None if settings.too_few_attributes == "drop" and len(drawn.prompts) < count else drawn
        subjects = len(drawn.pool) or len({prompt.id for prompt in drawn.prompts})
        enough = len(drawn.prompts) == count and (not count or subjects >= settings.fewest_neighbors)
        return drawn if enough else None

    def _pool(self, object: str) -> Sequence[LabelledEntity]:
        """Return the subjects of an object that prompts are drawn from."""
        if object not in self._pools:
            held = [one for one in self._knowledge.holders[object] if one.id not in self._other_kind]
            if self._settings.pool_order == "sitelinks":
                held = sorted(held, key=lambda one: (-self._sitelinks.get(one.id, 0), relation_number(one.id)))
            if self._settings.pool:
                named = {one.label: one for one in reversed(held)}
                held = [one for one in held if named[one.label] is one][: self._settings.pool]
            self._pools[object] = held
        return self._pools[object]

    def _random(self, fact: FactTuple, stage: str) -> Random:
        return Random(derive_seed(self._settings.seed, stage, fact.relation, fact.uuid))


def _kin(implied: Mapping[str, Collection[str]], objects: Collection[str]) -> dict[str, set[str]]:
    """Return, of the objects, each to those that it implies or that imply it."""
    kin: defaultdict[str, set[str]] = defaultdict(set)
    for object in objects:
        for other in implied.get(object, ()):
            if other in objects:
                kin[object].add(other)
                kin[other].add(object)
    return dict(kin)
