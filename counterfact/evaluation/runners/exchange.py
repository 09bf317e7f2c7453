"""A folder on a file system that all nodes share, through which units are claimed and come back.

A worker claims a unit by creating a file, which one process alone can do. Only the coordinator lets go of a claim, when
the engine says that the worker is gone: there are no leases, and no clocks that must agree.
"""

import os
import pickle
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from counterfact.core.files import write_atomic
from counterfact.evaluation.folder import Unit, UnitFiles
from counterfact.evaluation.task import ModelSource, Prepared, Task

PREFIX = "exchange-"


@dataclass(frozen=True)
class Order:
    """What workers are told."""

    source: ModelSource
    threads: int
    task: Task
    units: Sequence[Unit] = ()
    prepared: Prepared | None = None
    """What the first worker prepared, and every other must; `None` for that first one."""


class Exchange:
    """The folder, for the coordinator and for workers.

    Args:
        folder: of one pass of one coordinator; when it is gone, workers leave.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def jobs(self) -> Path:
        """Where the engine writes."""
        return self.folder / "jobs"

    def offer(self, order: Order) -> None:
        """Write down what is to be done."""
        import cloudpickle  # noqa: PLC0415

        (self.folder / "claims").mkdir(parents=True, exist_ok=True)
        # Sources of texts hold functions of their own, which `pickle` alone does not write.
        write_atomic(self.folder / "order.pickle", cloudpickle.dumps(order))

    def order(self) -> Order:
        """Read what is to be done."""
        order = pickle.loads((self.folder / "order.pickle").read_bytes())
        if not isinstance(order, Order):
            raise TypeError(f"{self.folder}: expected an order, got {type(order).__name__}")
        return order

    def files(self, task: Task) -> UnitFiles:
        """Where finished units are."""
        return UnitFiles(self.folder / "done", task.dataset.records)

    @property
    def is_open(self) -> bool:
        """Whether the coordinator still wants what is computed here."""
        return (self.folder / "order.pickle").exists()

    def claims(self, units: Sequence[Unit], who: str) -> Iterator[Unit]:
        """Claim and yield one unit after the other, until none is left for `who`."""
        found = True
        while found:
            found = False
            taken = {path.name for path in (self.folder / "claims").glob("*")}
            for unit in units:
                if self.is_open and unit.name not in taken and self._claim(unit, who):
                    found = True
                    yield unit

    def _claim(self, unit: Unit, who: str) -> bool:
        try:
            handle = os.open(self.folder / "claims" / unit.name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except (FileExistsError, FileNotFoundError):
            return False
        with os.fdopen(handle, "w") as file:
            file.write(who)
        return True

    def claimed(self, units: Sequence[Unit]) -> dict[Unit, str]:
        """Return who claimed which of some units; nobody is "", where a worker died while it wrote its name."""
        owners = {}
        for unit in units:
            path = self.folder / "claims" / unit.name
            if path.exists():
                owners[unit] = path.read_text()
        return owners

    def release(self, unit: Unit) -> None:
        """Let others claim a unit."""
        (self.folder / "faults" / unit.name).unlink(missing_ok=True)
        (self.folder / "claims" / unit.name).unlink(missing_ok=True)

    def fault(self, unit: Unit, reason: str) -> None:
        """Say that a unit failed while its worker lives on."""
        write_atomic(self.folder / "faults" / unit.name, reason)

    def faults(self, units: Sequence[Unit]) -> dict[Unit, str]:
        """Return why which of some units failed."""
        paths = {unit: self.folder / "faults" / unit.name for unit in units}
        return {unit: path.read_text() for unit, path in paths.items() if path.exists()}

    def close(self) -> None:
        """Take the folder away; workers that are still there leave."""
        (self.folder / "order.pickle").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
