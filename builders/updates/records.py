"""Records of updates: the old object is the true one of the edit, and the new object is what is true now."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from counterfact.core.prompts import fill
from counterfact.core.seeds import derive_seed
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord, Entity, RequestedRewrite

from ..choosing.sampling import collides
from ..fact_ids import fact_id
from .changes import Replaced
from .finding import Found

NEIGHBORS = 10


def why_no_record(one: Replaced, found: Found, templates: Mapping[str, Sequence[str]]) -> str | None:
    """Return why a replaced object gives no record, None where it gives one."""
    names = [found.names.get(number) for number in (one.subject, one.old, one.new)]
    if None in names:
        return "no label"
    subject, old, new = map(str, names)
    if collides(old, new) or collides(subject, new):
        return "one name within another"
    return None if templates.get(one.relation) else "no template"


def record_of(
    one: Replaced,
    found: Found,
    case_id: int,
    templates: Sequence[str],
    generation: Sequence[str],
    *,
    paraphrases: int,
    seed: int,
) -> CounterFactRecord:
    """Return the record of one update.

    Args:
        one: the update.
        found: names and neighbors.
        case_id: number of the record.
        templates: of the relation.
        generation: generation prompts of the relation; may be empty.
        paraphrases: paraphrase prompts, at most.
        seed: of the order of templates.
    """
    id = fact_id(f"Q{one.subject}", one.relation, f"Q{one.old}")
    random = Random(derive_seed(seed, "update", id))
    prompt, *others = random.sample(templates, len(templates))
    subject, old, new = (found.names[number] for number in (one.subject, one.old, one.new))
    near = _neighbors(one, one.old, found, [subject, new])
    far = _neighbors(one, one.new, found, [subject, old])
    return CounterFactRecord(
        case_id=case_id,
        requested_rewrite=RequestedRewrite(
            prompt=prompt,
            relation_id=one.relation,
            target_new=Entity(str=new, id=f"Q{one.new}"),
            target_true=Entity(str=old, id=f"Q{one.old}"),
            subject=subject,
        ),
        paraphrase_prompts=[fill(template, subject) for template in others[:paraphrases]],
        neighborhood_prompts=[fill(random.choice(templates), found.names[number]) for number in near],
        attribute_prompts=[fill(random.choice(templates), found.names[number]) for number in far],
        generation_prompts=[fill(template, subject) for template in generation],
        provenance={
            "fact_id": id,
            "update": one.kind,
            "subject_id": f"Q{one.subject}",
            "neighborhood_ids": [f"Q{number}" for number in near],
            "attribute_ids": [f"Q{number}" for number in far],
        },
    )


def line_of(one: Replaced, found: Found) -> dict[str, Any]:
    """Return the line of `updates.jsonl`."""
    ends = {"subject": one.subject, "old": one.old, "new": one.new}
    named = {key: {"id": f"Q{number}", "label": found.names.get(number)} for key, number in ends.items()}
    return {"relation_id": one.relation, "kind": one.kind, **named}


def _neighbors(one: Replaced, object: int, found: Found, others: Sequence[str]) -> list[int]:
    """Return subjects that have an object, whose names stand apart from all names of the edit."""
    held = (number for number in found.holders.get((one.relation, object), ()) if number != one.subject)
    apart = [
        number
        for number in held
        if (name := found.names.get(number)) and not any(collides(name, other) for other in others)
    ]
    return apart[:NEIGHBORS]
