"""The command line: what it prints, what it refuses and how, and that a killed job goes on to the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterfact import load_lm, say
from counterfact.contracts.editors import edited_at_first_token
from counterfact.core.files import write_json, write_jsonl
from counterfact.core.records import Request
from counterfact.editors.rome import RomeSettings
from counterfact.leaderboard.schema import DatasetPart
from tests.support import ROOT, Command
from tests.support.evaluating import counterfact, counterfact_record, zsre
from tests.support.models import tiny_folder, tiny_lm


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    counterfact(tmp_path / "data")
    return tmp_path / "data"


def evaluate(dataset: Path, out: Path, *more: object) -> list[object]:
    model = ["--model", tiny_folder("gpt2"), "--dtype", "float64", "--length", 24]
    editor = [] if "--editor" in more else ["--editor", "identity"]
    return ["evaluate", "--dataset", dataset, "--out", out, *model, *editor, *more]


def test_the_doctor_looks_at_a_model(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERFACT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts.txt").write_text("The ferry to the island leaves. The bridge is new.\n" * 40)

    def look() -> dict[str, Any]:
        _, out, err = command("doctor", "--model", tiny_folder("llama"), "--json")
        assert not err.count("Traceback")
        found: dict[str, Any] = json.loads(out)["model"]
        return found

    found = look()
    assert (found["family"], found["layers"], found["width"]) == ("llama", 3, 32)
    assert found["parameters"] > found["width"] * found["vocabulary"]
    assert found["evaluation_bytes"] >= found["edit_bytes"] > 0 and found["moments"] == []
    editors = {one["editor"]: one for one in found["editors"]}
    assert editors["identity"]["missing"] is None and editors["rome"]["layers"] == [0]
    assert "scaled to 3 layers (layer=0)" in editors["rome"]["source"]
    assert "second moment of layer 0" in editors["rome"]["missing"]
    assert "second moments of layers 0, 1 " in editors["memit"]["missing"]
    assert "a network trained on counterfact" in editors["mend_cf"]["missing"]
    asked = ("second-moment", "--model", tiny_folder("llama"), "--layer", 0, "--texts", tmp_path / "texts.txt")
    for some, missing in ((("--max-texts", 20), True), ((), False)):
        code, _, err = command(*asked, *some)
        assert code == 0, err
        found = look()
        assert {facts["layer"] for facts in found["moments"]} == {0}
        assert bool({one["editor"]: one for one in found["editors"]}["rome"]["missing"]) == missing
    _, out, _ = command("doctor", "--model", tiny_folder("llama"))
    said = " ".join(out.split())
    assert (
        "second moments in the cache: layer 0:" in said
        and "its first 20 texts" in said
        and "start token:" in said
        and "llama" in said
    )
    code, _, err = command("doctor", "--model", "./nothing")
    assert code == 2 and "nothing" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--editor", "rom"], "Did you mean 'rome'"),
        (["--model", "./no-such-model"], "no-such-model"),
        (["--dataset", "./no-such-data"], "no-such-data"),
        (["--set", "layr=1", "--editor", "rome"], "layr"),
        (["--set", "layer=one", "--editor", "rome"], "layer"),
        (["--set", "layer=99", "--editor", "rome"], "layers 0 to 2"),
        (["--texts", "./no-such-texts", "--editor", "rome"], "no-such-texts"),
        (["--set", "rome.layr=1", "--editor", "rome", "--editor", "ft"], "Did you mean 'rome.layer'"),
        (["--set", "kn.layer=1", "--editor", "rome", "--editor", "ft"], "no setting 'kn.layer'"),
        (["--network", "folder", "--editor", "mend", "--editor", "ke"], "one editor's network"),
        (["--plugin", "nothing.py"], "nothing.py"),
        (["--limit", "0"], "limit"),
        (["--dtype", "float99"], "float99"),
        (
            ["--precision", "tf32", "--dtype", "float32", "--device", "cpu"],
            "tf32 products need a CUDA device, and the model is on cpu",
        ),
        (["--max-memory", "lots"], "expected a memory size as 8GB"),
        (["--max-memory", "1MB"], "one record at a time is estimated to need"),
        (["--no-such-option"], "no-such-option"),
    ],
)
def test_bad_arguments_end_with_2_and_a_reason(
    command: Command, dataset: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    code, _, err = command(*evaluate(dataset, tmp_path / "results", *arguments))
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("cases.jsonl"))


def test_known_facts_are_evaluated_alone_and_shown_below_all(
    command: Command, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = evaluate(dataset, tmp_path / "results", "--defer-text-metrics")
    code, _, err = command(*asked, "--known")
    assert code == 2 and "knows none of the 6 facts" in err
    monkeypatch.setattr("counterfact.api.evaluating.known_records", lambda _, records: records[1:3])
    runs = []
    for more in ([], ["--known"]):
        code, out, err = command(*asked, *more, "--json")
        assert code == 0, err
        runs += json.loads(out)
    whole, known = (run["dataset"] for run in runs)
    assert runs[1]["n"]["asked"] == 2 and known["content_hash"] == whole["content_hash"]
    assert (known["record_ids"], known["known_of"], "known_of" in whole) == ("1-2", 7, False)
    assert DatasetPart.model_validate(known).known_of == 7
    code, out, _ = command("summarize", tmp_path / "results", "--format", "json")
    [table] = json.loads(out)
    name = Path(tiny_folder("gpt2")).name
    labels = [f"{name} (unedited)", "identity", f"{name} (unedited, known facts of 7)", "identity (known facts)"]
    assert [row["label"] for row in table["rows"]] == labels
    assert [row["n"] for row in table["rows"]] == ["6/7", "6/7", "2", "2"]
    [run] = [path.parent for path in tmp_path.rglob("run.json") if "known_of" in path.read_text()]
    code, _, err = command("score-texts", run)
    assert code == 0, err
    zsre(tmp_path / "questions.json")
    code, _, err = command(*evaluate(tmp_path / "questions.json", tmp_path / "results", "--known"))
    assert code == 2 and "records of zsRE have none" in err


def test_settings_go_to_the_editors_that_have_them(command: Command, dataset: Path, tmp_path: Path) -> None:
    editors = ("--editor", "ft", "--editor", "ft_l", "--editor", "identity")
    chosen = ("--set", "ft_l.steps=2", "--set", "steps=1", "--set", "layer=1", "--no-generate", "--limit", 2)
    code, out, err = command(*evaluate(dataset, tmp_path / "results", *editors, *chosen, "--json"))
    assert code == 0, err
    given = {run["editor"]["name"]: run["editor"]["given"] for run in json.loads(out)}
    assert given == {"ft": {"steps": 1, "layer": 1}, "ft_l": {"steps": 2, "layer": 1}, "identity": {}}


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--dataset", "data"],
        ["sweep", "--dataset", "data"],
        ["edit", "{} is", "--subject", "A", "--target", "B"],
    ],
)
def test_an_unknown_setting_is_refused_before_anything_is_opened(command: Command, arguments: list[str]) -> None:
    code, _, err = command(*arguments, "--model", "./no-such-model", "--set", "layr=1")
    assert code == 2 and "no setting 'layr'. Did you mean 'layer'?" in err


def test_what_is_swept_is_not_set(command: Command, dataset: Path) -> None:
    code, _, err = command("sweep", "--dataset", dataset, "--model", tiny_folder("gpt2"), "--set", "layer=1")
    assert code == 2 and "layer is swept" in err


def test_a_memory_is_planned_for_and_said(command: Command, dataset: Path, tmp_path: Path) -> None:
    code, _, err = command(*evaluate(dataset, tmp_path / "results", "--max-memory", "570MB"))
    assert code == 0
    said = " ".join(err.split())
    assert "plan for 570 MB" in said and "estimated to need" in said
    (path,) = tmp_path.rglob("run.json")
    assert json.loads(path.read_text())["environment"]["plan_needs_bytes"] <= 570e6


def broken_line(folder: Path) -> None:
    path = folder / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], '{"case_id": 2, oops', *lines[3:]]))


def twice(folder: Path) -> None:
    write_jsonl(folder / "records.jsonl", [counterfact_record(1), counterfact_record(1)])


def not_records(folder: Path) -> None:
    write_jsonl(folder / "records.jsonl", [{"a": 1}])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (broken_line, "records.jsonl:3: not JSON"),
        (twice, "more than once"),
        (not_records, "no record is of a known form"),
    ],
)
def test_a_broken_data_set_ends_with_2(
    command: Command, dataset: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(dataset)
    code, _, err = command(*evaluate(dataset, tmp_path / "results"))
    assert code == 2
    assert said in err


def test_bad_records_are_counted_and_cost_nothing_else(command: Command, tmp_path: Path) -> None:
    records = [counterfact_record(case_id) for case_id in range(6)]
    records[0]["requested_rewrite"]["prompt"] = "was born in"
    records[1]["requested_rewrite"]["prompt"] = "{} and {} were born in"
    records[2]["requested_rewrite"]["target_new"] = {"str": "", "id": None}
    records[3]["requested_rewrite"]["subject"] = ""
    records[4]["paraphrase_prompts"] = ["word " * 100]
    write_json(tmp_path / "records.json", records)
    code, _, _ = command(*evaluate(tmp_path / "records.json", tmp_path / "results"))
    assert code == 0
    [path] = (tmp_path / "results").rglob("run.json")
    run = json.loads(path.read_text())
    assert (run["n"]["asked"], run["n"]["scored"], run["n"]["failed"]) == (6, 1, 5)
    lines = [json.loads(line) for line in (path.parent / "cases.jsonl").read_text().splitlines()]
    assert [line["error"]["stage"] for line in lines[:5]] == ["read", "read", "read", "read", "score"]
    assert all(line["error"]["reason"] for line in lines[:5])


def test_a_file_of_others_is_named_and_how_it_is_read(command: Command, tmp_path: Path) -> None:
    flat = {"prompt": "Anna Ferrand lives in", "subject": "Anna Ferrand", "target_new": "Oslo", "ground_truth": "Turin"}
    write_json(tmp_path / "flat.json", [{**flat, "mood": "good"}, {**flat, "subject": "Ferran"}])
    code, _, err = command(*evaluate(tmp_path / "flat.json", tmp_path / "results"))
    assert code == 0
    assert "flat.json: EasyEdit's CounterFact, 2 records\n" in err
    assert "keys that are ignored: mood\n" in err
    assert "1 record cannot be used; the first: record 1: the subject 'Ferran' is part of the longer word" in err
    code, out, err = command("zsre", "--source", tmp_path / "flat.json", "--out", tmp_path / "built")
    assert code == 0 and "dropped: 1 the subject" in out
    assert "flat.json: EasyEdit's CounterFact, records read: 2\n" in err and "ignored: mood\n" in err
    code, _, err = command("stats", tmp_path / "built")
    assert code == 2 and "expected CounterFact records with a true object" in err
    write_json(tmp_path / "hops.json", [{"requested_rewrite": [], "new_single_hops": []}])
    for arguments in (
        evaluate(tmp_path / "hops.json", tmp_path / "results"),
        ["zsre", "--source", tmp_path / "hops.json"],
    ):
        code, _, err = command(*arguments)
        assert code == 2 and "is MQuAKE" in err


def test_a_full_disk_is_said(command: Command, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, _, err = command(*evaluate(dataset, tmp_path / "results"))
    assert code == 1
    assert "the disk is full" in err
    assert "Traceback" not in err


def test_an_edit_that_does_not_take_is_said(command: Command, tmp_path: Path) -> None:
    asked = ["edit", "{} was born in", "--subject", "Anna Ferrand", "--target", "Turin", "--editor", "ft"]
    asked += ["--model", tiny_folder("gpt2"), "--set", "layer=1"]
    weak = ["--set", "steps=1", "--set", "learning_rate=1.0e-9"]
    code, out, err = command(*asked, *weak)
    assert code == 0, err
    said = " ".join(out.split())
    assert "The edit did not take: after it the model still prefers something else to Turin" in said
    assert "its search ended at a loss of" in said
    found = []
    for target, true in (("Turin", "Oslo"), ("Oslo", "Turin")):
        code, out, err = command(*asked, *weak, "--target", target, "--true", true, "--json")
        assert code == 0, err
        found.append(json.loads(out)["not_taken"])
        assert found[-1] is None or f"still prefers {true} to {target}" in found[-1]
    assert found.count(None) == 1
    strong = ["--set", "steps=200", "--set", "learning_rate=0.05"]
    code, out, err = command(*asked, *strong)
    assert code == 0, err
    assert "did not take" not in out


def test_contexts_are_given_shown_and_part_of_a_run(command: Command, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "contexts.txt").write_text("In the evening. {}\n\nIt is said that {}\n")
    rome = ["--editor", "rome", "--set", "layer=1", "--set", "steps=2", "--set", "covariance=false"]
    asked = ["edit", "{} was born in", "--subject", "Oslo", "--target", "Turin", "--model", tiny_folder("gpt2"), *rome]
    code, _, err = command(*asked, "--contexts", tmp_path / "contexts.txt", "-v")
    assert code == 0, err
    shown = [line for line in err.splitlines() if line.startswith("context: ")]
    assert shown == ["context: '{}'", "context: 'In the evening. {}'", "context: 'It is said that {}'"]
    code, _, err = command(*asked, "-v", "--set", "contexts_per_length=2")
    assert code == 0 and err.count("context: '") + err.count('context: "') == 5
    found = []
    for contexts in ([], ["--contexts", tmp_path / "contexts.txt"]):
        run = evaluate(dataset, tmp_path / "results", *rome, "--limit", 1, "--no-generate", "--json", *contexts)
        code, out, err = command(*run)
        assert code == 0, err
        found.append(json.loads(out)[0]["editor"])
    assert found[0]["resources"]["context_templates"] is None
    assert found[1]["resources"]["context_templates"] == found[1]["provenance"]["context_templates_hash"]
    (tmp_path / "contexts.txt").write_text("{}\nno slot\n")
    code, _, err = command(*asked, "--contexts", tmp_path / "contexts.txt")
    assert code == 2 and "contexts.txt:2: expected one {}" in err


def test_edits_at_the_first_token_are_counted_once(command: Command, tmp_path: Path) -> None:
    records = [counterfact_record(case_id) for case_id in range(3)]
    records[0]["requested_rewrite"] |= {"prompt": "{} was born in", "subject": "a"}
    records[1]["requested_rewrite"] |= {"prompt": "It is said that {} was born in", "subject": "a"}
    write_json(tmp_path / "records.json", records)
    asked = ["--limit", 2, "--no-generate", "--set", "layer=1", "--set", "steps=2"]
    rome = ["--editor", "rome", "--set", "rome.covariance=false", "--set", "rome.contexts_per_length=0"]
    code, _, err = command(*evaluate(tmp_path / "records.json", tmp_path / "results", *asked, *rome, "--editor", "ft"))
    assert code == 0, err
    said = "rome: 1 of 2 requests edit the first token of their prompt"
    assert err.count("edit the first token") == 1 and said in err
    request, settings = Request(0, "{} was born in", "a", "Oslo"), RomeSettings(layer=1)
    assert edited_at_first_token(tiny_lm("gpt2"), settings, [request]) == [0]
    assert edited_at_first_token(tiny_lm("llama"), settings, [request]) == [], "a start token stands before the subject"


def test_edit_save_and_load(command: Command, tmp_path: Path) -> None:
    model = ["--model", tiny_folder("gpt2"), "--subject", "Anna Ferrand", "--json"]
    (tmp_path / "texts.txt").write_text("The ferry to the island leaves. The bridge is new.\n" * 40)
    made = ["--target", "Oslo", "--save", tmp_path / "edit.safetensors", "--texts", tmp_path / "texts.txt"]
    code, out, err = command("edit", "{} was born in", *model, *made, "--set", "contexts_per_length=1")
    assert code == 0, err
    first = json.loads(out[out.index("{") :])
    assert first["prompts"][0]["before"] != first["prompts"][0]["after"]
    again = [*model, "--load", tmp_path / "edit.safetensors", "--save-model", tmp_path / "edited"]
    code, out, err = command("edit", "{} was born in", *again)
    assert code == 0, err
    second = json.loads(out[out.index("{") :])
    assert second["prompts"] == first["prompts"]
    assert second["model"] == {"folder": str(tmp_path / "edited"), "lost_in_rounding": None}
    assert (
        say(load_lm(tmp_path / "edited", device="cpu"), "Anna Ferrand was born in").text
        == (first["prompts"][0]["after"]["text"])
    )
    code, _, err = command("edit", "{} was born in", *again)
    assert code == 2 and "holds something else than an edited model" in err
    code, _, err = command(
        "edit", "{} was born in", "--model", tiny_folder("llama"), "--subject", "Anna Ferrand",
        "--load", tmp_path / "edit.safetensors",
    )  # fmt: skip
    assert code == 2
    assert "made for" in err


@pytest.mark.parametrize("arguments", [["no slot", "--subject", "A"], ["{} is", "--subject", "A"]])
def test_edit_refuses(command: Command, arguments: list[str]) -> None:
    code, _, err = command("edit", *arguments)
    assert code == 2
    assert err


def test_training_a_network_and_editing_with_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERFACT_CACHE", str(tmp_path / "cache"))
    quick = ["--set", "batch=4", "--set", "steps=12", "--set", "validate_every=6", "--set", "validation_edits=8"]
    monkeypatch.setattr("counterfact.cli._progress.MEASURED", 0.0)
    monkeypatch.setattr("counterfact.cli._progress.PAUSE", 0.0)
    code, out, err = command("train", "mend", "--data", "text", "--max-texts", 60, *quick)
    assert code == 0 and "no edit" in out and "best" in out
    assert "mend text: steps: " in err and " of 12, " in err
    folder = next((tmp_path / "cache/hypernetworks").glob("factlm-*/mend"))
    assert {path.name for path in folder.iterdir()} == {
        "curves.jsonl", "curves.png", "editor.json", "network.safetensors",
    }  # fmt: skip
    code, out, _ = command("train", "mend", "--data", "text", "--max-texts", 60, *quick, "--json")
    assert code == 0 and json.loads(out)["steps"] == 12 and "trained_on" not in json.loads(out)
    prompt = ["edit", "The capital of {} is", "--subject", "Norway", "--target", "Rome"]
    code, out, _ = command(*prompt, "--editor", "mend", "--model", "factlm")
    assert code == 0 and "Rome" in out
    code, _, err = command(*prompt, "--editor", "mend_cf", "--model", "factlm")
    assert code == 2 and "counterfact train" in err
    wild = ["--set", "learning_rate=30.0", "--set", "rate_learning_rate=30.0", "--out", tmp_path / "wild"]
    code, _, err = command("train", "mend", "--data", "text", "--max-texts", 60, *quick, *wild)
    assert code == 1 and "no network came out" in err and not (tmp_path / "wild/editor.json").exists()
    assert command("train")[0] == 2 and command("train", "mend", "--all")[0] == 2


def kill_and_go_on(arguments: list[object], seconds: float) -> bool:
    """Start the command in a process of its own and kill it; True if it was still running."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "counterfact.cli.main", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return running


def results_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.name in {"cases.jsonl", "pre.jsonl"}:
            found[str(path.relative_to(folder))] = path.read_bytes()
        elif path.name == "run.json":
            found[str(path.relative_to(folder))] = {
                key: value for key, value in json.loads(path.read_text()).items() if key != "environment"
            }
    return found


@pytest.mark.soak
def test_a_command_killed_at_random_moments_gives_the_same_bytes(
    command: Command, dataset: Path, tmp_path: Path
) -> None:
    counterfact(dataset, n=70, bad=(4,))
    assert command(*evaluate(dataset, tmp_path / "calm"))[0] == 0
    chance = random.Random(0)
    killed = 0
    for _ in range(25):
        killed += kill_and_go_on(evaluate(dataset, tmp_path / "wild"), chance.uniform(3, 9))
    assert command(*evaluate(dataset, tmp_path / "wild"))[0] == 0
    assert killed
    assert results_of(tmp_path / "wild") == results_of(tmp_path / "calm")


def test_edits_one_after_another(command: Command, dataset: Path, tmp_path: Path) -> None:
    given = ("evaluate", "--dataset", dataset, "--editor", "identity", "--no-generate", "--out", tmp_path, "--json")
    steps = ("--sequential", "--edits-at-once", 2, "--steps", 2, "--measure-after", "1,3", "--orders", 2)
    code, shown, err = command(*given, *steps)
    assert code == 0, err
    runs = json.loads(shown)
    assert [run["protocol"]["schedule"]["order"] for run in runs] == [0, 1]
    assert [[found["edits"] for found in run["sequence"]["checkpoints"]] for run in runs] == [[2, 4]] * 2
    assert all(run["n"]["asked"] == 4 and run["protocol"]["untouched"] for run in runs)
    for wrong, said in (
        (("--steps", 2), "add --sequential"),
        (("--sequential", "--steps", 2, "--limit", 3), "--steps and --limit both say"),
        (("--sequential", "--measure-after", "ten"), "1,10,100"),
        (("--keep-going",), "make the run sequential"),
        (("--orders", 2), "make the run sequential"),
    ):
        code, _, err = command(*given, *wrong)
        assert code == 2 and said in " ".join(err.split()), err


def test_the_study_of_many_edits_leaves_runs_and_pictures(command: Command, tmp_path: Path) -> None:
    code, shown, err = command("many-edits", "--editor", "identity", "--limit", 12, "--together", 5, "--out", tmp_path)
    assert code == 0, err
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "results").rglob("run.json")]
    sizes = sorted((run["protocol"]["schedule"]["edits_at_once"], run["n"]["asked"]) for run in runs)
    assert sizes == [(1, 12), (5, 10), (10, 12), (12, 12)]
    assert {run["dataset"]["name"] for run in runs} == {"counterfact-embedded-multi"}
    pictures = sorted(path.stem.rpartition("-")[2] for path in (tmp_path / "pictures").glob("*.png"))
    assert pictures == ["collapse", "retention", "scaling"]
    assert "12 at once" in shown and "one group after another" in shown
    code, _, err = command("many-edits", "--together", 5, "--limit", 3, "--out", tmp_path)
    assert code == 2 and "at most 3 facts" in err
