"""`counterfact doctor`: what this machine has, what would stop a run, and what there is for a model."""

import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterfact.cli._common import Device, Dtype, DtypeName, Json, console, open_model, print_json
from counterfact.cli._tables import print_table
from counterfact.core.errors import BadInput
from counterfact.core.places import cache_folder, data_folder
from counterfact.core.provenance import version_of

if TYPE_CHECKING:
    from counterfact.api.describing import ModelDescription

PACKAGES = (
    "torch transformers tokenizers safetensors numpy scikit-learn pydantic nltk datasets "
    "SPARQLWrapper pyoxigraph matplotlib"
)
LOW_DISK = 2 * 1024**3
"""Bytes: second moments of one large model and a run's results."""


def doctor(
    model: Annotated[
        str | None, typer.Option(help="Look at this model too: a folder, a Hub id, or an embedded one.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Check the installation: packages, device, embedded data, cache; with --model, what editing a model takes.

    Example: `counterfact doctor --model gpt2-xl`
    """
    facts, faults = _installation()
    found = None if model is None else _describe(model, device, dtype)
    if as_json:
        told: dict[str, Any] = {"facts": facts, "faults": faults}
        told |= {} if found is None else {"model": asdict(found)}
        print_json(told)
    else:
        print_table(("what", "found"), facts.items())
        if found is not None:
            _print_model(found)
        for fault in faults:
            console.print(f"fault: {fault}", style="red")
    raise typer.Exit(1 if faults else 0)


def _installation() -> tuple[dict[str, str], list[str]]:
    """Return what there is, and what is wrong with it."""
    import torch  # noqa: PLC0415

    faults: list[str] = []
    facts: dict[str, str] = {"python": platform.python_version()}
    for package in PACKAGES.split():
        facts[package] = version_of(package) or "missing"
        if facts[package] == "missing":
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
    return facts, faults


def _describe(model: str, device: str | None, dtype: DtypeName) -> "ModelDescription":
    from counterfact import describe_model  # noqa: PLC0415

    return describe_model(open_model(model, device, dtype))


def _print_model(found: "ModelDescription") -> None:
    """Say what a model is, what it needs, what is in the cache for it, and what editors wait for."""
    from counterfact.lm.planning.memory import say  # noqa: PLC0415

    start = "none; a subject that begins a prompt stands at position 0" if found.start is None else found.start
    print_table(
        ("what", "found"),
        {
            "family": found.family + (", several experts: traced and scored, not edited" if found.has_experts else ""),
            "layers": f"{found.layers}, 0 to {found.layers - 1}",
            "width": f"{found.width}, {found.inner:,} inside an MLP",
            "parameters": f"{found.parameters:,}, {found.dtype} on {found.device}",
            "tokenizer": f"{found.vocabulary:,} tokens, rows of {found.max_length:,} at most; start token: {start}",
            "memory": f"about {say(found.edit_bytes)} for one edit at a time, {say(found.evaluation_bytes)} for an "
            "evaluation; --max-memory cuts work to what there is",
        }.items(),
        title=f"\n{found.name}",
    )
    console.print(f"second moments in the cache: {_said(found.moments) or 'none'}")
    rows = [
        (one.editor, ", ".join(map(str, one.layers)), one.source, one.missing or "nothing") for one in found.editors
    ]
    print_table(("editor", "layers", "settings", "missing"), rows)


def _said(moments: Sequence[Mapping[str, Any]]) -> str:
    """Name second moments, the layers of one pass together."""
    from counterfact.evaluation.identity import compress_ids  # noqa: PLC0415

    layers: dict[str, list[int]] = {}
    for facts in moments:
        first = f", its first {facts['max_texts']:,} texts" if facts.get("max_texts") else ""
        part = "" if facts["complete"] else ", not complete"
        rest = f"{facts['count']:,} tokens of {facts['texts']['name']}{first}, {facts['model']['dtype']}{part}"
        layers.setdefault(rest, []).append(facts["layer"])
    return "; ".join(f"layer{'s' * (len(of) > 1)} {compress_ids(of)}: {rest}" for rest, of in layers.items())
