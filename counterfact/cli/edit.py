"""`counterfact edit`: change one fact, look at the model before and after, keep the edit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.panel import Panel
from rich.table import Table

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
    console,
    load_plugins,
    moment_words,
    notes,
    open_model,
    progress_bar,
    say_first_tokens,
)
from counterfact.core.errors import BadInput
from counterfact.core.files import canonical_json, check_no_content
from counterfact.core.prompts import check_template, fill, read_templates
from counterfact.core.subjects import joiner_after

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
    also: Annotated[list[str] | None, typer.Option(help="Other prompts to look at, subject filled in.")] = None,
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
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the context templates too.")] = False,
    as_json: Json = False,
) -> None:
    """Edit one fact and show next-token probabilities and a text before and after.

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
    try:
        check_template(prompt)
    except ValueError as error:
        raise BadInput(str(error)) from error
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
        notes.print(f"{editor}: {chosen.resolved.source}", style="dim", soft_wrap=True)
        if moment := chosen.provenance.get("second_moment"):
            notes.print(moment_words(moment), style="dim", soft_wrap=True)
        for template in chosen.provenance.get("context_templates", ()) if verbose else ():
            notes.print(f"context: {template!r}", style="dim", markup=False, soft_wrap=True)
        request = Request(0, prompt, subject, str(target), true, joiner=joiner_after(prompt))
        say_first_tokens(editor, edited_at_first_token(lm, chosen.resolved.settings, [request]), 1)
        made = chosen(request)
        asked = {"prompt": prompt, "subject": subject, "target_new": request.target_new, "target_true": true}
        about = {"editor": editor, "requests": [asked]}
        failed = why_not_taken(lm, request, made)
    if save is not None:
        save_edits(save, [made], {"model": lm.identity, **about})
    lost = None if save_model is None else write_model(save_model, lm, [made], about)
    left_out = {} if save_adapter is None else write_adapter(save_adapter, lm, [made], about=about)
    prompts = [fill(prompt, subject), *(also or [])]
    shown = [(text, say(lm, text, seed=seed), say(lm, text, made, seed=seed)) for text in prompts]
    if as_json:
        values = [{"prompt": text, "before": vars(a), "after": vars(b)} for text, a, b in shown]
        found: dict[str, Any] = {"edit": made.diagnostics, "not_taken": failed, "prompts": values}
        found |= {} if save_model is None else {"model": {"folder": str(save_model), "lost_in_rounding": lost}}
        found |= {} if save_adapter is None else {"adapter": {"folder": str(save_adapter), "left_out": left_out}}
        console.print(canonical_json(found), soft_wrap=True, markup=False)
        return
    for text, before, after in shown:
        _print(text, before, after)
    console.print("  ".join(f"{name} {value:.4g}" for name, value in made.diagnostics.items()), style="dim")
    if failed is not None:
        console.print(f"The edit did not take: {failed}.", style="yellow", markup=False, soft_wrap=True)
    if save is not None:
        console.print(f"saved to {save}; apply it with --load {save}")
    if save_model is not None:
        console.print(f"the edited model is in {save_model}, its weights in {dtype}{_loss_words(lost)}", soft_wrap=True)
    if save_adapter is not None:
        console.print(f"the edit is in {save_adapter}, as a LoRA adapter", soft_wrap=True, markup=False)


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
    console.print(f"\n{prompt} …", style="bold", markup=False)
    table = Table("before", "p", "after", "p")
    for (old, p), (new, q) in zip(before.next_tokens, after.next_tokens, strict=True):
        table.add_row(old.strip() or repr(old), f"{p:.1%}", new.strip() or repr(new), f"{q:.1%}")
    console.print(table)
    console.print(Panel(before.text, title="before", title_align="left"), markup=False)
    console.print(Panel(after.text, title="after", title_align="left"), markup=False)
