"""What every editor promises, whoever wrote it: run over the whole registry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import counterfact.editors
from counterfact.contracts.editors import EDITORS, Editor, Failure, Resources, provenance
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json
from counterfact.core.records import Request
from counterfact.core.settings import Settings
from counterfact.editing.networks import NETWORKS
from counterfact.lm.edits.edit import Edit, LowRank, load_edits, save_edits
from counterfact.lm.model.language_model import LM
from tests.support.editing import REQUESTS, TEXTS, edits_of, nll, prepared, resources
from tests.support.models import tiny_lm

NAMES = tuple(EDITORS)
SETTINGS = Path(counterfact.editors.__file__).parent / "settings"
EDITING = tuple(name for name in NAMES if name != "identity")
CHANGING = tuple(name for name in EDITING if name != "in_context")
"""Editors that change weights."""
MEMITS = ("memit_seq", "prune", "prune_as_published")
"""Editors with settings and writer of `memit`, by which these are tested in every run."""
MANY_FACTS = ("memit", "memit_seq", "emmet", "alphaedit", "rect", "prune", "prune_as_published", "pmet")
QUICK = {
    **{name: ["steps=6"] for name in ("rome", "r_rome", "p_rome")},
    **{name: ["steps=4"] for name in ("ft", "ft_l", "ft_m", "lora", *MANY_FACTS)},
}
"""Settings that make an editor quick; one that is not here runs as it is."""

# What a setting is changed to; others are doubled, flipped or counted up.
CHANGES: dict[str, Any] = {
    "layer": 2,
    "ft_m.layer": 1,
    "position": "last",
    "stop_loss": 1e6,
    "clamp_norm_factor": 0.01,
    "context_lengths": [4],
    "bound": 1e-4,
    "batch_size": 2,
    "layers": [0, 2],
    "moment_weight": 3.0,
    "identity_weight": 0.5,
    "ridge": 3.0,
    "null_share": 0.3,
    "kept": 0.5,
    "alphaedit.threshold": 0.5,
    "kn.steps": 2,
    "kn.threshold": 0.9,
}

BAD = (
    Request(90, "{} was born in", "Anna Ferrand", "  "),
    Request(91, "{} was born in", "", "Oslo"),
    Request(92, "no slot", "Anna Ferrand", "Oslo"),
    Request(93, "{} and " + "more " * 200, "Anna Ferrand", "Oslo"),
)


@pytest.fixture
def lm() -> Iterator[LM]:
    """A tiny model; afterwards it must be the same to the last bit, without a hook, a gradient or training mode."""
    lm = tiny_lm("gpt2")
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    yield lm
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in lm.model.modules())
    assert not lm.model.training and not any(p.requires_grad or p.grad is not None for p in lm.model.parameters())


def quick(name: str, lm: LM, cache: Path, *overrides: str, **changes: Any) -> Editor:
    return prepared(name, lm, resources(lm, cache, **changes), *QUICK.get(name, []), *overrides)


def tensors_of(edit: Edit) -> list[torch.Tensor]:
    return [t for d in edit.deltas for t in ((d.left, d.right) if isinstance(d, LowRank) else (d.weight_change,))]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_edits(name: str, lm: LM, tmp_path: Path) -> None:
    first = edits_of(quick(name, lm, tmp_path / "a")(REQUESTS, 3))
    second = edits_of(quick(name, lm, tmp_path / "b")(REQUESTS, 3))
    for one, other in zip(first, second, strict=True):
        assert [d.module for d in one.deltas] == [d.module for d in other.deltas]
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(one), tensors_of(other), strict=True))
        assert dict(one.diagnostics) == dict(other.diagnostics)


@pytest.mark.parametrize("name", NAMES)
def test_ten_at_once_are_ten_by_one(name: str, lm: LM, tmp_path: Path) -> None:
    editor = quick(name, lm, tmp_path)
    together = edits_of(editor(REQUESTS, 3))
    assert [edit.request_ids for edit in together] == [(request.id,) for request in REQUESTS]
    for request, edit in zip(REQUESTS, together, strict=True):
        (alone,) = edits_of(editor([request], 3))
        for a, b in zip(tensors_of(edit), tensors_of(alone), strict=True):
            assert (a - b).norm() <= 1e-6 * b.norm()
    assert [e.request_ids for e in edits_of(editor(REQUESTS[::-1], 3))] == [e.request_ids for e in together[::-1]]
    assert editor([], 3) == []


@pytest.mark.parametrize("name", CHANGING)
def test_the_edit_raises_the_new_object(name: str, lm: LM, tmp_path: Path) -> None:
    edits = edits_of(prepared(name, lm, resources(lm, tmp_path))(REQUESTS, 0))
    before = [nll(lm, request) for request in REQUESTS]
    gains = [was - nll(lm, request, edit) for was, request, edit in zip(before, REQUESTS, edits, strict=True)]
    # A random model's other tokens move too, so that not every single request must gain.
    assert sum(gains) > 0 and sum(gain > 0 for gain in gains) >= 8
    # Results quote it, nats a token, as the loss where a search or a descent ended.
    per_token = [was / len(lm.target_tokens(request.target_new)) for was, request in zip(before, REQUESTS, strict=True)]
    assert sum(edit.diagnostics.get("loss", 0.0) for edit in edits) < 0.9 * sum(per_token)


@pytest.mark.parametrize("name", EDITING)
def test_bad_requests_fail_alone_and_in_order(name: str, lm: LM, tmp_path: Path) -> None:
    editor = quick(name, lm, tmp_path)
    mixed = [BAD[0], *REQUESTS[:2], BAD[1], REQUESTS[2], BAD[2], BAD[3], REQUESTS[3]]
    results = editor(mixed, 0)
    assert [r.id if isinstance(r, Failure) else r.request_ids[0] for r in results] == [r.id for r in mixed]
    assert [isinstance(r, Failure) for r in results] == [r in BAD for r in mixed]
    assert all(r.reason for r in results if isinstance(r, Failure))
    for result, alone in zip([r for r in results if isinstance(r, Edit)], editor(REQUESTS[:4], 0), strict=True):
        assert isinstance(alone, Edit)
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(result), tensors_of(alone), strict=True))
    assert all(isinstance(r, Failure) for r in editor(BAD, 0))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_printed(name: str, lm: LM, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quick(name, lm, tmp_path)([*REQUESTS[:2], BAD[0]], 0)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", CHANGING)
def test_no_hook_stays_after_a_failure_in_the_model(
    name: str, lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = quick(name, lm, tmp_path)
    for part in (lm.layout.fc_out(1), lm.layout.final_norm):

        def broken(*_: object) -> None:
            raise RuntimeError("broken module")

        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken module"):
            patch.setattr(lm.model.get_submodule(part), "forward", broken)
            editor(REQUESTS[:2], 0)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
    assert edits_of(editor(REQUESTS[:2], 0))


@pytest.mark.parametrize("name", EDITING)
def test_works_where_gradients_are_off(name: str, lm: LM, tmp_path: Path) -> None:
    expected = edits_of(quick(name, lm, tmp_path / "a")(REQUESTS[:2], 0))
    with torch.no_grad():
        found = edits_of(quick(name, lm, tmp_path / "b")(REQUESTS[:2], 0))
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(one), tensors_of(other), strict=True))
        assert not any(tensor.requires_grad for tensor in tensors_of(one))


@pytest.mark.parametrize("name", CHANGING)
def test_half_precision_models_get_edits_in_full_precision(name: str, tmp_path: Path) -> None:
    half, full = tiny_lm("gpt2", "bfloat16"), tiny_lm("gpt2", "float32")
    for edit in edits_of(quick(name, half, tmp_path)(REQUESTS[:3], 0)):
        assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors_of(edit))
        assert edit.frobenius() > 0
    found, wanted = (edits_of(quick(name, lm, tmp_path)(REQUESTS[:1], 0))[0] for lm in (half, full))
    assert found.frobenius() == pytest.approx(wanted.frobenius(), rel=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_edits_save_and_load(name: str, lm: LM, tmp_path: Path) -> None:
    edits = edits_of(quick(name, lm, tmp_path)(REQUESTS[:3], 0))
    path = tmp_path / "edits.safetensors"
    save_edits(path, edits, {"editor": name, "model": lm.identity})
    loaded = load_edits(path, lm)
    for one, other in zip(edits, loaded, strict=True):
        assert one.request_ids == other.request_ids
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(one), tensors_of(other), strict=True))


def settings_fields() -> Iterator[Any]:
    for name in NAMES:
        marks = [pytest.mark.soak] if name in MEMITS else []
        for field in EDITORS.get(name).settings.model_fields:
            yield pytest.param(name, field, marks=marks)


def changed(name: str, settings: Settings, field: str) -> Any:
    old = getattr(settings, field)
    for key in (f"{name}.{field}", field):
        if key in CHANGES:
            return CHANGES[key]
    if isinstance(old, bool):
        return not old
    return old + 1 if isinstance(old, int) else old * 2


@pytest.mark.parametrize(("name", "field"), list(settings_fields()))
def test_every_setting_changes_something(name: str, field: str, lm: LM, tmp_path: Path) -> None:
    spec = EDITORS.get(name)
    assert spec.settings.model_fields[field].description, "every setting has a docstring"
    overrides = [*QUICK.get(name, []), "clamp_norm_factor=1.0"] if "rome" in name else QUICK.get(name, [])
    settings = spec.resolve(lm.name, lm.n_layers, overrides).settings
    given = resources(lm, tmp_path, context_templates=None)
    new = settings.model_copy(update={field: changed(name, settings, field)})
    assert new != settings
    checked = spec.settings.check(new.model_dump(), "test")
    # All in one group where that can be: some settings are about several requests.
    groups = [REQUESTS[:3]] if spec.most_at_once is None else [[request] for request in REQUESTS[:3]]
    before, after = (
        edits_of([done.edit for done in spec.prepare(lm, chosen, given)(groups, 0)]) for chosen in (settings, checked)
    )
    assert any(tensors_differ(one, other) for one, other in zip(before, after, strict=True))


def tensors_differ(one: Edit, other: Edit) -> bool:
    if [d.module for d in one.deltas] != [d.module for d in other.deltas]:
        return True
    pairs = zip(tensors_of(one), tensors_of(other), strict=True)
    return any(a.shape != b.shape or float((a - b).norm()) > 1e-6 * float(b.norm()) for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_settings_are_refused(name: str, lm: LM) -> None:
    with pytest.raises(BadInput, match="layr"):
        EDITORS.get(name).resolve(lm.name, lm.n_layers, ["layr=1"])


@pytest.mark.parametrize("path", sorted(SETTINGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_settings_files_load_and_name_their_source(path: Path) -> None:
    specs = [
        EDITORS.get(name) for name in NAMES if EDITORS.get(name).settings_folder.resolve() == path.parent.resolve()
    ]
    if path.parent.name.endswith("_training"):
        resolved = NETWORKS.get(path.parent.name.removesuffix("_training")).resolve(path.stem, 48)
        assert len(resolved.source) > 20 and not resolved.given
        return
    assert specs, "a folder of settings that no editor reads"
    for spec in specs:
        resolved = spec.resolve(path.stem, 48)
        assert len(resolved.source) > 20 and not resolved.given
        if "layer" in spec.settings.model_fields:
            assert getattr(resolved.settings, "layer") >= 0  # noqa: B009


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_a_file_gets_settings_that_fit(name: str) -> None:
    spec = EDITORS.get(name)
    for depth in (1, 2, 6, 12, 100):
        resolved = spec.resolve("no-such-model", depth)
        assert "defaults" in resolved.source
        assert ("scaled" in resolved.source) == bool(spec.settings.scaled(depth))
        assert getattr(resolved.settings, "layer", 0) < depth


@pytest.mark.parametrize("name", NAMES)
def test_provenance_can_be_written(name: str, lm: LM, tmp_path: Path) -> None:
    assert hash_json(provenance(quick(name, lm, tmp_path)))


def test_second_moments_are_computed_where_none_is_given(lm: LM, tmp_path: Path) -> None:
    given = Resources(second_moment_texts=TEXTS, context_templates=("{}",), cache=tmp_path)
    editor = prepared("rome", lm, given, "steps=3")
    assert edits_of(editor(REQUESTS[:2], 0))
    assert provenance(editor)["second_moment"]["count"] > 0
