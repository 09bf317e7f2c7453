"""What `run.json` and the lines of `records.jsonl.gz` of a submission hold, checked to the last key."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from counterfact.contracts.benchmarks import BENCHMARKS, Benchmark
from counterfact.core.records import Border
from counterfact.leaderboard.reading import LINES, Refused

NAME = re.compile(r"[A-Za-z0-9_][\w.+@ -]{0,95}(/[A-Za-z0-9_][\w.+@ -]{0,95})?", re.ASCII)
"""A name, or an owner and a name: it cannot lead out of a folder."""
IDS = re.compile(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*")
WITHHELD = "withheld"
"""Key of a request's hash, where a submission holds it in the place of the request."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=2000)]
Symbol = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,40}$")]
Count = Annotated[int, Field(ge=0, le=10**9)]


class DatasetPart(Border):
    """On what a run was measured."""

    name: Text
    version: Text
    kind: Text
    content_hash: Digest
    reference_texts_hash: Digest | None
    record_ids: Annotated[str, Field(max_length=500_000)]
    known_of: Count | None = None


class ModelPart(Border):
    """What was edited."""

    name: Text
    revision: Text
    weights_hash: Digest
    dtype: Text


class SchedulePart(Border):
    """Which records share an edit, and when they are measured."""

    edits_at_once: Annotated[int, Field(ge=1, le=10**9)]
    sequential: bool
    measure_after: Text | Annotated[list[Count], Field(max_length=1000)]
    order: Count = 0
    keep_going: bool = False


class JudgePart(Border):
    """Who judged what the model said."""

    name: Text
    version: Count
    prompt: Text
    model: ModelPart | None


class ProtocolPart(Border):
    """How it was measured."""

    name: Text
    version: Count
    generation: dict[str, Count] | None
    chat_template: Text | None = None
    judge: JudgePart | None = None
    schedule: SchedulePart
    untouched: Digest | None = None


class EditorPart(Border):
    """How it was edited."""

    name: Text
    settings: dict[str, Any]
    resources: dict[str, Any]
    given: dict[str, Any]
    settings_source: Text
    provenance: dict[str, Any]
    seen_in_training: Count | None = None


class MetricPart(Border):
    """A number and its interval."""

    value: float | None
    n: Count
    low: float | None
    high: float | None
    unit: Text
    definition: Annotated[int, Field(ge=1, le=10**6)]
    interval: Annotated[int, Field(ge=1, le=10**6)] = 1


class CountsPart(Border):
    """How many records there are; the rest of it must be what the records give."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    asked: Count
    scored: Count
    failed: Count


class RunPart(Border):
    """All of `run.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    kind: Literal["evaluation"] = "evaluation"
    schema_: int = Field(alias="schema")
    dataset: DatasetPart
    model: ModelPart
    protocol: ProtocolPart
    seeds: dict[str, int]
    editor: EditorPart
    code: dict[str, Any]
    unedited: Text
    n: CountsPart
    metrics: dict[Symbol, MetricPart]
    pre: dict[Symbol, MetricPart]
    environment: dict[str, Any]


class TextsPart(Border):
    """The generated texts of a record, in its block."""

    text: Annotated[list[str | None], Field(max_length=1000)]
    text_missing: dict[str, Text] | None = None


class TextValues(Border):
    """What metrics of texts gave for a record, by key of the block."""

    values: dict[
        Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")], Annotated[float, Field(ge=-1e-6, le=1e6)] | None
    ]


class Target(Border):
    """An object of a fact."""

    str: Text
    id: Text | None = None


class Rewrite(Border):
    """What was asked of the editor."""

    prompt: Text
    subject: Text
    relation_id: Text | None = None
    target_new: Target
    target_true: Target | None = None


class Withheld(Border):
    """A request that may not be shown: its hash, and what scores are grouped by."""

    withheld: Digest
    relation_id: Text | None = None


class ErrorPart(Border):
    """Why a record has no values."""

    stage: Text
    reason: str


class LinePart(Border):
    """One line: a case, with the unedited model's values of the same record beside it."""

    case_id: Count
    requested_rewrite: Rewrite | Withheld | None = None
    target_tokens: dict[str, Annotated[int, Field(ge=1, le=10_000)]] | None = None
    post: dict[str, Any] | None = None
    pre: dict[str, Any] | None = None
    edit: dict[str, float | None] | None = None
    error: ErrorPart | None = None
    pre_error: ErrorPart | None = None


def check_run(value: Any) -> None:
    """Raise `Refused` unless a value is a run file whose names are names."""
    _validate(RunPart, value, "run.json")
    for where, name in (("dataset.kind", value["dataset"]["kind"]), ("protocol.name", value["protocol"]["name"])):
        if name not in BENCHMARKS:
            raise Refused("schema", f"run.json: {where} is {name!r:.60}, which is no benchmark known here")
    named = {
        "dataset.name": value["dataset"]["name"],
        "dataset.version": value["dataset"]["version"],
        "model.name": value["model"]["name"],
        "model.revision": value["model"]["revision"],
        "editor.name": value["editor"]["name"],
        "unedited": value["unedited"],
    }
    for where, name in named.items():
        if not NAME.fullmatch(name) or ".." in name:
            raise Refused("bad-name", f"run.json: {where} is {name[:60]!r}, which is no name")
    if set(value["seeds"]) != {"run"}:
        raise Refused("schema", f"run.json: expected one seed, `run`, got {sorted(value['seeds'])[:5]}")


def check_line(value: Any, benchmark: Benchmark[Any], where: str) -> None:
    """Raise `Refused` unless a value is a line of the per-record file."""
    _validate(LinePart, value, where)
    if empty := [name for name in ("post", "pre", "error", "pre_error") if name in value and value[name] is None]:
        raise Refused("schema", f"{where}: `{empty[0]}` is there and empty")
    for side, error in (("post", "error"), ("pre", "pre_error")):
        if (side in value) == (error in value):
            raise Refused("schema", f"{where}: expected either `{side}` or `{error}`")
        if side in value:
            if value.get("requested_rewrite") is None or value.get("target_tokens") is None:
                raise Refused("schema", f"{where}: `{side}` without `requested_rewrite` and `target_tokens`")
            _check_block(value[side], benchmark, f"{where}: {side}")


def _check_block(block: dict[str, Any], benchmark: Benchmark[Any], where: str) -> None:
    """Raise `Refused` unless a block has the benchmark's form, and beside it texts and what was measured of them."""
    mine = {key: value for key, value in block.items() if key in benchmark.block_form.model_fields}
    _validate(benchmark.block_form, mine, where)
    rest = {key: value for key, value in block.items() if key not in mine}
    if benchmark.generation_prompts is None:
        _validate(Border, rest, where)
        return
    texts = {key: rest.pop(key) for key in list(rest) if key in TextsPart.model_fields}
    _validate(TextsPart, texts, where)
    _validate(TextValues, {"values": rest}, where)


def ids_of(text: str) -> list[int]:
    """Return the case ids of a split, without ever making more of them than a file may have lines.

    >>> ids_of("0-2,7")
    [0, 1, 2, 7]
    >>> ids_of("0-999999999")
    Traceback (most recent call last):
    counterfact.leaderboard.reading.Refused: record-ids: a split of 1000000000 records, at most 50000 are read
    """
    if not IDS.fullmatch(text):
        raise Refused("record-ids", f"{text[:60]!r} is no list of case ids")
    ranges = [(int(a), int(b or a)) for a, _, b in (part.partition("-") for part in text.split(","))]
    if any(b < a for a, b in ranges):
        raise Refused("record-ids", f"{text[:60]!r} holds a range that runs backwards")
    if (total := sum(b - a + 1 for a, b in ranges)) > LINES:
        raise Refused("record-ids", f"a split of {total} records, at most {LINES} are read")
    return list(_expanded(ranges))


def _expanded(ranges: list[tuple[int, int]]) -> Iterator[int]:
    for first, last in ranges:
        yield from range(first, last + 1)


def _validate(part: type[Border], value: Any, where: str) -> None:
    try:
        part.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))[:80]
        raise Refused("schema", f"{where}: {place}: {first['msg']}") from error
