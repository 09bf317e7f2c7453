"""What `build` and `snapshot` share: the options that name sources, and the line about their servers' responses."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import SERVERS, SOURCES, console

if TYPE_CHECKING:
    from counterfact.builders.sources.client import ResponseCounts

Sparql = Annotated[
    str | None,
    typer.Option(help="Facts: wdqs, qlever, an endpoint's URL, or .nt/.ttl/.tsv file(s).", rich_help_panel=SOURCES),
]
Pararel = Annotated[
    str | None,
    typer.Option(
        help="ParaRel: upstream, a URL, or a folder; default: embedded, upstream if live.", rich_help_panel=SOURCES
    ),
]
Relations = Annotated[
    list[str] | None, typer.Option("--relation", help="Only this relation; may be repeated.", rich_help_panel=SOURCES)
]
Language = Annotated[str, typer.Option(help="Language of labels and templates, by its code.", rich_help_panel=SOURCES)]
Contact = Annotated[
    str | None,
    typer.Option(
        help="Your e-mail address or page, for the User-Agent; default: COUNTERFACT_CONTACT.", rich_help_panel=SERVERS
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(help="File that keeps servers' responses; default: one for all builds.", rich_help_panel=SERVERS),
]
Replay = Annotated[
    bool, typer.Option("--replay", help="Send no requests: take all responses from the cache.", rich_help_panel=SERVERS)
]
Pause = Annotated[
    float, typer.Option(help="Seconds between a response and the next request.", min=0.0, rich_help_panel=SERVERS)
]


def print_responses(counts: "ResponseCounts | None") -> None:
    """Say how many responses of servers are new, and how old the others are; nothing where none was needed."""
    if counts is not None:
        console.print(
            f"responses of servers: {counts.new:,} new, {counts.cached:,} from {counts.cache}, the oldest of "
            f"{counts.oldest}; requests sent: {counts.requests:,}. For fresh responses, name a new --cache",
            style="dim",
        )
