"""Edits as data: what to add to which weight; kept in files.

An edit is never a changed model. `lm.edits.apply` applies it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.core.files import write_atomic
from counterfact.lm.model.hooks import find_module
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape

FORMAT = 1


@dataclass(frozen=True, eq=False)
class LowRank:
    r"""A change of low rank: $y \mathrel{+}= (x L^\top) R$, that is $W \mathrel{+}= L^\top R$ for $y = xW$.

    The same for modules that keep their weight as (d_in, d_out) and as (d_out, d_in).
    """

    module: str
    left: Tensor
    """L, shape (rank, d_in)."""
    right: Tensor
    """R, shape (rank, d_out)."""

    def __post_init__(self) -> None:
        if self.left.dim() != 2 or self.right.dim() != 2 or self.left.shape[0] != self.right.shape[0]:
            raise ValueError(
                "expected left (rank, d_in) and right (rank, d_out), "
                f"got {tuple(self.left.shape)} and {tuple(self.right.shape)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(d_in, d_out) of the weight it changes."""
        return self.left.shape[1], self.right.shape[1]

    @property
    def weight_change(self) -> Tensor:
        """The change as a whole matrix, (d_in, d_out)."""
        return self.left.T @ self.right


@dataclass(frozen=True, eq=False)
class Dense:
    """A change of full rank: `weight_change` (d_in, d_out) is added to the weight, in that orientation always."""

    module: str
    weight_change: Tensor

    def __post_init__(self) -> None:
        if self.weight_change.dim() != 2:
            raise ValueError(f"expected a change (d_in, d_out), got {tuple(self.weight_change.shape)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(d_in, d_out) of the weight it changes."""
        d_in, d_out = self.weight_change.shape
        return d_in, d_out


Delta = LowRank | Dense


def is_smaller_in_factors(rank: int, shape: tuple[int, int]) -> bool:
    r"""Return whether factors of a rank take less room than the matrix: $r < d_{in} d_{out} / (d_{in} + d_{out})$.

    >>> is_smaller_in_factors(2, (6, 6)), is_smaller_in_factors(3, (6, 6))
    (True, False)
    """
    d_in, d_out = shape
    return rank * (d_in + d_out) < d_in * d_out


def parts_of(delta: Delta) -> tuple[str, ...]:
    """Return the names of a change's tensors."""
    return ("left", "right") if isinstance(delta, LowRank) else ("weight_change",)


@dataclass(frozen=True, eq=False)
class Edit:
    """What an editor made of one request, or of several that share it.

    Weight changes, of which several may be of one module, and a text that stands before every prompt (in-context
    editing); either may be empty.
    """

    deltas: tuple[Delta, ...]
    request_ids: tuple[int, ...]
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """Numbers that results keep beside the scores. A `loss` is where a search or a descent ended, nats a token, and is
    quoted where the edit did not take; what was so before the edit has another name."""
    context: str = ""
    """Stands before every prompt, its own last space included."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules it changes, each once, in order."""
        return tuple(dict.fromkeys(delta.module for delta in self.deltas))

    @property
    def by_module(self) -> dict[str, list[Delta]]:
        """The changes of each module, in order."""
        found: dict[str, list[Delta]] = {}
        for delta in self.deltas:
            found.setdefault(delta.module, []).append(delta)
        return found

    @cached_property
    def content_hash(self) -> str:
        """sha256 over all that it changes: modules and tensors, in order, and the context."""
        digest = sha256(self.context.encode())
        for delta in self.deltas:
            for part in parts_of(delta):
                tensor = getattr(delta, part).detach().cpu().contiguous()
                digest.update(f"\n{delta.module} {part} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def frobenius(self) -> float:
        """Return the Frobenius norm of the whole change: the root of the sum of squares over all modules.

        >>> u, v = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])
        >>> Edit((LowRank("m", u, v), Dense("n", torch.full((3, 3), 4.0))), (0,)).frobenius()
        13.0
        """
        changes = ([delta.weight_change.double() for delta in mine] for mine in self.by_module.values())
        return math.sqrt(sum(float(torch.stack(parts).sum(0).square().sum()) for parts in changes))


def in_context(prompts: Sequence[str], edit_index: Sequence[int], edits: Sequence[Edit]) -> list[str]:
    """Return each prompt after the context of its edit (-1: unedited).

    >>> in_context(["He lives in", "I saw"], [0, -1], [Edit((), (0,), context="He moved to Rome. ")])
    ['He moved to Rome. He lives in', 'I saw']
    """
    return [edits[i].context + prompt if i >= 0 else prompt for prompt, i in zip(prompts, edit_index, strict=True)]


def check_edits(lm: LM, edits: Sequence[Edit]) -> None:
    """Raise unless every delta's module is in the model and has the delta's shape."""
    for edit in edits:
        for delta in edit.deltas:
            find_module(lm.model, delta.module)
            shape = weight_shape(lm.model, delta.module)
            if delta.shape != shape:
                raise ValueError(
                    f"{delta.module}: expected a change of shape {shape}, got {delta.shape}; "
                    "was the edit made for another model?"
                )


def save_edits(path: Path, edits: Sequence[Edit], meta: Mapping[str, Any]) -> None:
    """Write edits to a `.safetensors` file, atomically.

    Args:
        path: the file.
        edits: in the order in which `load_edits` gives them back.
        meta: JSON values to keep with them; `{"model": lm.identity}` lets `load_edits` check the model.
    """
    tensors: dict[str, Tensor] = {}
    listed = []
    for i, edit in enumerate(edits):
        deltas = []
        for j, delta in enumerate(edit.deltas):
            parts = parts_of(delta)
            deltas.append({"module": delta.module, "parts": parts})
            for part in parts:
                tensors[f"{i}.{j}.{part}"] = getattr(delta, part).detach().cpu().contiguous()
        facts = {"request_ids": edit.request_ids, "diagnostics": dict(edit.diagnostics), "deltas": deltas}
        listed.append(facts | ({"context": edit.context} if edit.context else {}))
    header = {"format": FORMAT, "edits": listed, "meta": dict(meta)}
    write_atomic(path, save(tensors, {"edits": json.dumps(header, ensure_ascii=False)}))


def load_edits(path: Path, lm: LM | None = None, *, any_model: bool = False) -> list[Edit]:
    """Read edits back.

    Args:
        path: a file that `save_edits` wrote.
        lm: the model they are to be applied to; checked against the one they were made for.
        any_model: accept a model with other weights, as long as modules and shapes fit.

    Raises:
        BadInput: no such file, no edits in it, or they do not fit `lm`.
    """
    header, tensors = _read(path)
    edits = [
        Edit(
            tuple(_delta(tensors, f"{i}.{j}", entry) for j, entry in enumerate(listed["deltas"])),
            tuple(listed["request_ids"]),
            listed["diagnostics"],
            listed.get("context", ""),
        )
        for i, listed in enumerate(header["edits"])
    ]
    if lm is not None:
        made_for = header["meta"].get("model", {})
        if not any_model and made_for.get("weights_hash", lm.weights_hash) != lm.weights_hash:
            raise BadInput(
                f"{path}: these edits were made for {made_for.get('name')} with weights "
                f"{made_for['weights_hash'][:8]}, not for {lm.name} with weights {lm.weights_hash[:8]}"
            )
        try:
            check_edits(lm, edits)
        except (LookupError, TypeError, ValueError) as error:
            raise BadInput(f"{path} does not fit {lm.name}: {error}") from error
    return edits


def read_meta(path: Path) -> dict[str, Any]:
    """Return what `save_edits` was given as `meta`."""
    meta: dict[str, Any] = _read(path)[0]["meta"]
    return meta


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["edits"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise BadInput(f"no file {path}") from error
    except Exception as error:
        raise BadInput(f"{path} is not a file of edits: {error}") from error
    if header["format"] != FORMAT:
        raise BadInput(f"{path}: expected edits in format {FORMAT}, got {header['format']}")
    return header, tensors


def _delta(tensors: Mapping[str, Tensor], prefix: str, entry: Mapping[str, Any]) -> Delta:
    parts = [tensors[f"{prefix}.{part}"] for part in entry["parts"]]
    return LowRank(entry["module"], *parts) if len(parts) == 2 else Dense(entry["module"], *parts)
