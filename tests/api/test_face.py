"""The names of the package: imported when used, the same for a type checker, enough for a notebook."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import counterfact
from counterfact import (
    Failure,
    Options,
    Query,
    Request,
    Schedule,
    edit,
    evaluate,
    known_facts,
    load_editor,
    load_lm,
    merged,
    say,
    sweep,
    trace,
)
from counterfact.core.errors import BadInput, Failed
from counterfact.lm.model.language_model import LM
from tests.support import ROOT
from tests.support.evaluating import counterfact as make_dataset
from tests.support.models import tiny_lm

REQUESTS = [
    Request(id=0, prompt="{} was born in", subject="Anna Ferrand", target_new="Oslo"),
    Request(id=1, prompt="{} was born in", subject="Anna Ferrand", target_new=""),
]


@pytest.fixture(scope="module")
def lm() -> LM:
    return tiny_lm("gpt2", "float32")


def test_the_package_imports_nothing_until_asked() -> None:
    program = (
        "import counterfact, sys; heavy = {'torch', 'transformers', 'pydantic'} & set(sys.modules); assert not heavy;"
        "assert {'edit', 'evaluate'} <= set(dir(counterfact)); counterfact.Request; assert 'torch' not in sys.modules;"
        "from counterfact import *; assert all(name in globals() for name in counterfact.__all__)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'evaluates'"):
        _ = counterfact.evaluates  # type: ignore[attr-defined]


def test_type_checkers_and_python_find_the_same_names() -> None:
    tree = ast.parse((ROOT / "counterfact/__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    found = {name: f"counterfact.{module}" for name, module in counterfact._MODULES.items()}
    assert typed == found and sorted(typed) == sorted(counterfact.__all__)


def test_one_request_makes_an_edit_and_several_make_a_list(lm: LM) -> None:
    made = edit(lm, REQUESTS[0], "ft", layer=1, steps=2)
    assert made.request_ids == (0,)
    assert say(lm, REQUESTS[0].filled, length=12) != say(lm, REQUESTS[0].filled, made, length=12)
    editor = load_editor(lm, "ft", ["layer=1", "steps=2"])
    assert editor.resolved.given == {"layer": 1, "steps": 2}
    first, second = editor(REQUESTS)
    assert not isinstance(first, Failure) and first.request_ids == (0,)
    assert isinstance(second, Failure) and second.id == 1
    with pytest.raises(Failed, match="ft could not make this edit"):
        editor(REQUESTS[1])
    with pytest.raises(BadInput, match="layr"):
        edit(lm, REQUESTS[0], "ft", layr=1)


def test_many_facts_in_one_edit_and_one_group_after_another(lm: LM) -> None:
    more = [*REQUESTS, Request(2, "{} was born in", "Anna Ferrand", "Oslo")]
    memit = load_editor(lm, "memit_seq", {"layers": [0, 1], "steps": 3}, contexts=["{}"], max_texts=5)
    first = memit.together(more)
    assert first.edit is not None and first.edit.request_ids == (0, 2)
    assert [failure.id for failure in first.failures] == [1]
    again = memit.together(more)
    assert again.edit is not None and again.edit.content_hash == first.edit.content_hash, (
        "each call starts from nothing"
    )
    with merged(lm, [first.edit]):
        after = memit.together(more[2:], first.state)
    assert {name: len(keys) for name, keys in (after.state or {}).items()} == {"keys.0": 3, "keys.1": 3}
    with pytest.raises(BadInput, match="ft writes one fact with one edit, got groups of 3"):
        load_editor(lm, "ft", ["layer=1"]).together(more)


def test_runs_show_themselves_as_tables(lm: LM, tmp_path: Path) -> None:
    make_dataset(tmp_path / "data")
    told: list[str] = []
    runs = evaluate(
        lm,
        tmp_path / "data",
        ["identity", "ft"],
        tmp_path / "results",
        options=Options(generate=False),
        announce=lambda name, _resolved: told.append(name),
    )
    assert [run.editor for run in runs] == told == ["identity", "ft"]
    [table] = runs.tables
    assert len(table.rows) == 3 and str(runs).count("| ft |") == 1
    with pytest.raises(BadInput, match=r"no setting 'rome\.layer'"):
        evaluate(lm, tmp_path / "data", ["identity", "ft"], settings={"rome.layer": 1})
    found = sweep(lm, tmp_path / "data", "ft", tmp_path / "results", layers=[1], settings={"steps": 2})
    assert {point.layer for point in found.points} == {1} and all(file.exists() for file in found.files)
    with pytest.raises(BadInput, match="expected layers from 0 to"):
        sweep(lm, tmp_path / "data", "ft", tmp_path / "results", layers=[99])
    with pytest.raises(BadInput, match="no setting `layer`"):
        sweep(lm, tmp_path / "data", "identity", tmp_path / "results")


@pytest.mark.parametrize(
    ("last", "schedule", "said"),
    [("ft", Schedule(2), "ft writes one fact with one edit"), ("mend", Schedule(), "no trained network")],
)
def test_what_an_editor_cannot_do_is_said_before_the_first_one_runs(
    last: str, schedule: Schedule, said: str, lm: LM, tmp_path: Path
) -> None:
    make_dataset(tmp_path / "data")
    told: list[str] = []
    options = Options(generate=False, schedule=schedule)
    with pytest.raises(BadInput, match=said):
        evaluate(
            lm, tmp_path / "data", ["identity", last], tmp_path / "results",
            options=options, announce=lambda name, _resolved: told.append(name),
        )  # fmt: skip
    assert not told and not (tmp_path / "results").exists()


def test_one_target_is_not_taken_for_its_letters() -> None:
    with pytest.raises(BadInput, match=r"expected a sequence of targets, as \('Oslo',\), got 'Oslo'"):
        Query("The capital of Norway is", "Oslo")  # type: ignore[arg-type]


def test_facts_are_found_and_traced(tmp_path: Path) -> None:
    lm = load_lm("factlm", device="cpu")
    known = known_facts(lm, limit=6, out=tmp_path / "known.json")
    assert known.asked == 6 and known.facts and not known.failed
    [run] = trace(lm, known.facts, out=tmp_path, samples=2, limit=1)
    [again] = trace(lm, tmp_path / "known.json", out=tmp_path, samples=2, limit=1)
    assert again.folder == run.folder and again.lines == run.lines
    assert len(run.good) == 1 and run.method == "causal"
    with pytest.raises(BadInput, match="choose one"):
        known_facts(lm, tmp_path, pararel=tmp_path)


def test_both_engines_agree(lm: LM, tmp_path: Path) -> None:
    settings = {"layer": 1, "steps": 4, "covariance": False, "contexts_per_length": 1}
    batched, plain = (load_editor(lm, "rome", settings, engine=engine)(REQUESTS[0]) for engine in ("batched", "plain"))
    for one, other in zip(batched.deltas, plain.deltas, strict=True):
        assert (one.left - other.left).abs().max() < 1e-4 and (one.right - other.right).abs().max() < 1e-4
    make_dataset(tmp_path / "data")
    given = {"settings": {"layer": 1, "steps": 2, "covariance": False}, "options": Options(generate=False)}
    folders = {
        evaluate(lm, tmp_path / "data", "rome", tmp_path / "results", engine=engine, **given)[0].folder
        for engine in ("batched", "plain")
    }
    assert len(folders) == 2, "a run says which engine computed its edits"
    with pytest.raises(BadInput, match="identity has no plain engine"):
        load_editor(lm, "identity", engine="plain")
