"""`counterfact save-edited`: edits of runs and files, for transformers, for peft, and on a Hub."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from counterfact.api.abilities import edit_of_run
from counterfact.api.evaluating import evaluate
from counterfact.builders.hub.edited import stage_edited
from counterfact.builders.hub.upload import push
from counterfact.core.errors import BadInput
from counterfact.core.files import read_json
from counterfact.evaluation.schedule import Schedule
from counterfact.evaluation.store import Run
from counterfact.lm.edits.adapter import load_adapter
from counterfact.lm.edits.apply import merged
from tests.lm.test_apply import ids
from tests.support import Command
from tests.support.evaluating import counterfact, options
from tests.support.hub_server import TOKEN, Hub, serve
from tests.support.models import tiny_folder, tiny_lm


def runs(folder: Path, schedule: Schedule) -> Run:
    lm, chosen = tiny_lm("gpt2", "float32"), options(generate=False, schedule=schedule)
    [run] = evaluate(
        lm, counterfact(folder / "data"), "ft_m", folder / "results", settings={"steps": 2}, options=chosen
    )
    return run


def test_a_mass_edit_of_a_run_as_an_adapter_and_on_a_hub(command: Command, tmp_path: Path) -> None:
    lm, model, run = tiny_lm("gpt2", "float32"), ("--model", tiny_folder("gpt2")), runs(tmp_path, Schedule(3))
    code, _, err = command("save-edited", run.folder, "--save-adapter", tmp_path / "adapter", *model)
    assert code == 2 and "say whose is meant: --record 0" in err
    code, out, err = command("save-edited", run.folder, "--record", 1, "--save-adapter", tmp_path / "adapter", *model)
    assert code == 0 and "an adapter, of which 0.0% at most is left out; 3 facts" in out, err
    edit, adapter = edit_of_run(lm, run, 1), load_adapter(tmp_path / "adapter", lm)
    assert adapter.request_ids == edit.request_ids == (0, 1, 2)
    with torch.no_grad():
        with merged(lm, [edit]):
            expected = lm.model(ids(lm, 2), use_cache=False).logits
        with merged(lm, [adapter]):
            torch.testing.assert_close(lm.model(ids(lm, 2), use_cache=False).logits, expected, rtol=0, atol=1e-4)
    says = read_json(tmp_path / "adapter" / "edited.json")
    assert says["editor"] == "ft_m" and [asked["subject"] for asked in says["requests"]] == [
        "Anna Ferrand", "Pavel Dvořák", "Harlan Reed",
    ]  # fmt: skip
    with serve(Hub()) as hub:
        done = push(stage_edited(tmp_path / "adapter", "org/edited"), TOKEN, endpoint=hub.url, wait=0.01)
        assert done.url == f"{hub.url}/org/edited" and done.tag == "v1.0.0"
        card = hub.repos["org/edited"].head.files["README.md"].decode()
        again = push(stage_edited(tmp_path / "adapter", "org/edited"), TOKEN, endpoint=hub.url, wait=0.01)
        assert again.sent == () and again.commit == done.commit
    assert "is false by design" in card and "library_name: peft" in card
    assert "3 facts edited by ft_m" in card and "| Anna Ferrand was born in | Oslo | Lisbon |" in card
    with pytest.raises(BadInput, match="expected an edited model or an adapter"):
        stage_edited(tmp_path / "data", "org/edited")


def test_a_sequential_run_is_exported_as_one_model_and_a_file_too(command: Command, tmp_path: Path) -> None:
    lm, model = tiny_lm("gpt2", "float32"), ("--model", tiny_folder("gpt2"))
    run = runs(tmp_path, Schedule(2, sequential=True, measure_after=(4,)))
    code, _, err = command("save-edited", run.folder, "--record", 1, "--save-model", tmp_path / "edited", *model)
    assert code == 2 and "leave out --record" in err
    code, out, err = command("save-edited", run.folder, "--save-model", tmp_path / "edited", "--json", *model)
    assert code == 0, err
    assert json.loads(out[out.index("{") :])["facts"] == 6
    kept = next((run.folder / "edits").glob("edits-*.safetensors"))
    code, out, err = command("save-edited", kept, "--save-model", tmp_path / "same", *model)
    assert code == 0 and "same: an edited model; 6 facts" in out.replace("\n", ""), err
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("edited", "same"))
    with torch.no_grad():
        assert torch.equal(one(ids(lm, 2)).logits, other(ids(lm, 2)).logits)
        assert not torch.equal(one(ids(lm, 2)).logits, lm.model(ids(lm, 2)).logits)
    code, _, err = command("save-edited", kept, *model)
    assert code == 2 and "give either --save-model or --save-adapter" in err
