"""The SPARQL texts, one function each: plain SPARQL 1.1, the same for a public endpoint and for a local store.

Every text names its entities in VALUES blocks and orders its rows, and the one that can grow without bound
(`holders`) is read page by page, by key. There is no label service and no vendor's syntax. Labels are those of one
language (English), else `mul`: since 2024 WikiData keeps a label that is the same in all languages under `mul` only.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

ENTITY = "http://www.wikidata.org/entity/"
DIRECT = "http://www.wikidata.org/prop/direct/"
LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
ALIAS = "http://www.w3.org/2004/02/skos/core#altLabel"
ABOUT = "http://schema.org/about"
SITELINKS = "http://wikiba.se/ontology#sitelinks"
SAME = "http://www.w3.org/2002/07/owl#sameAs"
"""From the id of an entity that was merged into another to that one."""
ABOVE = ("P279", "P131", "P17", "P361", "P30")
"""From an entity to what it is a kind or a part of: subclass of, located in, country, part of, continent."""

_PREFIXES = f"""PREFIX wd: <{ENTITY}>
PREFIX wdt: <{DIRECT}>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX schema: <http://schema.org/>
PREFIX skos: <http://www.w3.org/2004/02/skos/core#>
"""
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"})


class Key(NamedTuple):
    """The last row of a page of `holders`: its two IRIs."""

    object: str
    subject: str


def literal(text: str) -> str:
    """Return `text` as a SPARQL string.

    >>> print(literal('the "Ring"'))
    "the \\"Ring\\""
    """
    return f'"{text.translate(_ESCAPES)}"'


def entity_id(iri: str) -> str:
    """Return the id at the end of an entity's IRI.

    >>> entity_id("http://www.wikidata.org/entity/Q42")
    'Q42'
    """
    return iri.removeprefix(ENTITY)


def resolve(
    relation: str,
    pairs: Sequence[tuple[str, str]],
    language: str = "en",
    tags: Sequence[str] | None = None,
    *,
    redirected: bool = False,
    aliases: bool = False,
) -> str:
    """Ask which entities bear the labels of (subject, object) pairs and stand in the relation.

    Args:
        relation: a property, `P103`.
        pairs: labels of subject and object.
        language: of the labels by which the entities are called.
        tags: languages of the labels that are looked for; by default that one and `mul`.
        redirected: whether the fact leads to an id that was merged into the object.
        aliases: whether other names of the entities count too.

    Returns:
        a query with the columns `subjectLabel`, `objectLabel`, `subject`, `object` and, where there are such, the
        labels in the language, `subjectOwn` and `objectOwn`; with other names also `subjectBy` and `objectBy`, by
        which property each bears its label.
    """
    searched = (language, "mul") if tags is None else tags
    tagged = [(a, b) for a in searched for b in searched]
    values = "\n    ".join(f"({literal(s)}@{a} {literal(o)}@{b})" for s, o in pairs for a, b in tagged)
    reached = f"?merged .\n  ?merged <{SAME}> ?object" if redirected else "?object"
    subject_by, object_by = ("?subjectBy", "?objectBy") if aliases else ("rdfs:label", "rdfs:label")
    ways = "".join(f"\n  VALUES {by} {{ rdfs:label skos:altLabel }}" for by in (subject_by, object_by) if aliases)
    columns = "?subjectLabel ?objectLabel ?subject ?object ?subjectOwn ?objectOwn"
    columns += " ?subjectBy ?objectBy" if aliases else ""
    return f"""{_PREFIXES}SELECT DISTINCT {columns} WHERE {{
  VALUES (?subjectLabel ?objectLabel) {{
    {values}
  }}{ways}
  ?subject {subject_by} ?subjectLabel .
  ?subject wdt:{_property(relation)} {reached} .
  ?object {object_by} ?objectLabel .
  {_label("subject", "subjectOwn", language)}
  {_label("object", "objectOwn", language)}
}}
ORDER BY {columns}"""


def objects_of_named(relation: str, names: Sequence[str], language: str = "en") -> str:
    """Ask for every object of the subjects that bear a label, with what the object is called.

    Returns:
        a query with the columns `subjectLabel`, `subject`, `object` and `own`, a label of the object in the language.
    """
    values = " ".join(f"{literal(name)}@{tag}" for name in names for tag in (language, "mul"))
    return f"""{_PREFIXES}SELECT DISTINCT ?subjectLabel ?subject ?object ?own WHERE {{
  VALUES ?subjectLabel {{ {values} }}
  ?subject rdfs:label ?subjectLabel .
  ?subject wdt:{_property(relation)} ?object .
  ?object rdfs:label ?own .
  FILTER(LANG(?own) = {literal(language)})
}}
ORDER BY ?subjectLabel ?subject ?object ?own"""


def objects(relation: str, subjects: Iterable[str]) -> str:
    """Ask for every object of the subjects.

    Returns:
        a query with the columns `subject`, `object` and, where that id was merged into another, `target`; an unknown
        value comes as a blank node.
    """
    return f"""{_PREFIXES}SELECT DISTINCT ?subject ?object ?target WHERE {{
  VALUES ?subject {{ {_entities(subjects)} }}
  ?subject wdt:{_property(relation)} ?object .
  OPTIONAL {{ ?object <{SAME}> ?target . }}
}}
ORDER BY ?subject ?object ?target"""


def sizes(relation: str, objects: Iterable[str]) -> str:
    """Ask how many subjects have each of the objects.

    Returns:
        a query with the columns `object`, `subjects`; an object without any has no row.
    """
    return f"""{_PREFIXES}SELECT ?object (COUNT(?subject) AS ?subjects) WHERE {{
  VALUES ?object {{ {_entities(objects)} }}
  ?subject wdt:{_property(relation)} ?object .
}}
GROUP BY ?object
ORDER BY ?object"""


def holders(
    relation: str,
    objects: Iterable[str],
    after: Key | None,
    limit: int,
    others: Sequence[str] = (),
    language: str = "en",
) -> str:
    """Ask for a page of the subjects that have one of the objects, with their labels.

    Args:
        relation: a property.
        objects: ids of entities.
        after: where the page before this one ended; None for the first.
        limit: (object, subject) pairs a page.
        others: objects that are reported where the subjects have them too.
        language: of the labels.

    Returns:
        a query with the columns `object`, `subject` and, where there is one, `own` (the language's label), `mul` and
        `more`, one of `others`.
    """
    page = "" if after is None else _after(after)
    more = ""
    if others:
        more = f"\n  OPTIONAL {{ VALUES ?more {{ {_entities(others)} }} ?subject wdt:{_property(relation)} ?more . }}"
    return f"""{_PREFIXES}SELECT ?object ?subject ?own ?mul{" ?more" if others else ""} WHERE {{
  {{
    SELECT DISTINCT ?object ?subject WHERE {{
      VALUES ?object {{ {_entities(objects)} }}
      ?subject wdt:{_property(relation)} ?object .{page}
    }}
    ORDER BY STR(?object) STR(?subject)
    LIMIT {limit:d}
  }}
  {_label("subject", "own", language)}
  {_label("subject", "mul", "mul")}{more}
}}
ORDER BY STR(?object) STR(?subject) ?own ?mul{" ?more" if others else ""}"""


def some_holders(relation: str, object: str, limit: int, language: str = "en") -> str:
    """Ask for any subjects of an object that has very many: without an order, since sorting them takes too long.

    Args:
        relation: a property.
        object: id of the object.
        limit: number of subjects.
        language: of the labels.

    Returns:
        a query with the columns `subject` and, where there is one, `own` and `mul`, as of `holders`.
    """
    return f"""{_PREFIXES}SELECT ?subject ?own ?mul WHERE {{
  {{ SELECT DISTINCT ?subject WHERE {{ ?subject wdt:{_property(relation)} {_entities([object])} . }} LIMIT {limit:d} }}
  {_label("subject", "own", language)}
  {_label("subject", "mul", "mul")}
}}
ORDER BY STR(?subject) ?own ?mul"""


def above(entities: Iterable[str], properties: Sequence[str] = ABOVE) -> str:
    """Ask what the entities are kinds or parts of, one step up.

    Args:
        entities: ids of entities.
        properties: that lead up.

    Returns:
        a query with the columns `entity`, `property` and `above`.
    """
    return f"""{_PREFIXES}SELECT DISTINCT ?entity ?property ?above WHERE {{
  VALUES ?entity {{ {_entities(entities)} }}
  VALUES ?property {{ {" ".join(f"wdt:{_property(one)}" for one in properties)} }}
  ?entity ?property ?above .
}}
ORDER BY ?entity ?property ?above"""


def reached(classes: Iterable[str], targets: Iterable[str]) -> str:
    """Ask which of the targets the classes are kinds of, by any number of steps of P279; none is one, too.

    Returns:
        a query with the columns `class` and `target`.
    """
    return f"""{_PREFIXES}SELECT DISTINCT ?class ?target WHERE {{
  VALUES ?class {{ {_entities(classes)} }}
  ?class wdt:P279* ?target .
  FILTER(?target IN ({_entities(targets).replace(" ", ", ")}))
}}
ORDER BY ?class ?target"""


def articles(entities: Iterable[str], site: str) -> str:
    """Ask for the articles of a site that are about the entities.

    Args:
        entities: ids of entities.
        site: what the IRIs of the site's articles start with.

    Returns:
        a query with the columns `entity`, `article`.
    """
    return f"""{_PREFIXES}SELECT DISTINCT ?entity ?article WHERE {{
  VALUES ?entity {{ {_entities(entities)} }}
  ?article schema:about ?entity .
  FILTER(STRSTARTS(STR(?article), {literal(site)}))
}}
ORDER BY ?entity ?article"""


def sitelinks(entities: Iterable[str]) -> str:
    """Ask how many sitelinks the entities have.

    Returns:
        a query with the columns `entity`, `count`.
    """
    return f"""{_PREFIXES}SELECT ?entity (MAX(?links) AS ?count) WHERE {{
  VALUES ?entity {{ {_entities(entities)} }}
  ?entity <{SITELINKS}> ?links .
}}
GROUP BY ?entity
ORDER BY ?entity"""


def _label(variable: str, label: str, language: str) -> str:
    return f"OPTIONAL {{ ?{variable} rdfs:label ?{label} . FILTER(LANG(?{label}) = {literal(language)}) }}"


def _after(key: Key) -> str:
    last_object, last_subject = literal(key.object), literal(key.subject)
    return (
        f"\n      FILTER(STR(?object) > {last_object} || "
        f"(STR(?object) = {last_object} && STR(?subject) > {last_subject}))"
    )


def _entities(ids: Iterable[str]) -> str:
    return " ".join(f"wd:{_checked(r'Q[0-9]+', entity)}" for entity in ids)


def _property(relation: str) -> str:
    return _checked(r"P[0-9]+", relation)


def _checked(pattern: str, name: str) -> str:
    if not re.fullmatch(pattern, name):
        raise ValueError(f"expected an id of WikiData of the form {pattern}, got {name!r}")
    return name
