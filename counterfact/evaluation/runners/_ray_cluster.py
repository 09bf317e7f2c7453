"""What is asked of Ray: to start or be joined, to give workers, and to say why one is gone."""

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import disk_full
from counterfact.evaluation.runners.hand_out import PATIENCE
from counterfact.evaluation.task import ModelSource
from counterfact.evaluation.worker import RemoteWorker

logger = logging.getLogger(__name__)


class RayCluster:
    """A connection to Ray, made when the first worker is requested.

    Args:
        source: what each worker opens.
        workers: how many there may be, for which a Ray of our own makes room.
        threads: of each worker.
        address: of a cluster; `None`: a Ray of our own, which ends with the connection.
    """

    def __init__(self, source: ModelSource, workers: int, threads: int, address: str | None) -> None:
        if importlib.util.find_spec("ray") is None:
            raise BadInput("--runner ray needs Ray, on every node: `pip install 'counterfact-toolkit[ray]'`")
        self._source = source
        self._workers = workers
        self._threads = threads
        self._address = address
        self._stack = ExitStack()
        self._ray: Any = None

    def connect(self) -> Any:
        """Return the module `ray`, connected."""
        if self._ray is None:
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            # Ray 2 warns of what Ray 3 will do to workers without a GPU; ours get none either way.
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            import ray  # noqa: PLC0415

            if not ray.is_initialized():
                self._begin(ray)
            self._ray = ray
        return self._ray

    def _begin(self, ray: Any) -> None:
        # Threads that wait by spinning take the cores from each other.
        variables = {"OMP_NUM_THREADS": str(self._threads), "OMP_WAIT_POLICY": "PASSIVE"}
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is not None:
            self._stack.callback(ray.shutdown)
            ray.init(address=self._address, runtime_env={"env_vars": variables}, **quiet)
            return
        # Ray's sockets lie there, whose paths may not be long; that of TMPDIR often is.
        place = "/tmp" if Path("/tmp").is_dir() else None
        folder = self._stack.enter_context(TemporaryDirectory(prefix="ray-", dir=place, ignore_cleanup_errors=True))
        self._stack.callback(ray.shutdown)  # before its folder goes
        # Processes of our own Ray inherit; with a `runtime_env` those that it starts in advance would be of no use.
        with _environment(variables):
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, self._workers * self._threads),
                include_dashboard=False,
                _temp_dir=folder,
                **quiet,
            )

    def worker(self) -> Any:
        """Return a new actor: it asks for its threads in cores, and for a GPU where there are any."""
        ray = self.connect()
        needs = {"CPU": float(self._threads), "GPU": self._gpus()}
        if self._address is None and self._workers * needs["GPU"] > (has := ray.cluster_resources().get("GPU", 0)):
            raise BadInput(f"{self._workers} workers ask for a GPU each, and there are {int(has)}; ask for fewer")
        actor = ray.remote(RemoteWorker).options(
            num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_restarts=0, max_task_retries=0
        )
        return actor.remote(self._source, self._threads)

    def _gpus(self) -> float:
        device = self._source.device
        if device is not None:
            return float(device != "cpu")
        return float(self._ray.cluster_resources().get("GPU", 0) >= 1)

    def wait(self, refs: Sequence[Any], note: str = "") -> Any:
        """Return the first of some results that is there; where that takes long it is said, with a `note`."""
        while True:
            [*ready], _ = self._ray.wait(list(refs), num_returns=1, timeout=PATIENCE)
            if ready:
                return ready[0]
            logger.warning("still waiting for Ray, which has %s to give now%s", self._ray.available_resources(), note)

    def get(self, ref: Any) -> Any:
        """Return a result, or raise what its worker raised."""
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, Exception) else error) from None

    def died(self, error: Exception) -> bool:
        """Whether an error says that a worker is gone."""
        return isinstance(error, self._ray.exceptions.RayError)

    def reason(self, error: Exception) -> str:
        """Return why an attempt failed, in one line.

        Raises:
            BadInput, OSError: what came is no fault of the attempt.
        """
        if isinstance(error, BadInput) or disk_full(error):
            raise error
        if self.died(error):
            logger.warning("a Ray worker is gone: %s", error)
            return f"the worker died ({str(error).strip().splitlines()[0].rstrip('.')})"
        return f"{type(error).__name__}: {error}"

    def dismiss(self, actor: Any) -> None:
        """End a worker."""
        with suppress(Exception):
            self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """End Ray if it is ours, else let go of it."""
        self._stack.close()
        self._ray = None


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the length of the block, for processes that are started in it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
