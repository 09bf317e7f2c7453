"""The SPARQL texts about what leads out of entities, what leads into them, and how they are called."""

from collections.abc import Iterable, Sequence

from ..sources.queries import ALIAS, DIRECT, ENTITY, LABEL, literal


def property_id(iri: str) -> str:
    """Return the id at the end of a property's IRI.

    >>> property_id("http://www.wikidata.org/prop/direct/P36")
    'P36'
    """
    return iri.removeprefix(DIRECT)


def all_objects(subjects: Iterable[str], relations: Sequence[str]) -> str:
    """Ask for all objects of the subjects in the relations.

    Returns:
        a query with the columns `subject`, `relation`, `object`.
    """
    return f"""SELECT DISTINCT ?subject ?relation ?object WHERE {{
  VALUES ?subject {{ {_iris(ENTITY, subjects)} }}
  ?subject ?relation ?object .
  {_among(relations)}
}}
ORDER BY ?subject ?relation ?object"""


def leading_to(objects: Iterable[str], relations: Sequence[str]) -> str:
    """Ask for subjects that have one of the objects: of each relation the first and the last, by their IRIs.

    Returns:
        a query with the columns `object`, `relation`, `first`, `last`.
    """
    return f"""SELECT ?object ?relation (MIN(STR(?subject)) AS ?first) (MAX(STR(?subject)) AS ?last) WHERE {{
  VALUES ?object {{ {_iris(ENTITY, objects)} }}
  ?subject ?relation ?object .
  {_among(relations)}
}}
GROUP BY ?object ?relation
ORDER BY ?object ?relation"""


def names(entities: Iterable[str], language: str) -> str:
    """Ask for all names of the entities in a language.

    Returns:
        a query with the column `entity` and, one a row, `own` (the language's label), `mul` or `alias`.
    """
    tag = literal(language)
    return f"""SELECT DISTINCT ?entity ?own ?mul ?alias WHERE {{
  VALUES ?entity {{ {_iris(ENTITY, entities)} }}
  {{ ?entity <{LABEL}> ?own . FILTER(LANG(?own) = {tag}) }}
  UNION {{ ?entity <{LABEL}> ?mul . FILTER(LANG(?mul) = "mul") }}
  UNION {{ ?entity <{ALIAS}> ?alias . FILTER(LANG(?alias) = {tag} || LANG(?alias) = "mul") }}
}}
ORDER BY ?entity ?own ?mul ?alias"""


def _among(relations: Sequence[str]) -> str:
    # A second VALUES block makes a store look up every pair of both.
    return f"FILTER(?relation IN ({', '.join(f'<{DIRECT}{relation}>' for relation in relations)}))"


def _iris(start: str, ids: Iterable[str]) -> str:
    return " ".join(f"<{start}{id}>" for id in ids)
