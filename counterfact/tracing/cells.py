"""Which cells of a model a causal trace restores."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from counterfact.tracing._base import Module
from counterfact.tracing.facts import Prompt

Kind = Literal["state", "mlp", "attn", "severed_mlp", "severed_attn"]
KINDS: tuple[Kind, ...] = ("state", "mlp", "attn")
"""What is restored: one state, or the MLP or attention outputs of a window of layers."""
SEVERED: tuple[Kind, ...] = ("severed_mlp", "severed_attn")
"""One state is restored while the MLPs, or attentions, of all layers at the same token stay as in the corrupted run."""
HELD: dict[Kind, Module] = {"mlp": "mlp", "attn": "attn", "severed_mlp": "mlp", "severed_attn": "attn"}
"""The module whose output a kind holds."""


class Cell(NamedTuple):
    """The state after layer `start` is given, and in the layers after it, before `stop`, a module's output is held.

    A `start` of -1 gives the state before the first layer, the embedding.
    """

    kind: Kind
    start: int
    stop: int

    @property
    def module(self) -> Module | None:
        """Whose output is held; `None` where only a state is given."""
        return HELD.get(self.kind)


@dataclass(frozen=True)
class Scan:
    """Which cells are traced."""

    kinds: tuple[Kind, ...] = KINDS
    window: int = 10
    """Layers in a window of MLPs or attentions."""
    at: Literal["all", "subject", "last_subject"] | tuple[int, ...] = "all"
    """At which tokens; positions count from 0."""
    embedding: bool = False
    """Whether single states, severed or not, are restored before the first layer too: one more column, the first."""

    def tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the positions whose states are restored."""
        if isinstance(self.at, tuple):
            return self.at
        first = {"all": 0, "subject": prompt.begin, "last_subject": prompt.end - 1}[self.at]
        return tuple(range(first, len(prompt.ids) if self.at == "all" else prompt.end))

    def cells(self, kind: Kind, n_layers: int) -> list[Cell]:
        """Return the cell of each layer; near the ends windows are cut, and may be equal."""
        first = -1 if self.embedding else 0
        if kind == "state":
            return [Cell(kind, layer, layer + 1) for layer in range(first, n_layers)]
        if kind in SEVERED:
            return [Cell(kind, layer, n_layers) for layer in range(first, n_layers)]
        return [Cell(kind, *window_of(layer, self.window, n_layers)) for layer in range(n_layers)]


def window_of(layer: int, window: int, n_layers: int) -> tuple[int, int]:
    """Return the layers [start, stop) of the window around a layer, as the reference lays it: one more before it.

    >>> window_of(6, 10, 12), window_of(0, 10, 12), window_of(3, 1, 12)
    ((1, 11), (0, 5), (3, 4))
    """
    return max(0, layer - window // 2), min(n_layers, layer - (-window // 2))
