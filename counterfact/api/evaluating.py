"""Evaluate editors on a data set: one run for each, and the tables of them all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.contracts.editors import EDITORS, Engine, Resources, settings_of
from counterfact.core.errors import BadInput
from counterfact.core.records import BadRecord
from counterfact.core.settings import Choices, Resolved
from counterfact.core.texts import load_texts
from counterfact.evaluation import harness
from counterfact.evaluation.known import known_records
from counterfact.evaluation.store import Run
from counterfact.evaluation.summary import render, summary_tables
from counterfact.evaluation.tables import Table
from counterfact.evaluation.task import Options
from counterfact.lm.model.language_model import LM

Announce = Callable[[str, Resolved[Any]], None]
"""Function that is called with an editor's name, and its settings in force with where they come from."""


class Runs(tuple[Run, ...]):
    """Finished runs, in the order of their editors; a notebook shows them as tables."""

    @property
    def tables(self) -> list[Table]:
        """One table for each data set and model, as the paper prints it."""
        return summary_tables(self)

    def __str__(self) -> str:
        """The tables in Markdown."""
        return render(self.tables, "markdown")

    _repr_markdown_ = __str__


def evaluate(
    lm: LM,
    dataset: Dataset | str | Path,
    editors: str | Sequence[str] = "rome",
    out: str | Path = "results",
    *,
    settings: Choices = (),
    texts: str | Path = "embedded",
    max_texts: int | None = None,
    contexts: Sequence[str] | None = None,
    networks: Mapping[str, Path] | None = None,
    known: bool = False,
    engine: Engine = "batched",
    orders: int = 1,
    options: Options | None = None,
    announce: Announce | None = None,
) -> Runs:
    """Edit a model with each editor on each record, and measure; what an earlier call began goes on.

    Args:
        lm: the model.
        dataset: a data set, or what `load_dataset` reads.
        editors: name of an editor, or several.
        out: folder of results; each run has a folder of its own below it.
        settings: settings that differ from the published ones: `layer` for all editors that have it, `rome.layer` for
            one.
        texts: texts for second moments of keys, as `load_texts` takes them; opened only for an editor that needs them.
        max_texts: how many of these texts.
        contexts: context templates, the bare `{}` first, for editors that take them; by default the model's own texts.
        networks: folders of trained networks, by the editor's name; others are looked for where `train` leaves them.
        known: take only records whose fact the unedited model knows: its greedy continuation of their prompt is the
            true object. A run says so, and `summarize` shows it below one on all records.
        engine: `batched`, or `plain`: one record at a time, by whole forward passes.
        orders: how many orders of the records each editor edits in, of edits one after another; a run for each, the
            first in the order of the data set.
        options: seed, generation, who computes, and what is told of the progress.
        announce: told, before each run, its editor, the settings in force and where they come from.

    Raises:
        BadInput: an argument cannot be used, the model knows none of the facts that are to be known, or a folder was
            begun with something else.
        OSError: the disk is full; what is finished stays.
    """
    names = [editors] if isinstance(editors, str) else list(editors)
    shares = settings_of(names, settings)
    data = dataset if isinstance(dataset, Dataset) else load_dataset(dataset)
    data = _only_known(lm, data) if known else data
    chosen, options = [EDITORS.get(name) for name in names], options or Options()
    resolved = [spec.resolve(lm.name, lm.n_layers, shares[spec.name]) for spec in chosen]
    given = Resources(
        second_moment_max_texts=max_texts,
        context_templates=None if contexts is None else tuple(contexts),
        networks=networks or {},
        seed=options.seed,
        engine=engine,
    )
    schedules = [replace(options.schedule, order=order) for order in range(orders)]
    open_texts, runs = cache(lambda: load_texts(texts)), []
    asked = [
        (spec, found, spec.resources(given, found.settings, open_texts))
        for spec, found in zip(chosen, resolved, strict=True)
    ]
    for spec, found, resources in asked:  # before the first of them takes hours
        harness.check_editor(lm, spec, found, resources, options)
    for spec, found, resources in asked:
        if announce is not None:
            announce(spec.name, found)
        for schedule in schedules:
            run = replace(options, schedule=schedule)
            runs.append(harness.evaluate(lm, spec, found, data, Path(out), resources=resources, options=run))
    return Runs(runs)


def _only_known(lm: LM, data: Dataset) -> Dataset:
    """Return the part of a data set whose facts a model knows.

    Raises:
        BadInput: its records have no true objects, or the model knows none of them.
    """
    good = [record for record in data.records if not isinstance(record, BadRecord)]
    if not any(record.request.target_true is not None for record in good):
        raise BadInput(
            f"{data.path}: whether a model knows a fact is asked by its true object, and records of "
            f"{data.benchmark.title} have none; evaluate all of them"
        )
    found = known_records(lm, good)
    if not found:
        raise BadInput(f"{lm.name} knows none of the {len(good):,} facts of {data.path}; evaluate all of them")
    return replace(data, records=tuple(found), known_of=len(data.records))
