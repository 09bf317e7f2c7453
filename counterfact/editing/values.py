"""What a search found, in memory and on disk, so that methods which share a search run it once.

A file holds one batch, and is found by everything its content follows from: weights, layer, settings of the search,
context templates, and the requests of the batch in order. A batch is never put together from other batches' values: the
last bits of a float depend on what is computed together, and a result must not depend on what happened to be cached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from counterfact.core.files import hash_json, write_atomic
from counterfact.core.provenance import code_hash
from counterfact.editing.requests import Encoded
from counterfact.lm.model.language_model import LM

SEARCH_CODE = ("counterfact.editing", "counterfact.lm.forward", "counterfact.lm.model")
"""The packages that search: what other code of theirs has left in the cache is not used."""
CONSTANTS = ("steps", "learning_rate", "weight_decay", "kl_factor", "clamp_norm_factor", "stop_loss")
"""The settings that a search follows from, beside the layer."""
SAID = 0.1
"""PMET's f after a pass in which the new object was said: every token of it the likeliest, in every context."""
ENOUGH = 0.01
"""PMET's search ends where the new object is said and the KL term is no larger, in nats."""


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
class Searched:
    """What a search found for a batch of records, in float32 (float64 for a float64 model)."""

    delta: Tensor
    """By how much what stands at the subject of the bare prompt is to be moved, (records, width); with a dimension
    before the last for the two sites of `Projections`."""
    trace: Tensor
    """Loss, NLL, KL and weight-decay term at each forward pass, (records, steps, 4), nats; NaN after the last."""
    passes: Tensor
    """Forward passes, (records,), int64."""

    @staticmethod
    def alone(delta: Tensor, terms: Tensor, steps: int) -> "Searched":
        """Hold what was found for one record, without the first dimension.

        Args:
            delta: (width,) or (2, width).
            terms: the loss and its three terms at each forward pass, (passes, 4).
            steps: the most passes there could have been.
        """
        trace = terms.new_full((steps, 4), torch.nan)
        trace[: len(terms)] = terms
        return Searched(delta, trace, torch.tensor(len(terms), device=delta.device))

    @classmethod
    def stack(cls, records: Sequence[Self]) -> Self:
        """Put single records, without the first dimension, together."""
        return cls(
            **{field.name: torch.stack([getattr(each, field.name) for each in records]) for field in fields(cls)}
        )

    @property
    def loss(self) -> Tensor:
        """The loss of the returned delta."""
        return self.trace[..., 0].gather(-1, self.passes[..., None] - 1)[..., 0]


@dataclass(frozen=True)
class Values(Searched):
    """Keys and values of a batch of records; delta is v* - v_0."""

    bare_key: Tensor
    """k_0, the edited module's input at the subject of the bare prompt, (records, d_in)."""
    mean_key: Tensor
    """k_bar, its mean over the context templates, (records, d_in)."""
    bare_output: Tensor
    """v_0, the module's output at the subject of the bare prompt, (records, width)."""
    mean_output: Tensor
    """v_bar, its mean over the context templates, (records, width)."""

    def at(self, record: int) -> "Values":
        """One record, without the first dimension."""
        return Values(**{field.name: getattr(self, field.name)[record] for field in fields(self)})


@dataclass(frozen=True)
class Targets(Searched):
    """What the residual stream is wanted to be, for a batch of records; delta is z - z_0."""

    initial: Tensor
    """z_0, the stream after the layer at the subject of the bare prompt, (records, width)."""

    @property
    def wanted(self) -> Tensor:
        """z, (records, width)."""
        return self.initial + self.delta


@dataclass(frozen=True)
class Projections(Targets):
    """What the last projections of a layer's attention and MLP are wanted to give, for a batch of records.

    `delta` and `initial` are (records, 2, width), the attention's first.
    """

    @property
    def wanted(self) -> Tensor:
        """What the MLP's is wanted to give, (records, width)."""
        return super().wanted[:, 1]


Found = TypeVar("Found", Values, Targets)


@dataclass(frozen=True)
class SearchCache:
    """Keeps what searches on the unedited model found on disk; with the same constants, editors of a family share it.

    What is searched for on a model with edits in its weights belongs to one sequence alone, and is not kept.
    """

    folder: Path
    engine: str
    """Of the search: what the two engines find agrees but for rounding."""

    def get(
        self,
        kind: type[Found],
        lm: LM,
        batch: Sequence[Encoded],
        layer: int,
        settings: SearchSettings,
        compute: Callable[[], Found],
    ) -> Found:
        """Read what was found for a batch, or compute and write it. A file that is damaged is written anew.

        Args:
            kind: what is searched for.
            lm: the model.
            batch: the requests; a search follows from their tokens.
            layer: where it is searched for.
            settings: constants of the search.
            compute: the search.

        Returns:
            What was found, on the CPU.
        """
        if lm.written:
            return kind(**_tensors(compute()))
        path = self._path(kind.__name__, lm, batch, layer, settings)
        if (found := _read(path, kind, len(batch))) is None:
            found = _tensors(compute())
            write_atomic(path, save(found, {"digest": _digest(found)}))
        return kind(**found)

    def _path(self, kind: str, lm: LM, batch: Sequence[Encoded], layer: int, settings: SearchSettings) -> Path:
        made_by = [code_hash(*SEARCH_CODE), torch.__version__, self.engine]
        constants = {name: getattr(settings, name) for name in CONSTANTS}
        rows = [[list(item.target), [[row.lookup, *row.ids] for row in item.rows]] for item in batch]
        identity = [kind, lm.weights_hash, lm.arithmetic, lm.device.type, made_by, layer, constants, rows]
        return self.folder / f"{hash_json(identity)}.safetensors"


def _read(path: Path, kind: type[Values | Targets], records: int) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get("digest")
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    whole = set(tensors) == set(kind.__dataclass_fields__) and digest == _digest(tensors)
    return tensors if whole and all(len(tensor) == records for tensor in tensors.values()) else None


def _tensors(found: Values | Targets) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in vars(found).items()}


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
