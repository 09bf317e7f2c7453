"""Read a data set: a folder that `counterfact build` wrote, a JSON file of any known form, or a data set on the Hub."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from counterfact.contracts.benchmarks import BENCHMARKS, Benchmark, benchmark_of
from counterfact.contracts.formats import FORMATS, Format, OtherFormat, format_of, unread_keys
from counterfact.core.errors import BadInput
from counterfact.core.files import canonical_json, hash_file, read_json, read_jsonl
from counterfact.core.hub import published_source, read_published
from counterfact.core.records import BadRecord, Record, ReferenceTexts, has_outer_blanks

BLANKS = "blanks at the ends of a prompt, subject or target are kept, and become tokens of their own"


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
    form: str = ""
    """Whose form a file has, for people; empty for what this project built."""
    notes: tuple[str, ...] = ()
    """How the file was read, where that is not plain from its form."""
    beyond: tuple[Record | BadRecord, ...] = ()
    """Records that follow after a limit, as far as they were asked for."""

    @property
    def benchmark(self) -> Benchmark[Any]:
        """The benchmark that its records belong to."""
        return BENCHMARKS.get(self.kind)

    @property
    def label(self) -> str:
        """`name@version`, a folder name."""
        return f"{self.name}@{self.version}"

    @property
    def described(self) -> str:
        """What was read, in words: whose form the file has, and how many records."""
        return f"{self.path}: {self.form or self.benchmark.title}, {_count(len(self.records))}"


def load_dataset(
    source: str | Path,
    limit: int | None = None,
    name: str | None = None,
    benchmark: str | None = None,
    *,
    beyond: int = 0,
) -> Dataset:
    """Read a data set.

    Args:
        source: a folder with `records.jsonl`; a `.json` file that holds a list, or a `.jsonl` file, of any form that
            docs/formats.md names; or a data set on the Hub, as `org/name`, `org/name:config`,
            `org/name:config@revision`, or the folder that `counterfact push --dry-run` staged for it.
        limit: how many records to take, from the start.
        name: a name to give it; by default that of its `build.json`, else of its file.
        benchmark: the benchmark to read it for; by default the one that its form is for.
        beyond: how many of the records after a limit are read too, and kept apart.

    Raises:
        BadInput: there is nothing to read, a line is not JSON (file and line are named), no form fits or it is one
            that cannot be read, no record can be used, or two records share a case id.
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
    elif path.suffix in {".json", ".jsonl"}:
        values = read_values(path)
        if path.suffix == ".json":
            snippets = path.parent / "attribute_snippets.json"
            references = ReferenceTexts(read_json(snippets)) if snippets.exists() else None
            meta = _released(hash_file(path))
    else:
        raise BadInput(
            f"no data set at {source}: expected a folder with records.jsonl, a .json or .jsonl file, or a Hub id"
        )
    counted = len(values[:limit])
    return _assemble(values[: counted + beyond], counted, meta, path, references, name, chosen)


def read_values(path: Path) -> list[Any]:
    """Read the JSON values of a `.json` file that holds a list, or of any other file that has one a line.

    Raises:
        BadInput: the file is missing, is not JSON, or holds no list.
    """
    if path.suffix != ".json":
        lines = list(read_jsonl(path))
        return lines[0] if len(lines) == 1 and isinstance(lines[0], list) else lines
    values = read_json(path)
    if not isinstance(values, list):
        keys = (
            f" with the keys {', '.join(values):.100}; leave the list alone in it" if isinstance(values, dict) else ""
        )
        raise BadInput(f"{path}: expected a JSON list of records, got {type(values).__name__}{keys}")
    return values


class Reading(NamedTuple):
    """Records of one file, and how they were read."""

    benchmark: Benchmark[Any]
    form: str
    """Whose form the file has, for people."""
    records: list[Record | BadRecord]
    notes: tuple[str, ...]
    for_others: tuple[str, ...]
    """Keys that another benchmark reads, with its name."""
    content_hash: str


def read_records(
    values: Sequence[Any], path: Path, chosen: Benchmark[Any] | None = None, counted: int | None = None
) -> Reading:
    """Turn the values of a file into records of one benchmark.

    Args:
        values: one JSON value a record.
        path: of the file, for messages.
        chosen: the benchmark; by default the one that the file's form is for.
        counted: how many of the values, from the first, are the data set, which notes and hash are about.

    Raises:
        BadInput: no form fits, it is one that cannot be read, no record can be used, or two records share a case id.
    """
    form, benchmark = _recognised(values, path, chosen)
    digest, said = sha256(b"["), Counter[str]()
    ignored: dict[str, None] = {}
    records: list[Record | BadRecord] = []
    theirs: dict[str, None] = {}
    for place, value in enumerate(values):
        text, flaw = _hashed(value)
        counts = counted is None or place < counted
        if counts:
            digest.update(("," if place else "").encode() + text)
        if flaw is not None:
            records.append(BadRecord(_number(value, place), flaw))
            continue
        record = _read(value, place, form, benchmark, said if counts else Counter())
        if counts and not isinstance(record, BadRecord) and has_outer_blanks(record.request):
            said[BLANKS] += 1
        records.append(record)
        if form is not None and isinstance(value, dict) and counts:
            ignored |= dict.fromkeys(unread_keys(value, form))
            theirs |= {key: None for key in form.keys_of if key in value and form.keys_of[key] != benchmark.name}
    digest.update(b"]")
    records = _numbered(records)
    _check_ids(records, path)
    title = benchmark.title if form is None else form.title
    bad = [record for record in records[:counted] if isinstance(record, BadRecord)]
    if records and len(bad) == len(records[:counted]):
        raise BadInput(
            f"{path}: {title}, {_count(len(bad))}, of which {benchmark.title} can use none; the first: record "
            f"{bad[0].case_id}: {bad[0].reason}"
        )
    read_by = [f"{key} is read by --benchmark {form.keys_of[key]}" for key in theirs] if form is not None else []
    notes = tuple(_notes(form, ignored, said, bad))
    return Reading(benchmark, title, records, notes, tuple(read_by), digest.hexdigest())


def _recognised(
    values: Sequence[Any], path: Path, chosen: Benchmark[Any] | None
) -> tuple[Format | None, Benchmark[Any]]:
    """Return the form of a file, by its first record that has a known one, and the benchmark to read it for."""
    if not values and chosen is None:
        raise BadInput(f"{path} holds no records")
    for value in values:
        if not isinstance(value, dict):
            continue
        form, own = format_of(value), benchmark_of(value)
        if isinstance(form, OtherFormat):
            raise BadInput(f"{path} is {form.title}: {form.advice}")
        if form is not None:
            benchmark = chosen or BENCHMARKS.get(form.benchmark)
            by_itself = benchmark.recognises is not None and benchmark.recognises(value)
            return (None if by_itself and benchmark.name != form.benchmark else form), benchmark
        if own is not None:
            return None, chosen or own
    if chosen is not None:
        return None, chosen
    keys = next((", ".join(map(str, value)) for value in values if isinstance(value, dict)), "none")
    known = ", ".join(FORMATS.get(name).title for name in FORMATS if isinstance(FORMATS.get(name), Format))
    raise BadInput(
        f"{path}: no record is of a known form; keys found: {keys:.200}. Known: {known}; see docs/formats.md"
    )


def _hashed(value: Any) -> tuple[bytes, str | None]:
    """Return the bytes of a value that are hashed, and why it cannot be used, where JSON does not allow it."""
    try:
        return canonical_json(value).encode(), None
    except UnicodeEncodeError as error:
        flaw = f"it holds half of a character, \\u{ord(error.object[error.start]):04x} (a lone surrogate)"
    except ValueError:
        flaw = "it holds NaN or an infinity, which JSON does not know"
    return ascii(value).encode(), flaw


def _read(
    value: Any, place: int, form: Format | None, benchmark: Benchmark[Any], said: Counter[str]
) -> Record | BadRecord:
    if form is None or not isinstance(value, dict):
        return benchmark.read(value, place)
    notes: list[str] = []
    try:
        made = form.convert(value, place, notes.append)
    except ValueError as error:
        return BadRecord(_number(value, place), str(error))
    said.update(dict.fromkeys(notes, 1))
    return benchmark.read(made, place)


def _number(value: Any, place: int) -> int:
    """Return the number that a record has, else its place."""
    given = value.get("case_id") if isinstance(value, dict) else None
    return given if isinstance(given, int) and not isinstance(given, bool) else place


def _numbered(records: list[Record | BadRecord]) -> list[Record | BadRecord]:
    """Give bad records whose number another has a number of their own, below zero."""
    taken = {record.case_id for record in records if not isinstance(record, BadRecord)}
    numbered: list[Record | BadRecord] = []
    for place, record in enumerate(records):
        if isinstance(record, BadRecord):
            record = record if record.case_id not in taken else BadRecord(-1 - place, record.reason)
            taken.add(record.case_id)
        numbered.append(record)
    return numbered


def _notes(form: Format | None, ignored: dict[str, None], said: Counter[str], bad: list[BadRecord]) -> Iterator[str]:
    if form is not None and form.warning:
        yield form.warning
    if ignored:
        yield f"keys that are ignored: {', '.join(ignored)}"
    for note, count in sorted(said.items()):
        yield f"{_count(count)}: {note}"
    if bad:
        yield f"{_count(len(bad))} cannot be used; the first: record {bad[0].case_id}: {bad[0].reason}"


def _count(records: int) -> str:
    return f"{records:,} record{'' if records == 1 else 's'}"


def _assemble(
    values: list[Any],
    counted: int,
    meta: dict[str, Any],
    path: Path,
    references: ReferenceTexts | None,
    name: str | None,
    chosen: Benchmark[Any] | None,
) -> Dataset:
    reading = read_records(values, path, chosen, counted)
    return Dataset(
        name=name or meta.get("name") or path.stem,
        version=str(meta.get("version") or reading.content_hash[:8]),
        kind=reading.benchmark.name,
        records=tuple(reading.records[:counted]),
        content_hash=reading.content_hash,
        path=str(path),
        reference_texts=references,
        form=reading.form if path.is_file() else "",
        notes=(*(reading.for_others if path.is_file() else ()), *reading.notes),
        beyond=tuple(reading.records[counted:]),
    )


def _check_ids(records: Sequence[Record | BadRecord], path: Path) -> None:
    first: dict[int, int] = {}
    for place, record in enumerate(records):
        if (before := first.setdefault(record.case_id, place)) != place:
            raise BadInput(
                f"{path}: case_id {record.case_id} stands more than once, in the records at places {before} and "
                f"{place} from 0, as where two files were joined; each record needs an id of its own: number them "
                "anew, or evaluate each file by itself"
            )


def _released(digest: str) -> dict[str, Any]:
    """Return name and version of a published file by its sha256; empty for any other."""
    known = [BENCHMARKS.get(name).released.get(digest) for name in BENCHMARKS]
    return next(({"name": found[0], "version": found[1]} for found in known if found is not None), {})
