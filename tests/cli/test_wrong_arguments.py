"""Wrong devices, folders and kinds of file, for every command; an interrupt; and one small input of each kind."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from counterfact.core.files import write_json, write_jsonl
from tests.house.test_docs import COMMANDS, commands
from tests.support import ROOT, Command
from tests.support.evaluating import counterfact_record
from tests.support.models import tiny_folder

ALL = dict(commands(COMMANDS))
GIVEN: dict[str, list[str]] = {
    "edit": ["{} was born in", "--subject", "Anna Ferrand", "--target", "Oslo", "--editor", "identity"],
    "evaluate": ["--dataset", "records.json", "--editor", "identity", "--no-generate"],
    "sweep": ["--dataset", "records.json", "--editor", "ft", "--layers", "1"],
    "second-moment": ["--layers", "1", "--texts", "texts.txt"],
    "known": ["--dataset", "records.json", "--out", "known.json"],
    "trace": ["--facts", "facts.json"],
    "train": ["mend"],
    "export": ["run", "--out", "out"],
    "lm-eval": ["run", "--tasks", "x"],
    "save-edited": ["run", "--save-adapter", "out"],
    "lm-eval-tasks": ["records.json", "--out", "out"],
    "reproduce": ["--dataset", "records.json"],
    "stats": ["records.json"],
    "audit": ["records.json", "--page", "audit.html"],
    "compare": ["records.json", "records.json"],
    "summarize": ["results"],
    "curves": ["results"],
    "figures": [],
    "score-texts": ["run"],
    "push": ["records", "--to", "org/name", "--dry-run"],
    "snapshot": ["slice.nt"],
    "leaderboard build": ["results"],
    "leaderboard submit": ["run", "--out", "out"],
    "leaderboard references": ["results"],
    "leaderboard check": ["submission"],
}
"""What each command cannot do without."""
NOT_READ = {"push", "doctor"}
FILES = ("dataset", "datasets", "facts", "run", "edited", "results", "folder", "what", "source")
"""Names of arguments that are read from."""


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(Path("records.json"), [counterfact_record(case) for case in range(3)])
    fact = {"prompt": "Anna Ferrand was born in", "subject": "Anna Ferrand", "attribute": "Oslo"}
    write_json(Path("facts.json"), [{**fact, "known_id": 0}])
    Path("texts.txt").write_text("The ferry leaves.\n" * 20)
    Path("picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    Path("empty").mkdir()


def names_of(command: str) -> dict[str, Any]:
    return {option.name: option for option in ALL[command].params}


def refused(command: Command, words: list[str], *said: str, code: int | None = None) -> None:
    found, out, err = command(*words)
    told = " ".join(f"{words}\n{out}\n{err}".split())
    assert found in ({1, 2} if code is None else {code}), told
    assert "Traceback" not in told and "KeyError" not in told, told
    for part in said:
        assert re.search(part, " ".join(err.replace("│", " ").split())), told


def words_of(name: str, **changes: str) -> list[str]:
    words = [*name.split(), *GIVEN.get(name, [])]
    for option, value in changes.items():
        words += [f"--{option}", value]
    return words


DEVICES = [name for name in ALL if "device" in names_of(name)]


@pytest.mark.parametrize("name", [name for name in DEVICES if name not in {"lm-eval", "reproduce", "save-edited"}])
def test_a_wrong_device_is_refused_by_name(command: Command, name: str) -> None:
    model = {"model": str(tiny_folder("gpt2"))}
    for device in ("gpu", "meta", "cuda:99"):
        refused(command, words_of(name, device=device, **model), f"--device {device} cannot be used here", code=2)


WRITERS = [name for name in ALL if names_of(name).keys() & {"out", "page"} and name not in {"push", "lm-eval"}]


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_cannot_be_written_is_named(command: Command, name: str) -> None:
    option = "out" if "out" in names_of(name) else "page"
    words = words_of(name, **{option: "texts.txt/below"})
    words += [] if "model" not in names_of(name) else ["--model", str(tiny_folder("gpt2"))]
    refused(command, words)


def readers() -> list[tuple[str, str]]:
    found = []
    for name in ALL:
        found += [(name, option) for option in names_of(name) if option in FILES and name not in NOT_READ]
    return found


@pytest.mark.parametrize(("name", "option"), readers())
def test_what_is_no_such_file_is_said(command: Command, name: str, option: str) -> None:
    is_argument = names_of(name)[option].param_type_name == "argument"
    model = ["--model", str(tiny_folder("gpt2"))] if "model" in names_of(name) else []
    for thing in ("nowhere", "picture.png", "empty"):
        words = [*name.split(), *GIVEN.get(name, []), *model]
        if is_argument:
            words[len(name.split())] = thing
        else:
            words += [f"--{option}", thing]
        refused(command, words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["trace", "--facts", "records.json"],
            r"records.json is CounterFact .*facts of those .*counterfact known --dataset",
        ),
        (["evaluate", "--dataset", "facts.json"], "facts to trace"),
        (["compare", "records.json"], "two data sets"),
        (
            ["evaluate", "--dataset", "records.json", "--plugin", "late.py"],
            r"late.py:3: .*missing 1 required .*'summary'",
        ),
        (["evaluate", "--dataset", "records.json", "--plugin", "broken.py"], r"broken.py:2: .*SyntaxError"),
    ],
)
def test_what_is_given_for_something_else_is_named(command: Command, words: list[str], said: str) -> None:
    Path("late.py").write_text("from counterfact.contracts.editors import editor\n\neditor('late', None)\n")
    Path("broken.py").write_text("x = 1\ndef f(:\n")
    refused(command, words, said, code=2)


def test_when_nothing_is_scored_it_is_said_why(command: Command) -> None:
    records = [counterfact_record(case) for case in range(3)]
    for record in records:
        record["requested_rewrite"]["prompt"] = "{} " + "word " * 200
    write_json(Path("long.json"), records)
    asked = ("evaluate", "--dataset", "long.json", "--editor", "identity", "--model", tiny_folder("gpt2"))
    code, out, err = command(*asked, "--no-generate")
    assert code == 1 and "no record was scored" in err and "–" in out
    assert "identity: 3 of 3 records failed at score: prompt and target need" in err
    assert command(*asked, "--no-generate", "--json")[0] == 1


def test_edit_prints_json_alone_and_fills_other_prompts(command: Command) -> None:
    given = words_of("edit", model=str(tiny_folder("gpt2")))
    given[1:3] = [" {} was born in ", "--subject"]
    code, out, err = command(
        *given, "--target", " Oslo ", "--also", "{} lives in [/INST] :smile:", "--samples", 2, "--json"
    )
    assert code == 0, err
    first, other = json.loads(out)["prompts"]
    assert first["prompt"] == "Anna Ferrand was born in"
    assert other["prompt"] == "Anna Ferrand lives in [/INST] :smile:"
    assert len(first["after"]["samples"]) == 2 and first["after"] == first["before"]
    assert "blanks at the ends of the prompt" in err and "blanks at the ends of the target" in err
    code, out, err = command(*given, "--also", "{} lives in [/INST] :smile:")
    assert code == 0 and "[/INST] :smile:" in out and "sample" not in out
    refused(command, [*given, "--also", "{} and {}"], "expected one", code=2)


def test_an_interrupt_is_told_in_a_terminal(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "many.jsonl", [counterfact_record(case) for case in range(400)])
    words = [
        "evaluate",
        "--dataset",
        "many.jsonl",
        "--editor",
        "ft",
        "--model",
        str(tiny_folder("gpt2")),
        "--no-generate",
    ]
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "counterfact.cli.main", *words, "--set", "layer=1", "--set", "steps=2000"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        # A shell lets what it runs in the background ignore an interrupt, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    os.close(slave)
    said, pressed, end = b"", False, time.monotonic() + 120
    while time.monotonic() < end and (process.poll() is None or select.select([master], [], [], 0)[0]):
        if not select.select([master], [], [], 0.1)[0]:
            continue
        try:
            said += os.read(master, 4096)
        except OSError:
            break
        if not pressed and b"ft: " in said:
            process.send_signal(signal.SIGINT)
            pressed = True
    assert process.wait(20) == 130, said.decode()
    assert b"interrupted; run the same command again to go on" in said and b"Traceback" not in said
