"""What is asked of a model, and what it says, as plain data: nothing here needs torch."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Query:
    """A prompt, and continuations to score after it."""

    prompt: str
    targets: tuple[str, ...]
    joiner: str = " "
    """What stands between the prompt and each."""


@dataclass(frozen=True)
class TargetScore:
    r"""$-\sum_j \ln P(t_j \mid \text{prompt}, t_1 \ldots t_{j-1})$ over the target's tokens, each given the true ones.

    >>> TargetScore(3.0, 2, (True, False)).mean_nll
    1.5
    """

    nll: float
    """Total, in nats; NaN where the model gave NaN."""
    tokens: int
    """Number of the target's tokens."""
    correct: tuple[bool, ...]
    """For each token, whether it is the likeliest one."""

    @property
    def mean_nll(self) -> float:
        """Nats per token."""
        return self.nll / self.tokens


@dataclass(frozen=True)
class Unscored:
    """Stands where a result would, and says why there is none."""

    reason: str


class Shift(NamedTuple):
    """How far one next-token distribution moved."""

    forward: float | None
    """D_KL(P || P_edited), in nats; `None` where either model gave no number."""
    reverse: float | None
    """D_KL(P_edited || P), in nats."""
    vocabulary: int
    """Number of tokens that the distributions are over."""
