"""Read a data set: a folder that `counterfact build` wrote, an official JSON file, or a data set on the Hub."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterfact.contracts.benchmarks import BENCHMARKS, Benchmark, benchmark_of
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, hash_json, read_json, read_jsonl
from counterfact.core.hub import published_source, read_published
from counterfact.core.records import BadRecord, Record
from counterfact.core.references import ReferenceTexts


@dataclass(frozen=True)
class Dataset:
    """Records of one benchmark, with what identifies them."""

    name: str
    version: str
    kind: str
    """Name of the benchmark."""
    records: tuple[Record | BadRecord, ...]
    content_hash: str
    """sha256 of the canonical JSON of the records read, in order (after `limit`)."""
    path: str
    reference_texts: ReferenceTexts | None = None
    known_of: int | None = None
    """How many records were read, where only those are taken whose fact the unedited model knows; None: all are."""

    @property
    def benchmark(self) -> Benchmark[Any]:
        """The benchmark that its records belong to."""
        return BENCHMARKS.get(self.kind)

    @property
    def label(self) -> str:
        """`name@version`, a folder name."""
        return f"{self.name}@{self.version}"


def load_dataset(
    source: str | Path, limit: int | None = None, name: str | None = None, benchmark: str | None = None
) -> Dataset:
    """Read a data set.

    Args:
        source: a folder with `records.jsonl`; a `.json` file that holds a list (the released CounterFact, or zsRE
            in MEND's schema); a `.jsonl` file; or a data set on the Hub, as `org/name`, `org/name:config`,
            `org/name:config@revision`, or the folder that `counterfact push --dry-run` staged for it.
        limit: how many records to take, from the start.
        name: a name to give it; by default that of its `build.json`, else of its file.
        benchmark: the benchmark to read it for; by default the one that recognises its records.

    Raises:
        BadInput: there is nothing to read, a line is not JSON (file and line are named), no schema fits, or two
            records share a case id.
    """
    path = Path(source)
    chosen = None if benchmark is None else BENCHMARKS.get(benchmark)
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
        meta = _released(hash_file(path))
    else:
        raise BadInput(
            f"no data set at {source}: expected a folder with records.jsonl, a .json or .jsonl file, or a Hub id"
        )
    return _assemble(values[:limit], meta, path, references, name, chosen)


def _assemble(
    values: list[Any],
    meta: dict[str, Any],
    path: Path,
    references: ReferenceTexts | None,
    name: str | None,
    chosen: Benchmark[Any] | None,
) -> Dataset:
    benchmark = chosen or _recognised(values, path)
    records = tuple(benchmark.read(value, position) for position, value in enumerate(values))
    twice = [case_id for case_id, count in Counter(record.case_id for record in records).items() if count > 1]
    if twice:
        raise BadInput(f"{path}: case_id {twice[0]} stands more than once; each record needs an id of its own")
    content_hash = hash_json(values)
    return Dataset(
        name=name or meta.get("name") or path.stem,
        version=str(meta.get("version") or content_hash[:8]),
        kind=benchmark.name,
        records=records,
        content_hash=content_hash,
        path=str(path),
        reference_texts=references,
    )


def _recognised(values: list[Any], path: Path) -> Benchmark[Any]:
    found = (benchmark_of(value) for value in values if isinstance(value, dict))
    benchmark = next((each for each in found if each is not None), None)
    if benchmark is None:
        raise BadInput(f"{path}: no record is of a known benchmark: {', '.join(BENCHMARKS)}")
    return benchmark


def _released(digest: str) -> dict[str, Any]:
    """Return name and version of a published file by its sha256; empty for any other."""
    known = [BENCHMARKS.get(name).released.get(digest) for name in BENCHMARKS]
    return next(({"name": found[0], "version": found[1]} for found in known if found is not None), {})


def _read_list(path: Path) -> list[Any]:
    values = read_json(path)
    if not isinstance(values, list):
        raise BadInput(f"{path}: expected a JSON list of records, got {type(values).__name__}")
    return values
