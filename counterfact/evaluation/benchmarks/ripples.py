"""Ripples of an edit, by criterion: whether what must follow does, and what must stay stays.

Cohen, Biran, Yoran, Globerson, Geva. Evaluating the Ripple Effects of Knowledge Editing in Language Models. TACL 2024.
https://arxiv.org/abs/2307.12976. Records, questions and what counts of the answers are those of `portability`; here
each criterion has a number of its own. `counterfact build --ripples` writes such records, and KnowEdit's are of the
same form.
"""

from dataclasses import replace

from counterfact.contracts.benchmarks import benchmark
from counterfact.contracts.metrics import Block, metric

from .portability import PAPER, PORTABILITY, share_of

NAME = "ripples"
UNIT = "% of questions"


@metric("alias", UNIT, "higher", PAPER, NAME)
def alias(block: Block) -> float | None:
    """Subject aliasing: the share of other names of the subject after which the edited model says the new object.

    A name counts where the unedited model says the true object after it.

    >>> said = {"sort": "Subject_Aliasing", "answers": ["Oslo"]}
    >>> texts = [("Oslo", True), ("Rome", True), ("Oslo", False)]
    >>> alias({"portability_prompts_said": [{**said, "text": text, "known": known} for text, known in texts]})
    0.5
    """
    return share_of(block, "portability", "Subject_Aliasing")


@metric("logic", UNIT, "higher", PAPER, NAME)
def logic(block: Block) -> float | None:
    """Logical generalization: of what the new fact implies by itself or with one other, the share that is answered.

    That is the way back from the new object, and what a relation gives for the subject through the new object (a place
    in a country is on its continent). A question counts where the unedited model knows the other fact.

    >>> said = {"sort": "Logical_Generalization", "answers": ["Oslo"], "known": True}
    >>> logic({"portability_prompts_said": [{**said, "text": "in Oslo"}]})
    1.0
    """
    return share_of(block, "portability", "Logical_Generalization")


@metric("comp_1", UNIT, "higher", PAPER, NAME)
def comp_1(block: Block) -> float | None:
    """Compositionality I: of facts of the new object that are asked through the subject, the share that is answered.

    A question counts where the unedited model knows the fact of the new object.

    >>> said = {"sort": "Compositionality_I", "answers": ["Oslo"], "known": True}
    >>> comp_1({"portability_prompts_said": [{**said, "text": "Rome"}]})
    0.0
    """
    return share_of(block, "portability", "Compositionality_I")


@metric("comp_2", UNIT, "higher", PAPER, NAME)
def comp_2(block: Block) -> float | None:
    """Compositionality II: where something else leads to the subject, the share after which the new object is said.

    A question counts where the unedited model knows what leads to the subject.

    >>> said = {"sort": "Compositionality_II", "answers": ["Oslo"], "known": None}
    >>> comp_2({"portability_prompts_said": [{**said, "text": "Oslo"}]}) is None
    True
    """
    return share_of(block, "portability", "Compositionality_II")


@metric("comp", UNIT, "higher", PAPER, NAME)
def comp(block: Block) -> float | None:
    """Reasoning: both kinds of compositionality together, and what KnowEdit calls so, which does not tell them apart.

    >>> said = {"answers": ["Oslo"], "known": True}
    >>> sorts = [("Reasoning", "Oslo"), ("Compositionality_II", "Rome")]
    >>> comp({"portability_prompts_said": [{**said, "sort": sort, "text": text} for sort, text in sorts]})
    0.5
    """
    return share_of(block, "portability", "Reasoning", "Compositionality_I", "Compositionality_II")


@metric("specific", UNIT, "higher", PAPER, NAME)
def specific(block: Block) -> float | None:
    """Relation specificity: of the subject's other facts that the unedited model knows, the share that is kept.

    >>> said = {"sort": "Relation_Specificity", "answers": ["Oslo"]}
    >>> texts = [("Oslo", True), ("Rome", False)]
    >>> specific({"locality_prompts_said": [{**said, "text": text, "known": known} for text, known in texts]})
    1.0
    """
    return share_of(block, "locality", "Relation_Specificity")


@metric("kept", UNIT, "higher", PAPER, NAME)
def kept(block: Block) -> float | None:
    """Preservation: of the subject's other objects in the edited relation that are known, the share that is kept.

    Files call it forgetfulness.

    >>> said = {"sort": "Forgetfulness", "answers": ["Oslo"], "known": True}
    >>> kept({"locality_prompts_said": [{**said, "text": "Rome"}]})
    0.0
    """
    return share_of(block, "locality", "Forgetfulness")


@metric("near", UNIT, "higher", PAPER, NAME)
def near(block: Block) -> float | None:
    """Neighborhood: of other subjects of which the true object is known, the share that keeps it.

    >>> said = {"sort": "Neighborhood", "answers": ["Oslo"], "known": True}
    >>> near({"locality_prompts_said": [{**said, "text": "in Oslo"}]})
    1.0
    """
    return share_of(block, "locality", "Neighborhood")


@metric("far", UNIT, "higher", PAPER, NAME)
def far(block: Block) -> float | None:
    """Attribute: of other subjects of which the new object is known, the share that keeps it.

    >>> said = {"sort": "Attribute", "answers": ["Oslo"], "known": True}
    >>> far({"locality_prompts_said": [{**said, "text": "Rome"}]})
    0.0
    """
    return share_of(block, "locality", "Attribute")


RIPPLES = benchmark(
    replace(
        PORTABILITY,
        name=NAME,
        title="Ripples",
        recognises=lambda value: "portability" in value and "locality" in value,
        columns=(
            ("Edit", ("contains",)),
            ("Follows", ("alias", "logic", "comp_1", "comp_2")),
            ("Stays", ("specific", "kept", "near", "far")),
        ),
        adopted_metrics=(*PORTABILITY.adopted_metrics, "portability", "portability_all", "locality"),
    )
)
