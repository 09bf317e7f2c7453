"""What a Slurm job does: prepare, or claim units until none is left."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from counterfact.core.errors import BadInput
from counterfact.core.files import disk_full
from counterfact.evaluation.folder import Computed
from counterfact.evaluation.runners.exchange import Exchange, Order
from counterfact.evaluation.task import Prepared
from counterfact.evaluation.text_pool import TextPool
from counterfact.evaluation.worker import RemoteWorker


@dataclass(frozen=True)
class Stop:
    """Why the whole run must stop, as a job returns it."""

    error: BadInput | OSError


def prepare(folder: Path) -> Prepared | Stop:
    """Do what all workers share; return what came of it."""
    order = Exchange(folder).order()
    try:
        return RemoteWorker(order.source, order.threads).take(order.task)
    except (BadInput, OSError) as error:
        return _stop_or_raise(error)


def work(folder: Path) -> Stop | None:
    """Compute units as long as there are any."""
    exchange = Exchange(folder)
    order = exchange.order()
    worker, files = RemoteWorker(order.source, order.threads), exchange.files(order.task)
    try:
        prepared = worker.take(order.task)
        if order.prepared is not None:
            order.prepared.check(prepared, platform.node())
        pool = TextPool(order.task.dataset, order.task.side, prepared.text_workers)
        for computed in pool.measured(_compute(exchange, order, worker)):
            if exchange.is_open:
                files.put(computed)
    except (BadInput, OSError) as error:
        return _stop_or_raise(error)
    return None


def _compute(exchange: Exchange, order: Order, worker: RemoteWorker) -> Iterator[Computed]:
    import submitit  # noqa: PLC0415

    for unit in exchange.claims(order.units, str(submitit.JobEnvironment().job_id)):
        try:
            computed = worker.run(order.task.key, unit)
        except Exception as error:
            if disk_full(error):
                raise
            exchange.fault(unit, f"{type(error).__name__}: {error}")
        else:
            yield computed


def _stop_or_raise(error: BadInput | OSError) -> Stop:
    if isinstance(error, OSError) and not disk_full(error):
        raise error
    return Stop(error)
