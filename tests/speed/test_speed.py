"""The benchmarks count work as one would by hand, give no ratio of different numbers, and run on a bare node."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from counterfact.core.files import read_json, write_json
from counterfact.editing.requests import encode
from counterfact.lm.forward.operators import bfloat16_units
from speed import drift, measure, plots, runners
from speed.growth import fit
from speed.jobs import STAGES, Times, many_at_once
from speed.main_job import main
from speed.setting import Setting, Wanted, describe_only, prepare
from speed.shapes import SHAPES, Shape
from speed.work import Sizes, edit_work, generate_work, score_work
from tests.support.evaluating import counterfact, counterfact_record
from tests.support.models import tiny_folder

TINY = Shape(layers=3, width=32, heads=4, vocabulary=4096, edited_layer=0)
BLOCK = 32 * 96 + 32 * 32 + 2 * 32 * 128
KEPT = 2 * 32 * 32
HEAD = 4096 * 32
LENGTH = 24
FORBIDDEN = ("datasets", "nltk", "pyoxigraph", "matplotlib", "typer", "rich", "SPARQLWrapper", "requests_cache")
SMALL = ["--records=1", "--chunk=2", f"--length={LENGTH}", "--set=contexts_per_length=1", "--set=steps=3"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "counterfact.json"
    write_json(path, [counterfact_record(case_id) for case_id in range(3)])
    return path


@pytest.fixture(scope="module")
def setting(dataset: Path) -> Setting:
    overrides = ("contexts_per_length=1", "steps=3")
    return prepare(Wanted(shape=TINY, dataset=str(dataset), chunk=5, device="cpu", overrides=overrides))


def test_records_are_repeated_under_ids_of_their_own(setting: Setting) -> None:
    assert setting.distinct == 3
    assert len({record.case_id for record in setting.records}) == 5
    assert setting.records[3].request.subject == setting.records[0].request.subject


def test_scoring_is_counted_token_by_token(setting: Setting) -> None:
    lm, record = setting.lm, setting.records[0]
    prompts = [record.request.filled, *record.paraphrase_prompts, *record.neighborhood_prompts]
    tokens = sum(len(lm.prompt_tokens(prompt)) for prompt in prompts)
    targets = (record.requested_rewrite.target_new.text, record.requested_rewrite.target_true.text)
    assert [len(lm.target_tokens(target)) for target in targets] == [1, 1]
    per_token, per_read = 2 * BLOCK + KEPT, BLOCK - KEPT + HEAD
    expected = 2 * (tokens * per_token + len(prompts) * per_read) / 1e9
    assert score_work(lm, [record]).gflop == pytest.approx(expected)


def test_the_search_is_counted_from_the_subject_on_and_contexts_are_not(setting: Setting) -> None:
    lm, record = setting.lm, setting.records[0]
    item = encode(lm, record.request, setting.templates, "subject_last", kl_row=True)
    bare, held = item.rows[0], item.rows[-1]
    own = 3 * len(bare.ids) + len(held.ids)  # the bare prompt, twice after a context, and the row that is held
    before = 3 * bare.lookup + held.lookup
    suffix = 3 * (len(bare.ids) - bare.lookup) + 1
    step = suffix * (BLOCK + KEPT) + 4 * (BLOCK - KEPT + HEAD)
    expected = 2 * (own * BLOCK + before * (BLOCK + KEPT) + 5 * step) / 1e9
    assert edit_work(lm, [item], [3], 0).gflop == pytest.approx(expected)


def test_nothing_is_done_with_less_than_the_needed_work(setting: Setting) -> None:
    times = Times(setting.lm.device, counting=True)
    outcome = many_at_once(setting, setting.records, LENGTH, times)
    rows = [
        encode(setting.lm, record.request, setting.templates, "subject_last", kl_row=True) for record in setting.records
    ]
    needed = {
        "edit": edit_work(setting.lm, rows, outcome.passes, 0),
        "score": score_work(setting.lm, setting.records),
        "generate": generate_work(setting.lm, setting.records, LENGTH),
    }
    for stage in STAGES:
        counted = times.operations(stage)
        assert counted is not None
        assert needed[stage].gflop <= counted <= 2.5 * needed[stage].gflop, stage


def test_weights_of_grouped_keys_are_fewer() -> None:
    from tests.support.models import tiny_lm

    sizes = Sizes.of(tiny_lm("llama"))
    assert sizes.kept == 2 * 32 * 16
    assert sizes.token == 2 * 16 * 8


def test_a_table_a_file_and_a_figure_come_of_one_command(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SHAPES, "factlm-like", TINY)
    out = tmp_path / "main_job-tiny.json"
    given = ["--shape=factlm-like", f"--dataset={dataset}", "--device=cpu", *SMALL, f"--out={out}"]
    assert main(given) == 0
    result = read_json(out)
    assert result["agrees"]
    assert all(ratio > 0 for row in result["stages"] for ratio in row["ratios"].values())
    assert result["stages"][-1]["floor"] == pytest.approx(sum(row["floor"] for row in result["stages"][:-1]), rel=1e-4)
    assert str(tmp_path) not in json.dumps(result)
    assert "the most that any method could reach" in capsys.readouterr().out
    plots.draw_stages([result]).savefig(tmp_path / "stages.png")


def test_sides_that_differ_get_no_ratio(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "factlm-like", TINY)
    monkeypatch.setitem(measure.BOUNDS, "float32", {"update_relative_largest": 0.0, "nats_largest": 1.0})
    out = tmp_path / "main_job-tiny.json"
    given = ["--shape=factlm-like", f"--dataset={dataset}", "--device=cpu", *SMALL, "--counted=0", f"--out={out}"]
    assert main(given) == 1
    assert all(ratio is None for row in read_json(out)["stages"] for ratio in row["ratios"].values())


needs_units = pytest.mark.skipif(
    not bfloat16_units(),
    reason="this processor has no units that multiply bfloat16; on one with AVX512-BF16 or AMX the test runs",
)


@needs_units
def test_bf16_is_held_against_its_own_ceiling(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "factlm-like", TINY)
    out = tmp_path / "main_job-bf16.json"
    given = ["--shape=factlm-like", f"--dataset={dataset}", "--device=cpu", "--precision=bf16", "--without", *SMALL]
    assert main([*given, f"--out={out}"]) == 0
    result = read_json(out)
    assert result["model"]["dtype"] == "float32, bf16 products"
    assert result["products"]["ours_packed"] == "oneDNN, packed weights, bf16" and "ours" not in result["products"]
    ceilings = result["ceilings_gflops"]
    assert result["ceiling"]["gflops"] == max(ceilings["float32"], ceilings["packed, bf16"])
    assert result["agreement"]["one_at_a_time"]["update_relative_largest"] > 1e-4


def test_the_sides_agree_on_a_llama_too(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "main_job-llama.json"
    given = [f"--model={tiny_folder('llama')}", f"--dataset={dataset}", "--device=cpu", "--set=layer=1", *SMALL]
    assert main([*given, "--length=60", "--counted=0", f"--out={out}"]) == 0
    assert read_json(out)["agrees"]


def test_drift_of_another_model_by_scores_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drift, "TEXTS", 5)
    monkeypatch.setattr(drift, "RESULTS", tmp_path)
    counterfact(tmp_path / "data", 2, bad=())
    words = "drift --editors identity rome --settings tf32 bf16 float64 --set=layer=1 --set=contexts_per_length=1"
    words += " --no-texts --device=cpu --name=tiny"
    folders = [f"--model={tiny_folder('gpt2')}", f"--dataset={tmp_path / 'data'}", f"--runs={tmp_path / 'runs'}"]
    monkeypatch.setattr(sys, "argv", [*words.split(), *folders])
    drift.main()
    found = read_json(tmp_path / "drift-tiny.json")
    assert str(tmp_path) not in found["command"]
    assert list(found["drift"]["rome"]) == ["float32", *(["bf16"] if bfloat16_units() else []), "float64"]
    differences = {name: row["nats_largest_difference"] for name, row in found["drift"]["rome"].items()}
    assert differences["float32"] == 0 < differences["float64"] < 1e-2
    assert all(1e-3 < value < 1 for name, value in differences.items() if name == "bf16")
    assert "| – |" in capsys.readouterr().out


def test_a_bare_node_runs_it_in_half_precision(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "main_job-bare.json"
    code = f"""
import sys

sys.modules.update(dict.fromkeys({FORBIDDEN!r}))  # to look for one of them finds none
from speed.main_job import main
from speed.shapes import SHAPES, Shape
SHAPES["factlm-like"] = Shape(3, 32, 4, 4096, 0)
sys.exit(main(sys.argv[1:]))
"""
    given = ["--shape=factlm-like", f"--dataset={dataset}", "--device=cpu", "--dtype=bfloat16", *SMALL, f"--out={out}"]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_json(out)["model"]["dtype"] == "bfloat16"


def test_a_line_is_laid_through_growth() -> None:
    points = [{"records": n, "seconds": {"total": 0.5 + 2 / n}} for n in (10, 20, 40)]
    line = fit(points, "records")
    assert (line["slope"], line["intercept"]) == (pytest.approx(0.5), pytest.approx(2.0))
    assert line["residual_relative_largest"] < 1e-9


def test_work_is_counted_without_weights_too(setting: Setting, dataset: Path) -> None:
    overrides = ("contexts_per_length=1", "steps=3")
    meta = describe_only(Wanted(shape=TINY, dataset=str(dataset), chunk=5, device="meta", overrides=overrides))
    passes = [3] * 5
    assert measure.work_of(meta, passes, LENGTH) == measure.work_of(setting, passes, LENGTH)


def test_what_starting_costs_is_told_from_what_a_record_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: list[str], records: int, model: str, out: Path) -> float:
        workers = 2 if "ray" in arguments else 1
        out.mkdir()
        (out / "cases.jsonl").write_text("same\n" if arguments[-1] == "1" else "other\n")
        return 5.0 * workers + records / workers

    monkeypatch.setattr(runners, "run", run)
    one, threads, ray = runners.measure(2, [10, 100], "factlm")
    assert (one["seconds_to_start"], one["seconds_a_record"], one["times_as_fast"]) == (5, 1, 1)
    assert (ray["seconds_to_start"], ray["seconds_a_record"], ray["times_as_fast"]) == (10, 0.5, 105 / 60)
    assert [row["same_bytes_as_one_thread"] for row in (one, threads, ray)] == [True, False, True]
