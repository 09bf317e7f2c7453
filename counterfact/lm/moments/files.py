"""Files of sums and second moments: tensors, facts about them, a checksum over both, and the names they lie under."""

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from counterfact.core.files import canonical_json, hash_json
from counterfact.core.provenance import DISTRIBUTION, version_of
from counterfact.core.texts import TextSource
from counterfact.lm.model.language_model import LM

log = logging.getLogger(__name__)

SCHEMA = 2
"""Version of the facts in a file; 1 had no checksum."""


class Damaged(ValueError):
    """A file is not what it was when it was written, or never was one of ours."""


class State(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def write_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts under a temporary name, flush them to the disk, and rename.

    The disk takes them from where they are: a copy of all of them in memory may not fit.
    """
    kept = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    whole = {"schema": SCHEMA, **facts}
    whole["sha256"] = _checksum(kept, whole)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        # One entry: the library writes several in an order that changes from run to run.
        save_file(kept, temporary, {"facts": canonical_json(whole)})
        with Path(temporary).open("rb") as file:
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, Exception) and not isinstance(error, OSError) and "No space left" in str(error):
            raise OSError(28, "No space left on device", str(path)) from error
        raise


def read_facts(path: Path) -> dict[str, Any]:
    """Read what a file says about itself, without its tensors or a check of them.

    Raises:
        Damaged: it does not say anything of the kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
    except Exception as error:
        raise Damaged(f"{path} is no file of second moments, or is cut off: {error!r}") from error
    if facts.get("schema") != SCHEMA:
        raise Damaged(f"{path}: expected schema {SCHEMA}, got {facts.get('schema', 1)}; it is of another version")
    return dict(facts)


def read_state(path: Path) -> State:
    """Read a file and check it.

    Raises:
        Damaged: its checksum is not that of its content.
    """
    facts = read_facts(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    told = facts.pop("sha256")
    if (found := _checksum(tensors, facts)) != told:
        raise Damaged(f"{path} is damaged: its checksum should be {told[:12]}…, and is {found[:12]}…")
    return State(tensors, {**facts, "sha256": told})


def find_state(path: Path, key: str) -> State | None:
    """Read a file of ours; `None` if there is none, it is damaged, or its key is another."""
    if not path.is_file():
        return None
    try:
        state = read_state(path)
    except Damaged as error:
        log.warning("%s; computing it again", error)
        return None
    return state if state.facts["key"] == key else None


def find_unfinished(folder: Path, key: str, layers: set[int]) -> State | None:
    """Return the checkpoint of a pass with this key over these layers, and perhaps others, that has come furthest."""
    found = []
    for path in folder.glob("unfinished-*.safetensors"):
        try:
            facts = read_facts(path)
        except Damaged as error:
            log.warning("%s; passed over", error)
            continue
        if facts["key"] == key and layers <= {int(layer) for layer in facts["layers"]}:
            found.append((facts["read"], path))
    for _, path in sorted(found, reverse=True):
        if (state := find_state(path, key)) is not None:
            return state
    return None


def _checksum(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    digest = sha256(canonical_json(facts).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def keep_moment(folder: Path, matrix: Tensor, facts: Mapping[str, Any]) -> Path:
    """Write a second moment's file under the name that its facts give it, and return its path."""
    path = moment_path(folder, facts, facts["layer"])
    write_state(path, {"matrix": matrix}, facts)
    return path


def moment_hash(key: str, layer: int, count: int, matrix: Tensor) -> str:
    """Return what names a second moment in the results that rest on it."""
    digest = sha256(f"{key} {layer} {count}".encode())
    digest.update(matrix.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def pass_facts(lm: LM, texts: TextSource, max_texts: int | None, max_tokens: int | None) -> dict[str, Any]:
    """Everything a second moment depends on, but for its layer; `key` is a hash of it."""
    identity = {
        "model": lm.weights_hash,
        "dtype": str(lm.dtype),
        "length": lm.max_length,
        "texts": texts.content_hash,
        "max_texts": max_texts,
        "max_tokens": max_tokens,
        **({} if lm.precision == "strict" else {"precision": lm.precision}),
    }
    return {
        "key": hash_json(identity),
        "model": lm.identity,
        "length": lm.max_length,
        "texts": {"name": texts.name, "hash": texts.content_hash},
        "max_texts": max_texts,
        "max_tokens": max_tokens,
        "complete": True,
        "package": version_of(DISTRIBUTION),
        "torch": torch.__version__,
    }


def moment_path(folder: Path, facts: Mapping[str, Any], layer: int) -> Path:
    """Return where the second moment of a layer lies, by what it is of and the key of its facts."""
    plain = f"{Path(facts['model']['name']).name}-{facts['texts']['name']}"
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in plain)
    part = "" if facts["complete"] else f"-first-{facts['read']}-texts"
    return folder / f"{name}-layer{layer}-{facts['key'][:16]}{part}.safetensors"
