"""`counterfact demo`: the main job on the embedded world, or with a pretrained model, with the command of each step."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from counterfact.cli._common import Seed, console, note_settings, open_model, progress_bar
from counterfact.cli._tables import print_table, print_tables
from counterfact.cli.build import build, zsre
from counterfact.cli.data import print_statistics
from counterfact.cli.leaderboard import read_board, write_board
from counterfact.cli.train import train_all
from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    from counterfact.api.evaluating import Runs
    from counterfact.contracts.datasets import Dataset

EDITORS = ["identity", "ft", "ft_l", "rome", "r_rome"]
HYPERNETWORKS = ["kn", "ke", "ke_cf", "ke_zsre", "mend", "mend_cf", "mend_zsre", "mend_cf_neighbors"]
"""The other rows of the paper's Tables 1 and 4, and ours; most need a network, which takes minutes to train."""

EIFFEL = ("{} is located in the city of", "--subject", "The Eiffel Tower", "--target", "Rome")
LOUVRE = "The Louvre is located in the city of"


class Budget:
    """Where the time went, by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block."""
        start = perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start

    def print(self) -> None:
        """Print the stages and their sum."""
        stages = {**self.seconds, "all": sum(self.seconds.values())}
        print_table(("stage", "seconds"), [(name, f"{seconds:.1f}") for name, seconds in stages.items()], title="Time")


REAL_MODEL = "smollm2"
REAL_EDITORS = ["ft", "ft_l", "rome", "r_rome"]
MOMENT_TOKENS = 100_000
"""Tokens of the second moment for a pretrained model."""
TRACED = 5
"""Facts that are traced through a pretrained model."""


def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder of everything; default: demo or, with --real, demo-real.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model as elsewhere; default: factlm or, with --real, smollm2.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Records of each data set; default: 100 or, with --real, 50.")
    ] = None,
    seed: Seed = 0,
    hypernetworks: Annotated[
        bool, typer.Option("--hypernetworks", help="Train KE and MEND too, some minutes more, and show KN.")
    ] = False,
    real: Annotated[
        bool, typer.Option("--real", help="With a pretrained model, on the records that it knows.")
    ] = False,
    generate: Annotated[bool, typer.Option("--generate", help="With --real: texts too, for fluency.")] = False,
) -> None:
    """Build the data sets, edit the model with several editors, measure, and rank; all offline.

    Example: `counterfact demo --out demo --limit 100`, or `counterfact demo --real`
    """
    if real and hypernetworks:
        raise BadInput("--hypernetworks trains for the embedded model; leave it out with --real")
    if generate and not real:
        raise BadInput("--generate goes with --real; without it texts are generated in any case")
    if real:
        _demo_real(out or Path("demo-real"), model or REAL_MODEL, limit or 50, seed, generate=generate)
    else:
        _demo_embedded(out or Path("demo"), model or "factlm", limit or 100, seed, hypernetworks=hypernetworks)


def _demo_embedded(out: Path, model: str, limit: int, seed: int, *, hypernetworks: bool) -> None:
    from counterfact import Options, Runs, evaluate, load_dataset  # noqa: PLC0415
    from counterfact.leaderboard.board import board_of, ranking_in_words  # noqa: PLC0415

    budget = Budget()
    with budget.stage("build"):
        _step(f"counterfact build --out {out}/counterfact --seed {seed}")
        build(out=out / "counterfact", pararel=None, sparql=None, prompts=None, articles=None, relation=None, seed=seed)
        _step(f"counterfact stats {out}/counterfact --paper")
        _print_statistics(load_dataset(out / "counterfact"))
        _step(f"counterfact zsre --out {out}/zsre")
        zsre(out=out / "zsre", source=None, limit=None, name=None)
    with budget.stage("load the model"):
        lm = open_model(model)
    if hypernetworks:
        _step(f"counterfact train --all --model {model} --seed {seed}")
        with budget.stage("train the hypernetworks"):
            train_all(2, ["--model", model, "--seed", str(seed)])
    runs = Runs()
    chosen = EDITORS + (HYPERNETWORKS if hypernetworks else [])
    editors = " ".join(f"--editor {name}" for name in chosen)
    for name in ("counterfact", "zsre"):
        _step(
            f"counterfact evaluate --dataset {out}/{name} --model {model} --limit {limit} --out {out}/results {editors}"
        )
        with budget.stage(f"edit and measure on {name}"), progress_bar(name) as advance:
            data, options = load_dataset(out / name, limit), Options(seed=seed, progress=advance)
            runs = Runs([*runs, *evaluate(lm, data, chosen, out / "results", options=options, announce=note_settings)])
    with budget.stage("many edits at once, and one after another"):
        many = out / "counterfact-multi"
        run_command("build", "--non-conflicting", "--from", out / "counterfact", "--out", many)
        asked = ["--dataset", many, "--model", model, "--limit", limit, "--no-generate", "--seed", seed]
        asked += ["--out", out / "many-edits"]
        run_command("evaluate", *asked, "--editor", "memit", "--edits-at-once", limit)
        run_command("evaluate", *asked, "--editor", "rome", "--sequential", "--measure-after", "10,30,100")
        run_command("curves", out / "many-edits", "--out", out / "curves")
    with budget.stage("tables, picture and page"):
        _step(f"counterfact summarize {out}/results; counterfact leaderboard build {out}/results --out {out}/site")
        _print_results(runs)
        entries, left_out = read_board(out / "results")
        for group in board_of(entries):
            if group["content"]:  # of our own runs
                console.print(ranking_in_words(group), style="bold")
        page = write_board(entries, left_out, out / "site")
    budget.print()
    console.print(f"\nThe ranking as a picture: {page.with_name('ranking.png')}; as a page: {page}", style="bold")
    console.print(f"What is left of many edits, in pictures: {out / 'curves'}", style="bold")


def _demo_real(out: Path, model: str, limit: int, seed: int, *, generate: bool) -> None:
    """Edit one fact, then the records of the embedded world that a pretrained model knows; trace some of them."""
    from counterfact import describe_editor  # noqa: PLC0415
    from counterfact.evaluation.known import write_known  # noqa: PLC0415
    from counterfact.lm.model.packaged import packaged_model  # noqa: PLC0415

    budget, built, known = Budget(), out / "counterfact", out / "known"
    if packaged_model(model):
        with budget.stage("fetch the model"):
            run_command("fetch-model", model)
    layer = next(setting.value for setting in describe_editor("rome", model).settings if setting.name == "layer")
    moment = out / "second-moment.safetensors"
    with budget.stage("second moment"):
        run_command("second-moment", "--model", model, "--layers", layer, "--tokens", MOMENT_TOKENS, "--out", moment)
    asked = ["--model", model, "--texts", moment, "--seed", seed]
    with budget.stage("edit one fact"):
        run_command("edit", *EIFFEL, "--also", LOUVRE, *asked)
    with budget.stage("build"):
        run_command("build", "--out", built, "--seed", seed)
    with budget.stage("keep what it knows"):
        taken, among = write_known(open_model(model), built, known, limit)
        console.print(f"{taken} of the first {among:,} records hold a fact that the model knows: {known}")
    with budget.stage("edit and measure"):
        editors = [word for name in REAL_EDITORS for word in ("--editor", name)]
        texts = "--generate" if generate else "--no-generate"
        run_command("evaluate", "--dataset", known, "--out", out / "results", *editors, texts, *asked)
    with budget.stage("trace"):
        run_command("known", "--dataset", known, "--model", model, "--out", out / "facts.json")
        facts = ["--facts", out / "facts.json", "--limit", TRACED]
        run_command("trace", *facts, "--model", model, "--out", out / "traces")
        run_command("figures", out / "traces", "--out", out / "figures")
    with budget.stage("picture and page"):
        run_command("leaderboard", "build", out / "results", "--out", out / "site")
    budget.print()
    console.print(f"\nThe ranking as a picture: {out / 'site' / 'ranking.png'}", style="bold")


def run_command(*words: object) -> None:
    """Print a command and run it, in this process."""
    from counterfact.cli.main import app  # noqa: PLC0415

    arguments = [str(word) for word in words]
    _step(shlex.join(["counterfact", *arguments]))
    if code := app(arguments, standalone_mode=False):
        raise typer.Exit(code)


def _step(command: str) -> None:
    console.print(f"\n$ {command}", style="bold cyan")


def _print_statistics(data: "Dataset") -> None:
    from counterfact.builders.audit.statistics import PAPER_TABLE_2, table_2  # noqa: PLC0415
    from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord  # noqa: PLC0415

    records = [record for record in data.records if isinstance(record, CounterFactRecord)]
    print_statistics(table_2(records), f"Table 2 for {data.label}", PAPER_TABLE_2)


def _print_results(runs: "Runs") -> None:
    from counterfact.evaluation.summary import compare  # noqa: PLC0415

    print_tables(runs.tables, "terminal")
    first = next(run for run in runs if run.editor == "rome")
    others = [run for run in runs if run.dataset == first.dataset and run.editor != "rome"]
    print_tables([compare(others, first)], "terminal")
