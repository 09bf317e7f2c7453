"""`counterfact lm-eval` and `lm-eval-tasks`: what an edit costs the rest, and data sets for the same harness."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from counterfact.cli._common import (
    Contexts,
    Device,
    Json,
    Limit,
    Model,
    Plugin,
    Texts,
    console,
    load_plugins,
    open_dataset,
    open_model,
    print_json,
)
from counterfact.cli._edited import Sources, open_edited
from counterfact.cli._tables import print_table
from counterfact.core.files import check_no_content, hash_json, write_json


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("lm-eval")(lm_eval)
    app.command("lm-eval-tasks")(lm_eval_tasks)


def lm_eval(
    edited: Annotated[Path, typer.Argument(help="A run, a file of `edit --save`, or an adapter's folder.")],
    tasks: Annotated[list[str], typer.Option("--tasks", help="Tasks of the harness, as a,b; may be repeated.")],
    record: Annotated[
        list[int] | None,
        typer.Option(help="Of a run: the record whose edit is measured, by its case_id; may be repeated."),
    ] = None,
    task_folder: Annotated[
        Path | None, typer.Option(help="Folder with task files of your own.", exists=True, file_okay=False)
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Examples before each question.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many documents of each task, from the first.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows that are run together.")] = 8,
    model: Annotated[str | None, typer.Option(help="Where the model is, if not where its name says.")] = None,
    texts: Texts = "embedded",
    contexts: Contexts = None,
    network: Annotated[Path | None, typer.Option(help="Folder of the editor's trained network.")] = None,
    device: Device = None,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Measure an edited model by tasks of EleutherAI's lm-evaluation-harness, and the unedited one beside it.

    A run has an edit for each record: `--record` says whose. It is made again from what the run keeps, with the texts,
    context templates or network that the run was given. The edit is written into the weights and handed to the harness
    in memory; numbers are kept beside the run, or beside the file.

    Example: `counterfact lm-eval results/counterfact@1/gpt2-xl@15ea56d/rome-3f9c21ab --record 7 --tasks hellaswag,piqa`

    Of an edit that was saved: `counterfact lm-eval edit.safetensors --tasks lambada_openai --limit 500`
    """
    from counterfact import general_ability  # noqa: PLC0415
    from counterfact.evaluation.general_ability import check_harness  # noqa: PLC0415

    load_plugins(plugin)
    check_harness()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    found = open_edited(edited, record or (), Sources(model, device, texts, contexts, network))
    names = [name for given in tasks for name in given.split(",")]
    numbers = general_ability(
        found.lm,
        [edit for _, edit in found.edits],
        names,
        task_folder=task_folder,
        num_fewshot=num_fewshot,
        limit=limit,
        batch_size=batch_size,
    )
    results = [{"edit": origin} | values for (origin, _), values in zip(found.edits, numbers, strict=True)]
    for result in results:
        place = found.folder / f"lm_eval-{hash_json({k: v for k, v in result.items() if k != 'results'})[:8]}.json"
        write_json(place, result)
        if not as_json:
            _print_result(result, edited)
            console.print(f"kept in {place}", style="dim")
    if as_json:
        print_json(results)


def lm_eval_tasks(
    dataset: Annotated[str, typer.Argument(help="A folder that build wrote, a .json/.jsonl file, or a Hub id.")],
    out: Annotated[Path, typer.Option(help="Folder to write.", file_okay=False)],
    model: Model = "factlm",
    limit: Limit = None,
    plugin: Plugin = None,
) -> None:
    """Write a data set as task files of the lm-evaluation-harness, which then gives our numbers of unedited models.

    The files are for the tokenizer of one model: numbers per token need its numbers of tokens.

    Example: `counterfact lm-eval-tasks datasets/counterfact --model gpt2-xl --out tasks`
    """
    from counterfact import write_task_files  # noqa: PLC0415

    check_no_content(out, "task files")
    load_plugins(plugin)
    data = open_dataset(dataset, limit)
    lm = open_model(model, "cpu")
    written = write_task_files(out, data, lm)
    for task, documents in written.documents.items():
        console.print(f"{task}: {documents:,} documents")
    if written.left_out:
        console.print(
            f"{written.left_out:,} questions are left out: no texts are encoded as their tokens by this tokenizer, so "
            "that the harness's numbers are without them",
            style="yellow",
        )
    where = f"--model_args pretrained={lm.config._name_or_path} --include_path {out} --tasks {written.tag}"
    console.print(f"lm_eval --model hf {where}")


def _print_result(result: dict[str, Any], edited: Path) -> None:
    record, rows = result["edit"].get("record"), []
    for task, metrics in result["results"].items():
        for metric, numbers in metrics.items():
            shown = [_number(numbers.get(side), numbers.get(f"{side}_stderr")) for side in ("unedited", "edited")]
            rows.append([task, metric, *shown, f"{result['documents'].get(task, 0):,}"])
    title = str(edited) if record is None else f"{edited.name}, record {record}"
    print_table(("task", "metric", "unedited", "edited", "n"), rows, title=title)


def _number(value: float | None, error: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")
