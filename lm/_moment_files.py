"""Files of sums and second moments: tensors, and the key of what they were computed from."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from core.files import write_atomic

log = logging.getLogger(__name__)


def write_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors, and facts as JSON, atomically. `facts` holds the `key` that `read_state` asks for."""
    kept = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(kept, {"facts": json.dumps(facts)}))


def read_state(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and facts, or `None` if there is no such file, it is damaged, or its key is another."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        log.warning("%s cannot be read (%s); computing it again", path, error)
        return None
    return (tensors, facts) if facts["key"] == key else None
