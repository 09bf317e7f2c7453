"""The oracle itself, against the reference implementation's golden numbers, where these are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from counterfact.core.records import Request
from counterfact.editing.plain import train_alone
from counterfact.editing.requests import encode
from counterfact.editors.finetune import FinetuneSettings
from counterfact.editors.rome import RomeSettings
from counterfact.lm.model.loading import wrap_lm
from tests.support import oracle, oracle_measures


@pytest.fixture(scope="module")
def golden(real_data: Path) -> Path:
    folder = real_data / "golden"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder


@pytest.fixture(scope="module")
def model(golden: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(golden / "model", dtype=torch.float64).eval().requires_grad_(False)
    return loaded, AutoTokenizer.from_pretrained(golden / "model")


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def deviation(ours: torch.Tensor, theirs: Any) -> float:
    return float(np.linalg.norm(ours.numpy() - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("case_id", [116, 900003, 910001])
def test_rome(golden: Path, model: tuple[Any, Any], case_id: int) -> None:
    stored, arrays = load(golden / "rome.json"), np.load(golden / "rome.npz")
    record = next(record for record in stored["records"] if record["case_id"] == case_id)
    given = {**stored["hyperparameters"], **record.get("overrides", {})}
    settings = RomeSettings(
        layer=given["layers"][0],
        position=given["fact_token"],
        steps=given["v_num_grad_steps"],
        learning_rate=given["v_lr"],
        weight_decay=given["v_weight_decay"],
        kl_factor=given["kl_factor"],
        clamp_norm_factor=given["clamp_norm_factor"],
    )
    moment = torch.from_numpy(np.load(golden / "second_moment.npz")["C_float64_accumulation"]).double()
    request = Request(case_id, record["prompt"], record["subject"], record["target_new"])
    edit = oracle.rome(wrap_lm(*model, name="golden"), request, stored["context_templates"], moment, settings)
    prefix = record["prefix"]
    for name in ("k_bar", "u", "k_0", "v_0", "delta"):
        assert deviation(getattr(edit, name), arrays[f"{prefix}{name}_float64"]) < 1e-10, name
    assert deviation(edit.r(), arrays[f"{prefix}r_float64"]) < 1e-10
    assert [row[0] for row in edit.trace] == pytest.approx([step["total"] for step in record["steps"]], rel=1e-4)
    variants, variant_arrays = load(golden / "rome_variants.json"), np.load(golden / "rome_variants.npz")
    for variant in variants["records"]:
        if (variant["case_id"], variant["variant"]) == (case_id, "r_rome"):
            assert deviation(edit.r("r_rome"), variant_arrays[variant["prefix"] + "r"]) < 5e-4


@pytest.mark.parametrize("method", ["FT", "FT+L"])
def test_finetune(golden: Path, model: tuple[Any, Any], real_data: Path, method: str) -> None:
    runs = load(golden / "ft.json")["runs"]
    run = next(r for r in runs if (r["method"], r["variant"]) == (method, "published (weight only)"))
    records = load(real_data / "counterfact" / "counterfact_100.json")
    asked = next(record for record in records if record["case_id"] == run["case_id"])["requested_rewrite"]
    given = run["hyperparameters"]
    values = {"layer": given["layers"][0], "learning_rate": given["lr"], "steps": given["num_steps"]}
    bound = given["norm_constraint"] or None
    settings = FinetuneSettings(**values)
    request = Request(run["case_id"], asked["prompt"], asked["subject"], asked["target_new"]["str"])
    lm = wrap_lm(*model, name="golden")
    found = train_alone(lm, encode(lm, request, ["{}"], "last", kl_row=False), settings, bound)
    change, losses = found.change, found.losses
    assert list(losses) == pytest.approx(run["losses"], rel=1e-3)
    assert float(change.norm()) == pytest.approx(run["weight_change_norm"], rel=1e-3)


def test_generation(golden: Path, model: tuple[Any, Any]) -> None:
    batch = load(golden / "generation.json")["batches"][0]
    for prompt, ids, text in list(zip(batch["prompts"], batch["token_ids"], batch["texts"], strict=True))[:2]:
        made, _ = oracle_measures.greedy(*model, prompt, len(ids))
        assert made == ids
        assert oracle_measures.clean_text(model[1], made) == text


def test_probabilities(golden: Path, model: tuple[Any, Any], real_data: Path) -> None:
    records = {r["case_id"]: r for r in load(real_data / "counterfact" / "counterfact_100.json")}
    stored = next(r for r in load(golden / "probabilities.json")["records"] if r["case_id"] in records)
    record = records[stored["case_id"]]
    asked = record["requested_rewrite"]
    prompts = {
        "rewrite_prompts_probs": [asked["prompt"].format(asked["subject"])],
        "paraphrase_prompts_probs": record["paraphrase_prompts"],
    }
    block = stored.get("pre", stored.get("post", stored))
    for name, texts in prompts.items():
        for text, expected in zip(texts, block[name], strict=True):
            for target in ("target_new", "target_true"):
                nlls = oracle_measures.token_nlls(*model, text, asked[target]["str"])
                assert float(np.mean(nlls)) == pytest.approx(expected[target], abs=1e-4)


def test_zsre(golden: Path, model: tuple[Any, Any]) -> None:
    for record in load(golden / "zsre.json")["records"][::3]:
        source = record["source"]
        asked = {
            "rewrite": (source["src"], source["answers"][0]),
            "paraphrase": (source["rephrase"], source["answers"][0]),
            "neighborhood": (source["loc"] + "?", source["loc_ans"]),
        }
        for name, (question, answer) in asked.items():
            correct = oracle_measures.answer_correct(*model, question, answer)
            assert correct == record[f"{name}_prompts_correct"], name
