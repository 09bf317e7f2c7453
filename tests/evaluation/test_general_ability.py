"""lm-evaluation-harness: edits give the same numbers as by hand, unedited models give ours; and what is refused."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from counterfact.api.abilities import edit_of_run
from counterfact.api.evaluating import evaluate
from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import read_jsonl, write_json
from counterfact.core.records import Request
from counterfact.evaluation.general_ability import general_ability
from counterfact.evaluation.harness import evaluate_unedited
from counterfact.evaluation.store import Run
from counterfact.evaluation.task_files import write_task_files
from counterfact.lm.edits.edit import Edit
from counterfact.lm.edits.whole_model import save_model
from counterfact.statistics.summary import blocks_of, summarise
from tests.support.evaluating import counterfact, low_rank_edit, options, zsre
from tests.support.models import tiny_folder, tiny_lm

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="needs lm-evaluation-harness: pip install -e '.[lm-eval]'",
)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the harness from the Hub, and its files out of the user's folders."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def by_hand(model: Path, folder: Path, *tasks: str) -> dict[str, Any]:
    """What the harness says of a folder of a model, as its own command would run it."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32", "device": "cpu"},
        tasks=list(tasks),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        batch_size=4,
    )
    assert found is not None
    results: dict[str, Any] = found["results"]
    return results


CAPITALS = """\
task: capitals
custom_dataset: !function capitals.load
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: 0
metric_list:
  - metric: acc
  - metric: acc_norm
"""
LOAD = """\
from datasets import Dataset

CITIES = ("Lisbon", "Oslo", "Turin", "Leeds")


def load(**_):
    people = ("Anna Ferrand", "Harlan Reed", "Ada Orsa", "Jo Marlow", "Q", "Monday Point")
    docs = [{"question": f"{name} was born in", "choices": [*CITIES[i % 4 :], *CITIES[: i % 4]]}
            for i, name in enumerate(people)]
    return {"test": Dataset.from_list(docs)}
"""


@needs_harness
def test_an_edit_is_measured_as_the_saved_model_is_by_hand(tmp_path: Path) -> None:
    (tmp_path / "capitals.yaml").write_text(CAPITALS)
    (tmp_path / "capitals.py").write_text(LOAD)
    lm = tiny_lm("llama", "float32")
    edit = low_rank_edit(lm, Request(0, "{} was born in", "Anna Ferrand", "Oslo"), 0)
    [found] = general_ability(lm, [edit], ["capitals"], task_folder=tmp_path, batch_size=4)
    save_model(tmp_path / "edited", lm, [edit])
    edited = by_hand(tmp_path / "edited", tmp_path, "capitals")["capitals"]
    unedited = by_hand(tiny_folder("llama"), tmp_path, "capitals")["capitals"]
    for metric in ("acc", "acc_norm"):
        numbers = found["results"]["capitals"][metric]
        assert numbers["edited"] == edited[f"{metric},none"] != numbers["unedited"]
        assert numbers["unedited"] == unedited[f"{metric},none"]
        assert numbers["edited_stderr"] == edited[f"{metric}_stderr,none"]
    assert found["documents"] == {"capitals": 6} and found["seeds"]["numpy_seed"] == 1234


def records(kind: str, folder: Path) -> Dataset:
    """Records whose tokens are all whole characters, where they are counted."""
    return counterfact(folder / "data") if kind == "counterfact" else zsre(folder / "zsre.json", 4)


@needs_harness
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("kind", ["counterfact", "zsre"])
def test_the_harness_gives_our_numbers_of_the_unedited_model(kind: str, family: str, tmp_path: Path) -> None:
    lm, dataset = tiny_lm(family, "float32"), records(kind, tmp_path)
    written = write_task_files(tmp_path / "tasks", dataset, lm)
    assert written.left_out == 0
    lines = list(read_jsonl(evaluate_unedited(lm, dataset, tmp_path, options=options(generate=False)) / "pre.jsonl"))
    ours = summarise(blocks_of(lines, "pre"), dataset.benchmark, 0)
    theirs = by_hand(tiny_folder(family), tmp_path / "tasks", written.tag)
    assert sorted(theirs) == sorted(written.documents)
    for task in written.documents:
        [metric] = [key.partition(",")[0] for key in theirs[task] if key.endswith(",none") and "stderr" not in key]
        assert theirs[task][f"{metric},none"] * 100 == pytest.approx(ours[metric].estimate.value)


def test_documents_say_what_is_counted(tmp_path: Path) -> None:
    lm, dataset = tiny_lm("gpt2", "float32"), records("zsre", tmp_path)
    written = write_task_files(tmp_path / "tasks", dataset, lm)
    assert (tmp_path / "tasks" / "utils.py").is_file()
    documents = list(read_jsonl(tmp_path / "tasks" / "zsre_specificity.jsonl"))
    assert written.documents["zsre_specificity"] == len(documents)
    first = [each for each in documents if each["case_id"] == 0]
    assert "".join(target for each in first for target in each["targets"]) == " Oslo"
    assert first[-1]["prompt"] + first[-1]["targets"][0] == "nq question: what is the capital of Norway? Oslo"


def test_what_no_text_asks_is_left_out_and_counted(tmp_path: Path) -> None:
    """A character of several tokens is no text before its last one: such an answer cannot be counted by tokens."""
    asked = {"src": "Where is Q?", "rephrase": "Q is where?", "loc": "nq question: who"}
    write_json(tmp_path / "zsre.json", [{"subject": "Q", **asked, "answers": ["Łódź"], "loc_ans": "Oslo"}])
    written = write_task_files(tmp_path / "tasks", load_dataset(tmp_path / "zsre.json"), tiny_lm("gpt2", "float32"))
    assert written.left_out == 2 and list(written.documents) == ["zsre_specificity"]
    with pytest.raises(BadInput, match="no task files can be made of it"):
        write_task_files(tmp_path / "x", load_dataset(tmp_path / "zsre.json", benchmark="wild"), tiny_lm("gpt2"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of fine-tuning on seven records, of which the fifth cannot be read."""
    data = counterfact(tmp_path / "data")
    chosen = options(generate=False)
    [made] = evaluate(
        tiny_lm("gpt2", "float32"), data, "ft", tmp_path / "results", settings={"steps": 2}, options=chosen
    )
    return made


def test_an_edit_of_a_run_is_made_again(run: Run) -> None:
    lm = tiny_lm("gpt2", "float32")
    for case_id in (0, 5):
        edit = edit_of_run(lm, run.folder, case_id)
        [line] = [line for line in run.cases if line["case_id"] == case_id]
        assert edit.request_ids == (case_id,)
        assert edit.frobenius() == pytest.approx(line["edit"]["update_frobenius"], rel=1e-4)
    with pytest.raises(Failed, match="record 4 cannot be read: expected one"):
        edit_of_run(lm, run.folder, 4)
    with pytest.raises(BadInput, match="has no record 9; it has 0-6"):
        edit_of_run(lm, run.folder, 9)
    with pytest.raises(BadInput, match=r"is of another model than tiny-llama: its model\.name"):
        edit_of_run(tiny_lm("llama", "float32"), run.folder, 0)
    with pytest.raises(BadInput, match=r"was made with another resources\.context_templates"):
        edit_of_run(lm, run.folder, 0, contexts=["{}"])
    schedule = run.data["protocol"]["schedule"] | {"sequential": True}
    moved = Run(run.folder, {**run.data, "protocol": {**run.data["protocol"], "schedule": schedule}})
    with pytest.raises(BadInput, match="stand on each other"):
        edit_of_run(lm, moved, 0)


@needs_harness
def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    with pytest.raises(BadInput, match="changes no weight"):
        general_ability(lm, [Edit((), (0,), context="He moved. ")], ["capitals"])
    (tmp_path / "far.yaml").write_text(CAPITALS.replace("custom_dataset: !function capitals.load", "dataset_path: a/b"))
    with pytest.raises(Failed, match="could not read the data of its tasks"):
        general_ability(lm, [], ["capitals"], task_folder=tmp_path)


def test_a_missing_harness_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"not installed: pip install 'counterfact-toolkit\[lm-eval\]'"):
        general_ability(tiny_lm("gpt2", "float32"), [], ["capitals"])
