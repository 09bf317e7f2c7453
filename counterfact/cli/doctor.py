"""`counterfact doctor`: what this machine has, and what would stop a run."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import typer
from rich.table import Table

from counterfact.cli._common import Json, console
from counterfact.core.errors import BadInput
from counterfact.core.files import canonical_json
from counterfact.core.places import cache_folder, data_folder

PACKAGES = (
    "torch transformers tokenizers safetensors numpy scikit-learn pydantic nltk datasets "
    "SPARQLWrapper pyoxigraph matplotlib"
)
LOW_DISK = 2 * 1024**3
"""Bytes: second moments of one large model and a run's results."""


def doctor(as_json: Json = False) -> None:
    """Check the installation: packages, device, embedded data, cache.

    Example: `counterfact doctor`
    """
    import torch  # noqa: PLC0415

    faults: list[str] = []
    facts: dict[str, str] = {"python": platform.python_version()}
    for package in PACKAGES.split():
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "missing"
            faults.append(f"{package} is not installed: run `make setup`")
    gpu = torch.cuda.is_available()
    facts["device"] = torch.cuda.get_device_name() if gpu else f"cpu, {torch.get_num_threads()} threads"
    try:
        facts["embedded data"] = str(data_folder())
        if not (data_folder() / "models").is_dir():
            faults.append(f"no embedded models under {data_folder()}: correct or unset COUNTERFACT_DATA")
    except BadInput as error:
        faults.append(str(error))
    cache_folder().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache_folder()).free
    facts["cache"] = f"{cache_folder()}, {free / 1024**3:.0f} GiB free"
    if free < LOW_DISK:
        faults.append(f"under 2 GiB are free at {cache_folder()}: set COUNTERFACT_CACHE to a larger disk")
    if as_json:
        console.print(canonical_json({"facts": facts, "faults": faults}), soft_wrap=True)
    else:
        table = Table("what", "found", box=None)
        for name, value in facts.items():
            table.add_row(name, value)
        console.print(table)
        for fault in faults:
            console.print(f"[red]fault:[/red] {fault}")
    raise typer.Exit(1 if faults else 0)
