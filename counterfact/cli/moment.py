"""`counterfact second-moment`: E[k kᵀ] of MLP keys, the statistics that ROME needs, for any model and text."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterfact.cli._common import (
    Device,
    Dtype,
    Json,
    Model,
    Precision,
    Texts,
    console,
    error_words,
    notes,
    open_model,
    print_json,
    progress_bar,
)
from counterfact.cli.sweep import parse_layers
from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    from counterfact.core.texts import TextSource
    from counterfact.lm.model.language_model import LM
    from counterfact.lm.moments.corpus_pass import Advance
    from counterfact.lm.moments.second_moment import SecondMoment


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("second-moment")(second_moment)


def second_moment(
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", "--layer", help="From 0: 17, 3-8, 5,9 or all; one pass serves all of them."),
    ] = None,
    model: Model = "factlm",
    texts: Texts = "embedded",
    max_texts: Annotated[
        int | None, typer.Option("--max-texts", "--limit", min=1, help="How many of these texts, from the first.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Stop at the group of 100 texts that reaches them.")] = None,
    so_far: Annotated[bool, typer.Option("--so-far", help="Use what an unfinished pass has summed so far.")] = False,
    import_: Annotated[
        list[Path] | None, typer.Option("--import", help="Check this .safetensors or .npz file and keep it.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Also copy into this folder or, of a single one, to this .safetensors file.")
    ] = None,
    max_memory: Annotated[
        float | None, typer.Option(min=0.001, help="GB for sums; more passes if they take more. Default: half of all.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    precision: Precision = "strict",
    as_json: Json = False,
) -> None:
    """Compute and cache second moments; goes on where it stopped, and says what so few tokens do to an edit.

    Example: `counterfact second-moment --model gpt2-xl --layers 17 --texts 'wikimedia/wikipedia:20231101.en#1'
    --max-texts 100000`
    """
    from counterfact.core.places import cache_folder  # noqa: PLC0415
    from counterfact.core.texts import load_texts  # noqa: PLC0415
    from counterfact.lm.model.loading import read_config  # noqa: PLC0415
    from counterfact.lm.moments.given import import_moment, place_for_copies  # noqa: PLC0415

    if bool(layers) == bool(import_):
        raise BadInput("give either --layers, to compute second moments, or --import, to take in files of them")
    numbers = parse_layers(",".join(layers or []), int(read_config(model).num_hidden_layers)) if layers else []
    target = None if out is None else place_for_copies(out, len(numbers or import_ or ()))
    lm = open_model(model, device, dtype, precision)
    folder = cache_folder() / "second_moments"
    if import_:
        found = [_describe(import_moment(path, lm, folder), target) for path in import_]
    else:
        job = _Job(lm, load_texts(texts), max_texts, tokens, folder, target)
        found = job.so_far(numbers) if so_far else job.compute(numbers, max_memory)
    if as_json:
        print_json(found)
        return
    for facts in found:
        console.print(_line(facts))


class _Job:
    """Second moments over one source of texts."""

    def __init__(
        self, lm: "LM", texts: "TextSource", max_texts: int | None, tokens: int | None, folder: Path, out: Path | None
    ) -> None:
        if texts.moments:
            raise BadInput(f"{texts.name} holds second moments; take them in with --import")
        self.lm, self.texts, self.folder, self.out = lm, texts, folder, out
        self.limits = {"max_texts": max_texts, "max_tokens": tokens}

    def so_far(self, layers: list[int]) -> list[dict[str, Any]]:
        """Take what there is at the last checkpoint."""
        from counterfact.lm.moments.second_moment import so_far  # noqa: PLC0415

        found = so_far(self.lm, layers, self.texts, folder=self.folder, **self.limits)
        return [_describe(moment, self.out) for moment in found.values()]

    def compute(self, layers: list[int], max_memory: float | None) -> list[dict[str, Any]]:
        """Compute, or find, in as few passes as memory allows; only what is said of a pass is kept of it."""
        from counterfact.lm.moments.corpus_pass import plan_passes, sum_bytes, usual_limit  # noqa: PLC0415
        from counterfact.lm.moments.second_moment import second_moments  # noqa: PLC0415

        allowed = usual_limit(self.lm.device) if max_memory is None else int(max_memory * 1e9)
        passes = plan_passes(self.lm, layers, allowed)
        most = max(sum(sum_bytes(self.lm, layer) for layer in group) for group in passes)
        disk = sum(sum_bytes(self.lm, layer) for layer in layers) / 2
        notes.print(
            f"{_count(len(layers), 'layer')} in {_count(len(passes), 'pass', 'passes')}: {_size(most)} of memory for "
            f"sums, as much on the disk for a checkpoint; {_size(disk)} of files in {self.folder}",
            style="dim",
        )
        found = []
        for group in passes:
            with _progress(f"layers {group[0]}-{group[-1]}" if len(group) > 1 else f"layer {group[0]}") as told:
                moments = second_moments(self.lm, group, self.texts, folder=self.folder, progress=told, **self.limits)
            found += [_describe(moments[layer], self.out) for layer in group]
        return found


@contextmanager
def _progress(label: str) -> Iterator[Callable[["Advance"], None]]:
    """Show how far a pass has come; at the end say how fast it was."""
    start, latest = time.monotonic(), None
    with progress_bar("second moments") as advance:

        def told(now: "Advance") -> None:
            nonlocal latest
            latest = now
            advance(label, now.texts, now.total, f"{now.tokens:,} tokens, {now.tokens_per_second:,.0f} tokens/s")

        yield told
    if latest is not None:
        seconds = time.monotonic() - start
        notes.print(f"{label}: {latest.tokens:,} tokens; {seconds:,.1f} s, {latest.tokens_per_second:,.0f} tokens/s")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _describe(moment: "SecondMoment", out: Path | None) -> dict[str, Any]:
    from counterfact.lm.moments.given import copy_moment, moment_facts  # noqa: PLC0415

    assert moment.path is not None
    facts = moment_facts(moment.path)
    path = moment.path if out is None else copy_moment(moment, out)
    return {**facts, "path": str(path), "width": len(moment.matrix), "ridge": moment.ridge}


def _line(facts: dict[str, Any]) -> str:
    """One layer's second moment in words."""
    read = f" of {facts['read']:,} texts" if "read" in facts else ""
    parts = [f"layer {facts['layer']}: {facts['width']} x {facts['width']} from {facts['count']:,} tokens{read}"]
    parts[0] += f", {facts['texts']['name']}" + ("" if facts["complete"] else ", not complete")
    if facts["ridge"]:
        parts.append(f"singular, so a ridge of {facts['ridge']:.1e} is added: take more texts")
    if error := facts["sampling"]:
        parts.append(error_words(error, complete=facts["complete"]))
    elif "read" in facts:
        parts.append("too few tokens to say how far an edit's direction is from its limit")
    left_out = {"unreadable": "could not be read", "not_finite": "gave keys that are not finite"}
    parts += [f"{facts[name]:,} texts {why}" for name, why in left_out.items() if facts.get(name)]
    return "\n  ".join([*parts, str(facts["path"])])
