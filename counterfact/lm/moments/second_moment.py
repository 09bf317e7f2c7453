r"""The second moment $C = \mathbb{E}[k k^\top]$ of what enters the MLPs' second projections, over a corpus.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, section 3.1.
https://arxiv.org/abs/2202.05262
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.core.texts import TextSource
from counterfact.lm.model.language_model import LM
from counterfact.lm.moments.corpus_pass import Pass, PassLimits, Progress, sums_of
from counterfact.lm.moments.files import (
    State,
    find_state,
    find_unfinished,
    moment_hash,
    moment_path,
    pass_facts,
    write_state,
)
from counterfact.lm.moments.sampling import SamplingError, sampling_error
from counterfact.lm.moments.solving import solve_factored
from counterfact.lm.moments.sums import Sums
from counterfact.lm.planning.batch_plan import default_plan

log = logging.getLogger(__name__)

KEPT_FROM = 2048
"""What follows from a matrix is kept on disk from this size: a smaller one is factored sooner than it is read."""


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
    complete: bool = True
    """Whether its pass came to its end; one that did not is used only where it is given by file."""
    sampling: SamplingError | None = None
    """What so few tokens do to an edit, against endless text, or, where it is not complete, against the whole pass."""
    path: Path | None = None
    """The file it is kept in."""

    @cached_property
    def _factor(self) -> tuple[Tensor, float]:
        found = self.kept("factor", self._find_factor)
        return found["upper"].mT, float(found["ridge"])

    def _find_factor(self) -> dict[str, Tensor]:
        factor, failed = torch.linalg.cholesky_ex(self.matrix)
        ridge = 0.0
        scale = float(self.matrix.diagonal().mean())
        for exponent in range(-12, 0):
            if not int(failed):
                # Column by column is how triangular systems are solved without a copy.
                return {"upper": factor.mT.contiguous(), "ridge": torch.tensor(ridge, dtype=torch.float64)}
            ridge = 10.0**exponent * scale
            eye = torch.eye(len(self.matrix), dtype=self.matrix.dtype, device=self.matrix.device)
            factor, failed = torch.linalg.cholesky_ex(self.matrix + ridge * eye)
        raise ValueError(f"the second moment of layer {self.layer} is not positive, even with a ridge of {ridge:.1e}")

    def kept(self, what: str, find: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return tensors that follow from the matrix and take long to find: read from beside its file, or found.

        Args:
            what: part of the name of the file they are in; with the hash of the matrix it says what they are.
            find: finds them; what it finds is kept for the next time, unless the matrix is small, has no file of its
                own or the disk does not take them.
        """
        if self.path is None or len(self.matrix) < KEPT_FROM:
            return find()
        path = self.path.with_name(f"{self.path.stem}-{what}.safetensors")
        key = f"{what} of {self.hash}"
        if (state := find_state(path, key)) is not None:
            return {name: tensor.to(self.matrix.device) for name, tensor in state.tensors.items()}
        found = find()
        try:
            write_state(path, found, {"key": key})
        except OSError as error:
            log.info("%s is not kept: %s", path, error)
        return found

    @property
    def ridge(self) -> float:
        """What had to be added to the diagonal for a Cholesky factor to exist: 0 with enough tokens.

        The smallest of 1e-12, 1e-11 ... times the mean of the diagonal that suffices.
        """
        return self._factor[1]

    @property
    def provenance(self) -> dict[str, Any]:
        """What a run records of it."""
        error = self.sampling._asdict() if self.sampling else None
        return {
            **{field: getattr(self, field) for field in ("name", "hash", "count", "ridge", "complete")},
            "sampling_error": error,
        }

    def solve(self, keys: Tensor) -> Tensor:
        r"""Return $C^{-1} k$ for each row of `keys` (n, D) or for one key (D,), in float64.

        >>> moment = SecondMoment(torch.diag(torch.tensor([2.0, 4.0]).double()), 8, 0, "", "")
        >>> moment.solve(torch.ones(2)), moment.ridge
        (tensor([0.5000, 0.2500], dtype=torch.float64), 0.0)
        """
        rows = keys.reshape(-1, keys.shape[-1]).to(self.matrix)
        return solve_factored(self._factor[0], rows).reshape(keys.shape)


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
    checkpoint_every: int | None = None,
) -> dict[int, SecondMoment]:
    """Compute, or read from `folder`, the second moments of several layers in one pass over a corpus.

    Each text is tokenised alone, without special tokens, cut at the model's length, at positions from 0; a text
    without tokens is passed over, one with a key that is not finite is left out of that layer and counted. Keys are
    multiplied in float32 (float64 for a model of that dtype), summed in float64. What is there is not computed again;
    an interrupted pass goes on from its last checkpoint, to the same bytes, whichever layers share it.

    Args:
        lm: the model, unedited.
        layers: counted from 0. Each takes `corpus_pass.sum_bytes` of the device's memory during the pass.
        texts: the corpus; its content hash is part of the files' names.
        max_texts: how many texts to take, from the start; all by default.
        max_tokens: stop at the end of the group of 100 texts in which so many tokens are reached.
        tokens_per_batch: rows times padded width in one pass, by default the plan's.
        folder: where the moments are kept.
        progress: told before the first batch and after each; never where everything is there already.
        checkpoint_every: texts between two checkpoints, rounded up to whole groups; by default one each minute, or
            as rarely as keeps writing them below a twentieth of the time.

    Raises:
        BadInput: a layer the model does not have, or a corpus without tokens.
    """
    wrong = [layer for layer in layers if not 0 <= layer < lm.n_layers]
    if wrong:
        raise BadInput(f"expected layers from 0 to {lm.n_layers - 1} of {lm.name}, got {wrong[0]}")
    facts = pass_facts(lm, texts, max_texts, max_tokens)
    paths = {layer: moment_path(folder, facts, layer) for layer in dict.fromkeys(layers)}
    found = {}
    for layer, path in paths.items():
        if (state := find_state(path, facts["key"])) is not None:
            found[layer] = moment_of(state, path, lm)
    missing = sorted(set(paths) - set(found))
    if missing:
        budget = tokens_per_batch or default_plan(lm).tokens_per_batch
        run = Pass(lm, missing, texts, PassLimits(max_texts, max_tokens), folder, facts)
        budget = run.go(budget, progress, checkpoint_every)
        facts |= {"read": run.read, "unreadable": texts.unreadable.count, "tokens_per_batch": budget}
        for layer in missing:
            sums = run.sums.pop(layer)  # its memory is needed for the next one
            found[layer] = _finish(lm, layer, sums, paths[layer], facts, texts)
        run.unfinished.unlink(missing_ok=True)
    return {layer: found[layer] for layer in layers}


def absent_layers(
    lm: LM, layers: Sequence[int], texts: TextSource, *, max_texts: int | None = None, folder: Path
) -> list[int]:
    """Return the layers whose second moments `second_moments` would compute; a damaged file counts as there."""
    facts = pass_facts(lm, texts, max_texts, None)
    return [layer for layer in layers if not moment_path(folder, facts, layer).is_file()]


def so_far(
    lm: LM,
    layers: Sequence[int],
    texts: TextSource,
    *,
    max_texts: int | None = None,
    max_tokens: int | None = None,
    folder: Path,
) -> dict[int, SecondMoment]:
    """Make second moments of what a pass with these arguments, interrupted or running, has come to at a checkpoint.

    Each is written to a file of its own in `folder` and marked as not complete; the pass itself goes on as before.

    Raises:
        BadInput: there is no such pass.
    """
    facts = pass_facts(lm, texts, max_texts, max_tokens)
    found = {}
    for layer in dict.fromkeys(layers):
        state = find_unfinished(folder, facts["key"], {layer})
        if state is None:
            raise BadInput(f"no unfinished pass over {texts.name} for layer {layer} of {lm.name} in {folder}")
        done = {name: state.facts[name] for name in ("read", "unreadable")}
        share = _share(state, texts, max_texts, max_tokens)
        made = {**facts, **done, "complete": False, "share": share}
        sums = sums_of(state, layer, lm.device)
        found[layer] = _finish(lm, layer, sums, moment_path(folder, made, layer), made, texts)
    return found


def _share(state: State, texts: TextSource, max_texts: int | None, max_tokens: int | None) -> float:
    """How much of its pass a checkpoint holds; 0 where that is not known."""
    if max_tokens is not None:
        return min(1.0, float(state.facts["tokens"] / max_tokens))
    size = max_texts or texts.size()
    return min(1.0, float(state.facts["read"] / size)) if size else 0.0


def moment_of(state: State, path: Path | None, lm: LM) -> SecondMoment:
    """Return the second moment that a finished file holds."""
    facts = state.facts
    error = SamplingError(**facts["sampling"]) if facts["sampling"] else None
    matrix = state.tensors["matrix"].to(lm.device)
    name = facts["texts"]["name"]
    return SecondMoment(matrix, facts["count"], facts["layer"], name, facts["hash"], facts["complete"], error, path)


def _finish(lm: LM, layer: int, sums: Sums, path: Path, facts: Mapping[str, Any], texts: TextSource) -> SecondMoment:
    if not sums.tokens:
        faults = [f"{texts.unreadable.count} could not be read"] if texts.unreadable.count else []
        faults += [f"{sums.not_finite} gave keys that are not finite in layer {layer}"] if sums.not_finite else []
        told = f" ({', '.join(faults)})" if faults else ""
        raise BadInput(f"{texts.name} holds no text with tokens{told}, so there is nothing to average")
    matrix = sums.mean()
    moment = SecondMoment(matrix, sums.tokens, layer, texts.name, "")
    error = _error(sums, moment)
    if error is not None and not facts["complete"]:
        error = error.left(facts["share"])
    whole = {
        **facts,
        "layer": layer,
        "module": lm.layout.fc_out(layer),
        "count": sums.tokens,
        "halves": sums.counts,
        "not_finite": sums.not_finite,
        "sampling": error._asdict() if error else None,
        "hash": moment_hash(facts["key"], layer, sums.tokens, matrix),
    }
    write_state(path, {"matrix": matrix}, whole)
    return moment_of(State({"matrix": matrix}, whole), path, lm)


def _error(sums: Sums, moment: SecondMoment) -> SamplingError | None:
    if not sums.sample or min(sums.counts) == 0:
        return None
    keys = torch.stack(sums.sample).to(moment.matrix)
    try:
        directions = moment.solve(keys)
    except ValueError:
        return None
    return sampling_error(sums.half(0), sums.half(1), directions, keys)
