"""Tables of the ids that tuples of ParaRel mean: uuid to Q-ids, as LAMA publishes them with its facts.

Petroni et al. Language Models as Knowledge Bases? EMNLP 2019. https://arxiv.org/abs/1909.01066. ParaRel took its tuples
from LAMA's T-REx and kept their uuids, but not their ids.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from counterfact.core.errors import BadInput

from .pararel import Relation

_ENTITY = re.compile(r"Q[0-9]+")


def id_files(path: Path) -> list[Path]:
    """Return the files of a table: the one file, or all `.jsonl` and `.jsonl.gz` of a folder.

    Raises:
        BadInput: there is none.
    """
    files = sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")]) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise BadInput(
            f"no table of ids at {path}: expected .jsonl with uuid, sub_uri and obj_uri, also .gz, or a folder"
        )
    return files


def read_entity_ids(path: Path) -> dict[str, tuple[str, str]]:
    """Read a table; lines without a uuid or with ids that are no entities of WikiData say nothing.

    Args:
        path: JSON lines with the keys `uuid`, `sub_uri` and `obj_uri`, or a folder of such files.

    Returns:
        uuid to the ids of subject and object.

    Raises:
        BadInput: there is no such file, a line is not JSON, or no line says anything.
    """
    found: dict[str, tuple[str, str]] = {}
    for file in id_files(path):
        for uuid, subject, object in _lines(file):
            if _ENTITY.fullmatch(subject) and _ENTITY.fullmatch(object):
                found.setdefault(uuid, (subject, object))
    if not found:
        raise BadInput(f"{path}: no line has uuid, sub_uri and obj_uri")
    return found


def with_ids(relations: Iterable[Relation], ids: dict[str, tuple[str, str]]) -> list[Relation]:
    """Return relations whose tuples have the ids of a table."""
    return [
        replace(relation, tuples=tuple(replace(fact, ids=ids.get(fact.uuid)) for fact in relation.tuples))
        for relation in relations
    ]


def _lines(file: Path) -> Iterator[Sequence[str]]:
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                value = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{file}:{number}: not JSON: {error}") from error
            if isinstance(value, dict) and {"uuid", "sub_uri", "obj_uri"} <= value.keys():
                yield [str(value[key]) for key in ("uuid", "sub_uri", "obj_uri")]
