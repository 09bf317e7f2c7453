"""`counterfact second-moment`: what it says before, during and after; a killed pass goes on to the same bytes."""

import json
import random
from pathlib import Path

import pytest

from counterfact.cli._progress import Pace
from tests.cli.test_commands import kill_and_go_on
from tests.lm.test_given_moments import published
from tests.support import Command
from tests.support.models import SENTENCES, tiny_folder

TINY = ("second-moment", "--model", tiny_folder("gpt2"))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("COUNTERFACT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "second_moments"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    lines = [json.dumps({"text": f"{one} {other}"}) for one in SENTENCES for other in SENTENCES]
    (tmp_path / "texts.jsonl").write_text("\n".join(["broken", *lines]))
    return tmp_path / "texts.jsonl"


def test_all_layers_at_once(command: Command, texts: Path, cache: Path) -> None:
    code, out, err = command(*TINY, "--layers", "all", "--texts", texts)
    assert code == 0, err
    assert "3 layers in 1 pass: 0.2 MB of memory for sums" in err
    assert "tokens/s" in err
    for layer in range(3):
        assert f"layer {layer}: 64 x 64 from " in out
    assert " tokens of 100 texts, texts.jsonl" in out
    assert "direction of an edit: cosine to that of endless text of this kind about 0." in out
    assert "1 texts could not be read" in out
    again = command(*TINY, "--layer", 0, "--layer", 2, "--texts", texts, "--json")
    facts = json.loads(again[1])
    assert [each["layer"] for each in facts] == [0, 2]
    assert all(Path(each["path"]).parent == cache for each in facts)
    assert "tokens/s" not in again[2]


def test_memory_limits_the_layers_of_a_pass(command: Command, texts: Path) -> None:
    code, _, err = command(*TINY, "--layers", "0-2", "--texts", texts, "--max-memory", 0.001, "--max-texts", 20)
    assert (code, "3 layers in 1 pass:" in err) == (0, True)
    code, _, err = command("second-moment", "--layers", "0-5", "--max-memory", 0.02, "--max-texts", 10)
    assert (code, "6 layers in 3 passes: 18.9 MB" in err) == (0, True)
    code, _, err = command("second-moment", "--layers", "1", "--max-memory", 0.001, "--max-texts", 10)
    assert code == 2
    assert "the sums of layer 1 take 0.01 GB" in err


def test_copies_of_several_layers_go_into_a_folder(command: Command, texts: Path, tmp_path: Path) -> None:
    asked = (*TINY, "--layers", "0,2", "--texts", texts, "--max-texts", 20)
    code, _, err = command(*asked, "--out", tmp_path / "moments.safetensors")
    assert code == 2 and "2 second moments do not go into one file" in err
    assert "tokens/s" not in err and not list(tmp_path.glob("moments*"))
    for name in ("moments", "of-v1.0/"):
        code, out, err = command(*asked, "--out", f"{tmp_path}/{name}")
        assert code == 0, err
        copies = sorted((tmp_path / name).iterdir())
        assert [path.name.split("-")[-2] for path in copies] == ["layer0", "layer2"]
        assert all(f"{path.parent.name}/{path.name}" in out for path in copies)
    code, _, err = command(*TINY, "--layer", 0, "--texts", texts, "--out", tmp_path / "one.pt")
    assert code == 2 and "expected a folder or a name that ends in .safetensors" in err
    code, _, err = command(*TINY, "--layer", 0, "--texts", texts, "--out", f"{texts}/")
    assert code == 2 and "cannot be made a folder" in err


def test_a_file_is_handed_on_and_taken_in(
    command: Command,
    texts: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, out, _ = command(*TINY, "--layer", 1, "--texts", texts, "--out", tmp_path / "mine.safetensors")
    assert code == 0 and "mine.safetensors" in out
    (kept,) = cache.iterdir()
    monkeypatch.setenv("COUNTERFACT_CACHE", str(tmp_path / "other"))
    code, out, _ = command(*TINY, "--import", tmp_path / "mine.safetensors", "--import", published(tmp_path, layer=2))
    assert code == 0
    assert "layer 2: 64 x 64 from 500 tokens, wikipedia" in out
    assert (tmp_path / "other" / "second_moments" / kept.name).read_bytes() == kept.read_bytes()
    code, _, err = command("second-moment", "--import", tmp_path / "mine.safetensors")
    assert code == 2
    assert "is no use for factlm" in err
    assert command(*TINY)[0] == command(*TINY, "--layers", 1, "--import", kept)[0] == 2
    assert command(*TINY, "--layers", 1, "--texts", kept)[0] == 2
    edit = ("edit", "{} was born in", "--subject", "Anna Ferrand", "--target", "Turin", "--model", tiny_folder("gpt2"))
    code, _, err = command(*edit, "--set", "layer=1", "--texts", kept)
    assert code == 0, err


def test_what_is_there_so_far(command: Command, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = texts.read_text().splitlines()[1:]
    texts.write_text("\n".join(lines * 3))
    asked = (*TINY, "--layers", "0-1", "--texts", texts)
    code, _, err = command(*asked, "--so-far")
    assert code == 2 and "no unfinished pass over texts.jsonl for layer 0" in err
    monkeypatch.setattr("counterfact.lm.moments.corpus_pass.SECONDS", 0.0)
    monkeypatch.setattr("counterfact.lm.moments.corpus_pass.SHARE", 1e9)
    with monkeypatch.context() as patched:
        patched.setattr("counterfact.cli._progress.Pace.tell", stop_at(150))
        assert command(*asked)[0] == 130
    code, out, _ = command(*asked, "--so-far")
    assert code == 0
    assert " tokens of 100 texts, texts.jsonl, not complete" in out
    assert "cosine to that of the whole pass about 0." in out
    [path] = [line.strip() for line in out.splitlines() if "layer1" in line and "first-100-texts" in line]
    assert Path(path).is_file()
    code, out, _ = command(*asked)
    assert code == 0 and " tokens of 300 texts" in out


def stop_at(texts: int):  # type: ignore[no-untyped-def]
    def tell(_pace: Pace, _stage: str, done: int, _total: int | None, _note: str) -> None:
        if done >= texts:
            raise KeyboardInterrupt

    return tell


@pytest.mark.soak
def test_a_pass_killed_at_random_moments_gives_the_same_bytes(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ("second-moment", "--layers", "all", "--max-texts", 1500)
    assert command(*asked)[0] == 0
    calm = contents(tmp_path / "cache")
    monkeypatch.setenv("COUNTERFACT_CACHE", str(tmp_path / "wild"))
    chance = random.Random(0)
    killed = sum(kill_and_go_on(list(asked), chance.uniform(5, 40)) for _ in range(8))
    assert command(*asked)[0] == 0
    assert killed
    assert contents(tmp_path / "wild") == calm


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "second_moments").iterdir()}
