"""Submissions: an honest one is taken; broken and hostile ones are refused, each with its own reason."""

import copy
import gzip
import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import write_json
from counterfact.evaluation import store
from counterfact.evaluation.store import Run, load_run
from counterfact.leaderboard.board import board_of
from counterfact.leaderboard.check import check, check_all
from counterfact.leaderboard.entries import UNEXPECTED, load_entries
from counterfact.leaderboard.reading import LINE_BYTES, LINES, RUN_BYTES, UNPACKED_BYTES, Refused, parse
from counterfact.leaderboard.references import (
    References,
    dataset_key,
    fingerprints,
    load_references,
    references_of,
    write_references,
)
from counterfact.leaderboard.submission import RECORDS, find_candidates, write_submission
from tests.support import Command
from tests.support.evaluating import counterfact, run_fake, run_identity, zsre

State = tuple[dict[str, Any], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    root = tmp_path_factory.mktemp("runs")
    data, questions = counterfact(root / "data"), zsre(root / "q.json")
    return {"fake": run_fake(data, root / "r"), "identity": run_identity(data, root / "r"),
            "zsre": run_fake(questions, root / "r")}  # fmt: skip


@pytest.fixture(scope="module")
def known(runs: dict[str, Run]) -> References:
    return references_of(runs.values())


@pytest.fixture
def honest(runs: dict[str, Run], tmp_path: Path) -> Path:
    return write_submission(runs["fake"], tmp_path / "s")[0]


def read(folder: Path) -> State:
    lines = gzip.decompress((folder / RECORDS).read_bytes()).decode().splitlines()
    return json.loads((folder / "run.json").read_text()), [json.loads(line) for line in lines]


def write(folder: Path, state: State) -> None:
    (folder / "run.json").write_text(json.dumps(state[0]))
    (folder / RECORDS).write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in state[1]).encode()))


def set_(*path: Any) -> Callable[[State], None]:
    """Set what lies at a path, its last part being the value; the first part is 0 for run.json, 1 for the lines."""

    def change(state: State) -> None:
        place: Any = state
        for key in path[:-2]:
            place = place[key]
        place[path[-2]] = path[-1]

    return change


def recompute(change: Callable[[State], None]) -> Callable[[State], None]:
    """Change the lines, then forge aggregates that agree with them."""

    def both(state: State) -> None:
        from counterfact.leaderboard.submission import Submission

        change(state)
        made = Submission(Path(), state[0], tuple(state[1]))
        seed = state[0]["seeds"]["run"]
        state[0].update(store.results(made.benchmark, made.cases, made.unedited, seed))

    return both


def same_text(state: State) -> None:
    for line in state[1]:
        if "post" in line:
            line["post"]["text"] = ["the same"] * 3


def other_pre(state: State) -> None:
    for line in state[1]:
        if "pre" in line:
            line["pre"]["rewrite_prompts_probs"] = [{"target_new": 0.1, "target_true": 9.0}]


def no_texts(state: State) -> None:
    for line in state[1]:
        if "post" in line:
            line["post"]["text"] = []


def moved(state: State) -> None:
    state[0]["editor"]["name"] = "identity"


CHANGED: dict[str, tuple[str, Callable[[State], None]]] = {
    "no schema": ("schema-version", lambda s: s[0].pop("schema")),
    "newer schema": ("schema-version", set_(0, "schema", 99)),
    "schema that never was": ("schema-version", set_(0, "schema", 0)),
    "schema is true": ("schema-version", set_(0, "schema", True)),
    "key that is not known": ("schema", set_(0, "surprise", 1)),
    "key missing": ("schema", lambda s: s[0].pop("model")),
    "list for a mapping": ("schema", set_(0, "editor", [])),
    "hash that is none": ("schema", set_(0, "dataset", "content_hash", "abc")),
    "seed of another name": ("schema", set_(0, "seeds", {"walk": 1})),
    "metric as text": ("schema", set_(0, "metrics", "ES", "value", "100")),
    "path in the editor": ("bad-name", set_(0, "editor", "name", "../../etc/passwd")),
    "path in the model": ("bad-name", set_(0, "model", "name", "/etc/passwd")),
    "path in the data set": ("bad-name", set_(0, "dataset", "version", "..\\..\\x")),
    "path to the unedited": ("bad-name", set_(0, "unedited", "a/../../b")),
    "script in the editor": ("markup", set_(0, "editor", "name", "<script>alert(1)</script>")),
    "image in the settings": ("markup", set_(0, "editor", "settings", {"a": "<img src=x onerror=alert(1)>"})),
    "link in the environment": ("markup", set_(0, "environment", "device", "javascript:alert(1)")),
    "entity in a key": ("markup", set_(0, "editor", "given", {"&#60;b": 1})),
    "script in a text": ("markup", set_(1, 0, "post", "text", ["</script><script>x", "b", "c"])),
    "turned letters": ("unseen-letters", set_(0, "editor", "settings_source", "a\u202eb")),
    "zero byte": ("unseen-letters", set_(0, "code", {"commit": "a\x00"})),
    "very long text": ("long-text", set_(0, "environment", "system", "x" * 30_000)),
    "endless split": ("record-ids", set_(0, "dataset", "record_ids", "0-999999999")),
    "split backwards": ("record-ids", set_(0, "dataset", "record_ids", "9-1")),
    "split of letters": ("record-ids", set_(0, "dataset", "record_ids", "all")),
    "unknown data set": ("unknown-dataset", set_(0, "dataset", "content_hash", "0" * 64)),
    "renamed data set": ("dataset-misnamed", set_(0, "dataset", "name", "official")),
    "shorter split": ("dataset-misnamed", set_(0, "dataset", "record_ids", "0-2")),
    "better score": ("aggregate-differs", set_(0, "metrics", "S", "value", 99.0)),
    "counts of the unedited model as text": ("counts-differ", set_(0, "n", "unedited", "all")),
    "narrower interval": ("aggregate-differs", set_(0, "metrics", "PS", "low", 99.0)),
    "more records": ("aggregate-differs", set_(0, "metrics", "ES", "n", 7000)),
    "metric left out": ("other-metrics", lambda s: s[0]["metrics"].pop("NS")),
    "metric with a long name": ("schema", lambda s: s[0]["metrics"].update({"X" * 99: s[0]["metrics"]["ES"]})),
    "definition that is not known": ("definition-differs", set_(0, "metrics", "ES", "definition", 2)),
    "definition that never was": ("schema", set_(0, "metrics", "ES", "definition", 0)),
    "benchmark that is not known": ("schema", set_(0, "protocol", "name", "trivia")),
    "value of no form": ("schema", set_(1, 0, "post", "surprise", ["x"])),
    "failures unsaid": ("counts-differ", set_(0, "n", "failed", 0)),
    "edited record": ("aggregate-differs", set_(1, 0, "post", "neighborhood_prompts_probs", 0, "target_new", 0.0)),
    "record twice": ("record-twice", lambda s: s[1].append(s[1][0])),
    "record of another split": ("foreign-record", set_(1, 0, "case_id", 4711)),
    "records turned round": ("out-of-order", lambda s: s[1].reverse()),
    "prompt left out": ("other-record", recompute(lambda s: s[1][0]["post"]["neighborhood_prompts_probs"].pop())),
    "other request": ("other-record", recompute(set_(1, 0, "requested_rewrite", "subject", "Someone"))),
    "other unedited model": ("pre-differs", recompute(other_pre)),
    "identity that edits": ("identity-moved", moved),
    "no texts": ("no-texts", recompute(no_texts)),
    "one text": ("same-text", recompute(same_text)),
    "no times": ("no-times", lambda s: s[0]["environment"].pop("wall_seconds")),
    "no dates": ("no-times", set_(0, "environment", "started", "yesterday")),
    "negative times": ("impossible-times", set_(0, "environment", "wall_seconds", {"edit": -1.0})),
    "no time at all": ("impossible-times", set_(0, "environment", "wall_seconds", {"edit": 0.0})),
    "ended before it began": ("impossible-times", set_(0, "environment", "finished", "1999-01-01T00:00:00+00:00")),
    "value below zero": ("schema", set_(1, 0, "post", "rewrite_prompts_probs", 0, "target_new", -5.0)),
    "text for a number": ("schema", set_(1, 0, "post", "ngram_entropy", "high")),
    "an error that is none": ("schema", lambda s: (s[1][0].pop("post"), s[1][0].update(error=None))),
    "post and error": ("schema", set_(1, 0, "error", {"stage": "edit", "reason": "x"})),
    "line that is a list": ("schema", lambda s: s[1].insert(0, [])),  # type: ignore[arg-type]
    "request without a prompt": ("schema", lambda s: s[1][0]["requested_rewrite"].pop("prompt")),
    "relation that is a list": ("schema", set_(1, 0, "requested_rewrite", "relation_id", [])),
    "counts that are none": ("schema", lambda s: s[0]["n"].pop("scored")),
    "no lines": ("empty", lambda s: s[1].clear()),
    "deep settings": ("too-deep", set_(0, "editor", "settings", json.loads("[" * 40 + "]" * 40))),
}  # fmt: skip

RAW: dict[str, tuple[str, Callable[[Path], object]]] = {
    "NaN": ("not-a-number", lambda f: (f / "run.json").write_text('{"schema": NaN}')),
    "infinity": ("not-a-number", lambda f: (f / "run.json").write_text('{"schema": -Infinity}')),
    "long integer": ("huge-number", lambda f: (f / "run.json").write_text('{"schema": 1' + "0" * 5000 + "}")),
    "large exponent": ("huge-number", lambda f: (f / "run.json").write_text('{"schema": 1e999}')),
    "bottomless": ("too-deep", lambda f: (f / "run.json").write_text("[" * 400_000)),
    "key twice": ("key-twice", lambda f: (f / "run.json").write_text('{"schema": 1, "schema": 1}')),
    "latin-1": ("not-utf-8", lambda f: (f / "run.json").write_bytes(b'{"schema": "\xe9"}')),
    "half a letter": ("unseen-letters", lambda f: (f / "run.json").write_text('{"schema": "\\ud800"}')),
    "no JSON": ("not-json", lambda f: (f / "run.json").write_text("schema: 1")),
    "a large run file": ("too-large", lambda f: (f / "run.json").write_bytes(b" " * (RUN_BYTES + 1))),
    "no run file": ("missing-file", lambda f: (f / "run.json").unlink()),
    "no records": ("missing-file", lambda f: (f / RECORDS).unlink()),
    "a script beside": ("foreign-file", lambda f: (f / "conftest.py").write_text("boom")),
    "a folder beside": ("no-plain-file", lambda f: (f / "more").mkdir()),
    "a link out": ("no-plain-file", lambda f: ((f / RECORDS).unlink(), (f / RECORDS).symlink_to("/etc/passwd"))),
    "a pipe": ("no-plain-file", lambda f: ((f / RECORDS).unlink(), os.mkfifo(f / RECORDS))),
    "no gzip": ("not-gzip", lambda f: (f / RECORDS).write_bytes(b"PK\x03\x04 this is a zip")),
    "cut off": ("cut-off", lambda f: (f / RECORDS).write_bytes((f / RECORDS).read_bytes()[:-30])),
    "bytes behind": ("trailing-bytes", lambda f: (f / RECORDS).write_bytes((f / RECORDS).read_bytes() + b"MZ")),
    "one long line": ("long-line", lambda f: (f / RECORDS).write_bytes(gzip.compress(b"1" * (2 * LINE_BYTES)))),
    "NaN in a line": ("not-a-number", lambda f: (f / RECORDS).write_bytes(gzip.compress(b'{"case_id": NaN}\n'))),
}  # fmt: skip


def test_there_are_enough() -> None:
    assert len(CHANGED) + len(RAW) >= 40


def test_honest_ones_are_taken(runs: dict[str, Run], known: References, tmp_path: Path) -> None:
    for name, run in runs.items():
        folder, _ = write_submission(run, tmp_path / name)
        verdict = check(folder, known)
        assert (verdict.reasons, verdict.missing) == ((), 0)
        again, _ = write_submission(run, tmp_path / f"{name}-again")
        assert (folder / RECORDS).read_bytes() == (again / RECORDS).read_bytes()


@pytest.mark.parametrize("name", CHANGED)
def test_changed_ones_are_refused(honest: Path, known: References, name: str) -> None:
    code, change = CHANGED[name]
    state = copy.deepcopy(read(honest))
    change(state)
    write(honest, state)
    assert code in [reason.code for reason in check(honest, known).reasons]


@pytest.mark.parametrize("name", RAW)
def test_raw_ones_are_refused(honest: Path, known: References, name: str) -> None:
    code, change = RAW[name]
    change(honest)
    assert [reason.code for reason in check(honest, known).reasons] == [code]


def test_a_bomb_is_stopped_early(honest: Path, known: References, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("counterfact.leaderboard.reading.UNPACKED_BYTES", 1 << 22)
    assert UNPACKED_BYTES > 1 << 22
    (honest / RECORDS).write_bytes(gzip.compress(b"\n" * (1 << 24)))
    assert [reason.code for reason in check(honest, known).reasons] in (["zip-bomb"], ["too-many-lines"])
    assert LINES < 1 << 22


def test_missing_records_count_as_failures(honest: Path, known: References) -> None:
    state = read(honest)
    recompute(lambda s: s[1].pop(2))(state)
    write(honest, state)
    verdict = check(honest, known)
    assert verdict.accepted and verdict.missing == 1


def test_leaving_out_a_record_does_not_hide_another_unedited_model(honest: Path, known: References) -> None:
    state = read(honest)
    recompute(lambda s: (other_pre(s), s[1].pop(2)))(state)
    write(honest, state)
    assert [reason.code for reason in check(honest, known).reasons] == ["pre-differs"]


def test_an_older_schema_is_migrated(honest: Path, known: References, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SCHEMA", 2)
    monkeypatch.setattr(store, "MIGRATIONS", {1: lambda data: data})
    assert check(honest, known).accepted


def test_markup_that_a_model_wrote_is_replaced(runs: dict[str, Run], known: References, tmp_path: Path) -> None:
    run = Run(runs["fake"].folder, runs["fake"].data)
    run.cases[0]["post"]["text"][0] = "see <b>this</b>"
    folder, replaced = write_submission(run, tmp_path / "s")
    assert replaced >= 1 and check(folder, known).accepted
    with pytest.raises(BadInput, match="not empty"):
        write_submission(run, folder)


def test_references_survive_their_file(known: References, tmp_path: Path) -> None:
    write_references(tmp_path / "references.json", known)
    assert load_references(tmp_path / "references.json") == known


def test_nothing_hides_from_check_all(honest: Path) -> None:
    assert find_candidates(honest.parent) == ([honest], [])
    root, known = honest.parent, References({}, {})
    assert set(check_all(root, known)) == {honest}
    (root / "README.md").write_text("a board")
    shutil.copy(honest / "run.json", root / "run.json")
    shutil.copy(honest / RECORDS, root / RECORDS)
    (root / "packed.zip").write_bytes(b"PK\3\4")
    (root / "empty" / "below").mkdir(parents=True)
    (root / "nested" / "packed").mkdir(parents=True)
    (root / "nested" / "packed" / "run.zip").write_bytes(b"PK\3\4")
    refused = {
        path.name: verdict.reasons[0].code for path, verdict in check_all(root, known).items() if verdict.reasons
    }
    assert refused.pop(honest.name) == "unknown-dataset"
    loose = dict.fromkeys(("run.json", RECORDS, "packed.zip"), "loose-file")
    assert refused == {**loose, "below": "missing-file", "packed": "foreign-file"}
    entries, left_out = load_entries(root)
    assert len(entries) == 1 and set(left_out) == {"run.json", RECORDS}


def test_a_submitter_checks_without_references(honest: Path, command: Command) -> None:
    code, out, err = command("leaderboard", "check", honest)
    assert code == 0 and "taken" in out and "its own check does that" in err
    assert command("leaderboard", "check", honest.parent, "--all")[0] == 2
    write_references(honest.parent / "references.json", References({}, {}))
    assert command("leaderboard", "check", honest)[0] == 1
    shutil.rmtree(honest)
    code, _, err = command("leaderboard", "check", honest.parent, "--all")
    assert code == 1 and "no submissions in" in err


ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**17,
    1e14,
    "",
    "x" * 300,
    [],
    {},
    [[]],
    {"str": "a"},
    "\u202e",
    "0-5",
    0.5,
)


def broken_bytes(rng: random.Random, data: bytes) -> bytes:
    """Put what no parser likes at random places."""
    odd = [b"NaN", b"1e400", b"null", b"{}", b"[]", b'"', b"-1", b"\xff", b"true", b"<b>", b"9" * 30, b"", b"[" * 50]
    target = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        start = rng.randrange(len(target))
        target[start : start + rng.randrange(12)] = rng.choice(odd)
    return bytes(target)


def broken_value(rng: random.Random, value: Any) -> Any:
    """Change one value somewhere inside: JSON that parses, so that the checks behind the parser meet it."""
    place, key = None, None
    while isinstance(value, dict | list) and value and (place is None or rng.random() < 0.8):
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        place, value = value, value[key]
    if place is None:
        return
    if rng.random() < 0.25:
        del place[key]
    else:
        place[key] = copy.deepcopy(rng.choice(ODD))


def fuzz(folder: Path, known: References, seconds: float) -> Counter[str]:
    """Break bytes and values of a submission at random, check it and build a board of it; return what was found."""
    rng, end, found = random.Random(0), time.monotonic() + seconds, Counter[str]()
    run, packed = (folder / "run.json").read_bytes(), gzip.decompress((folder / RECORDS).read_bytes())
    honest = read(folder)
    while time.monotonic() < end:
        if rng.random() < 0.5:
            state = copy.deepcopy(honest)
            for _ in range(rng.randrange(1, 3)):
                broken_value(rng, rng.choice(state))
            write(folder, state)
        else:
            data = [run, packed]
            target = rng.randrange(2)
            data[target] = broken_bytes(rng, data[target])
            (folder / "run.json").write_bytes(data[0])
            raw = bytearray(gzip.compress(data[1], 1))
            if rng.random() < 0.1:
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            (folder / RECORDS).write_bytes(raw)
        verdict = check(folder, known)
        found[verdict.reasons[0].code if verdict.reasons else "taken"] += 1
        try:
            entries, left_out = load_entries(folder.parent)
            board_of(entries)
        except BadInput as error:
            left_out = {"": str(error)}
        assert not any(UNEXPECTED in reason for reason in left_out.values()), left_out
    return found


def test_a_record_may_say_that_there_is_no_true_object(honest: Path) -> None:
    state = read(honest)
    state[1][0]["requested_rewrite"]["target_true"] = None
    write(honest, state)
    entries, left_out = load_entries(honest.parent)
    assert len(entries) == 1 and not left_out


def test_a_fault_of_ours_costs_one_run(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("counterfact.leaderboard.entries.entry_of", fail)
    with pytest.raises(BadInput, match=f"{UNEXPECTED}: ZeroDivisionError: of ours"):
        load_entries(honest.parent)


def test_fuzzing(honest: Path, known: References) -> None:
    found = fuzz(honest, known, 30)
    assert sum(found.values()) > 100 and len(found) > 8


def test_requests_that_may_not_be_passed_on_are_withheld_and_still_checked(
    runs: dict[str, Run], known: References, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="begin with their prompts"):
        write_submission(runs["fake"], tmp_path / "texts", withhold=True)
    folder, _ = write_submission(runs["zsre"], tmp_path / "s" / "one", withhold=True)
    lines = gzip.decompress((folder / RECORDS).read_bytes()).decode()
    subjects = [line["requested_rewrite"]["subject"] for line in runs["zsre"].cases if "post" in line]
    assert not any(subject in lines for subject in subjects)
    assert check(folder, known).accepted
    [entry] = load_entries(tmp_path / "s")[0]
    whole = write_submission(runs["zsre"], tmp_path / "whole" / "one")[0]
    assert entry.cells == load_entries(whole.parent)[0][0].cells
    other = [json.loads(line) for line in lines.splitlines()]
    other[0]["requested_rewrite"]["withheld"] = "0" * 64
    (folder / RECORDS).write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in other).encode()))
    assert [reason.code for reason in check(folder, known).reasons] == ["other-record"]


def test_two_protocols_of_one_data_set_are_known_beside_each_other(
    honest: Path, runs: dict[str, Run], tmp_path: Path
) -> None:
    counterfact(tmp_path / "data")
    chosen = run_fake(load_dataset(tmp_path / "data", benchmark="choice"), tmp_path / "r")
    assert chosen.data["dataset"]["content_hash"] == runs["fake"].data["dataset"]["content_hash"]
    asked_otherwise = write_submission(chosen, tmp_path / "choice")[0]
    both = references_of([chosen, *runs.values()])
    assert check(honest, both).accepted and check(asked_otherwise, both).accepted
    alone = references_of(runs.values())
    [reason] = check(asked_otherwise, alone).reasons
    assert reason.code == "unknown-dataset" and "under the protocol 'choice'" in str(reason)


def test_references_that_kept_one_protocol_for_each_data_set_are_read(
    honest: Path, known: References, tmp_path: Path
) -> None:
    datasets = {key.partition("/")[0]: dataset for key, dataset in known.datasets.items()}
    unedited = {f"{key.split('/')[0]}/{key.split('/')[2]}": values for key, values in known.unedited.items()}
    write_json(tmp_path / "references.json", {"schema": 1, "datasets": datasets, "unedited": unedited})
    assert load_references(tmp_path / "references.json") == known
    write_json(tmp_path / "references.json", {"schema": 3, "datasets": {}, "unedited": {}})
    with pytest.raises(BadInput, match="a newer version wrote it"):
        load_references(tmp_path / "references.json")


def test_references_of_an_earlier_version_know_the_same_records(honest: Path, runs: dict[str, Run]) -> None:
    before = references_of(runs.values())
    for key, data in before.datasets.items():
        for run in runs.values():
            if dataset_key(run.data) == key:
                lines = {str(line["case_id"]): line for line in run.unedited if "pre" in line}
                data["records"].update({case: fingerprints(line, "pre")[1] for case, line in lines.items()})
    assert check(honest, before).accepted


def test_intervals_of_an_earlier_definition_are_accepted_and_shown_anew(honest: Path, known: References) -> None:
    run = json.loads((honest / "run.json").read_text())
    for entry in [*run["metrics"].values(), *run["pre"].values()]:
        entry.pop("interval")
        entry["low"] = entry["high"] = entry["value"]
    (honest / "run.json").write_text(json.dumps(run))
    assert not check(honest, known).reasons
    [entry] = load_entries(honest.parent)[0]
    for name in ("PS", "S"):
        value, low, high, _ = entry.cells[name]
        assert low < high and low <= value <= high


@pytest.mark.soak
def test_fuzzing_for_ten_minutes(honest: Path, known: References) -> None:
    found = fuzz(honest, known, 600)
    assert sum(found.values()) > 500, found  # a slow machine with others on it comes to 1,700
    assert len(found) > 12, found


def test_parse_by_hand() -> None:
    assert parse(b'{"a": [1, 2.5, null, "\xc3\xa9"]}', "x") == {"a": [1, 2.5, None, "é"]}
    with pytest.raises(Refused, match="not-json"):
        parse(b"", "x")


def test_a_finished_run_reads_as_before(runs: dict[str, Run]) -> None:
    assert load_run(runs["fake"].folder).data == runs["fake"].data
