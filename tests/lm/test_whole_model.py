"""An edited model as a folder: other programs load it, and it says what was edited and what rounding took."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterfact.core.errors import BadInput
from counterfact.core.files import read_json
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.edits.whole_model import EDITED, lost_in_rounding, save_model
from counterfact.lm.model.loading import load_lm
from counterfact.lm.model.sites import weight_view
from tests.lm.test_apply import ids, random_dense, random_low
from tests.support.models import FAMILIES, SENTENCES, tiny_lm


@pytest.mark.parametrize("family", FAMILIES)
def test_the_library_loads_the_edited_model(family: str, tmp_path: Path) -> None:
    lm = tiny_lm(family, "float32")
    down = lm.layout.fc_out(1)
    edits = [Edit((random_low(lm, down, 2, 0), random_dense(lm, down, 1)), (5,), {"loss": 0.5})]
    assert save_model(tmp_path / "edited", lm, edits) is None
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "edited", attn_implementation=lm.layout.attention_kernel)
    assert loaded.dtype == torch.float32
    tokens = ids(lm, 3)
    with merged(lm, edits), torch.no_grad():
        expected = lm.model(tokens, use_cache=False).logits
        found = loaded.eval()(tokens, use_cache=False).logits
    assert torch.equal(found, expected)
    assert not torch.equal(found, lm.model(tokens, use_cache=False).logits), "the model in memory is as it was"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "edited")
    assert tokenizer(list(SENTENCES)).input_ids == lm.tokenizer(list(SENTENCES)).input_ids
    facts = read_json(tmp_path / "edited" / EDITED)
    assert facts["model"] == lm.identity and facts["edits"] == [{"request_ids": [5], "diagnostics": {"loss": 0.5}}]
    assert load_lm(tmp_path / "edited", device="cpu").weights_hash != lm.weights_hash


def test_what_rounding_takes_is_said(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "bfloat16")
    down = lm.layout.fc_out(1)
    edits = [Edit((random_low(lm, down, 2, 0, torch.float32),), (0,))]
    lost = save_model(tmp_path / "edited", lm, edits)
    change, weight = edits[0].deltas[0].weight_change, weight_view(lm.model, down).float()
    whole = weight + change
    assert lost == pytest.approx(float((whole.bfloat16().float() - whole).norm() / change.norm()), rel=1e-5)
    assert 0 < lost < 0.1 and read_json(tmp_path / "edited" / EDITED)["lost_in_rounding"] == lost
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "edited").dtype == torch.bfloat16
    tiny = [Edit((LowRank(down, *(torch.full((1, size), 1e-5) for size in weight.shape)),), (0,))]
    assert lost_in_rounding(lm, tiny) > 0.9, "a change below half a unit in the last place of a weight is nearly lost"
    assert lost_in_rounding(lm, [Edit((), (0,))]) == 0.0


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2", "float32")
    with pytest.raises(BadInput, match="changes no weight, so that there is no edited model"):
        save_model(tmp_path / "edited", lm, [Edit((), (0,), context="He moved to Oslo. ")])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="mine holds something else than an edited model; name another folder"):
        save_model(tmp_path / "mine", lm, [Edit((), (0,))])
    foreign = LowRank("no.such.module", torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(LookupError):
        save_model(tmp_path / "edited", lm, [Edit((foreign,), (0,))])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "notes.txt"], "nothing half-written is left"
