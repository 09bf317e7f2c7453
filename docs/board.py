"""The board that ships with the repository: editors on a pretrained model, as tables for pages."""

from collections.abc import Sequence
from pathlib import Path

from counterfact.evaluation.tables import Row, Table, entry_cells, to_markdown

BOARD = Path(__file__).resolve().parent.parent / "data" / "board"


def board_table(name: str, editors: Sequence[str] = ()) -> str:
    """Return the table of one folder of submissions, its editors in the order of Score S.

    Args:
        name: of a folder in `data/board/`.
        editors: which ones; by default all.
    """
    from counterfact.contracts.benchmarks import BENCHMARKS  # noqa: PLC0415
    from counterfact.leaderboard.submission import find_candidates, read_submission  # noqa: PLC0415

    runs = [read_submission(folder).run for folder in find_candidates(BOARD / name).folders]
    runs = [run for run in runs if not editors or run["editor"]["name"] in editors]
    first = runs[0]
    dataset, model = first["dataset"], first["model"]
    benchmark = BENCHMARKS.get(first["protocol"]["name"])
    # Without generated texts there is nothing to say in their columns.
    shown = [
        (group, tuple(column for column in columns if first["metrics"].get(column, {}).get("value") is not None))
        for group, columns in benchmark.columns
    ]
    rows = [Row(f"{model['name']} (unedited)", entry_cells(first["pre"]), str(first["n"]["unedited"]["scored"]))]
    for run in sorted(runs, key=lambda run: -run["metrics"]["S"]["value"]):
        rows.append(Row(run["editor"]["name"], entry_cells(run["metrics"]), str(run["n"]["scored"])))
    return to_markdown(
        Table(
            title=f"{dataset['name']}@{dataset['version']}, {model['name']}@{model['revision']}",
            groups=tuple((group, columns) for group, columns in shown if columns),
            rows=tuple(rows),
            notation=benchmark.notation,
            note="x100, with the 95 % interval",
        )
    ).rstrip()
