"""How far a sequential run has come: what was edited so far and what its editor remembers, kept so that it can go on.

Each checkpoint is two files of tensors and one of JSON that names them with their hashes. The JSON is replaced last,
as a whole, so that whatever moment a run is killed at, one whole checkpoint is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from safetensors.torch import load_file, save

from counterfact.contracts.editors import State
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, hash_json, read_json, write_atomic, write_json
from counterfact.lm.edits.edit import Delta, Edit, load_edits, parts_of, save_edits
from counterfact.lm.edits.totals import NOTHING
from counterfact.lm.model.language_model import LM

CHECKPOINT = "checkpoint.json"
SHARE = 10
"""A checkpoint is written once this many times as long has passed as the last one took to write."""


@dataclass(frozen=True)
class Progressed:
    """A sequential run after some of its steps."""

    step: int = 0
    """Steps that are done."""
    total: Edit = NOTHING
    """All that was edited so far."""
    memory: State = field(default_factory=dict)
    """What the editor keeps beside the weights."""
    finished: bool = False
    """Whether the editor's last step is done, too."""


class Checkpoints:
    """A folder that holds the last checkpoint of a run.

    Args:
        folder: made if missing.
        lm: the model; tensors are read onto its device.
        order: case ids in the order in which they are edited, which must be the same when the run goes on.
    """

    def __init__(self, folder: Path, lm: LM, order: Sequence[int]) -> None:
        self._folder, self._lm, self._order = folder, lm, hash_json(list(order))
        self._took, self._ended = 0.0, perf_counter()

    def load(self) -> Progressed:
        """Return how far the run had come: nowhere where there is no checkpoint.

        Raises:
            BadInput: a file is damaged or missing, or it is of other records or another order.
        """
        if not (self._folder / CHECKPOINT).exists():
            return Progressed()
        said = read_json(self._folder / CHECKPOINT)
        if said["order"] != self._order:
            raise BadInput(f"{self._folder} is of other records or another order; restart the run")
        for name, digest in said["files"].items():
            if not (self._folder / name).is_file() or hash_file(self._folder / name) != digest:
                raise BadInput(f"{self._folder / name} is damaged or missing; restart the run")
        edits, memory = (self._folder / name for name in said["files"])
        [total] = load_edits(edits, self._lm)
        # Copies, or sums could round otherwise: a file's tensors lie at other addresses than those in memory did.
        tensors = {name: tensor.clone().to(self._lm.device) for name, tensor in load_file(memory).items()}
        return Progressed(said["step"], _copied(total, self._lm), tensors, said["finished"])

    def save(self, now: Progressed, *, at_once: bool) -> None:
        """Put a checkpoint in the place of the last one; unless `at_once`, only if much time has passed since then."""
        start = perf_counter()
        if not at_once and start - self._ended < SHARE * self._took:
            return
        place = f"{now.step:08d}{'-finished' if now.finished else ''}.safetensors"
        edits, memory = self._folder / f"edits-{place}", self._folder / f"memory-{place}"
        save_edits(edits, [now.total], {"model": self._lm.identity})
        write_atomic(memory, save({name: tensor.cpu().contiguous() for name, tensor in now.memory.items()}))
        files = {path.name: hash_file(path) for path in (edits, memory)}
        said: Mapping[str, Any] = {
            "step": now.step, "finished": now.finished, "order": self._order, "weights": self._lm.weights_hash,
            "files": files,
        }  # fmt: skip
        write_json(self._folder / CHECKPOINT, said)
        for path in self._folder.iterdir():
            if path.name not in {CHECKPOINT, *files}:
                path.unlink()
        self._ended = perf_counter()
        self._took = self._ended - start


def _copied(edit: Edit, lm: LM) -> Edit:
    def copied(delta: Delta) -> Delta:
        return type(delta)(delta.module, *(getattr(delta, part).clone().to(lm.device) for part in parts_of(delta)))

    return Edit(tuple(map(copied, edit.deltas)), edit.request_ids, edit.diagnostics, edit.context)
