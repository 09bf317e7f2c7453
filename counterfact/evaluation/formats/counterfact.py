"""CounterFact's own form, which MultiCounterFact shares, and CounterFact+ as it is published."""

from collections.abc import Mapping
from typing import Any

from counterfact.contracts.formats import Format, Note, Value, register_format

from ._values import required, rewrite

PLUS = "distracting_neighborhood_prompts"
_OFFICIAL = {key: key for key in ("prompt", "subject", "target_new", "target_true")}
_KEYS = {
    "case_id",
    "pararel_idx",
    "requested_rewrite",
    *(f"requested_rewrite.{key}" for key in (*_OFFICIAL, "relation_id")),
    "paraphrase_prompts",
    "neighborhood_prompts",
    "attribute_prompts",
    "generation_prompts",
    "provenance",
    "joiner",
}


def convert(value: Value, place: int, note: Note) -> dict[str, Any]:
    """Return a record in the released file's form; targets may be plain texts, and the prompt filled."""
    [edit] = required(value, "requested_rewrite")
    if not isinstance(edit, Mapping):
        raise ValueError(f"requested_rewrite: expected an object, got {type(edit).__name__}")
    if any(isinstance(edit.get(key), str) for key in ("target_new", "target_true")):
        note("targets as plain texts")
    if "{}" not in str(edit.get("prompt", "{}")):
        note("a prompt without {}: the slot is where its subject stands")
    return {"case_id": place, **value, "requested_rewrite": {**edit, **rewrite(edit, _OFFICIAL, note)}}


register_format(
    Format(
        name="counterfact",
        title="CounterFact (official keys)",
        recognises=lambda value: isinstance(value.get("requested_rewrite"), Mapping) and PLUS not in value,
        benchmark="counterfact",
        convert=convert,
        keys=frozenset(_KEYS),
    )
)
register_format(
    Format(
        name="counterfact_plus",
        title="CounterFact+",
        recognises=lambda value: isinstance(value.get("requested_rewrite"), Mapping) and PLUS in value,
        benchmark="counterfact",
        convert=convert,
        keys=frozenset(_KEYS | {PLUS}),
        keys_of={PLUS: "counterfact_plus"},
    )
)
