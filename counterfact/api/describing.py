"""Describe editors: what each does, and its settings with their meaning, defaults and values for a model."""

from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticUndefined

from counterfact.contracts.editors import EDITORS, EditorSpec
from counterfact.lm.model.loading import read_config


@dataclass(frozen=True)
class Setting:
    """One setting of an editor."""

    name: str
    type: str
    """Its type as Python writes it."""
    meaning: str
    required: bool
    """Whether it has no default, so that the model's settings file, its depth or the run gives it."""
    default: Any
    """Value without a model; None where it is required."""
    value: Any = None
    """Value for the model asked about; None without a model."""


@dataclass(frozen=True)
class Description:
    """An editor and its settings."""

    name: str
    summary: str
    paper: str
    """URL of the paper that describes it; may be empty."""
    trained_for: str | None
    """The task that its network must be trained for; None: it needs no training."""
    settings: tuple[Setting, ...]
    source: str | None = None
    """Where the values for the model come from; None without a model."""


def describe_editors() -> list[Description]:
    """Return every editor, in the order of their names.

    Examples:
        >>> [one.name for one in describe_editors() if one.name.endswith("rome")]
        ['p_rome', 'r_rome', 'rome']
    """
    return [_describe(EDITORS.get(name), None) for name in EDITORS]


def describe_editor(name: str, model: str | None = None) -> Description:
    """Return one editor, with its settings for a model where one is named.

    Args:
        name: name of the editor.
        model: a folder, the name of an embedded model, or a Hub id; only its configuration is read.

    Raises:
        BadInput: there is no such editor or model.

    Examples:
        >>> [layer] = [one for one in describe_editor("rome", "factlm").settings if one.name == "layer"]
        >>> layer.required, layer.type, layer.value
        (True, 'int', 2)
    """
    return _describe(EDITORS.get(name), model)


def _describe(spec: EditorSpec, model: str | None) -> Description:
    values, source = {}, None
    if model is not None:
        config = read_config(model)
        resolved = spec.resolve(config.name_or_path, int(config.num_hidden_layers))
        values, source = resolved.settings.model_dump(), resolved.source
    settings = []
    for name, field in spec.settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        default = None if default is PydanticUndefined else default
        meaning = " ".join((field.description or "").split())
        settings.append(
            Setting(name, _type_name(field.annotation), meaning, field.is_required(), default, values.get(name))
        )
    return Description(spec.name, spec.summary, spec.paper, spec.trained_for, tuple(settings), source)


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
