"""Train the networks of the editors that need one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.contracts.editors import Resources
from counterfact.core.places import cache_folder, data_folder
from counterfact.core.settings import Choices, Resolved
from counterfact.core.texts import load_texts
from counterfact.editing.networks import NETWORKS, TASKS, Task
from counterfact.lm.model.language_model import LM
from counterfact.training.curves import draw_curves
from counterfact.training.sources import open_source
from counterfact.training.trainer import CURVES, Options
from counterfact.training.trainer import train as train_network


@dataclass(frozen=True)
class Training:
    """A network that is trained."""

    folder: Path
    """Where it lies; its curves are drawn there too."""
    info: Mapping[str, Any]
    """What the folder says of it: its settings, the step taken, its validation."""


def train(
    lm: LM,
    editor: str,
    data: Task = "counterfact",
    *,
    dataset: Dataset | str | Path | None = None,
    texts: str | Path = "embedded",
    max_texts: int | None = None,
    reserve: int = 1000,
    out: str | Path | None = None,
    settings: Choices = (),
    options: Options | None = None,
    announce: Callable[[Resolved[Any]], None] | None = None,
) -> Training:
    """Train the network of an editor for a model, or go on with a training; a finished one is read.

    Args:
        lm: the model.
        editor: `mend` or `ke`.
        data: what to train on.
        dataset: records, where `data` is not `text`; by default those of the embedded data.
        texts: plain texts, as `load_texts` takes them; opened only where the training needs them.
        max_texts: how many of these texts.
        reserve: CounterFact records for evaluation, from the first; their subjects are not trained on.
        out: folder of the network; by default, where `evaluate` looks for it.
        settings: settings that differ from the published ones.
        options: seed, precision, and what is told of the progress.
        announce: told the settings in force, and where they come from, before the training begins.

    Raises:
        BadInput: an argument cannot be used.
        Failed: no network came out.
    """
    spec, options = NETWORKS.get(editor), options or Options()
    resolved = spec.resolve(lm.name, lm.n_layers, settings)
    source = open_source(
        lm,
        data,
        resolved.settings,
        dataset=None if data == "text" else records_of(data, dataset),
        texts=load_texts(texts) if data in {"text", "counterfact"} else None,
        max_texts=max_texts,
        reserved=reserve,
        seed=options.seed,
    )
    folder = Path(out) if out else Resources().network_folder(lm, editor + TASKS[data][0])
    if announce is not None:
        announce(resolved)
    info = train_network(lm, editor, data, resolved, source, folder, options=options)
    draw_curves(folder / CURVES, folder / "curves.png", f"{editor}, trained on {data}, for {lm.name}")
    return Training(folder, info)


def records_of(data: Task, given: Dataset | str | Path | None) -> Dataset:
    """Return the records to train on: those given, else those of the embedded data, which are built once.

    Raises:
        BadInput: they cannot be read.
    """
    from counterfact.builders.counterfact import build  # noqa: PLC0415

    if isinstance(given, Dataset):
        return given
    if given:
        return load_dataset(given)
    if data == "zsre":
        return load_dataset(data_folder() / "zsre/train.json")
    out = cache_folder() / "datasets/counterfact"
    build(out)
    return load_dataset(out)
