"""What is asked of a model, and what it says, as plain data: nothing here needs torch."""

from dataclasses import dataclass
from typing import NamedTuple

from counterfact.core.errors import BadInput


@dataclass(frozen=True)
class Query:
    """A prompt, and continuations to score after it."""

    prompt: str
    targets: tuple[str, ...]
    joiner: str = " "
    """What stands between the prompt and each."""

    def __post_init__(self) -> None:
        told: object = self.targets
        if isinstance(told, str):  # to Python a sequence too, of its letters
            raise BadInput(f"expected a sequence of targets, as ({told!r},), got {told!r}")


class OpenQuery(NamedTuple):
    """A prompt that the model goes on with by itself, always by the likeliest token."""

    prompt: str
    new_tokens: int
    """Most tokens that follow."""
    stops: str
    """Characters; the first token that holds one of them, or ends a text, is the last."""
    unedited: bool = False
    """Whether the unedited model is asked, whatever the record's edit."""


class Continuation(NamedTuple):
    """What a model went on with."""

    ids: tuple[int, ...]
    """Tokens after the prompt, a stop included; none where the model gave no number."""
    text: str | None
    """Their text as it is; `None` where the model gave no number."""
    end: str = ""
    """How the model's end token is written, where that is the last."""


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


class Drift(NamedTuple):
    """How an edit changes what a model makes of one text, over all its tokens but the first."""

    nll: float | None
    """Nats per token under the edit; `None` where the edited model gave no number."""
    unedited_nll: float | None
    """Nats per token of the unedited model."""
    kl: float | None
    """D_KL(P || P_edited) of the next-token distributions, mean over the tokens, in nats."""
