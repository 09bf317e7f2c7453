"""Evaluation: what is computed, that bad records cost only themselves, and that every run gives the same bytes."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.contracts.editors import Edited, Editor, EditorSpec, Failure, Group, Resources
from counterfact.core.errors import BadInput
from counterfact.core.files import (
    JsonLog,
    hash_file,
    hash_json,
    one_writer,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from counterfact.core.records import BadRecord, Request
from counterfact.evaluation.benchmarks.counterfact import COUNTERFACT, CounterFactRecord
from counterfact.evaluation.harness import evaluate, evaluate_unedited
from counterfact.evaluation.rescore import score_texts
from counterfact.evaluation.schedule import Schedule
from counterfact.evaluation.store import MIGRATIONS, SCHEMA, Run, load_run
from counterfact.evaluation.task import Options
from counterfact.lm.drift import text_perplexities
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.generation import Generation, generate
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.queries import Query
from counterfact.lm.scoring import score
from counterfact.metrics.fluency import generation_entropy
from tests.support import ROOT
from tests.support.evaluating import (
    LENGTH,
    PEOPLE,
    FakeSettings,
    contents,
    counterfact,
    fake_spec,
    low_rank_edit,
    options,
    run_fake,
    run_identity,
    zsre,
)
from tests.support.models import tiny_lm


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return counterfact(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def lm() -> LM:
    return tiny_lm("gpt2")


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing disturbed."""
    return run_fake(dataset, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def undisturbed(run: Run) -> dict[str, Any]:
    return contents(run.folder.parent.parent.parent)


def naive_nll(lm: LM, prompt: str, target: str) -> float:
    """Mean nats per target token from one plain forward pass."""
    start, ids = lm.prompt_tokens(prompt), lm.target_tokens(target)
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([start + ids])).logits[0].double().log_softmax(-1)
    return -sum(float(logits[len(start) - 1 + j, token]) for j, token in enumerate(ids)) / len(ids)


# What is computed


def test_lines_have_the_form_of_the_contract(run: Run, dataset: Dataset) -> None:
    assert [line["case_id"] for line in run.cases] == [record.case_id for record in dataset.records]
    line = run.cases[0]
    assert list(line) == ["case_id", "requested_rewrite", "target_tokens", "post", "edit"]
    assert list(line["post"]) == [
        *(f"{sort}_prompts_probs" for sort in ("rewrite", "paraphrase", "neighborhood", "attribute")),
        *("ngram_entropy", "reference_score", "essence_score", "text"),
    ]
    assert [len(line["post"][name]) for name in list(line["post"])[:4]] == [1, 2, 4, 3]
    assert line["requested_rewrite"]["target_new"] == {"str": "Lisbon", "id": "Q0"}
    assert run.cases[4] == {"case_id": 4, "error": {"stage": "read", "reason": run.cases[4]["error"]["reason"]}}
    assert {"post": None, "edit": None}.keys().isdisjoint(run.unedited[0])


@pytest.mark.parametrize("case_id", [0, 2, 6])
def test_values_equal_a_plain_pass_over_the_edited_weights(run: Run, dataset: Dataset, case_id: int) -> None:
    lm = tiny_lm("gpt2", "float32")
    record = dataset.records[case_id]
    assert isinstance(record, CounterFactRecord)
    queries = COUNTERFACT.queries(record)
    with merged(lm, [low_rank_edit(lm, record.request, 0)]):
        post = [[naive_nll(lm, query.prompt, target) for target in query.targets] for query in queries]
    pre = [[naive_nll(lm, query.prompt, target) for target in query.targets] for query in queries]
    for expected, block in ((post, run.cases[case_id]["post"]), (pre, run.unedited[case_id]["pre"])):
        found = [list(pair.values()) for name, pairs in block.items() if name.endswith("_probs") for pair in pairs]
        assert found == [pytest.approx(pair, abs=1e-4) for pair in expected]
    tokens = {"new": lm.target_tokens(queries[0].targets[0]), "true": lm.target_tokens(queries[0].targets[1])}
    assert run.cases[case_id]["target_tokens"] == {name: len(ids) for name, ids in tokens.items()}


def test_texts_and_their_metrics(run: Run, dataset: Dataset) -> None:
    blocks = [line["post"] for line in run.cases if "post" in line]
    assert all(len(block["text"]) == 3 and all(block["text"]) for block in blocks)
    # One prompt stands twice, and is sampled with another seed.
    assert any(block["text"][0] != block["text"][1] for block in blocks)
    assert all(block["ngram_entropy"] == generation_entropy(block["text"]) for block in blocks)
    scores = {line["case_id"]: line["post"]["reference_score"] for line in run.cases if "post" in line}
    assert scores[5] is None, "the object Q5 has no reference texts"
    assert all(0 <= score <= 1 for case_id, score in scores.items() if case_id != 5)
    assert run.data["n"]["texts_missing"] == [
        {"reason": "RS: no reference text for the relation and the new object", "n": 1}
    ]


def test_essence_is_measured_under_the_edit_where_a_text_is_about_the_subject(run: Run, dataset: Dataset) -> None:
    from tests.support.evaluating import counterfact_record

    assert all(line["post"]["essence_score"] is None for line in run.cases if "post" in line)
    lm = tiny_lm("gpt2", "float32")
    edit = low_rank_edit(lm, Request(0, "{}", "Q", "x"), 0)
    text = "Jo Marlow was born in Lisbon."
    found = text_perplexities(lm, [text, text, "J"], [-1, 0, -1], [edit])
    with merged(lm, [edit]), torch.no_grad():
        ids = torch.tensor([lm.prompt_tokens(text)])
        loss = lm.model(input_ids=ids, labels=ids).loss
    length = ids.shape[1]
    assert found[1] == pytest.approx(math.exp(float(loss) * (length - 1) / length), rel=1e-4)
    assert found[0] != pytest.approx(found[1])
    assert found[2] is None
    record = counterfact_record(4)
    assert record["requested_rewrite"]["subject"] == "Jo Marlow"


def test_essence_is_stored(tmp_path: Path) -> None:
    data = counterfact(tmp_path / "data", n=5, bad=())
    line = run_fake(data, tmp_path / "results").cases[4]
    assert line["post"]["essence_score"] > 1


def test_the_identity_editor_says_what_the_unedited_model_says(dataset: Dataset, tmp_path: Path) -> None:
    run = run_identity(dataset, tmp_path)
    for line, unedited in zip(run.cases, run.unedited, strict=True):
        assert line.get("post") == unedited.get("pre")
        assert line.get("edit", {"update_frobenius": 0.0}) == {"update_frobenius": 0.0}
    assert run.data["metrics"] == run.data["pre"]


def test_a_chat_template_stands_around_everything_that_is_asked(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm("gpt2", "float32")
    with pytest.raises(BadInput, match="has no chat template"):
        run_identity(dataset, tmp_path, chat_template=True)
    usual = run_identity(dataset, tmp_path)
    monkeypatch.setattr(lm.tokenizer, "chat_template", "Q: {{ messages[0]['content'] }}?\nA:")
    chat = run_identity(dataset, tmp_path, chat_template=True)
    assert chat.folder != usual.folder and chat.unedited_folder != usual.unedited_folder
    assert chat.data["protocol"]["chat_template"] == hash_json("Q: {}?\nA:")[:8]
    around = chat.data["protocol"]["generation"]["template"]
    assert around == lm.encoding.chat_tokens == len(lm.tokens("Q: a?\nA:")) - len(lm.tokens("a"))
    record, line = dataset.records[0], next(line for line in chat.cases if "post" in line)
    assert not isinstance(record, BadRecord)
    targets = record.request.target_new, str(record.request.target_true)
    [(new, true)] = score(lm, [Query(f"Q: {record.request.filled}?\nA:", targets, "")])  # type: ignore[misc]
    assert line["post"]["rewrite_prompts_probs"][0] == pytest.approx(
        {"target_new": new.mean_nll, "target_true": true.mean_nll}, abs=1e-5
    )
    prompts = dataset.benchmark.generation_prompts(record) if dataset.benchmark.generation_prompts else []
    for prompt, text in zip(prompts, line["post"]["text"], strict=True):
        assert text.startswith(f"{prompt} ") and "Q:" not in text.removeprefix(prompt)[:3]


def test_texts_that_end_at_an_end_token_are_another_run(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = run_identity(dataset, tmp_path)
    everything = frozenset(range(tiny_lm("gpt2", "float32").vocabulary))
    monkeypatch.setattr("counterfact.lm.generation.end_tokens", lambda _lm: everything)
    stopped = run_identity(dataset, tmp_path, stop_at_end=True)
    assert stopped.data["protocol"]["generation"] == {"length": LENGTH, "top_k": 5, "stop_at_end": 1}
    assert stopped.folder != usual.folder and stopped.unedited_folder != usual.unedited_folder
    short, long = (
        [text for line in run.cases if "post" in line for text in line["post"]["text"]] for run in (stopped, usual)
    )
    assert all(whole.startswith(text) and text != whole for text, whole in zip(short, long, strict=True))


def test_the_run_file(run: Run, dataset: Dataset) -> None:
    data = run.data
    assert data["schema"] == SCHEMA
    assert data["dataset"] | {"reference_texts_hash": None} == {
        "name": "ours",
        "version": "1",
        "kind": "counterfact",
        "content_hash": dataset.content_hash,
        "reference_texts_hash": None,
        "record_ids": "0-6",
    }
    assert data["model"] == tiny_lm("gpt2", "float32").identity
    assert data["editor"]["settings"] == {"strength": 0.5} and data["editor"]["settings_source"] == "tests"
    assert data["protocol"]["generation"] == {"length": LENGTH, "top_k": 5}
    assert data["protocol"]["schedule"] == {"edits_at_once": 1, "sequential": False, "measure_after": "edit"}
    assert (data["n"]["asked"], data["n"]["scored"], data["n"]["failed"]) == (7, 6, 1)
    assert set(data["metrics"]["ES"]) == {"value", "n", "low", "high", "unit", "definition", "interval"}
    assert data["metrics"]["ES"]["n"] == 6 and data["metrics"]["S"]["low"] <= data["metrics"]["S"]["value"]
    assert set(data["environment"]["wall_seconds"]) >= {"prepare", "unedited", "edit", "score", "generate", "text"}
    assert data["environment"]["peak_memory_bytes"]["host"] > 0
    assert run.folder.parent.parts[-2:] == ("ours@1", f"tiny-gpt2@{data['model']['revision'][:8]}")
    assert run.folder.name.startswith("fake-") and data["unedited"].startswith("pre-")
    assert not list(run.folder.parent.rglob("unfinished.json"))


def test_zsre(tmp_path: Path) -> None:
    data = zsre(tmp_path / "questions.json")
    run = run_fake(data, tmp_path / "results")
    lm = tiny_lm("gpt2", "float32")
    assert [line["case_id"] for line in run.cases if "error" in line] == [3]
    for line in run.unedited[:3]:
        target = line["requested_rewrite"]["target_new"]["str"]
        assert list(line["pre"]) == [f"{sort}_prompts_correct" for sort in ("rewrite", "paraphrase", "neighborhood")]
        assert (
            line["target_tokens"]["new"] == len(lm.target_tokens(target)) == len(line["pre"]["rewrite_prompts_correct"])
        )
        assert len(line["pre"]["neighborhood_prompts_correct"]) == len(lm.target_tokens("Oslo"))
    assert set(run.data["metrics"]) == {"S", "efficacy", "paraphrase", "specificity"}
    assert run.data["protocol"]["generation"] is None


def test_zsre_accuracy_is_the_share_of_greedy_tokens(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    questions = [f"Where was {person} born {count} years ago?" for person in PEOPLE for count in range(40)]
    length = max(len(lm.prompt_tokens(question)) for question in questions) + 1
    found = generate(lm, questions, range(len(questions)), length=length, top_k=1)
    for question, greedy in zip(questions, found, strict=True):
        assert isinstance(greedy, Generation)
        token = greedy.ids[len(lm.prompt_tokens(question))]
        word = lm.decode([token]).strip()
        if word and lm.target_tokens(word) == [token]:
            break
    else:
        pytest.fail("no question has a word as its greedy answer")
    record = {"subject": "years", "src": question, "rephrase": question[:-1], "loc": question[:-1]}
    write_json(tmp_path / "one.json", [{**record, "answers": [f"{word} Oslo"], "loc_ans": word}])
    line = run_identity(load_dataset(tmp_path / "one.json"), tmp_path / "results").cases[0]
    ids = lm.target_tokens(f"{word} Oslo")
    assert ids[0] == token and len(ids) > 1
    assert line["post"]["rewrite_prompts_correct"][0] is True and len(line["post"]["rewrite_prompts_correct"]) == len(
        ids
    )
    # The unrelated question is asked with a question mark.
    assert line["post"]["neighborhood_prompts_correct"] == [True]


# What goes wrong


def test_failures_cost_their_record_and_are_counted(tmp_path: Path) -> None:
    data = counterfact(tmp_path / "data", n=8, bad=(0,))
    records = [json.loads(line) for line in (tmp_path / "data" / "records.jsonl").read_text().splitlines()]
    records[6]["neighborhood_prompts"] = ["the bridge " * 60]
    write_jsonl(tmp_path / "data" / "records.jsonl", records)
    data = load_dataset(tmp_path / "data")
    chunks: list[list[int]] = []

    def edit_one(lm: LM, request: Request, seed: int, strength: float) -> Edit | Failure:
        if request.id == 2:
            return Failure(2, "would not")
        if request.id == 4:
            raise RuntimeError("broke")
        return low_rank_edit(lm, request, seed, strength)

    run = run_fake(data, tmp_path / "results", fake_spec(edit_one, chunks=chunks))
    errors = {line["case_id"]: line["error"] for line in run.cases if "error" in line}
    assert {case_id: error["stage"] for case_id, error in errors.items()} == {
        0: "read",
        2: "edit",
        4: "edit",
        6: "score",
    }
    assert (errors[2]["reason"], errors[4]["reason"]) == ("would not", "RuntimeError: broke")
    assert "takes 64" in errors[6]["reason"]
    assert chunks == [[1, 2], [3, 4, 5], [3], [4], [5], [6, 7]]
    assert (run.data["n"]["scored"], run.data["n"]["failed"], run.data["metrics"]["ES"]["n"]) == (4, 4, 4)
    assert {"stage": "edit", "reason": "would not", "n": 1} in run.data["n"]["reasons"]
    # Neighbors of a failure are what they are without it.
    plain = run_fake(data, tmp_path / "plain")
    assert [plain.cases[i]["post"]["text"] for i in (3, 5)] == [run.cases[i]["post"]["text"] for i in (3, 5)]


def test_one_edit_of_nan_spoils_no_neighbor(dataset: Dataset, run: Run, tmp_path: Path) -> None:
    def edit_one(lm: LM, request: Request, seed: int, strength: float) -> Edit:
        edit = low_rank_edit(lm, request, seed, strength)
        if request.id != 1:
            return edit
        [delta] = edit.deltas
        assert isinstance(delta, LowRank)
        return Edit((LowRank(delta.module, delta.left * math.nan, delta.right),), (1,))

    broken = run_fake(dataset, tmp_path, fake_spec(edit_one))
    post = broken.cases[1]["post"]
    assert all(value is None for pair in post["rewrite_prompts_probs"] for value in pair.values())
    assert post["text"] == [None] * 3 and post["ngram_entropy"] is None
    assert "NaN" in post["text_missing"]["0"]
    for index in (0, 2, 3, 5, 6):
        assert broken.cases[index] == run.cases[index]
    assert broken.data["n"]["values_not_a_number"] == 20
    assert broken.data["metrics"]["ES"]["n"] == 6 and broken.data["metrics"]["EM"]["n"] == 5
    assert "NaN" not in (broken.folder / "cases.jsonl").read_text().replace("gave NaN", "")


def test_an_editor_that_returns_too_few_edits_is_tried_one_by_one(dataset: Dataset, tmp_path: Path) -> None:
    spec = fake_spec()

    def prepare(lm: LM, settings: Any, resources: Any) -> Any:
        return lambda requests, seed: []

    run = run_fake(dataset, tmp_path, type(spec)("fake", spec.settings, prepare, "", "", "fake"))
    assert run.data["n"]["failed"] == 7 and run.data["metrics"]["S"]["value"] is None
    assert "expected what became of each" in run.cases[0]["error"]["reason"]


def test_generation_that_raises_costs_its_record(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(lm: LM, prompts: list[str], *args: Any, **more: Any) -> Any:
        if any(prompt.startswith("Harlan Reed") for prompt in prompts):
            raise RuntimeError("no sampler")
        return generate(lm, prompts, *args, **more)

    monkeypatch.setattr("counterfact.evaluation.asking.generate", fails)
    run = run_fake(dataset, tmp_path)
    assert run.cases[2]["error"] == {"stage": "generate", "reason": "RuntimeError: no sampler"}
    assert run.data["n"]["failed"] == 2


def test_a_full_disk_stops_the_run_and_what_is_finished_stays(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    append, calls = JsonLog.append, []

    def full(self: JsonLog, values: Any) -> None:
        values = list(values)
        calls.append(self.path.name)
        if calls.count("cases.jsonl") == 2:
            with self.path.open("ab") as file:
                file.write(json.dumps(values[0]).encode()[:50])
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, values)

    with monkeypatch.context() as patched:
        patched.setattr(JsonLog, "append", full)
        with pytest.raises(OSError, match="the disk is full; 3 of 7 records are finished and kept"):
            run_fake(dataset, tmp_path)
    run_fake(dataset, tmp_path)
    assert contents(tmp_path) == undisturbed


def test_a_full_disk_in_an_editor_is_no_fault_of_the_record(dataset: Dataset, tmp_path: Path) -> None:
    def edit_one(*_: Any) -> Edit:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run_fake(dataset, tmp_path, fake_spec(edit_one))


def test_bad_arguments_fail_before_any_work(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="takes 64 tokens at most"):
        run_fake(dataset, tmp_path, length=65)
    with monkeypatch.context() as patched:
        patched.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(BadInput, match="--defer-text-metrics"):
            run_fake(dataset, tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


# The same bytes


def test_two_runs_are_the_same_bytes(dataset: Dataset, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    run_fake(dataset, tmp_path)
    assert contents(tmp_path) == undisturbed


def test_another_seed_gives_other_texts_and_lives_elsewhere(dataset: Dataset, run: Run, tmp_path: Path) -> None:
    other = run_fake(dataset, tmp_path, seed=1)
    assert other.folder.name != run.folder.name and other.unedited_folder.name != run.unedited_folder.name
    assert other.unedited[0]["pre"]["text"] != run.unedited[0]["pre"]["text"]
    assert other.unedited[0]["pre"]["rewrite_prompts_probs"] == run.unedited[0]["pre"]["rewrite_prompts_probs"]


def test_one_record_at_a_time_gives_the_same_within_tolerance(dataset: Dataset, run: Run, tmp_path: Path) -> None:
    plan = Plan(chunk=1, tokens_per_batch=1, generation_rows=1)
    alone = run_fake(dataset, tmp_path, plan=plan)
    assert alone.folder.name == run.folder.name, "how much is computed at once is no part of the identity"
    for one, other in zip(alone.cases + alone.unedited, run.cases + run.unedited, strict=True):
        assert one.keys() == other.keys()
        for side in {"post", "pre"} & one.keys():
            for name, values in one[side].items():
                if name.endswith("_probs"):
                    for a, b in zip(values, other[side][name], strict=True):
                        assert a == pytest.approx(b, abs=1e-4)
                else:
                    assert values == pytest.approx(other[side][name], abs=1e-9) if name != "text" else values


@pytest.mark.parametrize("stop", range(1, 9))
def test_interrupted_at_any_append_and_resumed(
    stop: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    append, calls = JsonLog.append, []

    def killed(self: JsonLog, values: Any) -> None:
        values = list(values)
        calls.append(1)
        if len(calls) == stop:
            # A torn write: whole lines and a part of one.
            data = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()
            with self.path.open("ab") as file:
                file.write(data[: len(data) * stop // 9])
            raise KeyboardInterrupt
        append(self, values)

    with monkeypatch.context() as patched:
        patched.setattr(JsonLog, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            run_fake(dataset, tmp_path)
    run_fake(dataset, tmp_path)
    assert contents(tmp_path) == undisturbed
    assert [
        line["case_id"] for folder in tmp_path.glob("*/*/fake-*") for line in read_jsonl(folder / "timings.jsonl")
    ] == [*range(7)]


@pytest.mark.parametrize("share", [0.0, 0.03, 0.2, 0.4999, 0.66, 0.9, 0.9999, 1.0])
def test_cut_at_any_byte_and_resumed(
    share: float, dataset: Dataset, run: Run, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    results = tmp_path / "results"
    subprocess.run(["cp", "-r", str(run.folder.parent.parent.parent), str(results)], check=True)
    again = load_run(results / run.folder.relative_to(run.folder.parent.parent.parent))
    keep = ("dataset", "model", "protocol", "seeds", "code")
    editor = {name: run.data["editor"][name] for name in ("name", "settings", "resources")}
    write_json(again.folder / "unfinished.json", {**{name: run.data[name] for name in keep}, "editor": editor})
    (again.folder / "run.json").unlink()
    for name in ("cases.jsonl", "timings.jsonl"):
        path = again.folder / name
        os.truncate(path, int(path.stat().st_size * share))
    finished = (again.folder / "cases.jsonl").read_bytes().count(b"\n")
    chunks: list[list[int]] = []
    run_fake(dataset, results, fake_spec(chunks=chunks))
    assert contents(results) == undisturbed
    assert len(chunks) == {0: 3, 1: 3, 2: 3, 3: 2, 4: 2, 5: 2, 6: 1, 7: 0}[finished]


def test_killed_right_after_the_unedited_values(dataset: Dataset, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    run = run_fake(dataset, tmp_path)
    shutil.rmtree(run.folder)
    (run.unedited_folder / "unfinished.json").write_text("{}")
    run_fake(dataset, tmp_path)
    assert contents(tmp_path) == undisturbed


def test_killed_while_the_run_file_is_written(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("counterfact.evaluation.store.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            run_fake(dataset, tmp_path)
    chunks: list[list[int]] = []
    run_fake(dataset, tmp_path, fake_spec(chunks=chunks))
    assert chunks == [] and contents(tmp_path) == undisturbed


SCRIPT = """
import sys
from pathlib import Path
from counterfact.contracts.datasets import load_dataset
from tests.support.evaluating import run_fake
run_fake(load_dataset(sys.argv[1]), Path(sys.argv[2]))
"""


def kill_and_resume(dataset: Dataset, results: Path, sizes: list[int]) -> None:
    """Kill a process each time the lines written grew past a size, then finish here."""
    for size in sizes:
        command = [sys.executable, "-c", SCRIPT, dataset.path, str(results)]
        with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
            while process.poll() is None:
                written = sum(path.stat().st_size for path in results.rglob("*.jsonl")) if results.exists() else 0
                if written >= size:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.01)
    run_fake(dataset, results)


def test_killed_and_resumed(dataset: Dataset, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    kill_and_resume(dataset, tmp_path / "results", [9000])
    assert contents(tmp_path / "results") == undisturbed


@pytest.mark.soak
def test_killed_many_times_and_resumed(dataset: Dataset, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    kill_and_resume(dataset, tmp_path / "results", [1 + 1500 * step for step in range(20)])
    assert contents(tmp_path / "results") == undisturbed


def test_a_finished_run_is_not_computed_again(dataset: Dataset, run: Run, undisturbed: dict[str, Any]) -> None:
    chunks: list[list[int]] = []
    results = run.folder.parent.parent.parent
    before = hash_file(run.folder / "run.json")
    again = run_fake(dataset, results, fake_spec(chunks=chunks))
    assert chunks == [] and again.data == run.data and hash_file(run.folder / "run.json") == before


def test_restart_begins_again_and_keeps_the_unedited_values(
    dataset: Dataset, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    run_fake(dataset, tmp_path)
    chunks: list[list[int]] = []
    told: list[str] = []
    run_fake(
        dataset,
        tmp_path,
        fake_spec(chunks=chunks),
        restart=True,
        progress=lambda stage, done, total: told.append(stage),
    )
    assert len(chunks) == 3 and contents(tmp_path) == undisturbed
    assert set(told) == {"fake"}


def test_the_unedited_model_is_measured_once_for_all_editors(dataset: Dataset, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    first = run_fake(dataset, tmp_path, progress=lambda *what: told.append(what))
    assert [what for what in told if what[0] == "unedited"] == [("unedited", done, 7) for done in (0, 3, 6, 7)]
    told.clear()
    second = run_identity(dataset, tmp_path, progress=lambda *what: told.append(what))
    assert {what[0] for what in told} == {"identity"}
    assert first.unedited_folder == second.unedited_folder
    assert evaluate_unedited(tiny_lm("gpt2", "float32"), dataset, tmp_path, options=options()) == first.unedited_folder


# Deferred texts


def test_deferred_text_metrics_are_filled_in_to_the_same_bytes(
    dataset: Dataset, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    run = run_fake(dataset, tmp_path, defer_text_metrics=True)
    assert run.data["metrics"]["GE"]["value"] is None and run.data["metrics"]["ES"]["value"] is not None
    assert all(line["post"]["ngram_entropy"] is None for line in run.cases if "post" in line)
    assert run.data["n"]["texts_missing"] == [{"reason": "metrics of texts: deferred", "n": 6}]
    scored = score_texts(run.folder)
    assert scored.data["metrics"]["GE"]["value"] > 0
    assert contents(tmp_path) == undisturbed


def test_a_run_begun_deferred_and_asked_for_again_is_filled_in(
    dataset: Dataset, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    run_fake(dataset, tmp_path, defer_text_metrics=True)
    run_fake(dataset, tmp_path)
    assert contents(tmp_path) == undisturbed


def test_score_texts_refuses_another_data_set(dataset: Dataset, run: Run, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="run on records with hash"):
        score_texts(run.folder, counterfact(tmp_path, n=3, bad=()))


def test_without_generation_there_are_no_texts(dataset: Dataset, run: Run, tmp_path: Path) -> None:
    silent = run_fake(dataset, tmp_path, generate=False)
    assert silent.folder.name != run.folder.name
    assert silent.cases[0]["post"]["text"] == [] and silent.data["metrics"]["GE"]["value"] is None
    assert silent.cases[0]["post"]["rewrite_prompts_probs"] == run.cases[0]["post"]["rewrite_prompts_probs"]


# Identity, schema, locks


def unfinished(dataset: Dataset, results: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Interrupt a run after its first chunk; return its folder."""
    append = JsonLog.append

    def killed(self: JsonLog, values: Any) -> None:
        append(self, values)
        if self.path.name == "cases.jsonl":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(JsonLog, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            run_fake(dataset, results)
    [path] = results.rglob("unfinished.json")
    return path.parent


@pytest.mark.parametrize(
    ("section", "key"), [("model", "weights_hash"), ("dataset", "content_hash"), ("seeds", "run"), ("code", "version")]
)
def test_a_run_whose_identity_moved_is_not_gone_on_with(
    section: str,
    key: str,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, Any],
) -> None:
    folder = unfinished(dataset, tmp_path, monkeypatch)
    identity = read_json(folder / "unfinished.json")
    identity[section][key] = "another"
    write_json(folder / "unfinished.json", identity)
    with pytest.raises(BadInput, match=f"begun with another {section}.{key}"):
        run_fake(dataset, tmp_path)
    run_fake(dataset, tmp_path, restart=True)
    assert contents(tmp_path) == undisturbed


def test_an_unfinished_run_says_so(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished(dataset, tmp_path, monkeypatch)
    with pytest.raises(BadInput, match="not finished: run the same evaluation again"):
        load_run(folder)
    with pytest.raises(BadInput, match="no run is there"):
        load_run(tmp_path)


def test_lines_of_other_records_are_refused(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished(dataset, tmp_path, monkeypatch)
    lines = list(read_jsonl(folder / "cases.jsonl"))
    write_jsonl(folder / "cases.jsonl", reversed(lines))
    with pytest.raises(BadInput, match="does not hold these records"):
        run_fake(dataset, tmp_path)


def test_a_damaged_line_stops_the_reader_with_file_and_line(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unfinished(dataset, tmp_path, monkeypatch)
    lines = (folder / "cases.jsonl").read_text().splitlines()
    (folder / "cases.jsonl").write_text("\n".join([lines[0], lines[1][:-9], lines[2], ""]))
    with pytest.raises(BadInput, match=r"cases.jsonl:2: not JSON"):
        run_fake(dataset, tmp_path)


def test_a_changed_setting_is_another_folder(dataset: Dataset, run: Run, tmp_path: Path) -> None:
    from counterfact.core.settings import Resolved
    from counterfact.evaluation.harness import evaluate
    from tests.support.evaluating import FakeSettings

    resolved = Resolved(FakeSettings(strength=0.0), "tests", {"strength": 0.0})
    other = evaluate(tiny_lm("gpt2", "float32"), fake_spec(), resolved, dataset, tmp_path, options=options())
    assert other.folder.name != run.folder.name and other.unedited_folder.name == run.unedited_folder.name
    assert other.label == "fake (strength=0.0)"


def many_facts_spec(lm: LM, calls: list[list[list[int]]]) -> EditorSpec:
    """An editor of many facts: the sum of the fake editor's changes; it refuses record 2."""

    def prepare(_lm: LM, settings: FakeSettings, _resources: Resources) -> Editor:
        def edit(groups: Sequence[Group], seed: int) -> list[Edited]:
            calls.append([[request.id for request in group] for group in groups])
            return [one_group(group, seed, settings.strength) for group in groups]

        def one_group(group: Group, seed: int, strength: float) -> Edited:
            taken = [request for request in group if request.id != 2]
            deltas = [delta for request in taken for delta in low_rank_edit(lm, request, seed, strength).deltas]
            failures = tuple(Failure(request.id, "not this one") for request in group if request.id == 2)
            return Edited(Edit(tuple(deltas), tuple(request.id for request in taken)) if taken else None, failures)

        return edit

    return EditorSpec("many", FakeSettings, prepare, "", "made for tests", Path("many"), most_at_once=None)


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_records_that_share_an_edit(dataset: Dataset, lm: LM, tmp_path: Path, chunk: int) -> None:
    calls: list[list[list[int]]] = []
    spec, schedule = many_facts_spec(lm, calls), Schedule(edits_at_once=3)
    chosen = options(schedule=schedule, plan=Plan(chunk=chunk), generate=False)
    run = evaluate(lm, spec, spec.resolve(lm.name, lm.n_layers), dataset, tmp_path, options=chosen)
    ids = [record.case_id for record in dataset.records if not isinstance(record, BadRecord)]
    groups = [group for call in calls for group in call]
    assert [case_id for group in groups for case_id in group] == ids
    for group in groups:
        places = [[record.case_id for record in dataset.records].index(case_id) for case_id in group]
        assert len({place // 3 for place in places}) == 1, "a group follows from positions, never from the chunk"
    errors = {line["case_id"]: line["error"]["reason"] for line in run.cases if "error" in line}
    assert errors.pop(2) == "not this one" and 2 not in {line["case_id"] for line in run.cases if "post" in line}
    assert run.data["protocol"]["schedule"]["edits_at_once"] == 3
    norms = [line["edit"]["update_frobenius"] for line in run.cases if line["case_id"] in groups[0] and "edit" in line]
    assert len(norms) == len([i for i in groups[0] if i != 2]) and len(set(norms)) == 1, "one edit for the group"


def test_an_editor_of_single_facts_refuses_groups(dataset: Dataset, lm: LM, tmp_path: Path) -> None:
    spec = fake_spec()
    with pytest.raises(BadInput, match="fake writes one fact with one edit, got groups of"):
        evaluate(
            lm,
            spec,
            spec.resolve(lm.name, lm.n_layers),
            dataset,
            tmp_path,
            options=options(schedule=Schedule(edits_at_once=2)),
        )


def test_one_writer_at_a_time(dataset: Dataset, run: Run, tmp_path: Path) -> None:
    with one_writer(run.folder, wait=False), pytest.raises(BadInput, match="another process is writing"):
        run_fake(dataset, run.folder.parent.parent.parent)


def test_a_newer_schema_is_refused_and_an_older_one_migrated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "run.json", {**run.data, "schema": SCHEMA + 1})
    with pytest.raises(BadInput, match=rf"schema {SCHEMA + 1}, and this code knows up to {SCHEMA}"):
        load_run(tmp_path)
    for schema in (None, "1", 0):
        write_json(tmp_path / "run.json", {**run.data, "schema": schema})
        with pytest.raises(BadInput, match="schema"):
            load_run(tmp_path)
    write_json(tmp_path / "run.json", {"schema": 1, "old": 1})
    monkeypatch.setattr("counterfact.evaluation.store.SCHEMA", 3)
    chain = {1: lambda data: {"newer": data["old"] + 1}, 2: lambda data: {"newest": data["newer"] + 1}}
    monkeypatch.setattr("counterfact.evaluation.store.MIGRATIONS", chain)
    assert load_run(tmp_path).data == {"schema": 3, "newest": 3}
    assert set(MIGRATIONS) == set(range(1, SCHEMA))


def test_every_schema_ever_released_loads() -> None:
    root = ROOT / "tests" / "golden" / "results"
    from counterfact.evaluation.store import find_runs, results

    assert {path.name for path in root.iterdir()} == {f"v{schema}" for schema in range(1, SCHEMA + 1)}
    for run in find_runs(root):
        assert run.data["schema"] == SCHEMA
        computed = results(run.benchmark, run.cases, run.unedited, run.data["seeds"]["run"])
        for section, value in computed["metrics"].items():
            assert run.data["metrics"][section]["definition"] == value["definition"]
            assert run.data["metrics"][section] == pytest.approx(value, nan_ok=False), "a definition moved: raise it"


# Real data


def test_probabilities_of_the_reference(real_data: Path, tmp_path: Path) -> None:
    golden = json.loads((real_data / "golden" / "probabilities.json").read_text())
    records = {r["case_id"]: r for r in json.loads((real_data / "counterfact" / "counterfact_100.json").read_text())}
    entries = {entry["case_id"]: entry for entry in golden["records"]}
    mine = [entry.get("record") or records[case_id] for case_id, entry in entries.items()]
    for record in mine:
        record.setdefault("generation_prompts", [])
        record.setdefault("attribute_prompts", [])
        record.pop("origin", None)
    write_json(tmp_path / "records.json", mine)
    lm = load_lm(real_data / "golden" / "model", device="cpu")
    data = load_dataset(tmp_path / "records.json")
    assert not [record for record in data.records if isinstance(record, BadRecord)]
    folder = evaluate_unedited(lm, data, tmp_path / "results", options=Options(generate=False))
    lines = list(read_jsonl(folder / "pre.jsonl"))
    assert len(lines) == len(entries)
    for line in lines:
        entry = entries[line["case_id"]]
        for name, values in line["pre"].items():
            if name.endswith("_probs"):
                for found, wanted in zip(values, entry[name], strict=True):
                    assert found == pytest.approx({k: wanted[k] for k in found}, abs=1e-4)


def test_zsre_accuracies_of_the_reference(real_data: Path, tmp_path: Path) -> None:
    golden = json.loads((real_data / "golden" / "zsre.json").read_text())["records"]
    write_json(tmp_path / "zsre.json", [record["source"] for record in golden])
    lm = load_lm(real_data / "golden" / "model", device="cpu")
    folder = evaluate_unedited(lm, load_dataset(tmp_path / "zsre.json"), tmp_path / "results")
    for line, expected in zip(read_jsonl(folder / "pre.jsonl"), golden, strict=True):
        for name, found in line["pre"].items():
            assert found == expected["teacher_forced_on_ids"][name] == expected[name]
