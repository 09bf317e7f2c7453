"""Second moments from files: what was written is read, what is damaged or of another model is refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from counterfact.contracts.editors import Resources, provenance
from counterfact.core.errors import BadInput
from counterfact.core.texts import load_texts
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.moments.given import copy_moment, given_moment, import_moment, moment_facts, open_moment
from counterfact.lm.moments.second_moment import SecondMoment, second_moments
from tests.lm.test_second_moment import interrupt, source
from tests.support.editing import TEMPLATES, prepared
from tests.support.models import tiny_lm

NAME = "transformer.h.{}.mlp.c_proj_float32_mom2_100000.npz"


@pytest.fixture
def lm() -> LM:
    return tiny_lm()


@pytest.fixture
def ours(lm: LM, tmp_path: Path) -> SecondMoment:
    return second_moments(lm, [1], source(), folder=tmp_path / "cache")[1]


def path_of(moment: SecondMoment) -> Path:
    assert moment.path is not None
    return moment.path


def published(folder: Path, layer: int = 1, size: int = 64, **changed: Any) -> Path:
    """Write a file as the reference's `save_cached_state` does: names of arrays, and sums in float32."""
    keys = np.random.default_rng(layer).standard_normal((500, size)).astype(np.float32)
    arrays = {
        "mom2.constructor": np.array("util.runningstats.SecondMoment()"),
        "mom2.count": np.array(len(keys)),
        "mom2.mom2": keys.T @ keys,
        "sample_size": np.array(100000),
        **changed,
    }
    path = folder / "tiny-gpt2" / "wikipedia_stats" / NAME.format(layer)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_a_file_is_what_was_computed(lm: LM, ours: SecondMoment, tmp_path: Path) -> None:
    handed_on = copy_moment(ours, tmp_path / "shared" / "moment.safetensors")
    found = open_moment(handed_on, lm)
    assert torch.equal(found.matrix, ours.matrix)
    assert (found.hash, found.count, found.layer, found.sampling) == (ours.hash, ours.count, 1, ours.sampling)
    facts = moment_facts(handed_on)
    assert facts["model"] == lm.identity
    assert facts["module"] == "transformer.h.1.mlp.c_proj"
    assert (facts["read"], facts["texts"]["name"], facts["complete"]) == (100, "ours", True)
    assert {"sha256", "package", "torch", "length", "not_finite", "unreadable"} <= set(facts)
    assert copy_moment(ours, tmp_path) == tmp_path / path_of(ours).name


def test_an_imported_file_is_found_where_its_texts_are_asked_for(
    lm: LM, ours: SecondMoment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = import_moment(path_of(ours), lm, tmp_path / "elsewhere")
    assert path_of(kept).read_bytes() == path_of(ours).read_bytes()
    monkeypatch.setattr("counterfact.lm.moments.second_moment.Pass", None)
    assert second_moments(lm, [1], source(), folder=tmp_path / "elsewhere")[1].hash == ours.hash


@pytest.mark.parametrize("place", [20, -1])
def test_a_damaged_file_is_refused(place: int, lm: LM, ours: SecondMoment) -> None:
    path = path_of(ours)
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"is damaged: its checksum should be|is no file of second moments"):
        open_moment(path, lm)


def test_a_changed_fact_is_refused(lm: LM, ours: SecondMoment) -> None:
    path = path_of(ours)
    path.write_bytes(path.read_bytes().replace(b'\\"not_finite\\":0', b'\\"not_finite\\":7'))
    with pytest.raises(BadInput, match="is damaged"):
        open_moment(path, lm)


def test_other_files_are_refused_by_name(lm: LM, ours: SecondMoment, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is of tiny-gpt2 \(weights .*\), and is no use for tiny-llama"):
        open_moment(path_of(ours), tiny_lm("llama"))
    path_of(ours).write_bytes(path_of(ours).read_bytes()[:2000])
    with pytest.raises(BadInput, match="or is cut off"):
        import_moment(path_of(ours), lm, tmp_path)
    with pytest.raises(BadInput, match="no file"):
        open_moment(tmp_path / "none.safetensors", lm)
    interrupt(lm, [1], source(), tmp_path / "half", after=100)
    (unfinished,) = (tmp_path / "half").iterdir()
    with pytest.raises(BadInput, match="checkpoint of a pass; make a second moment of it with --so-far"):
        open_moment(unfinished, lm)


def test_a_file_of_the_reference(lm: LM, tmp_path: Path) -> None:
    path = published(tmp_path)
    found = open_moment(path, lm)
    keys = np.random.default_rng(1).standard_normal((500, 64)).astype(np.float32)
    torch.testing.assert_close(found.matrix, torch.tensor(keys.T @ keys).double() / 500, rtol=0, atol=1e-6)
    assert (found.count, found.layer, found.name, found.ridge) == (500, 1, "wikipedia", 0.0)
    kept = import_moment(path, lm, tmp_path / "cache")
    again = open_moment(path_of(kept), lm)
    assert torch.equal(again.matrix, found.matrix)
    assert again.hash == found.hash
    assert moment_facts(path_of(kept))["from"] == path.name


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mom2.count": None}, "no mom2.count; it holds mom2.constructor, mom2.mom2, sample_size"),
        ({"mom2.count": np.array(0)}, "finite sums over at least one token, got 0 tokens"),
        ({"mom2.mom2": np.full((64, 64), np.nan)}, "expected finite sums"),
        ({"size": 32}, "expected a matrix of 64 x 64, got 32 x 32"),
        ({"layer": 7}, r"names transformer.h.7.mlp.c_proj: expected .* transformer.h.0.mlp.c_proj to transformer.h.2"),
        ({"mom2.mom2": np.array([{}], dtype=object)}, "cannot be read"),
    ],
)
def test_a_file_of_no_use(changed: dict[str, Any], message: str, lm: LM, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        open_moment(published(tmp_path, **changed), lm)


def test_a_file_of_the_reference_under_another_name(lm: LM, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = published(tmp_path)
    renamed = path.rename(path.with_name("mine.npz"))
    with pytest.raises(BadInput, match=r"mine.npz does not name one: .* in a name such as transformer.h.17"):
        open_moment(renamed, lm)
    renamed.rename(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(BadInput, match="cannot be read as a file of the reference's statistics"):
        open_moment(path, lm)
    other = published(tmp_path / "x").parent.parent.rename(tmp_path / "gpt2-large") / "wikipedia_stats" / path.name
    open_moment(other, lm)
    assert "lies in a folder of gpt2-large and is used for tiny-gpt2" in caplog.text


def test_files_in_place_of_texts(lm: LM, ours: SecondMoment, tmp_path: Path) -> None:
    given = load_texts(published(tmp_path).parent)
    published(tmp_path, layer=2)
    both = load_texts(tmp_path / "tiny-gpt2" / "wikipedia_stats")
    assert given.content_hash != both.content_hash
    resources = Resources(second_moment_texts=both, context_templates=TEMPLATES, cache=tmp_path)
    assert resources.second_moment(lm, 2).layer == 2
    found = provenance(prepared("rome", lm, resources, "layer=2"))["second_moment"]
    assert (found["name"], found["count"], found["complete"], found["sampling_error"]) == ("wikipedia", 500, True, None)
    with pytest.raises(BadInput, match=r"expected one second moment of layer 0 of tiny-gpt2, got 0 among .*layer 1"):
        resources.second_moment(lm, 0)
    with pytest.raises(BadInput, match="holds second moments, and texts are needed here"):
        list(both.texts())
    with pytest.raises(BadInput, match="have no order"):
        load_texts(f"{path_of(ours)}#1")
    assert given_moment([path_of(ours)], lm, 1).hash == ours.hash
    assert load_texts(path_of(ours)).moments == (path_of(ours),)


def test_sums_of_the_reference_itself(real_data: Path, tmp_path: Path) -> None:
    lm = load_lm(real_data / "golden" / "model", device="cpu")
    golden = np.load(real_data / "golden" / "second_moment.npz")
    layer, count = int(golden["layer"]), int(golden["count"])
    path = published(tmp_path, layer, **{"mom2.mom2": golden["C"] * np.float32(count), "mom2.count": np.array(count)})
    found = open_moment(path, lm)
    expected = torch.from_numpy(golden["C_float64_accumulation"]).double()
    assert (found.layer, found.count) == (layer, count)
    assert float((found.matrix - expected).norm() / expected.norm()) < 1e-5
