"""A training's state on disk: two generations, each with a checksum, so that a kill or a damaged file costs little."""

import io
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from counterfact.core.files import write_atomic

STATE, OLDER = "state.pt", "state.older.pt"
DIGEST = 64
"""Hexadecimal digits of the checksum, which stand before the data."""
logger = logging.getLogger(__name__)


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; the state before stays as the older generation."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    if (folder / STATE).exists():
        (folder / STATE).replace(folder / OLDER)
    write_atomic(folder / STATE, sha256(data).hexdigest().encode() + data)


def load_state(folder: Path) -> dict[str, Any] | None:
    """Return the newest state that is whole, on the CPU; `None` where there is none. A damaged one is reported."""
    for name in (STATE, OLDER):
        path = folder / name
        if not path.exists():
            continue
        data = path.read_bytes()
        if sha256(data[DIGEST:]).hexdigest().encode() == data[:DIGEST]:
            state: dict[str, Any] = torch.load(io.BytesIO(data[DIGEST:]), map_location="cpu", weights_only=True)
            return state
        logger.warning("%s is damaged; going on with what was saved before it", path)
    return None


def remove_states(folder: Path) -> None:
    """Remove both generations."""
    for name in (STATE, OLDER):
        (folder / name).unlink(missing_ok=True)
