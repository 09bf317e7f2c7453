"""The map tried: what docs/architecture.md says of adding editors, metrics, benchmarks and families, word for word."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.support import ROOT
from tests.support.evaluating import counterfact
from tests.support.models import make_model, make_tokenizer, tiny_folder

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@cache
def example(name: str) -> str:
    """The code of one example of the page."""
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```\n<!-- end -->", PAGE, re.S)
    assert found, f"the page has no example {name}"
    return found[1]


def evaluate(folder: Path, plugins: list[str], *arguments: object) -> dict[str, Any]:
    """Run `counterfact evaluate` with examples of the page as plug-ins; return what the run file holds."""
    files = [folder / f"{name}.py" for name in plugins]
    for file in files:
        file.write_text(example(file.stem), encoding="utf-8")
    given = [part for file in files for part in ("--plugin", file)]
    command = [sys.executable, "-m", "counterfact.cli.main", "evaluate", "--out", folder / "results", "--json"]
    options = ["--texts", ROOT / "data" / "articles", "--max-texts", 5]
    done = subprocess.run(
        list(map(str, [*command, *given, *options, *arguments])), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [run] = json.loads(done.stdout)
    found: dict[str, Any] = run
    return found


def test_an_editor(tmp_path: Path) -> None:
    counterfact(tmp_path / "data")
    given = ("--dataset", tmp_path / "data", "--model", tiny_folder("gpt2"), "--editor", "push", "--no-generate")
    run = evaluate(tmp_path, ["editor"], *given, "--set", "strength=5.0")
    assert run["editor"]["settings"] == {"layer": 1, "strength": 5.0}
    assert run["metrics"]["EM"]["value"] > run["pre"]["EM"]["value"], "the push does something"


def test_an_editor_of_many_facts(tmp_path: Path) -> None:
    counterfact(tmp_path / "data", bad=())
    given = ("--dataset", tmp_path / "data", "--model", tiny_folder("gpt2"), "--editor", "ridge", "--no-generate")
    chosen = ("--set", "layers=[0, 1]", "--set", "steps=5", "--set", "ridge=1e-3", "--edits-at-once", 3)
    run = evaluate(tmp_path, ["mass_editor"], *given, *chosen)
    assert run["protocol"]["schedule"]["edits_at_once"] == 3
    assert run["metrics"]["EM"]["value"] > run["pre"]["EM"]["value"], "facts are written"
    after = evaluate(tmp_path, ["mass_editor"], *given, *chosen, "--sequential")
    assert [found["edits"] for found in after["sequence"]["checkpoints"]] == [3, 7]
    [memory] = tmp_path.glob("results/*/*/*/edits/memory-*.safetensors")
    assert {len(keys) for keys in load_file(memory).values()} == {7}, "the keys of all groups are remembered"


def test_metrics_of_scores_and_of_texts(tmp_path: Path) -> None:
    counterfact(tmp_path / "data")
    given = ("--dataset", tmp_path / "data", "--model", tiny_folder("gpt2"), "--editor", "identity", "--length", 12)
    run = evaluate(tmp_path, ["metric", "text_metric"], *given)
    assert 0 <= run["metrics"]["NA"]["value"] <= run["metrics"]["NS"]["value"]
    assert run["metrics"]["words"]["value"] > 1 and run["metrics"]["words"]["n"] == run["n"]["scored"]


def test_a_benchmark(tmp_path: Path) -> None:
    rows = [("Norway", "Bergen", "Portugal", "Lisbon"), ("Portugal", "Porto", "Norway", "Oslo")]
    keys = ("country", "new_capital", "neighbor", "neighbor_capital")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    (tmp_path / "capitals.jsonl").write_text("\n".join([*lines, '{"new_capital": "Leeds"}']) + "\n")
    given = ("--dataset", tmp_path / "capitals.jsonl", "--model", tiny_folder("gpt2"), "--editor", "ft")
    run = evaluate(tmp_path, ["benchmark"], *given, "--set", "layer=1", "--set", "learning_rate=0.05")
    assert run["protocol"]["name"] == "capitals" and run["protocol"]["generation"] is None
    assert set(run["metrics"]) == {"S", "moved", "stayed"} and run["metrics"]["moved"]["value"] == 100.0
    assert (run["n"]["asked"], run["n"]["scored"]) == (3, 2) and "country" in run["n"]["reasons"][0]["reason"]
    command = [sys.executable, "-m", "counterfact.cli.main", "leaderboard", "build", tmp_path / "results"]
    plugin = ["--plugin", tmp_path / "benchmark.py", "--out", tmp_path / "site"]
    done = subprocess.run(list(map(str, [*command, *plugin])), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "stayed" in (tmp_path / "site" / "data.js").read_text()


def test_a_judge(tmp_path: Path) -> None:
    counterfact(tmp_path / "data")
    given = ("--dataset", tmp_path / "data", "--model", tiny_folder("gpt2"), "--editor", "identity")
    run = evaluate(tmp_path, ["judge"], *given, "--benchmark", "wild_judged", "--judge", "first_word")
    assert run["protocol"]["judge"] == {"name": "first_word", "version": 1, "prompt": "", "model": None}
    assert run["metrics"]["judged"]["n"] == run["n"]["scored"] == 6


def test_a_model_family(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    folder = tmp_path / "tiny-olmo"
    make_model("olmo", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    counterfact(tmp_path / "data")
    given = ("--dataset", tmp_path / "data", "--model", folder, "--editor", "rome", "--no-generate")
    settings = ("--set", "steps=4", "--set", "layer=1", "--set", "contexts_per_length=1", "--set", "covariance=false")
    run = evaluate(tmp_path, ["family"], *given, *settings)
    assert run["metrics"]["EM"]["value"] > run["pre"]["EM"]["value"]


def test_doctests_of_the_examples(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.py" for name in ("metric", "text_metric", "benchmark")]
    for file in files:
        file.write_text(example(file.stem), encoding="utf-8")
    command = [sys.executable, "-m", "doctest", "-v", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("Test passed.") == len(files)
