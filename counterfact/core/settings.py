"""Settings that refuse what they do not know, and where each value came from."""

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from counterfact.core.errors import BadInput, did_you_mean

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, no silent conversions (`"5"` is no number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    @classmethod
    def scaled(cls, n_layers: int) -> Mapping[str, Any]:  # noqa: ARG003
        """Return the defaults that depend on the model's depth, for a model without a settings file."""
        return {}

    @classmethod
    def check(cls, values: Mapping[str, Any], where: str) -> Self:
        """Make settings from plain values, or raise `BadInput` that names `where`, the key and the fault."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            known = ", ".join(cls.model_fields)
            as_list = "; a list is written [1, 2]" if first["type"] == "list_type" else ""
            raise BadInput(
                f"{where}: {key}: {first['msg']}, got {first['input']!r}{as_list}. Known: {known}"
            ) from error


class _Loader(yaml.SafeLoader):
    """Reads numbers as YAML 1.2 does, where `1e-4` is one; to YAML 1.1, as this library reads it, it is a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)

Choices = Sequence[str] | Mapping[str, Any]
"""Settings that a run chooses: words `name=value` with the value in YAML, or values by name."""


@dataclass(frozen=True)
class Resolved(Generic[S]):
    """Settings in force, and where they came from."""

    settings: S
    source: str
    """The `source:` of the settings file, or how the defaults were scaled."""
    given: dict[str, Any]
    """What the run itself chose."""
    model: str = ""
    """The model that published values are for; empty where these are defaults."""

    @property
    def summary(self) -> str:
        """The source in a few words.

        >>> Resolved(Settings(), "arXiv 2202.05262, table 4", {"layer": 3}, "gpt2-xl").summary
        'settings for gpt2-xl, but layer=3'
        """
        chosen = ", ".join(f"{name}={value}" for name, value in self.given.items())
        return (f"settings for {self.model}" if self.model else self.source) + (f", but {chosen}" if chosen else "")


def settings_beside(thing: Any, name: str) -> Path:
    """Return the folder of published settings `settings/<name>/`, beside the file that defines a class or function."""
    return Path(inspect.getfile(thing)).parent / "settings" / name


def resolve_settings(
    cls: type[S], folder: Path, model_name: str, n_layers: int, overrides: Choices = ()
) -> Resolved[S]:
    """Combine a method's defaults, the published values for a model, and a run's choices.

    Args:
        cls: the method's settings.
        folder: where its `<model>.yaml` files lie.
        model_name: a folder or Hub id; its last part in lower case names the file.
        n_layers: depth of the model, which scales the defaults where there is no file.
        overrides: what the run chooses.

    Raises:
        BadInput: an unknown key or a wrong type, in the file or in an override.
    """
    path = folder / f"{Path(model_name).name.lower()}.yaml"
    if path.is_file():
        values = _read_yaml(path)
        source = str(values.pop("source", ""))
        if not source:
            raise BadInput(f"{path}: expected a `source:` that says where these values come from")
        where = str(path)
    else:
        values = dict(cls.scaled(n_layers))
        named = ", ".join(f"{name}={value}" for name, value in values.items())
        scaled = f", scaled to {n_layers} layers ({named})" if values else ""
        source = f"no settings file for {Path(model_name).name}: defaults{scaled}"
        where = cls.__name__
    given = _given(overrides)
    cls.check(values, where)
    published = path.stem if path.is_file() else ""
    return Resolved(cls.check({**values, **given}, "settings"), source, given, published)


def share_settings(choices: Choices, methods: Mapping[str, Collection[str]]) -> dict[str, dict[str, Any]]:
    """Deal a run's choices out to its methods: `rome.layer` to that one, `layer` to all that have such a setting.

    What is chosen for one method goes before what is chosen for all.

    Args:
        choices: names with or without a method before a dot.
        methods: the names of each method's settings.

    Raises:
        BadInput: no method has a setting of that name; a likely one is suggested.

    >>> share_settings(["layer=3", "rome.layer=5"], {"rome": ["layer"], "ft": ["layer", "steps"], "identity": []})
    {'rome': {'layer': 5}, 'ft': {'layer': 3}, 'identity': {}}
    """
    given = _given(choices)
    shares: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for full, value in sorted(given.items(), key=lambda item: "." in item[0]):
        one, _, name = full.rpartition(".")
        takers = [method for method, names in methods.items() if name in names and one in {"", method}]
        if not takers:
            known = [f"{method}.{name}" if one else name for method, names in methods.items() for name in names]
            raise BadInput(f"no setting {full!r}. {did_you_mean(full, dict.fromkeys(known))}")
        for method in takers:
            shares[method][name] = value
    return shares


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read words `name=value`, the value in YAML 1.2.

    Raises:
        BadInput: a word is something else.

    >>> parse_overrides(["layer=3", "lengths=[2, 5]", "rate=1e-4"])
    {'layer': 3, 'lengths': [2, 5], 'rate': 0.0001}
    """
    return dict(map(_parse_override, words))


def _given(choices: Choices) -> dict[str, Any]:
    return dict(choices) if isinstance(choices, Mapping) else parse_overrides(choices)


def _parse_override(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadInput(f"settings: expected name=value, got {text!r}")
    try:
        return name, yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise BadInput(f"settings: {text!r} is not YAML: {error}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path}: expected a mapping of settings")
    return values
