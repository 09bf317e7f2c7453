"""Second moments from files: our own, with a checksum, and those that the reference publishes.

Meng, Bau, Andonian, Belinkov. Statistics for ROME. https://rome.baulab.info/data/stats/
"""

import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file
from counterfact.lm.model.language_model import LM
from counterfact.lm.moments.files import Damaged, State, keep_moment, moment_hash, read_facts, read_state
from counterfact.lm.moments.second_moment import SecondMoment, moment_of
from counterfact.lm.moments.sums import key_width

log = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<module>.+)_(?P<precision>float\d+|bfloat16)_(?P<kinds>[a-z0-9-]+)_(?P<size>\w+)\.npz")
EXAMPLE = "transformer.h.17.mlp.c_proj_float32_mom2_100000.npz"


def open_moment(path: Path, lm: LM) -> SecondMoment:
    """Read a second moment of a model from a `.safetensors` file of ours or a `.npz` file of the reference.

    A file of ours names its model by the hash of its weights; one of the reference is known by the module in its name
    and by its size, so whether it is of these weights is up to whoever gives it.

    Raises:
        BadInput: the file is damaged, or of another model; the message says which.
    """
    if path.suffix == ".npz":
        layer = layer_of(path, lm)
        found = read_npz(path, key_width(lm, layer))
        digest = moment_hash(hash_file(path), layer, found.tokens, found.matrix)
        return SecondMoment(found.matrix.to(lm.device), found.tokens, layer, found.texts, digest, path=path)
    return moment_of(_read(path, lm), path, lm)


def given_moment(paths: Sequence[Path], lm: LM, layer: int) -> SecondMoment:
    """Return one layer's second moment from among files.

    Raises:
        BadInput: none of them is of that layer, or several are; or as `open_moment`.
    """
    layers = [(_layer(path, lm), path) for path in paths]
    found = [path for number, path in layers if number == layer]
    if len(found) == 1:
        return open_moment(found[0], lm)
    there = ", ".join(f"{path.name} (layer {number})" for number, path in layers)
    raise BadInput(f"expected one second moment of layer {layer} of {lm.name}, got {len(found)} among {there}")


def import_moment(path: Path, lm: LM, folder: Path) -> SecondMoment:
    """Check a file and put it into the folder where second moments are kept.

    One of ours is then found wherever its model, texts and limits are requested, as if it had been computed here.

    Raises:
        BadInput: as `open_moment`.
    """
    if path.suffix != ".npz":
        state = _read(path, lm)
        kept = keep_moment(folder, state.tensors["matrix"], _written(state))
        return moment_of(state, kept, lm)
    moment = open_moment(path, lm)
    facts: dict[str, Any] = {
        "key": hash_file(path),
        "model": lm.identity,
        "layer": moment.layer,
        "module": lm.layout.fc_out(moment.layer),
        "texts": {"name": moment.name, "hash": None},
        "count": moment.count,
        "complete": True,
        "sampling": None,
        "hash": moment.hash,
        "from": path.name,
    }
    kept = keep_moment(folder, moment.matrix, facts)
    return moment_of(State({"matrix": moment.matrix}, facts), kept, lm)


def moment_facts(path: Path) -> dict[str, Any]:
    """Return what a file of ours says of itself: model, texts, limits, counts, what was left out, versions, checksum.

    Raises:
        BadInput: it is no such file.
    """
    try:
        return read_facts(path)
    except Damaged as error:
        raise BadInput(str(error)) from error


def kept_moments(folder: Path, lm: LM) -> list[dict[str, Any]]:
    """Return what the second moments of a model that are kept in a folder say of themselves, by layer and name.

    What cannot be read is passed over, and so are checkpoints of passes.
    """
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            facts = read_facts(path)
        except Damaged as error:
            log.warning("%s; passed over", error)
            continue
        if "layer" in facts and facts["model"]["weights_hash"] == lm.weights_hash:
            found.append({**facts, "path": str(path)})
    return sorted(found, key=lambda facts: int(facts["layer"]))


def place_for_copies(out: str, copies: int) -> Path:
    """Return where copies of second moments go: a file, or a folder, which is made.

    A name that ends in `.safetensors` is a file; one without a suffix, or with a slash at its end, is a folder.

    Raises:
        BadInput: several are to go into one file, or the name is neither.
    """
    path = Path(out)
    if path.is_dir() or out.endswith(("/", os.sep)) or not path.suffix:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{out} cannot be made a folder: {error.strerror}; choose another name") from error
    elif path.suffix != ".safetensors":
        raise BadInput(f"expected a folder or a name that ends in .safetensors, got {out}")
    elif copies > 1:
        raise BadInput(f"{copies} second moments do not go into one file, {out}: give a folder, as {path.stem}/")
    return path


def copy_moment(moment: SecondMoment, target: Path) -> Path:
    """Copy the file of a second moment to a file or into a folder, to hand it on; return where it is."""
    if moment.path is None:
        raise ValueError("expected a second moment that is kept in a file")
    if target.is_dir():
        target = target / moment.path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.resolve() != moment.path.resolve():
        shutil.copyfile(moment.path, target)
    return target


def _written(state: State) -> dict[str, Any]:
    return {name: value for name, value in state.facts.items() if name not in {"sha256", "schema"}}


def _layer(path: Path, lm: LM) -> int:
    if path.suffix == ".npz":
        return layer_of(path, lm)
    return int(moment_facts(path).get("layer", -1))


def _read(path: Path, lm: LM) -> State:
    if not path.is_file():
        raise BadInput(f"no file {path}")
    try:
        state = read_state(path)
    except Damaged as error:
        raise BadInput(str(error)) from error
    facts = state.facts
    if "layer" not in facts:
        raise BadInput(f"{path} is the checkpoint of a pass; make a second moment of it with --so-far")
    of = facts["model"]
    if of["weights_hash"] != lm.weights_hash:
        raise BadInput(
            f"{path} is of {of['name']} (weights {of['weights_hash'][:8]}), and is no use for {lm.name} "
            f"(weights {lm.weights_hash[:8]})"
        )
    return state


class Published(NamedTuple):
    """What such a file holds."""

    matrix: Tensor
    """The mean of k kᵀ, float64."""
    tokens: int
    texts: str
    """The corpus, by the name of the file's folder."""


def layer_of(path: Path, lm: LM) -> int:
    """Return the layer that a file's name says it is of.

    Raises:
        BadInput: it names no module of the model that reads keys.
    """
    found = _NAME.fullmatch(path.name)
    layers = {lm.layout.fc_out(layer): layer for layer in range(lm.n_layers)}
    if found is None or found["module"] not in layers:
        named = f"names {found['module']}" if found else "does not name one"
        raise BadInput(
            f"{path.name} {named}: expected a second projection of an MLP of {lm.name}, {lm.layout.fc_out(0)} to "
            f"{lm.layout.fc_out(lm.n_layers - 1)}, in a name such as {EXAMPLE}"
        )
    model = path.resolve().parent.parent.name
    if path.resolve().parent.name.endswith("_stats") and model not in {lm.name.replace("/", "_"), Path(lm.name).name}:
        log.warning("%s lies in a folder of %s and is used for %s", path, model, lm.name)
    return layers[found["module"]]


def read_npz(path: Path, size: int) -> Published:
    """Read a file: `mom2.mom2` (D, D), the sum of k kᵀ, and `mom2.count`.

    Raises:
        BadInput: it cannot be read, or its matrix is of another size, or not finite.
    """
    try:
        # numpy leaves a file open that it opened itself and cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if missing := {"mom2.mom2", "mom2.count"} - set(arrays.files):
                raise BadInput(f"{path}: no {', '.join(sorted(missing))}; it holds {', '.join(arrays.files)}")
            count = int(arrays["mom2.count"])
            total = torch.from_numpy(arrays["mom2.mom2"]).double()
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{path} cannot be read as a file of the reference's statistics: {error!r}") from error
    if total.shape != (size, size):
        raise BadInput(f"{path}: expected a matrix of {size} x {size}, got {' x '.join(map(str, total.shape))}")
    if count < 1 or not bool(total.isfinite().all()):
        raise BadInput(f"{path}: expected finite sums over at least one token, got {count} tokens")
    folder = path.resolve().parent.name
    return Published((total + total.T) / (2 * count), count, folder.removesuffix("_stats"))
