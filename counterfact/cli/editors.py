"""`counterfact editors`: the editors there are, and what can be set of each."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import Json, Plugin, console, load_plugins
from counterfact.cli._tables import print_table
from counterfact.core.files import canonical_json

if TYPE_CHECKING:
    from counterfact.api.describing import Description


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("editors")(editors)


def editors(
    name: Annotated[str | None, typer.Argument(help="Show the settings of this editor.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Show the values for this model too: a folder, a Hub id, or an embedded model.")
    ] = None,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """List the editors, or the settings of one with their meaning, default, and value for a model.

    Example: `counterfact editors rome --model gpt2-xl`
    """
    from counterfact import describe_editor, describe_editors  # noqa: PLC0415

    load_plugins(plugin)
    found = describe_editors() if name is None else [describe_editor(name, model)]
    if as_json:
        shown = [asdict(one) for one in found]
        console.print(canonical_json(shown if name is None else shown[0]))
    elif name is None:
        print_table(("editor", "what it does"), [(one.name, one.summary) for one in found])
        console.print("Settings of one: counterfact editors NAME", style="dim")
    else:
        _print(found[0])


def _print(one: "Description") -> None:
    console.print(f"{one.name}: {one.summary}", style="bold")
    if one.paper:
        console.print(one.paper, style="dim")
    if one.trained_for is not None:
        console.print("needs a trained network: see counterfact train --help", style="dim")
    rows = []
    for setting in one.settings:
        values = ["required" if setting.required else str(setting.default)]
        values += [] if one.source is None else [str(setting.value)]
        rows.append([setting.name, *values, setting.meaning])
    print_table(("setting", "default", *([] if one.source is None else ["value"]), "meaning"), rows)
    if one.source is not None:
        console.print(f"values from: {one.source}", style="dim")
    console.print("Change one with --set name=value.", style="dim")
