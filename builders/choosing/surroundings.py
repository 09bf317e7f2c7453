"""What choices rest on apart from the facts of a relation: sitelinks, kin of objects, kinds of subjects."""

from collections.abc import Mapping
from typing import NamedTuple

from ..sources.knowledge import Knowledge
from ..sources.sparql import SparqlSource
from ..sources.subject_kinds import SubjectsTold, load_subject_kinds, query_subject_kinds, subjects_to_ask
from ..sources.surroundings import count_sitelinks, query_implied
from .settings import BuildSettings


class Surroundings(NamedTuple):
    """What is known of entities apart from the relations."""

    sitelinks: Mapping[str, int]
    """Entity to its number of sitelinks, where the settings ask for it."""
    implied: Mapping[str, set[str]]
    """Object to the objects that it is a kind or a part of, where the settings ask for it."""
    kinds: Mapping[str, SubjectsTold]
    """Relation to what is told of its subjects, of relations that are about some kinds only."""

    def of_another_kind(self, relation: str) -> frozenset[str]:
        """Return the subjects of a relation that are of another kind than it is about."""
        return self.kinds[relation].other if relation in self.kinds else frozenset()


def query_surroundings(known: Mapping[str, Knowledge], settings: BuildSettings, facts: SparqlSource) -> Surroundings:
    """Query what the settings of a build ask for.

    Args:
        known: relation to its facts.
        settings: options of the build.
        facts: the source of facts.

    Raises:
        BadInput: sitelinks are needed and the source has none.
        SourceError: the source could not answer.
    """
    sitelinks = count_sitelinks(_ranked(known, settings), facts)
    objects = {object for knowledge in known.values() for object in knowledge.holders}
    implied = query_implied(objects, facts) if settings.implied_objects == "exclude" else {}
    rules = load_subject_kinds() if settings.subject_kinds == "check" else {}
    asked = subjects_to_ask(known, rules, settings.pool_by_id)
    return Surroundings(sitelinks, implied, query_subject_kinds(asked, rules, facts))


def _ranked(known: Mapping[str, Knowledge], settings: BuildSettings) -> set[str]:
    """Return the entities whose sitelinks count."""
    ranked: set[str] = set()
    for knowledge in known.values():
        if settings.fewest_sitelinks:
            ranked.update(subject for subject, _ in knowledge.resolved.values())
        if settings.pool_order == "sitelinks":
            ranked.update(holder.id for held in knowledge.holders.values() for holder in held)
    return ranked
