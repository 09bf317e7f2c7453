"""The relations of a build, with the templates they have or are given, and those of them whose facts are needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from counterfact.core.errors import BadInput

from ..choosing.candidates import RecordSettings
from ..choosing.selection import never_gives_a_record
from .pararel import Relation, load_pararel, top_up


def load_relations(
    pararel: Path, templates: Path | None, language: str, names: Sequence[str] | None, fewest: int
) -> list[Relation]:
    """Read relations, by number.

    Args:
        pararel: a folder in ParaRel's layout, of the language.
        templates: another, whose templates top up relations that have too few.
        language: of the patterns.
        names: the relations; None for all that have tuples.
        fewest: templates that a record needs.

    Raises:
        BadInput: a folder is malformed, or a relation has no tuples.
    """
    relations = load_pararel(pararel, language)
    if names is not None:
        known = {relation.id: relation for relation in relations}
        if missing := sorted(set(names) - set(known)):
            raise BadInput(f"no tuples of {', '.join(missing)}. Known relations: {', '.join(known)}")
        relations = [relation for relation in relations if relation.id in names]
    if templates is None:
        return relations
    others = {relation.id: relation for relation in load_pararel(templates, language)}
    return [top_up(relation, others.get(relation.id), fewest) for relation in relations]


def needed(
    relations: Sequence[Relation], generation: Mapping[str, Sequence[str]], settings: RecordSettings
) -> list[Relation]:
    """Return the relations that can give records, if the facts allow: the facts of others are not asked for.

    Args:
        relations: all of a build.
        generation: relation to its generation prompts.
        settings: what a record holds.
    """
    return [one for one in relations if not never_gives_a_record(one, generation.get(one.id, ()), settings)]
