"""Flat forms of CounterFact: EasyEdit's, and sets of facts for tracing that name a false object too."""

from typing import Any

from counterfact.contracts.formats import Format, Note, Value, register_format

from ._values import is_flat_edit, is_knowedit, rewrite, text

_EASYEDIT = {"prompt": "prompt", "subject": "subject", "target_new": "target_new", "target_true": "ground_truth"}
_TRACING = {"prompt": "relation", "subject": "subject", "target_new": "target_false", "target_true": "target_true"}


def _easyedit(value: Value, place: int, note: Note) -> dict[str, Any]:
    edit = rewrite(value, _EASYEDIT, note)
    true = value.get("ground_truth")
    near = _listed(value, "locality_prompt")
    if near and value.get("locality_ground_truth", true) != true:
        note("a locality prompt whose answer is not the edit's true object: left out")
        near = []
    return {
        "case_id": value.get("case_id", place),
        "requested_rewrite": edit,
        "paraphrase_prompts": _listed(value, "rephrase_prompt"),
        "neighborhood_prompts": near,
        "attribute_prompts": [],
        "generation_prompts": [],
    }


def _tracing(value: Value, place: int, note: Note) -> dict[str, Any]:
    keys = _TRACING if "relation" in value else {**_TRACING, "prompt": "prompt"}
    edit = rewrite(value, keys, note)
    for key, name in (("target_new", "target_false_id"), ("target_true", "target_true_id")):
        if key in edit and value.get(name) is not None:
            edit[key] = {**edit[key], "id": value[name]}
    return {
        "case_id": value.get("case_id", place),
        "requested_rewrite": {**edit, "relation_id": value.get("relation_id")},
        "paraphrase_prompts": [],
        "neighborhood_prompts": [],
        "attribute_prompts": [],
        "generation_prompts": [],
    }


def _listed(value: Value, key: str) -> list[str]:
    return [] if value.get(key) is None else [text(value[key], key)]


register_format(
    Format(
        name="easyedit_counterfact",
        title="EasyEdit's CounterFact",
        recognises=lambda value: is_flat_edit(value) and not is_knowedit(value),
        benchmark="counterfact",
        convert=_easyedit,
        keys=frozenset({*_EASYEDIT.values(), "case_id", "rephrase_prompt", "locality_prompt", "locality_ground_truth"}),
        warning="its rephrase_prompt is mostly a generation prompt of CounterFact and no paraphrase, and it has one "
        "prompt of each sort: these are not the paper's PS and NS",
    )
)
register_format(
    Format(
        name="flat_tracing",
        title="a flat tracing set",
        recognises=lambda value: {"subject", "target_true", "target_false"} <= value.keys(),
        benchmark="counterfact",
        convert=_tracing,
        keys=frozenset(
            {
                *_TRACING.values(),
                "case_id",
                "prompt",
                "relation_prefix",
                "relation_suffix",
                "relation_id",
                "target_true_id",
                "target_false_id",
            }
        ),
        warning="it has no paraphrase or neighborhood prompts: only the edit itself is measured",
    )
)
