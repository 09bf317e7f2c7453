"""The walk: every command of README and docs, in their order, in an empty folder, in a terminal of 80 columns.

What needs a server, a cluster, other weights or minutes is parsed and shows its help; all else runs, on few records.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from counterfact.core.files import read_json, read_jsonl, write_json
from counterfact.core.places import data_folder
from counterfact.core.runs import kind_of
from tests.house.test_docs import COMMANDS, PAGES, commands
from tests.support import Command

NAMES = [name for name, _ in commands(COMMANDS)]
ELSEWHERE = (
    *("*--sparql wdqs*", "*--sparql http*", "*--dump *", "*--runner *", "*openwebtext*", "*wikimedia/*", "*.gguf*"),
    *("*.npz*", "*--so-far*", "*half.safetensors*", "*mend_cf*", "*--editor kn*", "*--load *", "*--plugin *"),
    *("* push *", "* lm-eval *", "* train *", "* fetch-model *", "* demo *", "* many-edits *", "* snapshot *"),
    *("* reproduce *", "* score-texts *", "*--push *", "* save-edited edit.safetensors*"),
    *("* updates *", "*datasets/updates*", "*datasets/fr*", "* figures results --out *", "* curves results --out *"),
)
"""What is not run here: other tests do, with servers and packages of their own."""
SMALLER = (
    (r"--model \S+", "--model factlm"),
    (r"--(layers|layer) (17|all)\b", r"--\1 1"),
    (r"--layers 0-1?5", "--layers 1"),
    (r" --precision bf16", ""),  # not every processor has it
    (r"--limit \d+", "--limit 2"),
    (r"--max-texts \d+", "--max-texts 30"),
    (r"--steps \d+", "--steps 2"),
    (r"--edits-at-once \d+", "--edits-at-once 2"),
    (r"--orders \d+", "--orders 1"),
    (r"results/gpt2-xl@\*", "results/factlm@*"),
)
MORE = {
    "build": "--relation P103 --relation P1412 --references 2",
    "evaluate": "--no-generate --max-texts 30",
    "edit": "--max-texts 30",
    "sweep": "--limit 2 --max-texts 30 --set steps=2",
    "known": "--limit 60",
    "trace": "--limit 1 --samples 2",
    "figures": "--each 1",
    "second-moment": "--max-texts 30",
    "zsre": "--limit 5",
    "curves": "",
}
CUT = re.compile(r"[\w.%)\]]…")
"""Where a table or a help was cut: what we write ourselves stands after a space."""


def written() -> Iterator[str]:
    """Yield the commands of all pages, in order, blocks and inline, each once; names alone are none."""
    seen = set()
    for page in PAGES:
        text = re.sub(r"<!-- example: .*?<!-- end -->", "", page.read_text(), flags=re.S)
        for match in re.finditer(r"^(counterfact (?:[^\n\\]|\\\n)*)|`(counterfact [^`]*)`", text, re.M):
            line = " ".join((match[1] or match[2]).replace("\\\n", " ").split())
            line = re.split(r"\s#", line)[0]
            words = shlex.split(line)
            is_name = len(words) < 3 or (len(words) == 3 and words[2].startswith("--"))
            if not is_name and any(line.startswith(f"counterfact {name} ") for name in NAMES):
                if line not in seen:
                    yield line
                seen.add(line)


def smaller(line: str) -> list[str]:
    for pattern, small in SMALLER:
        line = re.sub(pattern, small, line)
    line = re.sub(r"(--save-\w+) \S+", rf"\1 made-{sum(1 for _ in Path().glob('made-*'))}", line)
    words = shlex.split(line)[1:]
    added = shlex.split(MORE.get(words[0], ""))
    words += [word for flag, word in pairs(added) if flag not in words or flag == "--relation"]
    if words[0] == "evaluate":
        words += [] if "--limit" in words or "--steps" in words else ["--limit", "2"]
    return [found for word in words for found in places(word)]


def pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield words, each with the option that it belongs to."""
    option = ""
    for word in words:
        option = word if word.startswith("--") else option
        yield option, word


def places(word: str) -> list[str]:
    """Return what stands for a placeholder in this folder."""
    if word == "RUN" or word.startswith("results/counterfact@1/"):
        runs = sorted(Path("results").glob("*/factlm@*/rome-*/run.json"))
        return [next(str(run.parent) for run in runs if read_json(run)["protocol"]["name"] == "counterfact")]
    if word == "TRUSTED":
        return [str(next(Path("trusted").glob("*/factlm@*/identity-*/run.json")).parent)]
    if "*" in word:
        return sorted(map(str, Path().glob(word)))
    if word in {"facts.tsv.gz", "slice.nt.gz"}:
        return [str(data_folder() / "wikidata" / "facts.nt")]
    named = {"FOLDER": "submission", "X": "factlm", "MODEL": "factlm", "NAME": "memit", "FILE": "flat.json"}
    return [named.get(word, word)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder but for the files of others that pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    data = data_folder()
    for name, there in (("pararel/data", "pararel"), ("data/pararel", "pararel"), ("data/board", "board")):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).symlink_to(data / there)
    shutil.copy(data / "zsre" / "eval.json", "zsre_mend_eval.json")
    Path("wiki.train.raw").write_text("The ferry to the island leaves.\n" * 40)
    return tmp_path


def test_every_command_of_the_pages(world: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, ran = list(written()), 0
    faults: list[str] = []
    command("build", *shlex.split(MORE["build"]))
    records = list(read_jsonl(world / "datasets/counterfact/records.jsonl"))
    write_json(Path("counterfact.json"), records[:12])
    write_json(Path("flat.json"), records[:2])
    for line in lines:
        if any(fnmatch(f"{line} ", pattern) for pattern in ELSEWHERE):
            parse(shlex.split(line)[1:])
            continue
        words = smaller(line)
        code, out, err = command(*words)
        wrong = code != 0 or "Traceback" in err or CUT.search(out) or " records failed at " in err
        faults += [f"$ counterfact {' '.join(words)}\n{out}\n{err}"] if wrong else []
        ran += 1
        if line.startswith("counterfact known") and not Path("known_1000.json").exists():
            shutil.copy("known.json", "known_1000.json")
    assert not faults, "\n\n".join(faults)
    assert {kind_of(read_json(run)) for run in Path("results").rglob("run.json")} == {"evaluation", "sweep", "trace"}
    assert ran > 40


def parse(words: list[str]) -> None:
    found: Any = COMMANDS
    while hasattr(found, "commands"):
        found, words = found.commands[words[0]], words[1:]
    found.make_context(found.name, words, resilient_parsing=False)


@pytest.mark.parametrize("name", NAMES)
def test_help_cuts_nothing(command: Command, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = command(*name.split(), "--help")
    assert code == 0 and not CUT.search(out) and max(map(len, out.splitlines())) <= 80
    for option in dict(commands(COMMANDS))[name].params:
        for word in (*option.opts, *option.secondary_opts):
            assert not word.startswith("--") or re.search(rf"{word}(?![\w-])", out), word
    grouped = {getattr(option, "rich_help_panel", None) for option in dict(commands(COMMANDS))[name].params}
    assert len(dict(commands(COMMANDS))[name].params) < 20 or len(grouped) > 2
