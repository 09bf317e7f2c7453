"""One registry for every kind of plug-in: editors, metrics, benchmarks.

A plug-in is one new file: the registry imports every module of its package whose name has no leading
underscore, then the entry points of its group, then files named by `--plugin`.
"""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from counterfact.core.errors import BadInput, did_you_mean

T = TypeVar("T")
_PLUGIN = "counterfact_plugin_"


class Registry(Generic[T]):
    """Named things of one kind.

    Args:
        kind: what they are called in messages ("editor").
        package: the package below `counterfact` whose modules register them ("editors"); the entry-point group
            that other distributions declare theirs in has its last name, `counterfact.editors`.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = f"counterfact.{package}"
        self.group = f"counterfact.{package.rpartition('.')[2]}"
        self._things: dict[str, T] = {}
        self._discovered = False

    def add(self, name: str, thing: T) -> T:
        """Register `thing`; a name that is taken raises `ValueError`."""
        if name in self._things:
            raise ValueError(f"two {self.kind}s are named {name!r}; rename one")
        self._things[name] = thing
        return thing

    def get(self, name: str) -> T:
        """Return the thing of that name, or raise `BadInput` with a suggestion."""
        self.discover()
        if name in self._things:
            return self._things[name]
        raise BadInput(f"no {self.kind} named {name!r}. {did_you_mean(name, sorted(self._things))}")

    def __contains__(self, name: object) -> bool:
        self.discover()
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        self.discover()
        return iter(sorted(self._things))

    def discover(self) -> None:
        """Import every module of the package, and what other distributions declare; once."""
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.package}.{module.name}")
        for point in importlib.metadata.entry_points(group=self.group):
            point.load()


def load_plugin(path: Path) -> None:
    """Import a plug-in from a file outside the packages; what it registers is known from then on.

    Raises:
        BadInput: there is no such file, or it fails; the message says at which line.
    """
    spec = importlib.util.spec_from_file_location(f"{_PLUGIN}{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise BadInput(f"no Python file to load as a plug-in at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that what it defines can be sent to other processes
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        at = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        line = getattr(error, "lineno", None) or (at[-1] if at else None)
        where = str(path) if line is None else f"{path}:{line}"
        raise BadInput(f"{where}: the plug-in cannot be loaded: {type(error).__name__}: {error}") from error


def loaded_plugins() -> list[Path]:
    """Return the files that `load_plugin` imported into this process."""
    there = [module for name, module in sys.modules.items() if name.startswith(_PLUGIN)]
    return [Path(module.__file__) for module in there if module.__file__]
