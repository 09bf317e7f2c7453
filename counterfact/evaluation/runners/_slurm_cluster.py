"""What is asked of submitit: to submit jobs, and to say which are over and why."""

import importlib.util
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput

SHARED = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "name")
"""Parameters that submitit knows for every engine; others are Slurm's own."""
MINUTES = 240
"""Of a job, where nothing else is said; one that is cut short loses the unit it was at."""
POLL = {"slurm": 5.0, "local": 0.2}
"""Seconds between two looks at jobs."""


class SlurmCluster:
    """Submits jobs.

    Args:
        defaults: parameters where nothing else is given.
        given: submitit's parameters (`timeout_min`, `mem_gb`), sbatch's (`partition`, `time`), and `cluster=local`,
            which runs the same jobs as processes of this machine.
    """

    def __init__(self, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise BadInput("--runner slurm needs submitit: `pip install 'counterfact-toolkit[slurm]'`")
        chosen = dict(given)
        self.cluster = str(chosen.pop("cluster", "slurm"))
        if self.cluster not in POLL:
            raise BadInput(f"--slurm cluster: expected slurm or local, got {self.cluster!r}")
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise BadInput(
                "no `sbatch` here: run this on a machine that submits to Slurm, or try it with --slurm cluster=local"
            )
        self._parameters = {"timeout_min": MINUTES, "name": "counterfact", **defaults, **chosen}

    @property
    def poll(self) -> float:
        """Seconds between two looks at jobs."""
        return POLL[self.cluster]

    def submit(self, folder: Path, logs: Path, work: Callable[[Path], Any], jobs: int) -> list[Any]:
        """Submit an array of jobs that all do `work(folder)`."""
        import submitit  # noqa: PLC0415

        executor = submitit.AutoExecutor(folder=logs, cluster=self.cluster)
        other: dict[str, Any] = {}
        for name, value in self._parameters.items():
            try:
                executor.update_parameters(**{name if name in SHARED else f"slurm_{name}": value})
            except NameError:  # submitit does not know it; sbatch may
                other[name] = value
        if other:
            executor.update_parameters(slurm_additional_parameters=other)
        try:
            return list(executor.map_array(work, [folder] * jobs))
        except submitit.core.utils.FailedJobError as error:
            raise BadInput(f"Slurm refused the jobs: {error}") from error

    def fate(self, job: Any) -> str | None:
        """Return why a job that is over has no result; `None` where it has one."""
        if self.cluster == "local" and not job.paths.result_pickle.exists():
            return f"the job died ({_last_line(job.stderr()) or job.state})"
        # On a shared file system a result may show some seconds late, which `exception` waits for.
        error = job.exception()
        if error is None:
            return None
        died = not job.paths.result_pickle.exists()
        return f"the job {'died' if died else 'failed'} ({_last_line(str(error))})"


def _last_line(text: str | None) -> str:
    return ((text or "").strip().splitlines() or [""])[-1].strip()
