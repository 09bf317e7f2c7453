"""`counterfact trace` and `figures`: where a model keeps its facts, and pictures of it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterfact.cli._common import (
    Device,
    Dtype,
    Limit,
    MaxMemory,
    Model,
    Precision,
    bytes_of,
    console,
    open_model,
    progress_bar,
)
from counterfact.cli.known import from_tuples, write_known
from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from counterfact.lm.model.loading import LM
    from counterfact.lm.planning.batch_plan import Plan
    from counterfact.tracing.corruption import Corruption
    from counterfact.tracing.methods import Compute
    from counterfact.tracing.store import TraceRun

Results = Annotated[Path, typer.Option(help="Folder of results.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("trace")(trace)
    app.command("figures")(figures)


def trace(
    facts: Annotated[Path, typer.Option(help="A known_1000.json, or what `counterfact known` wrote.")],
    method: Annotated[
        list[str] | None, typer.Option(help="causal, severed or ig; may be repeated. Default: causal.")
    ] = None,
    model: Model = "factlm",
    noise: Annotated[
        str, typer.Option(help="s3 (sigmas of the subjects' embeddings), 0.1 (std), u0.5 (uniform), m, t4.")
    ] = "s3",
    samples: Annotated[int, typer.Option(min=1, help="Corrupted runs of each prompt.")] = 10,
    window: Annotated[int | None, typer.Option(min=1, help="Layers in a window; default 10, less if shallow.")] = None,
    extra_token: Annotated[bool, typer.Option(help="Corrupt the token after the subject too (figure 15).")] = False,
    replace: Annotated[bool, typer.Option(help="Noise in place of the embedding, not added to it.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 1,
    one_seed: Annotated[bool, typer.Option(help="The same noise for every fact, as the paper's code does.")] = False,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the quadrature (ig).")] = 50,
    single: Annotated[bool, typer.Option(help="Scale one token's state at a time (ig).")] = False,
    texts: Annotated[str, typer.Option(help="Texts for the noise rules m and t.")] = "embedded",
    out: Results = Path("results"),
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = "float32",
    precision: Precision = "strict",
    max_memory: MaxMemory = None,
) -> None:
    """Trace facts through a model; stop at any moment and run it again to go on.

    Example: `counterfact trace --facts known.json --method causal --method severed --limit 200`
    """
    from counterfact.core.texts import load_texts  # noqa: PLC0415
    from counterfact.tracing.causal import trace_plan  # noqa: PLC0415
    from counterfact.tracing.corruption import make_corruption  # noqa: PLC0415
    from counterfact.tracing.facts import Fact, read_facts  # noqa: PLC0415
    from counterfact.tracing.methods import METHODS  # noqa: PLC0415

    methods = method or ["causal"]
    if unknown := [name for name in methods if name not in METHODS]:
        raise BadInput(f"expected methods among {', '.join(METHODS)}, got {unknown[0]!r}")
    asked = read_facts(facts)
    lm = open_model(model, device, dtype, precision)
    plan = None if max_memory is None else trace_plan(lm, bytes_of(max_memory))
    # The scale of the noise is that of all facts in the file, however many of them are traced.
    subjects = [fact.subject for fact in asked if isinstance(fact, Fact)]
    corruption = make_corruption(
        lm,
        noise,
        subjects=subjects,
        texts=load_texts(texts).texts() if noise[:1] in {"m", "t"} else (),
        samples=samples,
        seed=seed,
        replace=replace,
        one_seed=one_seed,
    )
    width = default_window(lm.n_layers) if window is None else window
    for name in methods:
        settings, compute = _method(
            name, lm, corruption, window=width, extra_token=extra_token, nodes=nodes, single=single, plan=plan
        )
        run = run_method(lm, name, settings, compute, asked[:limit], out)
        _say(run)


def default_window(n_layers: int) -> int:
    """Return the paper's ten layers, or half the depth of a model that has no more than ten.

    >>> default_window(48), default_window(12), default_window(6)
    (10, 10, 3)
    """
    return 10 if n_layers > 10 else max(1, n_layers // 2)


def _method(
    name: str,
    lm: "LM",
    corruption: "Corruption",
    *,
    window: int,
    extra_token: bool,
    nodes: int,
    single: bool,
    plan: "Plan | None" = None,
) -> "tuple[dict[str, Any], Compute]":
    from counterfact.tracing.methods import causal_method, gradient_method, severed_method  # noqa: PLC0415

    if name == "ig":
        return gradient_method(lm, nodes=nodes, single=single)
    if name == "severed":
        return severed_method(lm, corruption, extra_token=extra_token, plan=plan)
    return causal_method(lm, corruption, window=window, extra_token=extra_token, plan=plan)


def run_method(lm: "LM", name: str, settings: dict[str, Any], compute: "Compute", facts: Any, out: Path) -> "TraceRun":
    """Trace all facts with one method, with a progress bar."""
    from counterfact.lm.model.precision import float32_products  # noqa: PLC0415
    from counterfact.tracing.store import keep, run_identity  # noqa: PLC0415

    with progress_bar(f"trace {name}") as advance, float32_products(lm.precision):
        told: Callable[[int, int], None] = partial(advance, "facts")
        return keep(out, run_identity(lm, name, settings, facts), facts, compute, progress=told)


def _say(run: "TraceRun") -> None:
    from counterfact.tracing.averages import average, best_sites, severed_effects  # noqa: PLC0415
    from counterfact.tracing.causal import CAVEAT  # noqa: PLC0415
    from counterfact.tracing.cells import KINDS  # noqa: PLC0415

    right = [line for line in run.good if line["correct"]]
    bad = len(run.lines) - len(run.good)
    console.print(f"{run.folder}: {len(run.good)} facts, {len(right)} answered rightly, {bad} could not be traced")
    for line in [line for line in run.lines if "error" in line][:3]:
        console.print(f"  fact {line['known_id']}: {line['error']}", style="dim", markup=False)
    if run.method == "severed" and right:
        for words in severed_effects([run.read(line) for line in right], run.first_layer):
            console.print(f"  at the last subject token, {words}")
    if run.method == "causal" and right:
        for words in best_sites({kind: average(run.facts(), kind) for kind in KINDS}):
            console.print(f"  {words}")
        console.print(CAVEAT, style="dim")


def figures(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders; every run of traces below them is drawn.")] = None,
    model: Annotated[str, typer.Option(help="Without folders: trace this model first, on what it knows.")] = "factlm",
    out: Annotated[Path, typer.Option(help="Folder of the figures; default: `figures` in each run.")] = Path("figures"),
    results: Results = Path("results"),
    limit: Annotated[int, typer.Option(min=1, help="Facts to trace, without folders.")] = 200,
    each: Annotated[int, typer.Option(min=0, help="Draw a picture of each of so many facts.")] = 10,
    compare: Annotated[bool, typer.Option(help="Draw the causal runs of the folders into one figure instead.")] = False,
    device: Device = None,
) -> None:
    """Draw saved traces, in vector and PNG, with one page a run to browse facts; without folders, make them first.

    Example: `counterfact figures results --out figures`
    """
    from counterfact.tracing.compare import draw_comparison  # noqa: PLC0415
    from counterfact.tracing.figures import draw_run  # noqa: PLC0415
    from counterfact.tracing.store import find_runs  # noqa: PLC0415

    found = find_runs(runs) if runs else trace_what_it_knows(model, results, limit, device)
    if compare:
        console.print(f"{draw_comparison(found, out)[-1]}")
        return
    for run in found:
        with progress_bar(f"drawing {run.method}") as advance:
            folder = out / run.folder.parent.name / run.folder.name
            page = draw_run(run, folder, each, partial(advance, "figures"))
        console.print(f"{page}")


def trace_what_it_knows(model: str, results: Path, limit: int, device: str | None) -> "list[TraceRun]":
    """Make the facts a model knows, and trace them with every method: what `make figures` draws."""
    from counterfact.tracing.corruption import make_corruption  # noqa: PLC0415
    from counterfact.tracing.facts import BadFact, Fact, read_facts  # noqa: PLC0415

    lm = open_model(model, device)
    path = results / f"known-{lm.name.replace('/', '--')}@{lm.revision[:8]}.json"
    if not path.exists():
        write_known(lm, from_tuples(None, 0)[: 4 * limit], path)
    facts: list[Fact | BadFact] = read_facts(path)
    if not facts:
        raise BadInput(f"{model} knows none of the facts asked")
    subjects = [fact.subject for fact in facts if isinstance(fact, Fact)]
    corruption = make_corruption(lm, "s3", subjects=subjects)
    window, done = default_window(lm.n_layers), []
    plans: list[tuple[str, bool]] = [("causal", False), ("causal", True), ("severed", False), ("ig", False)]
    for name, extra_token in plans:
        settings, compute = _method(
            name, lm, corruption, window=window, extra_token=extra_token, nodes=50, single=False
        )
        done.append(run_method(lm, name, settings, compute, facts[: 20 if name == "ig" else limit], results))
        _say(done[-1])
    return done
