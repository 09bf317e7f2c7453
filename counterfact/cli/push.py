"""`counterfact push`: publish data sets on the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import console

if TYPE_CHECKING:
    from counterfact.builders.hub.upload import Upload


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("push")(push)


def push(
    datasets: Annotated[
        list[str],
        typer.Argument(help="Folders that build or zsre wrote, as [CONFIG[/SPLIT]=]FOLDER; the first is the default."),
    ],
    to: Annotated[str, typer.Option(help="The repository, as org/name.")],
    version: Annotated[str | None, typer.Option(help="Version, as 1.2.0; default: that of the first folder.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Stage and check only; nothing leaves this machine.")
    ] = False,
    stage: Annotated[Path | None, typer.Option(help="Where to stage; default: in the cache.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A repository made now is private.")] = False,
) -> None:
    """Publish data sets: parquet, card and Croissant metadata, under a version tag.

    The token is the one of `hf auth login`, or HF_TOKEN; it is never an argument, which others could read.

    Example: `counterfact push datasets/counterfact datasets/zsre --to org/name --dry-run`
    """
    from counterfact.builders.hub.staging import stage_datasets  # noqa: PLC0415
    from counterfact.builders.hub.upload import push as upload  # noqa: PLC0415

    staged = stage_datasets(datasets, to, version, stage)
    console.print(f"{staged.folder}: staged, read back with `datasets`, {staged.tag}", style="bold")
    for path in staged.files:
        console.print(f"  {path}  {(staged.folder / path).stat().st_size:,} B")
    if dry_run:
        return
    from huggingface_hub import get_token  # noqa: PLC0415

    done = upload(staged, get_token(), private=private, tell=console.print)
    _print(done)


def _print(done: "Upload") -> None:
    changed = f"{len(done.sent)} files sent" if done.sent or done.tagged else "unchanged"
    console.print(f"{done.url}: {changed}, version {done.tag}", style="bold")
    for name in done.kept:
        console.print(f"left as edited by hand: {name}")
    console.print(f"commit {done.commit}", style="dim")
