"""Values on disk, one file a batch, so that methods which share a search run it once.

A file is found by everything its content follows from: weights, layer, settings of the search, context templates,
and the requests of the batch in order. A batch is never put together from other batches' values: the last bits of
a float depend on what is computed together, and a result must not depend on what happened to be cached.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from counterfact.core.files import write_atomic
from counterfact.editing.value import Values


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
