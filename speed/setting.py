"""What the benchmarks run on: a model, records, and what ROME needs once for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import torch

from counterfact.contracts.datasets import load_dataset
from counterfact.contracts.editors import EDITORS, Resources
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json
from counterfact.core.places import cache_folder, data_folder
from counterfact.core.settings import Settings
from counterfact.core.texts import TextSource
from counterfact.editing.contexts import context_templates
from counterfact.editors.rome import RomeSettings
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import Dtype, default_device, load_lm
from counterfact.lm.model.precision import Precision, check_precision
from counterfact.lm.moments.second_moment import SecondMoment
from speed.shapes import SHAPES, Shape, random_lm, read_tokenizer, train_tokenizer

MOMENT_RECORDS = 64
"""The second moment is taken over the prompts of so many records: its content does not matter for speed."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for on the command line."""

    model: str = "factlm"
    """A folder, a Hub id, or an embedded name."""
    shape: Shape | None = None
    """A size with random weights, in place of a model."""
    dataset: str | None = None
    """A built folder or a counterfact.json; `None`: built from the embedded world."""
    chunk: int = 32
    device: str | None = None
    dtype: Dtype = "float32"
    precision: Precision = "strict"
    tokenizer: Path | None = None
    """Folder of GPT-2's tokenizer, for a shape; `None`: one is trained on the records."""
    overrides: tuple[str, ...] = ()
    """Settings of ROME, as name=value."""


@dataclass(frozen=True)
class Setting:
    """Everything that exists before the clock starts."""

    lm: LM
    dataset: str
    records: Sequence[CounterFactRecord]
    distinct: int
    """So many of the records differ; the others repeat them, with case ids of their own."""
    settings: RomeSettings
    templates: tuple[str, ...]
    moment: SecondMoment


def open_records(source: str | None) -> tuple[str, list[CounterFactRecord]]:
    """Return a data set's name and its records; by default it is built from the embedded world.

    Raises:
        BadInput: there is no such data set, or it has no records of the CounterFact kind.
    """
    if source is None:
        # A machine that only measures needs none of the builders' packages.
        from counterfact.builders.counterfact import build  # noqa: PLC0415

        folder = cache_folder() / "bench" / "counterfact"
        build(folder)
        source = str(folder)
    dataset = load_dataset(source)
    records = [record for record in dataset.records if isinstance(record, CounterFactRecord)]
    if not records:
        raise BadInput(f"{source}: expected CounterFact records, found none")
    return dataset.label, records


def repeated(records: Sequence[CounterFactRecord], count: int) -> list[CounterFactRecord]:
    """Return `count` records, the given ones again and again if they are too few, then with new case ids."""
    if count <= len(records):
        return list(records[:count])
    return [record.model_copy(update={"case_id": i}) for i, record in enumerate(islice(cycle(records), count))]


def open_model(name: str, records: Sequence[CounterFactRecord], device: str | None, dtype: Dtype = "float32") -> LM:
    """Load a model by folder, Hub id or embedded name; `random` is a GPT-2 of factlm's size with random weights."""
    if name == "random":
        tokenizer = train_tokenizer(records, prompts_of(records))
        return random_lm(SHAPES["factlm-like"], tokenizer, "factlm-like", device=device or "cpu", dtype=dtype)
    embedded = data_folder() / "models" / name
    found = embedded if embedded.is_dir() and not Path(name).exists() else name
    return load_lm(found, device=device, dtype=dtype)


def prompts_of(records: Sequence[CounterFactRecord]) -> list[str]:
    """Return all texts of some records: prompts and targets."""
    texts = []
    for record in records:
        asked = record.requested_rewrite
        texts += [
            f"{record.request.filled} {asked.target_new.text}",
            f"{record.request.filled} {asked.true_text}",
        ]
        texts += [*record.paraphrase_prompts, *record.neighborhood_prompts, *record.generation_prompts]
    return texts


def prepare(wanted: Wanted) -> Setting:
    """Load and compute what is there once for all records: model, context templates, second moment."""
    name, records, lm, settings = _begin(wanted)
    texts = prompts_of(records[:MOMENT_RECORDS])
    source = TextSource("prompts", hash_json(texts), lambda: iter(texts))
    resources = Resources(second_moment_texts=source, cache=cache_folder() / "bench")
    moment = resources.second_moment(lm, settings.layer)
    if wanted.shape is None:
        templates = context_templates(lm, resources, settings.context_lengths, settings.contexts_per_length)
    else:
        templates, moment = _contexts(lm, records, settings), _well_conditioned(moment)
    distinct = min(len(records), wanted.chunk)
    return Setting(lm, name, repeated(records, wanted.chunk), distinct, settings, templates, moment)


def describe_only(wanted: Wanted) -> Setting:
    """Return what work is counted from, for a shape; on the device `meta` no weights are made."""
    name, records, lm, settings = _begin(wanted)
    nothing = SecondMoment(torch.empty(0, 0), 0, settings.layer, "", "")
    rows, distinct = repeated(records, wanted.chunk), min(len(records), wanted.chunk)
    return Setting(lm, name, rows, distinct, settings, _contexts(lm, records, settings), nothing)


def _begin(wanted: Wanted) -> tuple[str, list[CounterFactRecord], LM, RomeSettings]:
    name, records = open_records(wanted.dataset)
    lm, overrides = _open(wanted, records), wanted.overrides
    check_precision(wanted.precision, lm.device, lm.dtype)
    lm = replace(lm, precision=wanted.precision)
    if wanted.shape is not None:
        overrides = (f"layer={wanted.shape.edited_layer}", *overrides)
    settings: Settings = EDITORS.get("rome").resolve(lm.name, lm.n_layers, list(overrides)).settings
    assert isinstance(settings, RomeSettings)
    return name, records, lm, settings


def _open(wanted: Wanted, records: Sequence[CounterFactRecord]) -> LM:
    if wanted.shape is None:
        return open_model(wanted.model, records, wanted.device, wanted.dtype)
    given = wanted.tokenizer
    tokenizer = train_tokenizer(records, prompts_of(records)) if given is None else read_tokenizer(given)
    name = f"{wanted.shape.layers}x{wanted.shape.width}"
    device = torch.device(wanted.device) if wanted.device else default_device()
    return random_lm(wanted.shape, tokenizer, name, device=device, dtype=wanted.dtype)


def _well_conditioned(moment: SecondMoment) -> SecondMoment:
    """So few texts leave some directions all but empty; both sides must find the same solution in float32."""
    diagonal = moment.matrix.diagonal()
    return replace(moment, matrix=moment.matrix + 0.01 * diagonal.mean() * torch.eye(len(diagonal)).to(diagonal))


def _contexts(lm: LM, records: Sequence[CounterFactRecord], settings: RomeSettings) -> tuple[str, ...]:
    """Context templates as long as generated ones, of the records' own words: random weights write no words."""
    texts = (prompt for record in cycle(records) for prompt in record.generation_prompts)
    templates = ["{}"]
    for length in settings.context_lengths:
        for text in islice(texts, settings.contexts_per_length):
            begun = lm.decode((lm.tokens(text) * length)[: length - 1])
            templates.append(begun.replace("{", " ").replace("}", " ") + ". {}")
    return tuple(templates)
