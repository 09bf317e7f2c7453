"""`counterfact edit`: change one fact, look at the model before and after, keep the edit."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.panel import Panel
from rich.text import Text

from counterfact.cli._common import (
    Contexts,
    Device,
    Dtype,
    Engine,
    Json,
    MaxTexts,
    Model,
    Plugin,
    Precision,
    Seed,
    Set,
    Texts,
    Verbose,
    console,
    load_plugins,
    note,
    note_moment,
    note_settings,
    open_model,
    print_json,
    progress_bar,
    say_first_tokens,
)
from counterfact.cli._tables import print_table
from counterfact.core.errors import BadInput
from counterfact.core.files import check_no_content
from counterfact.core.prompts import fill, read_templates

if TYPE_CHECKING:
    from counterfact.evaluation.showcase import Saying
    from counterfact.lm.edits.edit import Edit


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("edit")(edit)


def edit(
    prompt: Annotated[str, typer.Argument(help="Prompt with {} for the subject.")],
    subject: Annotated[str, typer.Option(help="The subject of the fact.")],
    target: Annotated[str | None, typer.Option(help="The new object; leave out with --load.")] = None,
    true: Annotated[
        str | None, typer.Option(help="The object before the edit, which the new one must beat for the edit to take.")
    ] = None,
    editor: Annotated[str, typer.Option(help="Name of the editor.")] = "rome",
    model: Model = "factlm",
    save: Annotated[Path | None, typer.Option(help="Write the edit to this .safetensors file.", dir_okay=False)] = None,
    save_model: Annotated[
        Path | None, typer.Option(help="Write the edited model to this folder, which transformers loads.")
    ] = None,
    save_adapter: Annotated[
        Path | None, typer.Option(help="Write the edit to this folder, as a LoRA adapter that peft loads.")
    ] = None,
    load: Annotated[
        Path | None, typer.Option(help="Apply an edit that was saved, or an adapter, instead of making one.")
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="Another prompt to look at, {} for the subject; may be repeated.")
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Show so many sampled texts beside the likeliest one.")] = 0,
    set_: Set = None,
    texts: Texts = "embedded",
    max_texts: MaxTexts = None,
    contexts: Contexts = None,
    seed: Seed = 0,
    engine: Engine = "batched",
    device: Device = None,
    dtype: Dtype = "float32",
    precision: Precision = "strict",
    plugin: Plugin = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Edit one fact and show what the model says before and after.

    Example: `counterfact edit "{} is headquartered in" --subject "Paramount Pictures" --target "Oslo"
    --save edit.safetensors`

    The edited model, for other programs: `counterfact edit "{} is headquartered in" --subject "Paramount Pictures"
    --load edit.safetensors --save-model edited-model`
    """
    from counterfact import Request, load_adapter, load_editor, load_edits, save_edits, say  # noqa: PLC0415
    from counterfact import save_adapter as write_adapter  # noqa: PLC0415
    from counterfact import save_model as write_model  # noqa: PLC0415
    from counterfact.contracts.editors import edited_at_first_token, settings_of  # noqa: PLC0415
    from counterfact.evaluation.showcase import why_not_taken  # noqa: PLC0415

    if (target is None) == (load is None):
        raise BadInput("give either --target, to make an edit, or --load, to apply one")
    prompt, subject = _bare("prompt", prompt), _bare("subject", subject)
    target, true = target and _bare("target", target), true and _bare("true object", true)
    prompts = [_filled(prompt, subject), *(_filled(each, subject) if "{}" in each else each for each in also or ())]
    for folder in (save_model, save_adapter):
        if folder is not None:
            check_no_content(folder, "an edited model")
    load_plugins(plugin)
    templates = None if contexts is None else read_templates(contexts)
    settings_of([editor], set_ or ())
    lm, failed, about = open_model(model, device, dtype, precision), None, dict[str, Any]()
    if load is not None:
        made = load_adapter(load, lm) if load.is_dir() else _only(load_edits(load, lm), load)
    else:
        with progress_bar("edit") as advance:
            chosen = load_editor(
                lm,
                editor,
                set_ or (),
                texts=texts,
                max_texts=max_texts,
                contexts=templates,
                seed=seed,
                engine=engine,
                progress=advance,
            )
        note_settings(editor, chosen.resolved, verbose=verbose)
        note_moment(editor, chosen.provenance, verbose=verbose)
        for template in chosen.provenance.get("context_templates", ()) if verbose else ():
            note(f"context: {template!r}")
        request = Request(0, prompt, subject, str(target), true)
        say_first_tokens(editor, edited_at_first_token(lm, chosen.resolved.settings, [request]), 1)
        made = chosen(request)
        asked = {"prompt": prompt, "subject": subject, "target_new": request.target_new, "target_true": true}
        about = {"editor": editor, "requests": [asked]}
        failed = why_not_taken(lm, request, made)
    if save is not None:
        save_edits(save, [made], {"model": lm.identity, **about})
    lost = None if save_model is None else write_model(save_model, lm, [made], about)
    left_out = {} if save_adapter is None else write_adapter(save_adapter, lm, [made], about=about)
    look = partial(say, lm, seed=seed, samples=samples)
    shown = [(text, look(text), look(text, made)) for text in prompts]
    if as_json:
        values = [{"prompt": text, "before": vars(a), "after": vars(b)} for text, a, b in shown]
        found: dict[str, Any] = {"edit": made.diagnostics, "not_taken": failed, "prompts": values}
        found |= {} if save_model is None else {"model": {"folder": str(save_model), "lost_in_rounding": lost}}
        found |= {} if save_adapter is None else {"adapter": {"folder": str(save_adapter), "left_out": left_out}}
        print_json(found)
        return
    for text, before, after in shown:
        _print(text, before, after)
    console.print("  ".join(f"{name} {value:.4g}" for name, value in made.diagnostics.items()), style="dim")
    if failed is not None:
        console.print(f"The edit did not take: {failed}.", style="yellow")
    if save is not None:
        console.print(f"saved to {save}; apply it with --load {save}")
    if save_model is not None:
        console.print(f"the edited model is in {save_model}, its weights in {dtype}{_loss_words(lost)}")
    if save_adapter is not None:
        console.print(f"the edit is in {save_adapter}, as a LoRA adapter")


def _loss_words(lost: float | None) -> str:
    """Say what rounding takes of an edit that is written into the weights."""
    if lost is None:
        return ""
    return f": rounding to it takes {lost:.1%} of the edit, by Frobenius norm; with --dtype float32 it is written whole"


def _only(edits: "list[Edit]", path: Path) -> "Edit":
    if len(edits) != 1:
        raise BadInput(f"{path} holds {len(edits)} edits; expected one")
    return edits[0]


def _print(prompt: str, before: "Saying", after: "Saying") -> None:
    console.print(f"\n{prompt} …", style="bold")
    rows = [
        (old.strip() or repr(old), f"{p:.1%}", new.strip() or repr(new), f"{q:.1%}")
        for (old, p), (new, q) in zip(before.next_tokens, after.next_tokens, strict=True)
    ]
    print_table(("before", "p", "after", "p"), rows)
    for title, told in (("before", before), ("after", after)):
        for number, text in enumerate((told.text, *told.samples)):
            heading = title if not number else f"{title}, sample {number}"
            console.print(Panel(Text(text), title=heading, title_align="left"), soft_wrap=False)


def _filled(template: str, subject: str) -> str:
    try:
        return fill(template, subject)
    except ValueError as error:
        raise BadInput(str(error)) from error


def _bare(what: str, text: str) -> str:
    """Return an argument without blanks at its ends, which would be tokens of their own; say where there were any."""
    if text != text.strip():
        note(f"blanks at the ends of the {what} are left out: {text!r}")
    return text.strip()
