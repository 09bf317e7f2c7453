"""Describe editors and models: settings with their meaning, defaults and values, and what is there for a model."""

from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticUndefined

from counterfact.contracts.editors import EDITORS, EditorSpec, Resources
from counterfact.core.errors import BadInput
from counterfact.core.settings import Settings
from counterfact.editing.networks import read_info
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import read_config
from counterfact.lm.moments.given import kept_moments
from counterfact.lm.planning.batch_plan import FEWEST, Shape, plan_for
from counterfact.lm.planning.memory import needs


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


@dataclass(frozen=True)
class Readiness:
    """What an editor would do with a model, and what it would have to wait for."""

    editor: str
    layers: tuple[int, ...]
    """The layers that it edits, where its settings name them."""
    source: str
    """Where its settings for the model come from: a file, or defaults scaled to the model's depth."""
    missing: str | None
    """What must be computed or trained first; None: nothing."""


@dataclass(frozen=True)
class ModelDescription:
    """A model as it is loaded, and what there is for it."""

    name: str
    family: str
    has_experts: bool
    """Whether its MLPs have several experts each: such a model is traced and scored, not edited."""
    layers: int
    width: int
    """Of the residual stream."""
    inner: int
    """Width of an MLP's inside, and of a second moment."""
    parameters: int
    vocabulary: int
    max_length: int
    """Most tokens of a row."""
    start: str | None
    """Text of the tokens that the tokenizer puts first; None: it puts none."""
    device: str
    dtype: str
    edit_bytes: float
    """Memory that edits one at a time are estimated to need: on a processor of the whole process."""
    evaluation_bytes: float
    """Memory that an evaluation with the default plan is estimated to need."""
    moments: tuple[dict[str, Any], ...]
    """What second moments in the cache say of themselves."""
    editors: tuple[Readiness, ...]


def describe_model(lm: LM) -> ModelDescription:
    """Return what a model is, what it needs, and what editors have to wait for.

    Args:
        lm: the model.

    Examples:
        >>> from counterfact import load_lm
        >>> found = describe_model(load_lm("factlm"))
        >>> found.family, found.layers, found.width, [one.layers for one in found.editors if one.editor == "rome"]
        ('gpt2', 6, 192, [(2,)])
    """
    shape, given = Shape.of(lm), Resources()
    moments = tuple(kept_moments(given.cache / "second_moments", lm))
    whole = {
        facts["layer"]
        for facts in moments
        if facts["complete"]
        and facts["model"]["dtype"] == lm.arithmetic
        and not facts.get("max_texts")
        and not facts.get("max_tokens")
    }
    return ModelDescription(
        name=lm.name,
        family=lm.layout.family,
        has_experts=lm.layout.has_experts,
        layers=lm.n_layers,
        width=lm.width,
        inner=shape.inner,
        parameters=sum(parameter.numel() for parameter in lm.model.parameters()),
        vocabulary=lm.vocabulary,
        max_length=lm.max_length,
        start=lm.decode(lm.encoding.start) if lm.encoding.start else None,
        device=str(lm.device),
        dtype=lm.arithmetic,
        edit_bytes=needs(shape, FEWEST).total,
        evaluation_bytes=needs(shape, plan_for(shape)).total,
        moments=moments,
        editors=tuple(_readiness(EDITORS.get(name), lm, given, whole) for name in EDITORS),
    )


def _readiness(spec: EditorSpec, lm: LM, given: Resources, there: set[int]) -> Readiness:
    try:
        resolved = spec.resolve(lm.name, lm.n_layers)
    except BadInput as error:
        return Readiness(spec.name, (), "nowhere", str(error))
    layers, missing = _edited_layers(resolved.settings), None
    if spec.second_moments(resolved.settings) and (absent := [layer for layer in layers if layer not in there]):
        several = len(absent) > 1
        missing = (
            f"the second moment{'s' if several else ''} of layer{'s' if several else ''} {', '.join(map(str, absent))} "
            f"over whole texts, which {'are' if several else 'is'} computed before the first edit"
        )
    if spec.trained_for is not None:
        try:
            read_info(given.network_folder(lm, spec.name))
        except BadInput:
            missing = f"a network trained on {spec.trained_for}: see counterfact train --help"
    return Readiness(spec.name, layers, resolved.summary, missing)


def _edited_layers(settings: Settings) -> tuple[int, ...]:
    """Return the layers that an editor's settings name, one or several."""
    named = settings.model_dump()
    return tuple(named["layers"]) if "layers" in named else (named["layer"],) if "layer" in named else ()


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
