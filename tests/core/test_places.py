"""The embedded data: found, or refused with a reason; never looked for on the Hub."""

from pathlib import Path
from typing import NoReturn

import huggingface_hub
import pytest

from counterfact.api.editing import load_editor
from counterfact.core.errors import BadInput
from counterfact.core.places import data_folder, model_place
from counterfact.core.texts import load_texts
from counterfact.lm.model.loading import load_lm
from tests.support.models import tiny_lm


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where anything is asked of the Hub."""

    def refuse(*_given: object, **_named: object) -> NoReturn:
        pytest.fail("the Hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)


def test_a_wrong_folder_of_data_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_hub: None) -> None:
    monkeypatch.setenv("COUNTERFACT_DATA", str(tmp_path / "nowhere"))
    for ask in (
        data_folder,
        lambda: load_texts("embedded"),
        lambda: load_lm("factlm"),
        lambda: load_texts("embedded#1"),
    ):
        with pytest.raises(BadInput, match=r"no embedded data at .*nowhere: correct or unset COUNTERFACT_DATA"):
            ask()


def test_data_without_a_part_are_not_completed_from_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_hub: None
) -> None:
    monkeypatch.setenv("COUNTERFACT_DATA", str(tmp_path))
    for name in ("embedded", "factlm"):
        for ask in (load_texts, load_lm):
            with pytest.raises(BadInput, match=f"hold nothing called '{name}'"):
                ask(name)
    with pytest.raises(BadInput, match="hold nothing called 'embedded'"):
        load_texts("embedded:config@main")


def test_a_model_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert model_place("factlm") == str(data_folder() / "models" / "factlm")
    assert model_place("gpt2-xl") == "gpt2-xl" and model_place("openai/gpt2") == "openai/gpt2"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factlm").mkdir()
    assert model_place("factlm") == "factlm", "a folder of the user's own comes first"


def test_texts_are_opened_only_for_an_editor_that_reads_them() -> None:
    lm, missing = tiny_lm("gpt2", "float32"), "./there-are-no-such-texts.txt"
    assert load_editor(lm, "ft", {"layer": 1}, texts=missing).name == "ft"
    assert load_editor(lm, "rome", {"layer": 1, "covariance": False}, texts=missing).name == "rome"
    with pytest.raises(BadInput, match="no texts at"):
        load_editor(lm, "rome", {"layer": 1}, texts=missing)
