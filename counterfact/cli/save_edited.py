"""`counterfact save-edited`: an edited model for other programs, whole or as a LoRA adapter, and on the Hub."""

from pathlib import Path
from typing import Annotated, Any

import typer

from counterfact.cli._common import Contexts, Device, Json, Plugin, Texts, console, load_plugins, print_json
from counterfact.cli._edited import Sources, open_edited
from counterfact.core.errors import BadInput
from counterfact.core.files import check_no_content


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("save-edited")(save_edited)


def save_edited(
    edited: Annotated[Path, typer.Argument(help="A run, a file of `edit --save`, or an adapter's folder.")],
    record: Annotated[
        list[int] | None,
        typer.Option(help="Of a run: the record whose edit is taken, by its case_id; may be repeated."),
    ] = None,
    save_model: Annotated[Path | None, typer.Option(help="Write the edited model to this folder.")] = None,
    save_adapter: Annotated[
        Path | None, typer.Option(help="Write the edits to this folder, as a LoRA adapter.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of an adapter: singular values kept of a change of full rank.")
    ] = None,
    push: Annotated[str | None, typer.Option(help="Upload what is written to this repository, org/name.")] = None,
    version: Annotated[str, typer.Option(help="Version under which it is uploaded.")] = "1",
    private: Annotated[bool, typer.Option("--private", help="A repository made now is private.")] = False,
    model: Annotated[str | None, typer.Option(help="Where the model is, if not where its name says.")] = None,
    texts: Texts = "embedded",
    contexts: Contexts = None,
    network: Annotated[Path | None, typer.Option(help="Folder of the editor's trained network.")] = None,
    device: Device = None,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Write an edited model as a folder that `transformers` loads, or its edits as an adapter that `peft` loads.

    A run has an edit for each group of records, which is made again from what the run keeps: `--record` says whose.
    Of edits one after another the sum is taken. Several edits are written together. A card says what was edited, and
    that it is false by design; the token for `--push` is the one of `hf auth login`, or HF_TOKEN.

    Example: `counterfact save-edited results/counterfact-multi@1/gpt2-xl@15ea56d/memit-3f9c21ab --record 0
    --save-adapter adapter --push org/gpt2-xl-edited`
    """
    from counterfact import save_adapter as write_adapter  # noqa: PLC0415
    from counterfact import save_model as write_model  # noqa: PLC0415

    load_plugins(plugin)
    if (save_model is None) == (save_adapter is None):
        raise BadInput("give either --save-model or --save-adapter, a folder to write")
    if rank is not None and save_adapter is None:
        raise BadInput("--rank is of an adapter: give it with --save-adapter")
    for folder in (save_model, save_adapter):
        if folder is not None:
            check_no_content(folder, "an edited model")
    found = open_edited(edited, record or (), Sources(model, device, texts, contexts, network))
    edits = [edit for _, edit in found.edits]
    said: dict[str, Any] = {"facts": sum(len(edit.request_ids) for edit in edits)}
    if save_adapter is not None:
        left_out = write_adapter(save_adapter, found.lm, edits, rank, found.about)
        said |= {"adapter": str(save_adapter), "left_out": max(left_out.values())}
        folder, words = save_adapter, f"an adapter, of which {max(left_out.values()):.1%} at most is left out"
    else:
        assert save_model is not None
        lost = write_model(save_model, found.lm, edits, found.about)
        said |= {"model": str(save_model), "lost_in_rounding": lost}
        folder, words = save_model, "an edited model" + ("" if lost is None else f", {lost:.1%} lost in rounding")
    if push is not None:
        said |= _push(folder, push, version, private, quiet=as_json)
    if as_json:
        print_json(said)
        return
    count = said["facts"]
    console.print(f"{folder}: {words}; {count:,} {'fact' if count == 1 else 'facts'}")
    if push is not None:
        console.print(f"{said['url']}: version {said['tag']}")


def _push(folder: Path, to: str, version: str, private: bool, *, quiet: bool) -> dict[str, Any]:
    from huggingface_hub import get_token  # noqa: PLC0415

    from counterfact.builders.hub.edited import stage_edited  # noqa: PLC0415
    from counterfact.builders.hub.upload import push as upload  # noqa: PLC0415

    def tell(message: str) -> None:
        if not quiet:
            console.print(message)

    done = upload(stage_edited(folder, to, version), get_token(), private=private, tell=tell)
    return {"url": done.url, "commit": done.commit, "tag": done.tag}
