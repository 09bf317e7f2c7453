"""A GPU that is not there: tensors that say they are on a device, compute on the processor, and keep a GPU's rules.

As on a real device, an operation on tensors of two devices is an error, and reading a value makes the host wait. So
tests can see, where there is no GPU, that code puts its tensors where they belong, and how often it waits.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from counterfact.lm.model.language_model import LM

NAME = "pretended"
aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default: "value read",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten.equal.default: "equal",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}
"""Operations for which the host waits, as the size of what they give, or what it does next, is in the data."""
COPIES = {aten.copy_.default, aten._to_copy.default}
SEQUENCES = aten._pack_padded_sequence.default
"""Lengths of sequences are the host's, and come back as such."""
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
"""Indices may be the host's."""


@cache
def device() -> torch.device:
    """Make the device known to torch, once for the process, and return it."""
    _setup_privateuseone_for_python_backend(NAME)
    return torch.device(NAME, 0)


class OnDevice(Tensor):
    """A tensor of the device; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        """Wrap a tensor of the host's."""
        form = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made: OnDevice = torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=device(), **form)
        made.inner = inner
        return made

    def tolist(self) -> Any:
        """As of any tensor on a device: copied to the host first."""
        return self.cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse: what was made within `pretended_gpu` is used there."""
        raise RuntimeError(f"{func} on a pretended GPU outside of its block")


class Rules(TorchDispatchMode):
    """Computes on the processor, refuses what a GPU would, and counts for what the host waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        kwargs = {name: value for name, value in (kwargs or {}).items() if name != "pin_memory"}
        wanted = kwargs.get("device")
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        is_ours = any(isinstance(tensor, OnDevice) for tensor in tensors)
        if is_ours:
            _check(func, [args[0]] if func in INDEXING else tensors)
            if reason := WAITS.get(func) or _comes_back(func, args, kwargs) or _masked(func, args):
                self.waits[reason] += 1
        if func is aten._fused_sdp_choice.default:
            return 0  # the way of attention that is made of other operations
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        run = _lstm_cell if func is aten._thnn_fused_lstm_cell.default else func
        found = run(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if written := _written(func, args, kwargs):
            return written[0] if len(written) == 1 else tuple(written)
        if not (is_ours if wanted is None else torch.device(wanted).type == NAME):
            return found
        if func is SEQUENCES:
            return OnDevice(found[0]), found[1]
        return tree_map(lambda leaf: OnDevice(leaf) if isinstance(leaf, Tensor) else leaf, found)


def _check(func: Any, tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if not isinstance(tensor, OnDevice) and tensor.dim() and func not in {*COPIES, SEQUENCES}:
            shape = tuple(tensor.shape)
            raise RuntimeError(f"{func}: expected all tensors on one device, found {NAME} and cpu {shape}")


def _comes_back(func: Any, args: Any, kwargs: Any) -> str | None:
    """Say whether an operation copies to the host, and the host waits for it."""
    if func not in COPIES or kwargs.get("non_blocking"):
        return None
    wanted = kwargs.get("device")
    to_host = not isinstance(args[0], OnDevice) if func is aten.copy_.default else str(wanted).startswith("cpu")
    return "copied to the host" if to_host else None


def _masked(func: Any, args: Any) -> str | None:
    """Say whether an index is a mask, of which the host must know how much it picks."""
    masks = (torch.bool, torch.uint8)
    is_masked = func in INDEXING and any(isinstance(it, OnDevice) and it.dtype in masks for it in args[1])
    return "mask" if is_masked else None


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, OnDevice) else leaf


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The tensors that an operation in place, or with `out`, was given to write to: it gives back the very same."""
    return [
        kwargs[argument.name] if argument.name in kwargs else args[place]
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write and func._schema.returns
    ]


def _lstm_cell(gates: Tensor, hidden: Tensor, cell: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An LSTM's step in one operation, which only devices have."""
    let_in, forget, new, out = sum((hidden, *biases), gates).chunk(4, 1)
    kept = forget.sigmoid() * cell + let_in.sigmoid() * new.tanh()
    return out.sigmoid() * kept.tanh(), kept, gates


@contextmanager
def pretended_gpu() -> Iterator[Rules]:
    """Let tensors be made on, and computed on, the pretended device within the block."""
    device()
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` makes a host's tensor first, and then moves it
    try:
        with Rules() as rules:
            yield rules
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def moved(lm: LM) -> LM:
    """Return a copy of a model on the pretended device."""
    model = deepcopy(lm.model)
    seen: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                made = seen.setdefault(id(parameter), nn.Parameter(OnDevice(parameter.detach()), requires_grad=False))
                module._parameters[name] = made
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = OnDevice(buffer)
    return replace(lm, model=model)
