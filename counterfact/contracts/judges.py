"""What a judge is: it reads what a model said to a question, and says whether that is the new object."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from counterfact.core.errors import BadInput
from counterfact.core.registry import Registry
from counterfact.lm.model.language_model import LM


class Exchange(NamedTuple):
    """A question, and what a model said."""

    question: str
    answer: str
    """What the model said; empty where it said nothing."""
    target: str
    """The new object."""
    true: str | None
    """The object before the edit, where it is known."""


Ask = Callable[[Sequence[Exchange]], Sequence[bool | None]]
"""Returns a verdict for each exchange, in order; `None` where the judge has none. An exchange always gets the same one,
whatever is asked beside it."""


@dataclass(frozen=True)
class JudgeSpec:
    """A judge as the registry knows it."""

    name: str
    prompt: str
    """What a model is asked, with `{question}` and the like in it; empty for a judge that asks none."""
    version: int
    """Raised whenever another verdict may come out."""
    needs_model: bool
    prepare: Callable[[LM | None], Ask]


@dataclass(frozen=True)
class Judge:
    """A judge that is ready."""

    identity: Mapping[str, Any]
    """Name, version, prompt and model: verdicts of judges that differ in any of them are never put together."""
    ask: Ask


JUDGES: Registry[JudgeSpec] = Registry("judge", "evaluation.judges")


def judge(
    name: str, *, prompt: str = "", version: int = 1, needs_model: bool = False
) -> Callable[[Callable[[LM | None], Ask]], Callable[[LM | None], Ask]]:
    """Register the decorated function as a judge: it is given the model to ask, or `None`, and returns the `Ask`.

    Args:
        name: on the command line and in results.
        prompt, version, needs_model: as `JudgeSpec`.
    """

    def register(prepare: Callable[[LM | None], Ask]) -> Callable[[LM | None], Ask]:
        JUDGES.add(name, JudgeSpec(name, prompt, version, needs_model, prepare))
        return prepare

    return register


def prepare_judge(name: str, lm: LM | None = None) -> Judge:
    """Return the judge of a name, with the model that it asks.

    Raises:
        BadInput: there is no such judge, it needs a model and has none, or it needs none.
    """
    spec = JUDGES.get(name)
    if spec.needs_model != (lm is not None):
        advice = "needs a model: name one with --judge-model" if spec.needs_model else "asks no model"
        raise BadInput(f"the judge {name!r} {advice}")
    model = None if lm is None else dict(lm.identity)
    return Judge({"name": name, "version": spec.version, "prompt": spec.prompt, "model": model}, spec.prepare(lm))
