"""`counterfact editors`: the editors there are, and what can be set of each."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from counterfact.cli._common import Json, Plugin, console, load_plugins
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
        console.print(canonical_json(shown if name is None else shown[0]), soft_wrap=True, markup=False)
    elif name is None:
        console.print(_list(found))
        console.print("Settings of one: counterfact editors NAME", style="dim")
    else:
        _print(found[0])


def _list(found: "list[Description]") -> Table:
    table = Table("editor", "what it does", box=None)
    for one in found:
        table.add_row(one.name, escape(one.summary))
    return table


def _print(one: "Description") -> None:
    console.print(f"{one.name}: {one.summary}", style="bold", markup=False, soft_wrap=True)
    if one.paper:
        console.print(one.paper, style="dim", markup=False, soft_wrap=True)
    if one.trained_for is not None:
        console.print("needs a trained network: see counterfact train --help", style="dim")
    table = Table("setting", "default", *([] if one.source is None else ["value"]), "meaning", box=None)
    for setting in one.settings:
        values = ["required" if setting.required else _text(setting.default)]
        values += [] if one.source is None else [_text(setting.value)]
        table.add_row(setting.name, *values, escape(setting.meaning))
    console.print(table)
    if one.source is not None:
        console.print(f"values from: {one.source}", style="dim", markup=False, soft_wrap=True)
    console.print("Change one with --set name=value.", style="dim")


def _text(value: Any) -> str:
    return escape(str(value))
