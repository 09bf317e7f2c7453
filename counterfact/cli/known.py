"""`counterfact known`: the facts that a model knows, as a file to trace."""

from pathlib import Path
from typing import Annotated

import typer

from counterfact.cli._common import Device, Dtype, Model, Seed, console, open_model, progress_bar
from counterfact.core.errors import Failed


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("known")(known)


def known(
    out: Annotated[Path, typer.Option(help="The file to write, a JSON list like known_1000.json.", dir_okay=False)],
    model: Model = "factlm",
    dataset: Annotated[str | None, typer.Option(help="Ask the prompts of these CounterFact records.")] = None,
    pararel: Annotated[
        Path | None, typer.Option(help="Ask the tuples of a folder in ParaRel's layout; default: embedded.")
    ] = None,
    facts: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Ask the facts of this file, as the authors' known_1000.json.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many facts to ask, from the first.")] = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Keep the facts whose true object a model names before any other capitalised word: what to trace.

    Example: `counterfact known --model factlm --out known.json`

    Example: `counterfact known --facts known_1000.json --model gpt2-xl --out known.json`
    """
    from counterfact import known_facts  # noqa: PLC0415

    lm = open_model(model, device, dtype)
    with progress_bar("asking") as advance:
        known = known_facts(
            lm, dataset, pararel=pararel, facts=facts, limit=limit, seed=seed, out=out, progress=advance
        )
    if known.failed:
        told = f"{len(known.failed):,} of {known.asked:,} facts could not be asked; the first: {known.failed[0].reason}"
        if len(known.failed) == known.asked:
            raise Failed(told)
        console.print(told, style="dim")
    console.print(f"{len(known.facts):,} of {known.asked:,} facts are known: {out}")
