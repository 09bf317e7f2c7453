"""What editors of many facts want at the last edited layer, and how it is spread over the layers below."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from counterfact.contracts.editors import Engine, Resources
from counterfact.editing import plain
from counterfact.editing.requests import Encoded
from counterfact.editing.value_search import find_targets
from counterfact.editing.values import SearchCache, Targets
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import Layout

Find = Callable[[LM, Sequence[Encoded], int, Any], Targets]
"""The model, requests, the last edited layer and settings -> what is wanted there."""


@dataclass(frozen=True)
class Goal:
    """What is wanted at the last edited layer, and how what is missing there is spread over the layers."""

    find: Find
    """Searches for z."""
    module: Callable[[Layout, int], str]
    """The family's layout and the last edited layer -> the module whose output is to become z."""
    divisor: Callable[[int], float]
    """How many layers are left, this one included -> what the missing part is divided by."""

    @classmethod
    def kept(
        cls,
        resources: Resources,
        kind: type[Targets],
        searches: Mapping[Engine, Find],
        module: Callable[[Layout, int], str],
        divisor: Callable[[int], float],
    ) -> Self:
        """Return a goal whose search keeps what it found in the cache.

        Args:
            resources: say which engine searches, and where the cache is.
            kind: what is searched for.
            searches: the search of each engine.
            module, divisor: see the fields.
        """
        search, cache = searches[resources.engine], SearchCache(resources.cache / "values", resources.engine)

        def find(lm: LM, batch: Sequence[Encoded], layer: int, settings: Any) -> Targets:
            return cache.get(kind, lm, batch, layer, settings, lambda: search(lm, batch, layer, settings))

        return cls(find, module, divisor)


def stream_goal(resources: Resources) -> Goal:
    """MEMIT's goal: the residual stream after L, in equal shares."""
    searches: dict[Engine, Find] = {"batched": find_targets, "plain": plain.find_targets}
    return Goal.kept(resources, Targets, searches, Layout.block, float)
