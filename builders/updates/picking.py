"""The lines of a dump that updates are found by, as short rows; each worker takes a block at a time.

A truthy dump has `wdt:` facts, labels and redirects; a full one (`latest-all.nt`) also has statements: their ranks,
their dates of start and end as qualifiers (P580, P582) and whether they have references. All lines of a statement
stand together (https://www.mediawiki.org/wiki/Wikibase/Indexing/RDF_Dump_Format).
"""

import re
from dataclasses import dataclass
from functools import cached_property

from ..sources.queries import DIRECT, ENTITY, LABEL

STATEMENT = f"{ENTITY}statement/"
VALUE = "http://www.wikidata.org/prop/statement/"
QUALIFIER = "http://www.wikidata.org/prop/qualifier/"
RANK = "http://wikiba.se/ontology#rank"
DERIVED = "http://www.w3.org/ns/prov#wasDerivedFrom"
SAME = "http://www.w3.org/2002/07/owl#sameAs"
START, END = "P580", "P582"
CONTAINMENT = ("P17", "P30", "P131", "P279", "P361", "P749")
"""Relations by which one object may be a part or a kind of another."""


@dataclass(frozen=True)
class Wanted:
    """What is picked."""

    relations: frozenset[str]
    language: str = "en"

    @cached_property
    def pattern(self) -> re.Pattern[bytes]:
        """The pattern of a line, with named groups."""
        relations = "|".join(sorted({relation[1:] for relation in (*self.relations, *CONTAINMENT)}))
        entity = re.escape(ENTITY)
        about_entity = (
            rf"<{entity}(?P<subject>Q[0-9]+)> <(?:{re.escape(DIRECT)}(?P<relation>P(?:{relations}))> "
            rf"<{entity}(?P<object>Q[0-9]+)>"
            rf'|{re.escape(LABEL)}> "(?P<label>(?:[^"\\]|\\.)*)"@(?P<tag>{re.escape(self.language)}|mul)'
            rf"|{re.escape(SAME)}> <{entity}(?P<target>Q[0-9]+)>)"
        )
        about_statement = (
            rf"<{re.escape(STATEMENT)}(?P<owner>[Qq][0-9]+)-(?P<uuid>[^>]+)> <(?:{re.escape(VALUE)}"
            rf"(?P<stated>P(?:{relations}))> <{entity}(?P<value>Q[0-9]+)>"
            rf"|{re.escape(RANK)}> <http://wikiba\.se/ontology\#(?P<rank>[A-Za-z]+)Rank>"
            rf'|{re.escape(QUALIFIER)}(?P<when>{START}|{END})> (?:"(?P<date>[^"]*)".*?|.*?)'
            rf"|(?P<derived>{re.escape(DERIVED)})> <[^>]+>)"
        )
        return re.compile(f"^(?:{about_entity}|{about_statement}) \\.$".encode(), re.M)


def pick_rows(block: bytes, wanted: Wanted) -> list[tuple[int, bytes]]:
    r"""Return rows of a block, each with the number of its subject; cells are split by tabs.

    `F` relation, object; `L` tag, escaped label; `R` target of a redirect; `S` relation, object, rank, start, end (a
    date, `?` for one without a value, or nothing), 1 if it has a reference.

    >>> line = f'<{ENTITY}Q1> <{DIRECT}P36> <{ENTITY}Q2> .\n'.encode()
    >>> pick_rows(line, Wanted(frozenset({"P36"})))
    [(1, b'F\t1\tP36\t2')]
    """
    rows: list[tuple[int, bytes]] = []
    statement: dict[str, bytes] = {}

    def finish() -> None:
        if "value" in statement:
            cells = [statement.get(key, b"") for key in ("stated", "value", "rank", START, END, "derived")]
            rows.append((int(statement["number"]), b"\t".join([b"S", statement["number"], *cells])))
        statement.clear()

    for match in wanted.pattern.finditer(block):
        found = match.groupdict()
        if (owner := found["owner"]) is not None:
            if (owner[1:], found["uuid"]) != (statement.get("number"), statement.get("uuid")):
                finish()
                statement.update(uuid=found["uuid"], number=owner[1:])
            if found["value"] is not None:
                statement.update(stated=found["stated"], value=found["value"][1:])
            elif found["rank"] is not None:
                statement["rank"] = found["rank"]
            elif found["when"] is not None:
                statement[found["when"].decode()] = found["date"] or b"?"
            else:
                statement["derived"] = b"1"
            continue
        number = found["subject"][1:]
        if found["relation"] is not None:
            cells = [b"F", number, found["relation"], found["object"][1:]]
        elif found["label"] is not None:
            cells = [b"L", number, found["tag"], found["label"]]
        else:
            cells = [b"R", number, found["target"][1:]]
        rows.append((int(number), b"\t".join(cells)))
    finish()
    return rows
