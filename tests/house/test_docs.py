"""What the pages say is true: their Python runs, their commands and targets exist."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from counterfact.cli.main import app
from tests.support import ROOT

PAGES = list(dict.fromkeys([ROOT / "README.md", ROOT / "docs/commands.md", *sorted((ROOT / "docs").glob("*.md"))]))
COMMANDS: Any = typer.main.get_command(app)

TARGETS = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())  # type: ignore[index]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        # Examples of plug-ins run in `test_map`, each in a process of its own.
        text = re.sub(r"<!-- example: .*?<!-- end -->", "", page.read_text(), flags=re.S)
        found += [(page.name, block) for block in re.findall(rf"```{language}\n(.*?)```", text, re.S)]
    return found


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_on_the_pages_runs(page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {"__name__": "__main__"})


def lines(language: str) -> list[str]:
    joined = [text.replace("\\\n", " ") for _, text in blocks(language)]
    # As in a shell, a comment begins a word.
    return [re.split(r"(?:^|\s)#", line)[0].strip() for text in joined for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("line", [line for line in lines("sh") if line.startswith("make")])
def test_make_targets_on_the_pages_exist(line: str) -> None:
    words = [word for word in shlex.split(line)[1:] if "=" not in word]
    assert set(words) <= TARGETS


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command with its full name, those of groups included."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def test_no_two_commands_have_one_name() -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) == len(set(names))


def examples() -> list[str]:
    found = []  # those of the pages are run by `test_walk`
    for name, command in commands(COMMANDS):
        found += re.findall(r"`(counterfact .*?)`", command.help or "", re.S)
        assert re.search(rf"`counterfact {name}", command.help or ""), f"{name} --help shows no example"
    return [" ".join(line.split()) for line in found]


@pytest.mark.parametrize("line", examples())
def test_examples_of_the_help_parse(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = COMMANDS.commands[name]
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments, resilient_parsing=False)


def test_every_target_is_phony_and_listed() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M):
        assert target in TARGETS
        assert re.search(rf"^  {target} ", listed, re.M)
