"""What `build` and `snapshot` share: the options that name sources, and what is said of their servers' answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import console

if TYPE_CHECKING:
    from counterfact.builders.sources.client import Client

Sparql = Annotated[str | None, typer.Option(help="Facts: wdqs, qlever, an endpoint's URL, or .nt/.ttl/.tsv file(s).")]
Pararel = Annotated[
    str | None, typer.Option(help="ParaRel: upstream, a URL, or a folder; default: embedded, upstream if live.")
]
Relations = Annotated[list[str] | None, typer.Option("--relation", help="Only this relation; may be repeated.")]
Language = Annotated[str, typer.Option(help="Of labels and templates, by its code.")]
Contact = Annotated[str | None, typer.Option(help="Your e-mail or page, for the User-Agent; also COUNTERFACT_CONTACT.")]
Cache = Annotated[Path | None, typer.Option(help="Where servers' answers are kept; default: one for all.")]
Replay = Annotated[bool, typer.Option(help="Ask nobody: take all answers from the cache.")]
Pause = Annotated[float, typer.Option(help="Seconds between an answer and the next question.", min=0.0)]


def print_answers(client: "Client") -> None:
    """Say how many answers are new, and how old the others are."""
    old = len(client.used_keys()) - client.stored
    console.print(
        f"answers of servers: {client.stored:,} new, {old:,} from {client.cache.path}, the oldest of "
        f"{client.oldest()}; requests sent: {client.sent:,}. For fresh answers, name a new --cache",
        style="dim",
    )
