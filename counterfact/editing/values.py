"""Keys and values that a search found, in memory and on disk, so that methods which share a search run it once.

A file holds one batch, and is found by everything its content follows from: weights, layer, settings of the search,
context templates, and the requests of the batch in order. A batch is never put together from other batches' values: the
last bits of a float depend on what is computed together, and a result must not depend on what happened to be cached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from counterfact.core.files import write_atomic


class DescentSettings(Protocol):
    """Constants of a gradient descent."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def stop_loss(self) -> float: ...


class SearchSettings(DescentSettings, Protocol):
    """Constants of the search for a value."""

    @property
    def weight_decay(self) -> float: ...
    @property
    def kl_factor(self) -> float: ...
    @property
    def clamp_norm_factor(self) -> float: ...


class AtLayer(Protocol):
    """What an editor of one layer says beside its constants."""

    @property
    def layer(self) -> int: ...


class DescentAtLayer(DescentSettings, AtLayer, Protocol):
    """What a gradient descent at one layer reads of an editor's settings."""


class SearchAtLayer(SearchSettings, AtLayer, Protocol):
    """What the search at one layer reads of an editor's settings."""


@dataclass(frozen=True)
class Values:
    """Keys and values of a batch of records, in float32 (float64 for a float64 model)."""

    bare_key: Tensor
    """k_0, the edited module's input at the subject of the bare prompt, (records, d_in)."""
    mean_key: Tensor
    """k_bar, its mean over the context templates, (records, d_in)."""
    bare_output: Tensor
    """v_0, the module's output at the subject of the bare prompt, (records, width)."""
    mean_output: Tensor
    """v_bar, its mean over the context templates, (records, width)."""
    delta: Tensor
    """v* - v_0, (records, width)."""
    trace: Tensor
    """Loss, NLL, KL and weight-decay term at each forward pass, (records, steps, 4), nats; NaN after the last."""
    passes: Tensor
    """Forward passes, (records,), int64."""

    @classmethod
    def stack(cls, records: Sequence["Values"]) -> "Values":
        """Put single records, without the first dimension, together."""
        return cls(
            **{name: torch.stack([getattr(record, name) for record in records]) for name in cls.__dataclass_fields__}
        )

    def at(self, record: int) -> "Values":
        """One record, without the first dimension."""
        return Values(**{field.name: getattr(self, field.name)[record] for field in fields(self)})

    @property
    def loss(self) -> Tensor:
        """The loss of the returned delta."""
        return self.trace[..., 0].gather(-1, self.passes[..., None] - 1)[..., 0]


@dataclass(frozen=True)
class Targets:
    """What the residual stream is wanted to be, for a batch of records; dtypes as in `Values`."""

    initial: Tensor
    """z_0, the stream after the layer at the subject of the bare prompt, (records, width)."""
    delta: Tensor
    """z - z_0, (records, width)."""
    trace: Tensor
    """As in `Values`."""
    passes: Tensor
    """As in `Values`."""

    @property
    def wanted(self) -> Tensor:
        """z, (records, width)."""
        return self.initial + self.delta

    @property
    def loss(self) -> Tensor:
        """The loss at z, (records,)."""
        return self.trace[..., 0].gather(-1, self.passes[..., None] - 1)[..., 0]


def cached(path: Path, records: int, compute: Callable[[], Values]) -> Values:
    """Read values from `path`, or compute and write them. A file that is damaged is written anew.

    Returns:
        The values, on the CPU.
    """
    if (found := _read(path, records)) is None:
        found = _tensors(compute())
        write_atomic(path, save(found, {"digest": _digest(found)}))
    return Values(**found)


def _tensors(values: Values) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in vars(values).items()}


def _read(path: Path, records: int) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get("digest")
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    whole = set(tensors) == set(Values.__dataclass_fields__) and digest == _digest(tensors)
    return tensors if whole and all(len(tensor) == records for tensor in tensors.values()) else None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
