"""Statements of WikiData as lines of N-Triples: facts, labels, which articles are about what, sitelinks."""

from .queries import ABOUT, ALIAS, DIRECT, ENTITY, LABEL, SITELINKS, literal

_INTEGER = "http://www.w3.org/2001/XMLSchema#integer"


def fact_line(subject: str, relation: str, object: str) -> str:
    """Return the line of a fact.

    >>> print(fact_line("Q1", "P31", "Q2"), end="")
    <http://www.wikidata.org/entity/Q1> <http://www.wikidata.org/prop/direct/P31> <http://www.wikidata.org/entity/Q2> .
    """
    return f"<{ENTITY}{subject}> <{DIRECT}{relation}> <{ENTITY}{object}> .\n"


def label_line(entity: str, label: str, language: str) -> str:
    """Return the line of an entity's label."""
    return f"<{ENTITY}{entity}> <{LABEL}> {literal(label)}@{language} .\n"


def alias_line(entity: str, name: str, language: str) -> str:
    """Return the line of another name of an entity."""
    return f"<{ENTITY}{entity}> <{ALIAS}> {literal(name)}@{language} .\n"


def about_line(article: str, entity: str) -> str:
    """Return the line which says that an article, by its IRI, is about an entity."""
    return f"<{article}> <{ABOUT}> <{ENTITY}{entity}> .\n"


def sitelinks_line(entity: str, count: int) -> str:
    """Return the line with the number of sitelinks of an entity."""
    return f'<{ENTITY}{entity}> <{SITELINKS}> "{count}"^^<{_INTEGER}> .\n'
