"""What is said of work that takes long: once how long it will take, then how far it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from counterfact.cli._progress import Pace
from tests.cli.test_commands import dataset  # noqa: F401
from tests.support import Command
from tests.support.models import SENTENCES, tiny_folder


def pace(times: list[float], *, go_on: bool = True) -> tuple[Pace, list[str]]:
    said: list[str] = []
    clock: Iterator[float] = iter(times)
    return Pace(said.append, go_on=go_on, clock=lambda: next(clock)), said


def test_a_long_stage_is_estimated_once_and_told_of_now_and_then() -> None:
    told, said = pace([0, 2, 6, 20, 36, 40, 70])
    for done in (100, 104, 112, 140, 172, 180, 240):  # 2 a second, after 100 that were there before
        told.tell("texts", done, 2000, "5 tokens/s")
    assert said == [
        "texts: about 15 min 44 s left, by the speed of the first 6 s (112 of 2,000, 5 tokens/s)",
        "texts: 172 of 2,000, 5 tokens/s, 15 min 14 s left",
        "texts: 240 of 2,000, 5 tokens/s, 14 min 40 s left",
    ]


def test_a_bar_takes_the_place_of_later_lines() -> None:
    told, said = pace([0, 10, 100], go_on=False)
    for done in (0, 1, 10):
        told.tell("texts", done, 2000)
    assert said == ["texts: about 5 h 33 min left, by the speed of the first 10 s (1 of 2,000)"]


def test_nothing_is_said_of_what_is_short_or_has_not_moved() -> None:
    told, said = pace([0, 10, 11, 17, 60])
    told.tell("quick", 0, 10)
    told.tell("quick", 9, 10)
    told.tell("stuck", 3, 10)
    told.tell("stuck", 3, 10)
    assert said == []
    told.tell("stuck", 4, 100)
    assert said == ["stuck: about 1 h 18 min left, by the speed of the first 49 s (4 of 100)"]


def test_a_stage_that_begins_again_is_estimated_anew() -> None:
    told, said = pace([0, 10, 1000, 1010])
    for done in (0, 900, 0, 10):  # the next order of the same records
        told.tell("rome", done, 1000)
    assert said == ["rome: about 16 min 30 s left, by the speed of the first 10 s (10 of 1,000)"]


def test_an_unknown_end_is_said() -> None:
    told, said = pace([0, 6, 40])
    for done in (0, 1200, 2500):
        told.tell("texts", done)
    assert said == [
        "texts: it is not known how much is left, by the speed of the first 6 s (1,200)",
        "texts: 2,500",
    ]


@pytest.mark.parametrize("name", ["edit", "evaluate", "sweep"])
def test_a_second_moment_that_an_editor_waits_for_is_told_of(
    command: Command,
    dataset: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("COUNTERFACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("counterfact.cli._progress.MEASURED", 0.0)
    monkeypatch.setattr("counterfact.cli._progress.LONG", -1.0)
    (tmp_path / "texts.txt").write_text("".join(f"{one} {other}\n" for one in SENTENCES for other in SENTENCES))
    asked = {
        "edit": ["edit", "{} was born in", "--subject", "Anna Ferrand", "--target", "Turin"],
        "evaluate": ["evaluate", "--dataset", dataset, "--limit", 1, "--no-generate", "--out", tmp_path / "results"],
        "sweep": ["sweep", "--dataset", dataset, "--limit", 1, "--layers", "1", "--out", tmp_path / "results"],
    }[name]
    tiny = ["--model", tiny_folder("gpt2"), "--texts", tmp_path / "texts.txt", "--max-texts", 40]
    tiny += ["--set", "contexts_per_length=1"] + ([] if name == "sweep" else ["--set", "layer=1"])
    code, _, err = command(*asked, *tiny)
    assert code == 0, err
    stage = f"second moment of layer 1 of {Path(tiny_folder('gpt2')).name}, over texts of texts.txt: about"
    assert stage in err and " of 40)" in err
    code, _, err = command(*asked, *tiny)
    assert code == 0 and stage not in err
