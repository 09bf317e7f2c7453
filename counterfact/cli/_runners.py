"""Who computes an evaluation: the options `--runner`, `--workers` and theirs, and the runner they ask for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from counterfact.cli._common import MACHINE, DtypeName, PrecisionName, notes
from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    from counterfact.evaluation.runners import Runner
    from counterfact.lm.model.language_model import LM

RunnerName = Literal["local", "ray", "slurm"]
Runners = Annotated[
    RunnerName, typer.Option("--runner", help="Who computes: this process, Ray, or Slurm.", rich_help_panel=MACHINE)
]
Workers = Annotated[
    int, typer.Option(min=1, help="Ray actors or Slurm jobs, with a device each.", rich_help_panel=MACHINE)
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Of each worker; by default as many as this process has.", rich_help_panel=MACHINE),
]
TextWorkers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that measure texts beside each worker; by default one beside a GPU.",
        rich_help_panel=MACHINE,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(envvar="RAY_ADDRESS", help="Of a Ray cluster; else one is started.", rich_help_panel=MACHINE),
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm", help="A parameter of the jobs, as partition=gpu; may be repeated.", rich_help_panel=MACHINE
    ),
]


@contextmanager
def open_runner(
    name: RunnerName,
    lm: "LM",
    model: str,
    *,
    workers: int,
    threads: int | None,
    device: str | None,
    dtype: DtypeName,
    precision: PrecisionName,
    plugins: list[Path] | None,
    ray_address: str | None,
    slurm: list[str] | None,
) -> "Iterator[Runner]":
    """Yield a runner; its workers end with the block.

    Raises:
        BadInput: options that do not go together, or the engine is not installed.
    """
    import torch  # noqa: PLC0415

    from counterfact.evaluation.runners.local import LocalRunner  # noqa: PLC0415
    from counterfact.evaluation.task import ModelSource  # noqa: PLC0415

    if slurm and name != "slurm":
        raise BadInput(f"--slurm goes with --runner slurm, not with {name}")
    if name == "local":
        if workers > 1:
            raise BadInput(f"--runner local is one process; for {workers} workers say --runner ray or slurm")
        yield LocalRunner(threads)
        return
    if device is not None and ":" in device:
        raise BadInput(f"--device {device}: with --runner {name} each worker gets a device of its own; say cuda or cpu")
    source = ModelSource(
        model, device, dtype, lm.identity, tuple(path.resolve() for path in plugins or []), precision=precision
    )
    # Without a word the same number as in one process, because the last bits of a sum depend on it.
    each = threads or torch.get_num_threads()
    if name == "slurm":
        from counterfact.evaluation.runners.slurm_jobs import SlurmRunner  # noqa: PLC0415

        yield SlurmRunner(source, workers, each, dict(map(_parameter, slurm or [])))
        return
    from counterfact.evaluation.runners.ray_actors import RayRunner  # noqa: PLC0415

    if ray_address is None and workers * each > (cores := os.cpu_count() or 1):
        notes.print(
            f"{workers} workers of {each} threads share {cores} cores: --threads {max(1, cores // workers)} is faster "
            "(results are the same bytes as those of --runner local with the same --threads)",
            style="dim",
        )
    with RayRunner(source, workers, each, ray_address) as runner:
        yield runner


def _parameter(text: str) -> tuple[str, Any]:
    """Read a parameter of jobs; numbers are numbers.

    >>> _parameter("partition=gpu"), _parameter("timeout_min=60")
    (('partition', 'gpu'), ('timeout_min', 60))
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadInput(f"--slurm: expected name=value, got {text!r}")
    return name, int(value) if value.isdecimal() else value
