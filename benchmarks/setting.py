"""What the benchmarks run on: a model, records, and what ROME needs once for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from builders.counterfact import BuildSettings, build_counterfact, embedded_sources
from core.datasets import load_dataset
from core.errors import BadInput
from core.places import cache_folder, data_folder
from core.records import CounterFactRecord
from core.settings import Settings
from core.texts import TextSource
from editors import EDITORS, Resources
from editors._contexts import context_templates
from editors.rome import RomeSettings
from lm.loading import LM, load_lm, wrap_lm
from lm.second_moment import SecondMoment

LAYERS, WIDTH, HEADS, VOCABULARY = 6, 192, 6, 4096
MOMENT_RECORDS = 64
"""The second moment is taken over the prompts of so many records: its content does not matter for speed."""


@dataclass(frozen=True)
class Setting:
    """Everything that exists before the clock starts."""

    lm: LM
    dataset: str
    records: Sequence[CounterFactRecord]
    settings: RomeSettings
    templates: tuple[str, ...]
    moment: SecondMoment


def open_records(source: str | None, count: int) -> tuple[str, list[CounterFactRecord]]:
    """Return a data set's name and its first records; by default it is built from the embedded world.

    Raises:
        BadInput: there is no such data set, or it has fewer records of the CounterFact kind.
    """
    if source is None:
        folder = cache_folder() / "bench" / "counterfact"
        build_counterfact(embedded_sources(), BuildSettings(), folder)
        source = str(folder)
    dataset = load_dataset(source)
    records = [record for record in dataset.records if isinstance(record, CounterFactRecord)]
    if len(records) < count:
        raise BadInput(f"{source}: expected at least {count} CounterFact records, got {len(records)}")
    return f"{dataset.name}@{dataset.version}", records


def open_model(name: str, records: Sequence[CounterFactRecord], device: str | None) -> LM:
    """Load a model by folder, Hub id or embedded name; `random` is a GPT-2 of factlm's size with random weights."""
    if name == "random":
        return random_lm(records, torch.device(device or "cpu"))
    embedded = data_folder() / "models" / name
    return load_lm(embedded if embedded.is_dir() and not Path(name).exists() else name, device=device)


def random_lm(records: Sequence[CounterFactRecord], device: torch.device) -> LM:
    """Make a model of 6 x 192 with a tokenizer of 4,096 tokens, trained so that most targets are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    asked = [record.requested_rewrite for record in records]
    targets = [f"x {target.text}" for rewrite in asked for target in (rewrite.target_new, rewrite.target_true)]
    tokenizer.train_from_iterator([*prompts_of(records), *targets * 50], trainer)
    wrap: Any = PreTrainedTokenizerFast
    wrapped = wrap(tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_layer=LAYERS,
        n_embd=WIDTH,
        n_head=HEADS,
        n_positions=256,
        initializer_range=0.08,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: Any = GPT2LMHeadModel(config)
    return wrap_lm(model.to(device), wrapped, name="random-6x192")


def prompts_of(records: Sequence[CounterFactRecord]) -> list[str]:
    """Return all texts of some records: prompts and targets."""
    texts = []
    for record in records:
        asked = record.requested_rewrite
        texts += [
            f"{record.request.filled} {asked.target_new.text}",
            f"{record.request.filled} {asked.target_true.text}",
        ]
        texts += [*record.paraphrase_prompts, *record.neighborhood_prompts, *record.generation_prompts]
    return texts


def prepare(model: str, dataset: str | None, chunk: int, device: str | None, overrides: Sequence[str]) -> Setting:
    """Load and compute what is there once for all records: model, context templates, second moment."""
    name, records = open_records(dataset, chunk)
    lm = open_model(model, records, device)
    resolved = EDITORS.get("rome").resolve(lm.name, lm.n_layers, overrides)
    settings: Settings = resolved.settings
    assert isinstance(settings, RomeSettings)
    texts = prompts_of(records[:MOMENT_RECORDS])
    source = TextSource("prompts", str(hash(tuple(texts))), lambda: iter(texts))
    resources = Resources(second_moment_texts=source, cache=cache_folder() / "bench")
    return Setting(
        lm=lm,
        dataset=name,
        records=records[:chunk],
        settings=settings,
        templates=context_templates(lm, resources, settings.context_lengths, settings.contexts_per_length),
        moment=resources.second_moment(lm, settings.layer),
    )
