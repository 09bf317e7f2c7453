"""ROME, r-ROME, p-ROME, FT and FT+L against numbers of the reference implementation, read in place from REAL_DATA.

Provenance, precision and the reasons for the tolerances: `golden/README.md` there.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from counterfact.contracts.editors import Resources, edit_singly
from counterfact.core.records import Request
from counterfact.editing.requests import encode
from counterfact.editing.values import SearchCache
from counterfact.editors.finetune import BoxedFinetuneSettings, Finetune, FinetuneSettings, lay_out, train
from counterfact.editors.rome import Rome, RomeSettings, rank_one
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.moments.second_moment import SecondMoment
from counterfact.lm.planning.batch_plan import default_plan
from tests.support.editing import change

NAMES = {
    "fact_token": "position",
    "v_num_grad_steps": "steps",
    "v_lr": "learning_rate",
    "v_weight_decay": "weight_decay",
    "clamp_norm_factor": "clamp_norm_factor",
    "kl_factor": "kl_factor",
    "mom2_adjustment": "covariance",
}


@pytest.fixture(scope="module")
def golden(real_data: Path) -> Path:
    return real_data / "golden"


@pytest.fixture(scope="module")
def lm(golden: Path) -> LM:
    return load_lm(golden / "model", device="cpu")


@pytest.fixture(scope="module")
def moment(golden: Path) -> SecondMoment:
    arrays = np.load(golden / "second_moment.npz")
    matrix = torch.tensor(arrays["C_float64_accumulation"], dtype=torch.float64)
    return SecondMoment(matrix, int(arrays["count"]), 2, "wikitext-2, 271 lines", "golden")


@pytest.fixture(scope="module")
def records(real_data: Path) -> dict[int, Any]:
    listed = json.loads((real_data / "counterfact" / "counterfact_100.json").read_text())
    return {record["case_id"]: record for record in listed}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def request_of(rewrite: dict[str, Any], case_id: int) -> Request:
    return Request(case_id, rewrite["prompt"], rewrite["subject"], rewrite["target_new"]["str"])


def settings_of(hyperparameters: dict[str, Any]) -> RomeSettings:
    values = {ours: hyperparameters[theirs] for theirs, ours in NAMES.items()}
    return RomeSettings(layer=hyperparameters["layers"][0], **values)


def rome_of(lm: LM, golden: Any, overrides: dict[str, Any], moment: SecondMoment, cache: Path, variant: Any) -> Rome:
    settings = settings_of({**golden["hyperparameters"], **overrides})
    given = moment if settings.covariance else None
    templates = tuple(golden["context_templates"])
    return Rome(lm, settings, variant, templates, given, default_plan(lm), SearchCache(cache, "batched"))


def distance(found: Tensor, expected: Any) -> float:
    """Relative distance of two vectors or numbers."""
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    return float((found.double() - wanted).norm() / wanted.norm())


def post(lm: LM, edit: Edit, record: dict[str, Any], rewrite: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """The per-token -ln p of every prompt and target, with the edit written into the weights, one row at a time."""
    prompts = {
        "rewrite_prompts_probs": [rewrite["prompt"].format(rewrite["subject"])],
        "paraphrase_prompts_probs": record["paraphrase_prompts"],
        "neighborhood_prompts_probs": record["neighborhood_prompts"],
        "attribute_prompts_probs": record["attribute_prompts"],
    }
    found: dict[str, list[dict[str, float]]] = {}
    with merged(lm, [edit]), torch.no_grad():
        for name, texts in prompts.items():
            found[name] = []
            for text in texts:
                ids, scores = lm.prompt_tokens(text), {}
                for side in ("target_new", "target_true"):
                    target = lm.target_tokens(rewrite[side]["str"])
                    log_p = lm.model(torch.tensor([ids + target])).logits[0].log_softmax(-1)
                    ends = range(len(ids) - 1, len(ids) + len(target) - 1)
                    said = [-float(log_p[e, t]) for e, t in zip(ends, target, strict=True)]
                    scores[side] = sum(said) / len(said)
                found[name].append(scores)
    return found


def check_post(lm: LM, edit: Edit, record: dict[str, Any], rewrite: dict[str, Any], wanted: Any, atol: float) -> None:
    for name, scores in post(lm, edit, record, rewrite).items():
        for found, expected in zip(scores, wanted[name], strict=True):
            assert found == pytest.approx(expected, abs=atol), name


def full_record(entry: dict[str, Any], records: dict[int, Any]) -> dict[str, Any]:
    """The record of an entry; made-up ones are stored with it."""
    return dict(entry.get("record") or records[entry["case_id"]])


def test_rome(golden: Path, lm: LM, moment: SecondMoment, records: dict[int, Any], tmp_path: Path) -> None:
    reference, arrays = read(golden / "rome.json"), np.load(golden / "rome.npz")
    for entry in reference["records"]:
        record = full_record(entry, records)
        request = request_of(record["requested_rewrite"], entry["case_id"])
        rome = rome_of(lm, reference, entry.get("overrides") or {}, moment, tmp_path, "rome")
        item = encode(lm, request, rome.templates, rome.settings.position, kl_row=True)
        assert list(item.target) == entry["target_ids"]
        assert [row.lookup for row in item.rows] == entry["lookup_indices"]
        values = rome.values([item]).at(0)
        wanted = {name: arrays[entry["prefix"] + name] for name in ("k_bar", "k_0", "v_0", "delta", "v_star", "r", "u")}
        assert distance(values.mean_key, wanted["k_bar"]) < 1e-5
        assert distance(values.bare_key, wanted["k_0"]) < 1e-5
        assert distance(values.bare_output, wanted["v_0"]) < 1e-5
        assert int(values.passes) == entry["n_forward"]
        steps = [[step[key] for key in ("total", "nll", "kl", "wd")] for step in entry["steps"]]
        np.testing.assert_allclose(values.trace[: len(steps)].numpy(), steps, rtol=1e-4, atol=1e-5)
        assert distance(values.delta, wanted["delta"]) < 1e-4
        assert distance(values.bare_output + values.delta, wanted["v_star"]) < 1e-4
        (edit,) = edit_singly(rome, [request], 0)
        assert isinstance(edit, Edit)
        assert distance(edit.deltas[0].left[0], wanted["u"]) < 5e-4
        assert distance(edit.deltas[0].left[0], arrays[entry["prefix"] + "u_float64"]) < 1e-5
        assert distance(edit.deltas[0].right[0], wanted["r"]) < 5e-4
        assert distance(edit.deltas[0].right[0], arrays[entry["prefix"] + "r_float64"]) < 5e-4
        assert edit.diagnostics["update_frobenius"] == pytest.approx(entry["update_frobenius"], rel=5e-4)
        assert edit.frobenius() == pytest.approx(entry["weight_change_frobenius"], rel=5e-4)
        assert edit.diagnostics["k0_dot_u"] == pytest.approx(entry["dot_k_0_u"], rel=5e-4)
        assert edit.diagnostics["kbar_dot_u"] == pytest.approx(entry["dot_k_bar_u"], rel=5e-4)
        check_post(lm, edit, record, record["requested_rewrite"], entry["post"], 5e-3)


def test_rome_variants(golden: Path, lm: LM, moment: SecondMoment, records: dict[int, Any], tmp_path: Path) -> None:
    reference, arrays = read(golden / "rome_variants.json"), np.load(golden / "rome_variants.npz")
    rome_entries = read(golden / "rome.json")["records"]
    for entry in reference["records"]:
        source = rome_entries[entry["index_in_rome_json"]]
        record = full_record(source, records)
        rewrite = record["requested_rewrite"]
        request = request_of(rewrite, entry["case_id"])
        rome = rome_of(lm, reference, {}, moment, tmp_path, entry["variant"])
        values = rome.values([encode(lm, request, rome.templates, "subject_last", kl_row=True)]).at(0)
        prefix = entry["prefix"]
        assert distance(values.delta, arrays[prefix + "delta"]) < 1e-4
        (edit,) = edit_singly(rome, [request], 0)
        assert isinstance(edit, Edit)
        assert distance(edit.deltas[0].left[0], arrays[prefix + "u"]) < 5e-4
        assert distance(edit.deltas[0].right[0], arrays[prefix + "r"]) < 5e-4
        averaged = entry["variant"] == "r_rome"
        key, output = (values.mean_key, values.mean_output) if averaged else (values.bare_key, values.bare_output)
        assert distance(key, arrays[prefix + "divisor_key"]) < 1e-5
        assert distance(output, arrays[prefix + "subtracted_output"]) < 1e-5
        _, divisor = rank_one(values, edit.deltas[0].left[0].double(), entry["variant"])
        assert float(divisor) == pytest.approx(entry["divisor"], rel=5e-4)
        assert edit.frobenius() == pytest.approx(entry["update_frobenius"], rel=5e-4)
        check_post(lm, edit, record, rewrite, entry["post"], 5e-3)


def test_finetuning(golden: Path, lm: LM, records: dict[int, Any]) -> None:
    runs = [run for run in read(golden / "ft.json")["runs"] if run["variant"] == "published (weight only)"]
    assert len(runs) == 16
    for run in runs:
        given = run["hyperparameters"]
        record = full_record(run, records)
        request = request_of(record["requested_rewrite"], run["case_id"])
        values = {"layer": given["layers"][0], "steps": given["num_steps"], "learning_rate": given["lr"]}
        bound = given["norm_constraint"] or None
        settings = BoxedFinetuneSettings(**values, bound=bound) if bound else FinetuneSettings(**values)
        item = encode(lm, request, ["{}"], "last", kl_row=False)
        (trained,) = train(lm, lay_out(lm, [item], settings.layer), settings, bound)
        np.testing.assert_allclose(trained.losses, run["losses"], rtol=1e-3, atol=1e-5)
        assert len(trained.losses) == run["n_forward"]
        (edit,) = edit_singly(Finetune(lm, settings, bound, default_plan(lm)), [request], 0)
        assert isinstance(edit, Edit)
        assert edit.frobenius() == pytest.approx(run["weight_change_norm"], rel=1e-3)
        assert float(change(edit).abs().max()) == pytest.approx(run["weight_change_max_abs"], rel=1e-3)
        first = torch.tensor(run["weight_change_first_row"])
        assert (change(edit)[0] - first).abs().max() < settings.learning_rate / 5
        check_post(lm, edit, record, record["requested_rewrite"], run["post"], 2e-3)


def test_given_second_moments_are_used_as_they_stand(lm: LM, moment: SecondMoment) -> None:
    assert Resources(second_moments={2: moment}).second_moment(lm, 2) is moment
