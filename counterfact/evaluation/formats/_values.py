"""What forms share: their values where the meaning is certain."""

from collections.abc import Mapping
from typing import Any

from counterfact.contracts.formats import Note, Value
from counterfact.core.subjects import with_slot


def required(value: Value, *keys: str) -> list[Any]:
    """Return the values of some keys; raise `ValueError`, naming those that are missing."""
    if missing := [key for key in keys if key not in value]:
        raise ValueError(f"no {' and no '.join(missing)}")
    return [value[key] for key in keys]


def text(value: object, key: str) -> str:
    """Return a text; raise `ValueError` for anything else, naming its key."""
    if not isinstance(value, str):
        raise ValueError(f"{key}: expected a text, got {type(value).__name__} {value!r:.40}")
    return value


def first_text(value: object, key: str) -> str | None:
    """Return the first text of lists in lists, as of names with their aliases; `None` where they are empty.

    >>> first_text([[], ["Oslo", "Kristiania"], ["Bergen"]], "answer")
    'Oslo'
    """
    if isinstance(value, list):
        found = (first_text(each, key) for each in value)
        return next((each for each in found if each is not None), None)
    return None if value is None else text(value, key).strip() or None


def is_knowedit(value: Value) -> bool:
    """Return whether an edit has KnowEdit's lists of answers, or its prompts by axis."""
    further = value.get("portability")
    by_axis = isinstance(further, Mapping) and any(isinstance(asked, list) for asked in further.values())
    return by_axis or isinstance(value.get("locality"), Mapping) or isinstance(value.get("ground_truth"), list)


def is_flat_edit(value: Value) -> bool:
    """Return whether a record is an edit in EasyEdit's words."""
    return {"prompt", "subject", "target_new"} <= value.keys()


def rewrite(value: Value, keys: Mapping[str, str], note: Note) -> dict[str, Any]:
    """Return a `requested_rewrite` in CounterFact's own form, the prompt's slot where its subject stands.

    Args:
        value: what holds the edit.
        keys: names of `prompt`, `subject`, `target_new` and `target_true` in it.
        note: told of a true object that is missing.

    Raises:
        ValueError: a key is missing or no text, or the subject cannot be found in the prompt.
    """
    prompt, subject, new = required(value, keys["prompt"], keys["subject"], keys["target_new"])
    template, name = text(prompt, keys["prompt"]), text(subject, keys["subject"])
    if "{}" not in template:
        template, name = with_slot(template, name)
    made = {"prompt": template, "subject": name, "target_new": _entity(new)}
    true = value.get(keys["target_true"])
    if true is None:
        note("no true object: what compares with it is left out")
    else:
        made["target_true"] = _entity(true)
    return made


def _entity(target: Any) -> Any:
    return {"str": target.strip()} if isinstance(target, str) else target
