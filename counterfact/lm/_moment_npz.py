"""Second moments as the reference implementation publishes them: `.npz` files named after a module.

Meng, Bau, Andonian, Belinkov. Statistics for ROME. https://rome.baulab.info/data/stats/
"""

import logging
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.lm.loading import LM

log = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<module>.+)_(?P<precision>float\d+|bfloat16)_(?P<kinds>[a-z0-9-]+)_(?P<size>\w+)\.npz")
EXAMPLE = "transformer.h.17.mlp.c_proj_float32_mom2_100000.npz"


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
    layers = {lm.layout.down(layer): layer for layer in range(lm.n_layers)}
    if found is None or found["module"] not in layers:
        named = f"names {found['module']}" if found else "does not name one"
        raise BadInput(
            f"{path.name} {named}: expected a second projection of an MLP of {lm.name}, {lm.layout.down(0)} to "
            f"{lm.layout.down(lm.n_layers - 1)}, in a name such as {EXAMPLE}"
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
        with np.load(path, allow_pickle=False) as arrays:
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
