"""`counterfact known`: the facts that a model knows, as a file to trace."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import Device, Dtype, Limit, Model, Seed, console, open_model, progress_bar
from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    from counterfact.lm.model.loading import LM
    from counterfact.tracing.facts import BadFact, Fact
    from counterfact.tracing.known import Question


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("known")(known)


def known(
    out: Annotated[Path, typer.Option(help="The file to write, a JSON list like known_1000.json.")],
    model: Model = "factlm",
    dataset: Annotated[str | None, typer.Option(help="Ask the prompts of these CounterFact records.")] = None,
    pararel: Annotated[
        Path | None, typer.Option(help="Ask the tuples of a folder in ParaRel's layout; default: embedded.")
    ] = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Keep the facts whose true object a model names before any other capitalised word: what to trace.

    Example: `counterfact known --model factlm --out known.json`
    """
    if dataset is not None and pararel is not None:
        raise BadInput("--dataset and --pararel name two sources of facts; choose one")
    questions = from_records(dataset) if dataset else from_tuples(pararel, seed)
    facts = write_known(open_model(model, device, dtype), questions[:limit], out)
    console.print(f"{len(facts):,} of {len(questions[:limit]):,} facts are known: {out}")


def from_records(dataset: str) -> "list[Question]":
    """Return the rewriting prompts of a data set with their true objects."""
    from counterfact.contracts.datasets import load_dataset  # noqa: PLC0415
    from counterfact.core.records import BadRecord  # noqa: PLC0415
    from counterfact.tracing.known import Question  # noqa: PLC0415

    requests = [record.request for record in load_dataset(dataset).records if not isinstance(record, BadRecord)]
    return [
        Question(request.prompt, request.subject, request.target_true, request.relation_id)
        for request in requests
        if request.target_true is not None
    ]


def from_tuples(folder: "Path | None", seed: int) -> "list[Question]":
    """Return every tuple with one of its relation's templates, in an order that a seed shuffles."""
    from counterfact.builders.sources.pararel import load_pararel  # noqa: PLC0415
    from counterfact.core.places import data_folder  # noqa: PLC0415
    from counterfact.core.seeds import derive_seed  # noqa: PLC0415
    from counterfact.tracing.known import Question  # noqa: PLC0415

    drawn = []
    for relation in load_pararel(folder or data_folder() / "pararel"):
        for fact in relation.tuples if relation.templates else ():
            number = derive_seed(seed, "known", fact.uuid)
            template = relation.templates[number % len(relation.templates)]
            drawn.append((number, Question(template, fact.subject, fact.object, relation.id)))
    return [question for _, question in sorted(drawn, key=lambda pair: pair[0])]


def write_known(lm: "LM", questions: "list[Question]", out: Path) -> "list[Fact]":
    """Ask the model and write what it knows; what cannot be asked is counted and said."""
    from counterfact.core.files import write_json  # noqa: PLC0415
    from counterfact.tracing.facts import Fact  # noqa: PLC0415
    from counterfact.tracing.known import known_facts  # noqa: PLC0415

    with progress_bar("asking") as advance:
        found: list[Fact | BadFact] = known_facts(lm, questions, lambda done, total: advance("facts", done, total))
    facts = [fact for fact in found if isinstance(fact, Fact)]
    if bad := len(found) - len(facts):
        console.print(f"{bad} could not be asked", style="dim")
    write_json(out, [fact.model_dump() for fact in facts])
    return facts
