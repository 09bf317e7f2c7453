"""`counterfact stats`: what a data set is made of."""

from typing import Annotated

import typer

from counterfact.cli._common import Json, Limit, console
from counterfact.core.errors import BadInput
from counterfact.core.files import canonical_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("stats")(stats)


def stats(
    dataset: Annotated[str, typer.Argument(help="A folder that build wrote, a .json/.jsonl file, or a Hub id.")],
    paper: Annotated[bool, typer.Option(help="Show the paper's own figures beside.")] = True,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Count what a CounterFact data set is made of, in the form of the paper's Table 2.

    Example: `counterfact stats datasets/counterfact`
    """
    from counterfact.builders.statistics import PAPER_TABLE_2, stats_json, table_2  # noqa: PLC0415
    from counterfact.cli._counts import statistics_table  # noqa: PLC0415
    from counterfact.contracts.datasets import load_dataset  # noqa: PLC0415
    from counterfact.core.records import BadRecord  # noqa: PLC0415
    from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord  # noqa: PLC0415

    data = load_dataset(dataset, limit)
    records = [record for record in data.records if isinstance(record, CounterFactRecord)]
    bad = [record for record in data.records if isinstance(record, BadRecord)]
    if not records:
        raise BadInput(f"{dataset} holds no CounterFact records; Table 2 is about CounterFact")
    if as_json:
        console.print(canonical_json(stats_json(records)), soft_wrap=True, markup=False)
        return
    console.print(statistics_table(table_2(records), data.label, PAPER_TABLE_2 if paper else ()))
    for record in bad[:10]:
        console.print(f"left out: record {record.case_id}: {record.reason}", markup=False)
