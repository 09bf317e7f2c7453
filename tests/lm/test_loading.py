"""Models load from a folder, say what they are, and refuse what cannot be edited, with what to do about it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from counterfact.core.errors import BadInput
from counterfact.lm.model.loading import load_lm, wrap_lm
from tests.support.models import (
    FAMILIES,
    INNER,
    LAYERS,
    LENGTH,
    WIDTH,
    make_model,
    make_tokenizer,
    tiny_folder,
    tiny_lm,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_model_says_about_itself(family: str) -> None:
    lm = tiny_lm(family)
    assert (lm.n_layers, lm.width, lm.vocabulary) == (LAYERS, WIDTH, len(lm.tokenizer))
    windows = {"mistral", "gemma2", "gemma3_text", "olmo3", "gpt_neo"}
    assert lm.max_length == (48 if family in windows else 2048 if family == "bloom" else LENGTH)
    assert lm.name == f"tiny-{family}"
    assert lm.revision == lm.weights_hash[:8]
    assert lm.identity == {
        "name": lm.name,
        "revision": lm.revision,
        "weights_hash": lm.weights_hash,
        "dtype": "float64",
    }
    assert lm.device == torch.device("cpu")
    assert not lm.model.training
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_dtype(dtype: str) -> None:
    lm = load_lm(tiny_folder("gpt2"), device="cpu", dtype=dtype)  # type: ignore[arg-type]
    assert {parameter.dtype for parameter in lm.model.parameters()} == {getattr(torch, dtype)} == {lm.dtype}
    assert lm.weights_hash == tiny_lm("gpt2").weights_hash


@pytest.mark.parametrize("family", ["gpt2", "gptj"])
def test_the_faster_activation_is_the_same_function(family: str) -> None:
    lm = tiny_lm(family)
    slow = wrap_lm(make_model(family, lm.vocabulary), lm.tokenizer, name="slow")
    assert slow.model.config.activation_function == "gelu_new"
    ids = torch.arange(9)[None]
    torch.testing.assert_close(lm.model(ids).logits, slow.model(ids).logits, rtol=0, atol=2e-5)


def test_the_hash_is_of_the_weights() -> None:
    tokenizer = make_tokenizer()
    models = [make_model("gpt2", len(tokenizer), seed) for seed in (7, 7, 8)]
    one, same, other = (wrap_lm(model, tokenizer, name="x").weights_hash for model in models)
    assert one == same != other


def copy(tmp_path: Path, **config: object) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("gpt2"), folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="quantised weights, which cannot be edited; use the unquantised"):
        load_lm(copy(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4}))


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(BadInput, match=r"type 'bert'. Known: gpt2"):
        load_lm(tmp_path / "bert")
    with pytest.raises(BadInput, match="cannot be read"):
        load_lm(copy(tmp_path, model_type="nonsense"))


def test_a_missing_or_broken_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a folder with a config.json, a .gguf file, or a Hub id"):
        load_lm(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"expected a folder with a config.json"):
        load_lm(tmp_path)
    folder = copy(tmp_path)
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(BadInput, match="cannot be loaded as a causal language model"):
        load_lm(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"holds no weights: expected \*.safetensors"):
        load_lm(folder)
    with pytest.raises(BadInput, match="expected a dtype among float32, bfloat16, float64, got 'int8'"):
        load_lm(folder, dtype="int8")  # type: ignore[arg-type]


def test_a_hub_id_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: object, **kwargs: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(BadInput, match="no folder some/model, and the Hub gave no model of that name: no network"):
        load_lm("some/model")


def test_a_hub_id_is_named_by_id_and_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    folder = copy(tmp_path).rename(tmp_path / "0123456789abcdef")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(folder))
    lm = load_lm("some/model", device="cpu")
    assert (lm.name, lm.revision) == ("some/model", "0123456789abcdef")
    assert lm.weights_hash == tiny_lm("gpt2").weights_hash


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(BadInput, match="expected a fast tokenizer"):
        wrap_lm(make_model("gpt2", 300), object(), name="x")


def test_sizes_are_of_the_model() -> None:
    assert tiny_lm().model.config.n_inner == INNER


def test_a_model_on_several_devices_is_refused_with_what_is_possible() -> None:
    tokenizer = make_tokenizer()
    model = make_model("gpt2", len(tokenizer))
    model.transformer.h[2].to("meta")
    with pytest.raises(BadInput, match=r"spread over cpu, meta.*--dtype bfloat16.*--runner ray"):
        wrap_lm(model, tokenizer, name="spread")
