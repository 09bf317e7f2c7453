"""How any worker comes by the judge of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from counterfact.contracts.judges import Judge, prepare_judge
from counterfact.core.errors import BadInput
from counterfact.lm.model.loading import load_lm


@dataclass(frozen=True)
class JudgeSource:
    """A judge by name, and the model that it asks."""

    name: str
    model: str | None = None
    """A folder or a Hub id, or `None` for a judge that asks no model."""
    device: str | None = None
    """`None`: the accelerator where there is one."""
    identity: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Of the judge that it must be."""

    @classmethod
    def of(cls, name: str, model: str | None = None, device: str | None = None) -> "JudgeSource":
        """Return the source of a judge, which is opened to see what it is.

        Raises:
            BadInput: as `prepare_judge`, or there is no such model.
        """
        return cls(name, model, device, _open(name, model, device).identity)

    def open(self) -> Judge:
        """Return the judge, opened once in a process.

        Raises:
            BadInput: as `prepare_judge`, or it is another one than the coordinator's.
        """
        found = _open(self.name, self.model, self.device)
        if found.identity != self.identity:
            raise BadInput(f"the judge {self.name} is another one here: expected {self.identity}, got {found.identity}")
        return found


@lru_cache(maxsize=1)
def _open(name: str, model: str | None, device: str | None) -> Judge:
    return prepare_judge(name, None if model is None else load_lm(model, device=device))
