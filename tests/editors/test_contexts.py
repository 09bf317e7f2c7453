"""Context templates: the model's own, from a seed, kept on disk, or preset."""

from pathlib import Path

import pytest

from counterfact.contracts.editors import Resources
from counterfact.core.errors import BadInput
from counterfact.editing.contexts import context_templates
from tests.support.editing import prepared, resources
from tests.support.models import tiny_lm


def test_templates_are_the_models_own_and_follow_from_the_seed(tmp_path: Path) -> None:
    lm = tiny_lm("llama")
    first = context_templates(lm, Resources(cache=tmp_path, seed=1), [3, 6], 4)
    assert first[0] == "{}" and len(first) == 9 and all(t.count("{}") == 1 for t in first)
    assert all(t.endswith(". {}") for t in first[1:])
    assert context_templates(lm, Resources(cache=tmp_path, seed=1), [3, 6], 4) == first
    assert context_templates(lm, Resources(cache=tmp_path / "other", seed=1), [3, 6], 4) == first
    assert context_templates(lm, Resources(cache=tmp_path, seed=2), [3, 6], 4) != first
    for path in (tmp_path / "contexts").iterdir():
        path.write_text('{"templates": ["no sl')
    assert context_templates(lm, Resources(cache=tmp_path, seed=1), [3, 6], 4) == first


def test_braces_in_generated_texts_become_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("gpt2")
    decode = lm.tokenizer.decode
    monkeypatch.setattr(lm.tokenizer, "decode", lambda *a, **k: "{x} {} }" + decode(*a, **k))
    templates = context_templates(lm, Resources(cache=tmp_path), [3], 2)
    assert all(t.startswith(" x") and t.count("{") == 1 for t in templates[1:])


@pytest.mark.parametrize("templates", [(), ("A. {}",), ("{}", "no slot"), ("{}", "{} {}")])
def test_bad_templates_are_refused(templates: tuple[str, ...], tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(BadInput, match="context templates"):
        prepared("rome", lm, resources(lm, tmp_path, context_templates=templates))
