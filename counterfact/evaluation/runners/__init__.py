"""Where units of an evaluation are computed: in this process, by Ray actors, or by Slurm jobs.

A runner prepares a pass once, computes its units in any order, tries again what failed, and never writes results.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from counterfact.contracts.editors import EditorSpec
from counterfact.evaluation.folder import Computed, Unit
from counterfact.evaluation.task import Prepared, Task
from counterfact.lm.model.language_model import LM


class Runner(Protocol):
    """Computes units."""

    @property
    def name(self) -> str:
        """`local`, `ray` or `slurm`."""

    @property
    def text_processes(self) -> int:
        """For how many workers the caller measures texts; 0: the workers do it."""

    def prepare(self, lm: LM, task: Task, spec: EditorSpec | None, /) -> Prepared:
        """Do what all workers share: second moments, context templates; they find it in the cache.

        Args:
            lm: the model, which a runner with workers elsewhere only compares with theirs.
            task: a pass.
            spec: its editor, `None` for the unedited model.

        Raises:
            BadInput: the editor cannot be prepared.
            Failed: no worker could be started.
        """

    def run(self, task: Task, units: Sequence[Unit]) -> Iterator[Computed]:
        """Compute units and yield them as they finish, those of a pass that was prepared or of the unedited model.

        Raises:
            OSError: a disk is full.
            Failed: no worker could be started.
        """

    def report(self) -> Mapping[str, Any]:
        """Return what a run notes under `environment`: workers, and attempts that failed since the last report."""
