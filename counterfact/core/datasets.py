"""Read a data set: a folder that `counterfact build` wrote, an official JSON file, or a data set on the Hub."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, hash_json, read_json, read_jsonl
from counterfact.core.hub import published_source, read_published
from counterfact.core.records import BadRecord, Kind, Record, parse_record

OFFICIAL_COUNTERFACT = "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f"
"""sha256 of the released `counterfact.json`, 45,108,470 bytes."""


@dataclass(frozen=True)
class Snippet:
    """One reference text: an article about a subject for which the object is true."""

    name: str
    text: str


class ReferenceTexts:
    """Reference texts by (relation id, target id), in file order."""

    def __init__(self, entries: Iterable[dict[str, Any]]) -> None:
        self._snippets: dict[tuple[str, str], list[Snippet]] = {}
        for entry in entries:
            key = (entry["relation_id"], entry["target_id"])
            samples = [Snippet(sample["name"], sample["text"]) for sample in entry["samples"]]
            self._snippets.setdefault(key, []).extend(samples)

    def get(self, relation_id: str | None, target_id: str | None) -> list[Snippet]:
        """Return the texts for one object; an empty list where there is none."""
        if relation_id is None or target_id is None:
            return []
        return self._snippets.get((relation_id, target_id), [])

    def documents(self) -> Iterator[str]:
        """Yield every text, in file order: what the TF-IDF vectoriser is fitted on."""
        for snippets in self._snippets.values():
            for snippet in snippets:
                yield snippet.text


@dataclass(frozen=True)
class Dataset:
    """Records of one kind, with what identifies them."""

    name: str
    version: str
    kind: Kind
    records: tuple[Record | BadRecord, ...]
    content_hash: str
    """sha256 of the canonical JSON of the records read, in order (after `limit`)."""
    path: str
    reference_texts: ReferenceTexts | None = None

    @property
    def label(self) -> str:
        """`name@version`, a folder name."""
        return f"{self.name}@{self.version}"


def load_dataset(source: str | Path, limit: int | None = None, name: str | None = None) -> Dataset:
    """Read a data set.

    Args:
        source: a folder with `records.jsonl`; a `.json` file that holds a list (the released CounterFact, or zsRE
            in MEND's schema); a `.jsonl` file; or a data set on the Hub, as `org/name`, `org/name:config`,
            `org/name:config@revision`, or the folder that `counterfact push --dry-run` staged for it.
        limit: how many records to take, from the start.
        name: a name to give it; by default that of its `build.json`, else of its file.

    Raises:
        BadInput: there is nothing to read, a line is not JSON (file and line are named), no schema fits, or two
            records share a case id.
    """
    path = Path(source)
    meta: dict[str, Any] = {}
    references: ReferenceTexts | None = None
    published = published_source(str(source))
    if published is not None:
        found = read_published(published)
        values, meta, path = found.rows, found.meta, Path(published.place)
        references = None if found.references is None else ReferenceTexts(found.references)
    elif path.is_dir():
        meta = read_json(path / "build.json") if (path / "build.json").exists() else {}
        values = list(read_jsonl(path / "records.jsonl"))
        if (path / "reference_texts.jsonl").exists():
            references = ReferenceTexts(read_jsonl(path / "reference_texts.jsonl"))
    elif path.suffix == ".jsonl":
        values = list(read_jsonl(path))
    elif path.suffix == ".json":
        values = _read_list(path)
        snippets = path.parent / "attribute_snippets.json"
        references = ReferenceTexts(read_json(snippets)) if snippets.exists() else None
        if hash_file(path) == OFFICIAL_COUNTERFACT:
            meta = {"name": "counterfact", "version": "official"}
    else:
        raise BadInput(
            f"no data set at {source}: expected a folder with records.jsonl, a .json or .jsonl file, or a Hub id"
        )
    return _assemble(values[:limit], meta, path, references, name)


def _assemble(
    values: list[Any], meta: dict[str, Any], path: Path, references: ReferenceTexts | None, name: str | None
) -> Dataset:
    kind = _kind_of(values, path)
    records = tuple(parse_record(kind, value, position) for position, value in enumerate(values))
    twice = [case_id for case_id, count in Counter(record.case_id for record in records).items() if count > 1]
    if twice:
        raise BadInput(f"{path}: case_id {twice[0]} stands more than once; each record needs an id of its own")
    content_hash = hash_json(values)
    return Dataset(
        name=name or meta.get("name") or path.stem,
        version=str(meta.get("version") or content_hash[:8]),
        kind=kind,
        records=records,
        content_hash=content_hash,
        path=str(path),
        reference_texts=references,
    )


def _kind_of(values: list[Any], path: Path) -> Kind:
    for value in values:
        if isinstance(value, dict):
            if "requested_rewrite" in value:
                return "counterfact"
            if "src" in value:
                return "zsre"
    raise BadInput(f"{path}: no record has `requested_rewrite` (CounterFact) or `src` (zsRE in MEND's schema)")


def _read_list(path: Path) -> list[Any]:
    values = read_json(path)
    if not isinstance(values, list):
        raise BadInput(f"{path}: expected a JSON list of records, got {type(values).__name__}")
    return values
