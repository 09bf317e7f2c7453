"""What must follow from an edit and what must stay, by the criteria of RippleEdits, from facts alone.

Cohen, Biran, Yoran, Globerson, Geva. Evaluating the Ripple Effects of Knowledge Editing in Language Models. TACL 2024.
https://arxiv.org/abs/2307.12976. An edit makes (s, r, o_c) into (s, r, o*). Follows: what other relations say of the
same fact (logical generalization: the inverse, and what the new object implies), what is true of the new object
(compositionality I), what leads to the subject (compositionality II), and the fact under another name of the subject
(subject aliasing). Stays: other objects of s in r (forgetfulness, which the paper calls preservation), other facts of
s (relation specificity). CounterFact's own two are added: other subjects with o_c, and with o*.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from counterfact.core.prompts import fill
from counterfact.evaluation.benchmarks._answers import normalised

from .facts import FactsAround
from .relations import Relations

MOST_OBJECTS = 3
"""Most objects of a fact that is to be found in two steps: what has more has no one answer."""
Triple = tuple[str, str, str]


@dataclass(frozen=True)
class RippleEdit:
    """The edit of one record, and its prompts about other subjects."""

    subject: str
    relation: str
    true: str
    new: str
    prompt: str
    """Template of the edited prompt."""
    name: str
    """The subject as the prompt names it."""
    neighborhood: Sequence[tuple[str, str]] = ()
    """Ids of subjects with the true object, and prompts about them."""
    attribute: Sequence[tuple[str, str]] = ()
    """Ids of subjects with the new object, and prompts about them."""

    @property
    def made(self) -> Triple:
        """The fact that the edit makes."""
        return self.subject, self.relation, self.new


class Step(NamedTuple):
    """Something that must be known beside the edit: a prompt and the entities that answer it."""

    prompt: str
    answers: Sequence[str]


class Ripple(NamedTuple):
    """A question around an edit."""

    prompt: str
    answers: Sequence[str]
    """Entities of which any is an answer."""
    triples: Sequence[Triple]
    """What justifies it; that of the edit is among them where it rests on the edit."""
    before: Sequence[str] = ()
    """Entities that answered it before the edit, where that is known."""
    needs: Sequence[Step] = ()


@dataclass(frozen=True)
class World:
    """What ripples are derived from."""

    facts: FactsAround
    relations: Relations

    def step(self, subject: str, relation: str) -> Step | None:
        """Return the question about one fact, None where the subject has no label."""
        label = self.facts.label(subject)
        objects = self.facts.objects(subject, relation)
        return None if label is None or not objects else Step(self.relations.ask(relation, label), objects)

    def triples(self, subject: str, relation: str, objects: Sequence[str]) -> list[Triple]:
        """Return the facts of a subject with these objects."""
        return [(subject, relation, object) for object in objects]


def subject_aliasing(edit: RippleEdit, world: World) -> Iterator[Ripple]:
    """The edited prompt with every other name of the subject: the new object; the true one must have been known."""
    for name in world.facts.names(edit.subject):
        if normalised(name) and normalised(name) != normalised(edit.name):
            prompt = fill(edit.prompt, name)
            yield Ripple(prompt, [edit.new], [edit.made], [edit.true], [Step(prompt, [edit.true])])


def logical_generalization(edit: RippleEdit, world: World) -> Iterator[Ripple]:
    """The way back from the new object, and what the new object implies for the subject."""
    facts, relations = world.facts, world.relations
    back, new = relations.inverse(edit.relation), facts.label(edit.new)
    if back is not None and back in relations.words and new is not None:
        led = [other for other, relation in facts.leading_to(edit.new) if relation == edit.relation]
        known = tuple(dict.fromkeys([*facts.objects(edit.new, back), *led]))
        others = [name for each in known if (name := facts.label(each)) is not None]
        if edit.subject not in known and len(others) == len(known) <= 1:
            prompt = relations.ask_apart_from(back, new, others[0]) if others else relations.ask(back, new)
            triples = [
                edit.made,
                *((each, edit.relation, edit.new) if each in led else (edit.new, back, each) for each in known),
            ]
            yield Ripple(prompt, [edit.subject], triples, known)
    for each in relations.implications(edit.relation):
        given, before = facts.objects(edit.new, each.joined), facts.objects(edit.subject, each.gives)
        needed = world.step(edit.new, each.joined)
        if each.gives not in relations.words or needed is None or len(given) != 1 or new is None:
            continue
        again = each.gives == edit.relation
        ask = relations.ask_apart_from(each.gives, edit.name, new) if again else relations.ask(each.gives, edit.name)
        triples = [edit.made, *world.triples(edit.new, each.joined, given)]
        yield Ripple(ask, given, triples, before, [needed])


def compositionality_1(edit: RippleEdit, world: World) -> Iterator[Ripple]:
    """What is true of the new object, asked through the subject: "the currency of the country of s"."""
    phrase = world.relations.phrase(edit.relation, edit.name)
    if phrase is None or world.facts.objects(edit.subject, edit.relation) not in ((), (edit.true,)):
        return
    for relation, objects in world.facts.about(edit.new).items():
        needed = world.step(edit.new, relation)
        if needed is None or len(objects) > MOST_OBJECTS or relation == world.relations.inverse(edit.relation):
            continue
        if world.relations.has_many(relation):
            continue
        triples = [edit.made, *world.triples(edit.new, relation, objects)]
        before = world.facts.objects(edit.true, relation)
        yield Ripple(world.relations.ask(relation, phrase), objects, triples, before, [needed])


def compositionality_2(edit: RippleEdit, world: World) -> Iterator[Ripple]:
    """The edited fact, asked through something that leads to the subject: "the capital of the country of x"."""
    for other, relation in world.facts.leading_to(edit.subject):
        label, needed = world.facts.label(other), world.step(other, relation)
        if label is None or needed is None or world.facts.objects(other, relation) != (edit.subject,):
            continue
        phrase = world.relations.phrase(relation, label)
        ends = {edit.subject, edit.true, edit.new}
        if phrase is None or other in ends or relation == world.relations.inverse(edit.relation):
            continue
        if world.relations.has_many(relation):
            continue
        triples = [(other, relation, edit.subject), edit.made]
        yield Ripple(world.relations.ask(edit.relation, phrase), [edit.new], triples, [edit.true], [needed])


def relation_specificity(edit: RippleEdit, world: World) -> Iterator[Ripple]:
    """Other facts of the subject, but for those that may depend on the edited one."""
    near = {edit.true, edit.new}
    for end in (edit.true, edit.new):
        near.update(object for objects in world.facts.about(end).values() for object in objects)
    for relation, objects in world.facts.about(edit.subject).items():
        if not world.relations.may_depend(edit.relation, relation) and not near.intersection(objects):
            triples = world.triples(edit.subject, relation, objects)
            yield Ripple(world.relations.ask(relation, edit.name), objects, triples)


def forgetfulness(edit: RippleEdit, world: World) -> Iterator[Ripple]:
    """Other objects of the subject in the edited relation."""
    new = world.facts.label(edit.new)
    kept = [each for each in world.facts.objects(edit.subject, edit.relation) if each not in {edit.true, edit.new}]
    if kept and new is not None:
        prompt = world.relations.ask_apart_from(edit.relation, edit.name, new)
        yield Ripple(prompt, kept, world.triples(edit.subject, edit.relation, kept))


def neighborhood(edit: RippleEdit, _world: World) -> Iterator[Ripple]:
    """Other subjects that have the true object."""
    for subject, prompt in edit.neighborhood:
        yield Ripple(prompt, [edit.true], [(subject, edit.relation, edit.true)])


def attribute(edit: RippleEdit, _world: World) -> Iterator[Ripple]:
    """Other subjects that have the new object."""
    for subject, prompt in edit.attribute:
        yield Ripple(prompt, [edit.new], [(subject, edit.relation, edit.new)])


Criterion = Callable[[RippleEdit, World], Iterator[Ripple]]
FOLLOWS: Mapping[str, Criterion] = {
    "Subject_Aliasing": subject_aliasing,
    "Logical_Generalization": logical_generalization,
    "Compositionality_I": compositionality_1,
    "Compositionality_II": compositionality_2,
}
"""What must follow, by the names that RippleEdits' and KnowEdit's files have."""
STAYS: Mapping[str, Criterion] = {
    "Relation_Specificity": relation_specificity,
    "Forgetfulness": forgetfulness,
    "Neighborhood": neighborhood,
    "Attribute": attribute,
}
"""What must stay."""


def unfit(prompt: str, answers: Sequence[str], before: Sequence[str]) -> str | None:
    """Return why a question tells nothing, None where it does.

    Args:
        prompt: the question.
        answers: names of its answers.
        before: names of what answered it before the edit.

    >>> unfit("The continent of the country of Ada is", ["Europe"], ["Europe", "Old World"])
    'answered so before the edit'
    >>> unfit("Apart from Oslo, the capital of Oslo Land is", ["Oslo Land"], [])
    'answer in the prompt'
    """
    if not answers:
        return "answer without a name"
    said = f" {normalised(prompt)} "
    if any(f" {normalised(name)} " in said for name in answers):
        return "answer in the prompt"
    if {normalised(name) for name in answers} & {normalised(name) for name in before}:
        return "answered so before the edit"
    return None


def answer_names(names: Sequence[str]) -> list[str]:
    """Return the names that a text can be searched for: the label, and others of three letters or more.

    >>> answer_names(["Chad", "TD", "Republic of Chad"])
    ['Chad', 'Republic of Chad']
    """
    return [name for place, name in enumerate(names) if normalised(name) and (place == 0 or len(normalised(name)) > 2)]


def as_json(ripple: Ripple, names: Callable[[Sequence[str]], list[str]]) -> dict[str, Any]:
    """Return a question in KnowEdit's form, with what justifies it and what must be known for it."""
    needs = [{"prompt": step.prompt, "ground_truth": names(step.answers)} for step in ripple.needs]
    return {
        "prompt": ripple.prompt,
        "ground_truth": names(ripple.answers),
        "needs": needs,
        "triples": [list(triple) for triple in ripple.triples],
    }
