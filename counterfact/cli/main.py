"""`counterfact`: one command line for building data sets, editing models, measuring and ranking."""

import logging
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from counterfact.cli import (
    audit,
    build,
    compare,
    data,
    edit,
    editors,
    evaluate,
    fetch_model,
    known,
    leaderboard,
    lm_eval,
    many_edits,
    moment,
    push,
    save_edited,
    snapshot,
    summarize,
    sweep,
    trace,
    train,
    updates,
)
from counterfact.cli._common import note_once
from counterfact.cli.demo import demo
from counterfact.cli.doctor import doctor
from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import disk_full
from counterfact.core.process import keep_few_products, keep_freed_memory, wait_briefly


class Interrupted(Exception):
    """Ctrl-C, before the library of the command line takes it for an exit without a word."""


class Commands(TyperGroup):
    """The commands; what interrupts them is told."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted from error


app = typer.Typer(
    cls=Commands,
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (
    *(build, snapshot, updates, data, audit, push),
    *(fetch_model, moment, train, editors, edit, evaluate, summarize, compare),
    *(save_edited, lm_eval, known, trace, sweep, leaderboard, many_edits),
):
    room.register(app)
app.command()(demo)
app.command()(doctor)

INTERRUPTED = 130
"""128 + SIGINT, what a shell expects of a program that was interrupted."""


def main() -> None:
    """Run the command line: exit 0 done, 1 failed, 2 wrong arguments, 130 interrupted."""
    note_once.cache_clear()
    wait_briefly(os.environ)
    keep_few_products(os.environ)
    keep_freed_memory(os.environ)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; a failure is said once, by us
    try:
        app()
    except BadInput as error:
        _stop(str(error), 2)
    except Failed as error:
        _stop(str(error), 1)
    except (Interrupted, KeyboardInterrupt):
        _stop("interrupted; run the same command again to go on", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if disk_full(error):
            _stop("the disk is full; free some space and run the same command again to go on", 1)
        if error.filename is None:
            raise
        _stop(f"{error.filename}: {error.strerror}; name another file or folder, or change what stands there", 1)


def _stop(message: str, code: int) -> None:
    sys.stderr.write(f"counterfact: {message}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
