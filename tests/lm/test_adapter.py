"""Edits as LoRA adapters: `peft` runs them as we do, and they can be read back."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from counterfact.core.errors import BadInput
from counterfact.core.files import read_json, write_json
from counterfact.lm.edits.adapter import CONFIG, WEIGHTS, load_adapter, save_adapter
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Dense, Edit
from counterfact.lm.edits.whole_model import save_model
from counterfact.lm.model.language_model import LM
from tests.lm.test_apply import ids, random_dense, random_low
from tests.support.models import FAMILIES, tiny_lm


def logits(lm: LM, edits: list[Edit]) -> Tensor:
    with merged(lm, edits), torch.no_grad():
        found: Tensor = lm.model(ids(lm, 3), use_cache=False).logits
    return found


def mass_edit(lm: LM) -> Edit:
    """Two changes of one module, one of another rank elsewhere, and one of full rank."""
    down, up = lm.layout.fc_out(1), lm.layout.fc_in(2)
    low = (random_low(lm, down, 2, 0), random_low(lm, down, 1, 1), random_low(lm, up, 1, 2))
    return Edit((*low, random_dense(lm, lm.layout.fc_out(0), 3)), (5, 7))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft, about transformers
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_runs_an_adapter_as_we_run_the_edits(family: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    lm = tiny_lm(family, "float32")
    edits = [mass_edit(lm), Edit((random_low(lm, lm.layout.fc_out(1), 1, 4),), (9,))]
    assert set(save_adapter(tmp_path / "adapter", lm, edits).values()) == {0.0}
    save_model(tmp_path / "plain", lm, [])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", attn_implementation=lm.layout.attention_kernel)
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    with torch.no_grad():
        found = adapted(ids(lm, 3), use_cache=False).logits
    expected = logits(lm, edits)
    scale = float((expected - logits(lm, [])).abs().max())
    assert scale > 0.01, "the edits must be seen"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * max(1.0, scale))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_adapter_is_read_back(family: str, tmp_path: Path) -> None:
    lm = tiny_lm(family)
    edit = mass_edit(lm)
    save_adapter(tmp_path / "adapter", lm, [edit])
    back = load_adapter(tmp_path / "adapter", lm)
    assert back.request_ids == (5, 7)
    torch.testing.assert_close(logits(lm, [back]), logits(lm, [edit]), rtol=0, atol=1e-9)
    config = read_json(tmp_path / "adapter" / CONFIG)
    write_json(tmp_path / "adapter" / CONFIG, config | {"lora_alpha": 2 * config["lora_alpha"], "alpha_pattern": {}})
    other = load_adapter(tmp_path / "adapter", lm)
    for one, two in zip(back.deltas, other.deltas, strict=True):
        rank = one.left.shape[0]
        torch.testing.assert_close(two.weight_change, 2 * config["r"] / rank * one.weight_change)


def test_what_a_smaller_rank_leaves_out_is_said(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    change = random_dense(lm, lm.layout.fc_out(1), 0)
    assert isinstance(change, Dense)
    [said] = save_adapter(tmp_path / "adapter", lm, [Edit((change,), (0,))], rank=4).values()
    [delta] = load_adapter(tmp_path / "adapter", lm).deltas
    whole = change.weight_change
    assert said == pytest.approx(float((delta.weight_change - whole).norm() / whole.norm())) and 0 < said < 1
    values = torch.linalg.svdvals(whole)
    assert said == pytest.approx(float(values[4:].norm() / values.norm())), "no matrix of rank 4 is nearer"


def test_what_is_no_adapter_of_this_model_is_refused(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(BadInput, match="changes no weight"):
        save_adapter(tmp_path / "adapter", lm, [Edit((), (0,), context="He moved to Oslo. ")])
    with pytest.raises(BadInput, match="no change of a weight"):
        save_adapter(tmp_path / "adapter", lm, [Edit((), (0,))])
    save_adapter(tmp_path / "adapter", lm, [mass_edit(lm)])
    with pytest.raises(BadInput, match=r"made for .* not for"):
        load_adapter(tmp_path / "adapter", tiny_lm("llama"))
    (tmp_path / "adapter" / "edited.json").unlink()
    with pytest.raises(BadInput, match="does not fit"):
        load_adapter(tmp_path / "adapter", tiny_lm("llama"))
    config = read_json(tmp_path / "adapter" / CONFIG)
    write_json(tmp_path / "adapter" / CONFIG, config | {"use_dora": True})
    with pytest.raises(BadInput, match="use_dora"):
        load_adapter(tmp_path / "adapter", lm)
    write_json(tmp_path / "adapter" / CONFIG, config)
    (tmp_path / "adapter" / WEIGHTS).write_bytes(b"cut off")
    with pytest.raises(BadInput, match="does not fit"):
        load_adapter(tmp_path / "adapter", lm)
