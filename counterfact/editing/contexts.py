"""Context templates: short texts of the model's own before a prompt, so that a key does not hang on one sentence."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from counterfact.contracts.editors import Resources
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json, write_json
from counterfact.core.prompts import check_template
from counterfact.core.seeds import derive_seed
from counterfact.lm.generation import Generation, generate
from counterfact.lm.model.language_model import LM

TOP_K = 5


def context_templates(lm: LM, resources: Resources, lengths: Sequence[int], count: int) -> tuple[str, ...]:
    """Return the bare `{}` and `count` templates `TEXT. {}` of each length.

    A length is in tokens and counts the start token, as in the authors' code: a text of length 5 holds four generated
    tokens. Braces in a text become spaces. The texts follow from the weights, `resources.seed`, the lengths and the
    count; they are kept in the cache. Preset templates in `resources` are used instead.

    Raises:
        BadInput: a preset template has not one slot, or the first is not `{}`; a length is below 2.
    """
    if resources.context_templates is not None:
        return _check(resources.context_templates)
    if any(length < 2 for length in lengths):
        raise BadInput(f"context_lengths: expected 2 tokens or more, the start token included, got {list(lengths)}")
    if len(set(lengths)) < len(lengths):
        raise BadInput(f"context_lengths: a length stands twice in {list(lengths)}; raise contexts_per_length instead")
    return _cached(
        lm,
        resources,
        [list(lengths), count],
        lambda: [text for length in lengths for text in _texts(lm, resources, length, count)],
    )


def word_templates(lm: LM, resources: Resources, words: Sequence[str], length: int) -> tuple[str, ...]:
    """Return the bare `{}` and a template `TEXT. {}` for each word that a text of `length` tokens begins with.

    Raises:
        BadInput: as `context_templates`.
    """
    if resources.context_templates is not None:
        return _check(resources.context_templates)
    seeds = [derive_seed(resources.seed, "context", word) for word in words]
    return _cached(lm, resources, [list(words), length], lambda: _generated(lm, resources, words, seeds, length))


def _cached(lm: LM, resources: Resources, asked_for: list[Any], make: Callable[[], list[str]]) -> tuple[str, ...]:
    """Read templates from the cache, or make their texts and keep them."""
    made_by = [lm.weights_hash, str(lm.dtype), lm.device.type, torch.__version__, resources.seed]
    identity = [*made_by, *asked_for]
    path = resources.cache / "contexts" / f"{hash_json(identity)}.json"
    try:
        return _check(tuple(json.loads(path.read_text(encoding="utf-8"))["templates"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or damaged: made again
    templates = ("{}", *(f"{text}. {{}}" for text in make()))
    write_json(path, {"templates": list(templates)})
    return templates


def _texts(lm: LM, resources: Resources, length: int, count: int) -> list[str]:
    if not lm.text_start:
        raise BadInput(f"{lm.name}: the tokenizer has no start or end token to generate context templates from")
    seeds = [derive_seed(resources.seed, "context", length, i) for i in range(count)]
    return _generated(lm, resources, [lm.text_start] * count, seeds, length)


def _generated(
    lm: LM, resources: Resources, starts: Sequence[str | Sequence[int]], seeds: Sequence[int], length: int
) -> list[str]:
    """Let each text go on from its start by a seed of its own; braces become spaces."""
    exact = replace(lm, precision="strict")  # runs of all precisions share them
    texts = []
    for item in generate(exact, starts, seeds, length=length, top_k=TOP_K, plan=resources.plan_for(lm)):
        if not isinstance(item, Generation):
            raise BadInput(f"{lm.name}: no context template could be generated: {item.reason}")
        texts.append(item.text.replace("{", " ").replace("}", " "))
    return texts


def _check(templates: tuple[str, ...]) -> tuple[str, ...]:
    try:
        for template in templates:
            check_template(template)
    except ValueError as error:
        raise BadInput(f"context templates: {error}") from error
    if not templates or templates[0] != "{}":
        raise BadInput(f"context templates: expected the bare '{{}}' first, got {templates[:1]}")
    return templates
