r"""The second moment $C = \mathbb{E}[k k^\top]$ of what enters the MLPs' second projections, over a corpus.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, section 3.1.
https://arxiv.org/abs/2202.05262
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from core.errors import BadInput
from core.files import hash_json
from core.texts import TextSource
from lm._moment_files import read_state, write_state
from lm.hooks import Site, hooked
from lm.loading import LM
from lm.plan import default_plan
from lm.sites import weight_shape
from lm.stack import embed, run_blocks

log = logging.getLogger(__name__)

GROUP = 100
"""Texts that are sorted by length together; also the unit in which work is saved, so that a run that was interrupted
adds up the same sums in the same order as one that was not."""

Progress = Callable[[int, int | None], None]
"""Called with how many texts are done, and of how many if that is known."""


@dataclass(frozen=True, eq=False)
class SecondMoment:
    r"""$C = \frac{1}{n} \sum_i k_i k_i^\top$, not centred, of one layer."""

    matrix: Tensor
    """C, float64 (D, D), D the MLP's inner width."""
    count: int
    """n, tokens."""
    layer: int
    name: str
    """Name of the corpus."""
    hash: str
    """sha256 of the matrix and of what it was computed from."""

    @cached_property
    def _factor(self) -> tuple[Tensor, float]:
        factor, failed = torch.linalg.cholesky_ex(self.matrix)
        ridge = 0.0
        scale = float(self.matrix.diagonal().mean())
        for exponent in range(-12, 0):
            if not int(failed):
                return factor, ridge
            ridge = 10.0**exponent * scale
            eye = torch.eye(len(self.matrix), dtype=self.matrix.dtype, device=self.matrix.device)
            factor, failed = torch.linalg.cholesky_ex(self.matrix + ridge * eye)
        raise ValueError(f"the second moment of layer {self.layer} is not positive, even with a ridge of {ridge:.1e}")

    @property
    def ridge(self) -> float:
        """What had to be added to the diagonal for a Cholesky factor to exist: 0 with enough tokens.

        The smallest of 1e-12, 1e-11 ... times the mean of the diagonal that suffices.
        """
        return self._factor[1]

    def solve(self, keys: Tensor) -> Tensor:
        r"""Return $C^{-1} k$ for each row of `keys` (n, D) or for one key (D,), in float64.

        >>> moment = SecondMoment(torch.diag(torch.tensor([2.0, 4.0]).double()), 8, 0, "", "")
        >>> moment.solve(torch.ones(2)), moment.ridge
        (tensor([0.5000, 0.2500], dtype=torch.float64), 0.0)
        """
        rows = keys.reshape(-1, keys.shape[-1]).to(self.matrix)
        solved: Tensor = torch.cholesky_solve(rows.T, self._factor[0]).T
        return solved.reshape(keys.shape)


def second_moments(
    lm: LM,
    layers: Sequence[int],
    texts: TextSource,
    *,
    max_texts: int | None = None,
    max_tokens: int | None = None,
    tokens_per_batch: int | None = None,
    folder: Path,
    progress: Progress | None = None,
    checkpoint_every: int = 1000,
) -> dict[int, SecondMoment]:
    """Compute, or read from `folder`, the second moments of several layers in one pass over a corpus.

    Each text is tokenised alone, without special tokens, cut at the model's length, at positions from 0; a text
    without tokens is passed over. Keys are products in float32 (float64 for a model of that dtype), summed in float64.
    What is there is not computed again; an interrupted pass goes on from its last checkpoint, to the same bytes.

    Args:
        lm: the model, unedited.
        layers: counted from 0.
        texts: the corpus; its content hash is part of the files' names.
        max_texts: how many texts to take, from the start; all by default.
        max_tokens: stop at the end of the group of 100 texts in which so many tokens are reached.
        tokens_per_batch: rows times padded width in one pass, by default the plan's.
        folder: where the moments are kept.
        progress: told after each group of texts.
        checkpoint_every: texts between two checkpoints, rounded up to whole groups.

    Raises:
        BadInput: a layer the model does not have, or a corpus without tokens.
    """
    wrong = [layer for layer in layers if not 0 <= layer < lm.n_layers]
    if wrong:
        raise BadInput(f"expected layers from 0 to {lm.n_layers - 1} of {lm.name}, got {wrong[0]}")
    key = _key(lm, texts, max_texts, max_tokens)
    paths = {layer: _path(folder, lm, layer, texts, key) for layer in dict.fromkeys(layers)}
    found = {layer: moment for layer, path in paths.items() if (moment := _load(lm, path, layer, texts, key))}
    missing = sorted(set(paths) - set(found))
    if missing:
        budget = tokens_per_batch or default_plan(lm).tokens_per_batch
        unfinished = folder / f"unfinished-{hash_json([key, missing])[:16]}.safetensors"
        run = _Pass(lm, missing, unfinished, key)
        run.resume()
        run.go(texts, max_texts, max_tokens, budget, progress, checkpoint_every)
        if not run.tokens:
            raise BadInput(f"{texts.name} holds no text with tokens, so there is nothing to average")
        for layer in missing:
            matrix = run.sums[layer] / run.tokens
            write_state(paths[layer], {"matrix": matrix}, {"key": key, "count": run.tokens})
            found[layer] = _moment(matrix, run.tokens, layer, texts, key)
        unfinished.unlink(missing_ok=True)
    return {layer: found[layer] for layer in layers}


class _Pass:
    """One pass over a corpus: sums of k kᵀ by layer, and how far it has come."""

    def __init__(self, lm: LM, layers: Sequence[int], unfinished: Path, key: str) -> None:
        self.lm = lm
        self.unfinished = unfinished
        self.key = key
        self.texts = 0
        self.tokens = 0
        sizes = {layer: weight_shape(lm.model, lm.layout.down(layer))[0] for layer in layers}
        self.sums = {
            layer: torch.zeros(size, size, dtype=torch.float64, device=lm.device) for layer, size in sizes.items()
        }

    def resume(self) -> None:
        """Take up the last checkpoint, if there is one."""
        state = read_state(self.unfinished, self.key)
        if state is not None:
            tensors, facts = state
            self.texts, self.tokens = facts["texts"], facts["count"]
            self.sums = {layer: tensors[str(layer)].to(self.lm.device) for layer in self.sums}
            log.info("second moment: going on after %d texts", self.texts)

    def go(
        self,
        texts: TextSource,
        max_texts: int | None,
        max_tokens: int | None,
        budget: int,
        progress: Progress | None,
        checkpoint_every: int,
    ) -> None:
        """Add up the rest of the corpus, group by group."""
        saved = self.texts
        rest = islice(texts.texts(), self.texts, max_texts)
        while (max_tokens is None or self.tokens < max_tokens) and (group := list(islice(rest, GROUP))):
            self._add(group, budget)
            self.texts += len(group)
            if progress is not None:
                progress(self.texts, max_texts)
            if self.texts - saved >= checkpoint_every:
                self._save()
                saved = self.texts

    def _save(self) -> None:
        sums = {str(layer): total for layer, total in self.sums.items()}
        write_state(self.unfinished, sums, {"key": self.key, "count": self.tokens, "texts": self.texts})

    def _add(self, group: Sequence[str], budget: int) -> None:
        rows = [ids[: self.lm.max_length] for ids in self.lm.encoding.texts(group)]
        for batch in _batches([row for row in rows if row], budget):
            self._add_batch(batch)
            self.tokens += sum(map(len, batch))

    @torch.inference_mode()
    def _add_batch(self, batch: Sequence[Sequence[int]]) -> None:
        lm, width = self.lm, max(map(len, batch))
        table = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch], device=lm.device)
        lengths = torch.tensor([len(row) for row in batch], device=lm.device)
        real = torch.arange(width, device=lm.device) < lengths[:, None]
        patches = [(Site(lm.layout.down(layer), "in"), partial(self._add_keys, layer, real)) for layer in self.sums]
        with hooked(lm.model, *patches):
            run_blocks(lm, embed(lm, table), 0, max(self.sums) + 1)

    def _add_keys(self, layer: int, real: Tensor, states: Tensor) -> None:
        keys = states[real]
        keys = keys.to(torch.promote_types(keys.dtype, torch.float32))
        self.sums[layer] += keys.T @ keys


def _batches(rows: Sequence[Sequence[int]], budget: int) -> Iterator[list[Sequence[int]]]:
    batch: list[Sequence[int]] = []
    for row in sorted(rows, key=len, reverse=True):
        if batch and len(batch[0]) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _key(lm: LM, texts: TextSource, max_texts: int | None, max_tokens: int | None) -> str:
    """Everything a second moment depends on, but for its layer."""
    return hash_json(
        {
            "model": lm.weights_hash,
            "dtype": str(lm.dtype),
            "length": lm.max_length,
            "texts": texts.content_hash,
            "max_texts": max_texts,
            "max_tokens": max_tokens,
        }
    )


def _path(folder: Path, lm: LM, layer: int, texts: TextSource, key: str) -> Path:
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in f"{Path(lm.name).name}-{texts.name}")
    return folder / f"{name}-layer{layer}-{key[:16]}.safetensors"


def _load(lm: LM, path: Path, layer: int, texts: TextSource, key: str) -> SecondMoment | None:
    state = read_state(path, key)
    if state is None:
        return None
    tensors, facts = state
    return _moment(tensors["matrix"].to(lm.device), facts["count"], layer, texts, key)


def _moment(matrix: Tensor, count: int, layer: int, texts: TextSource, key: str) -> SecondMoment:
    digest = sha256(f"{key} {layer} {count}".encode())
    digest.update(matrix.cpu().contiguous().numpy().tobytes())
    return SecondMoment(matrix, count, layer, texts.name, digest.hexdigest())
