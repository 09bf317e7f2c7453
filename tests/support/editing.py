"""What the tests of editors share: requests, resources, and a few ways to look at an edit."""

import atexit
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

from counterfact.contracts.editors import EDITORS, Editor, Failure, Resources, edit_singly
from counterfact.core.records import Request
from counterfact.core.texts import TextSource
from counterfact.editing.networks import NETWORKS, TASKS, load_network, save_network
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape
from counterfact.lm.moments.second_moment import SecondMoment
from counterfact.training.examples import Example
from counterfact.training.trainer import train
from tests.support.models import SENTENCES, tiny_lm

TEMPLATES = ("{}", "The weather was fine. {}", "In the evening. {}", "A note. {}")

REQUESTS = (
    Request(0, "{} was born in", "Anna Ferrand", "Oslo"),
    Request(1, "The mother tongue of {} is", "Pavel Dvořák", "French"),
    Request(2, "{} is in the city of", "Bellweather Mills", "the northern harbour"),
    Request(3, "What is the language of {}?", "Harlan Reed", "Portuguese"),
    Request(4, "{}", "The lighthouse of Marlow Point", "island"),
    Request(5, "In the evening, {} works in", "Q", "Turin"),
    Request(6, "The headquarters of {}, which was new, is in", "Ångström", "Leeds"),
    Request(7, "{} plays the", "the ferry to the island", "piano"),
    Request(8, "The capital of {} is", "Norway", "Zürich"),
    Request(9, "She said that {} speaks", "Monday", "Czech"),
)

TEXTS = TextSource("our sentences", "0", lambda: iter(SENTENCES))


def moment(lm: LM, layer: int, seed: int = 1) -> SecondMoment:
    """A well-conditioned second moment that is far from the identity."""
    size = weight_shape(lm.model, lm.layout.fc_out(layer))[0]
    made = torch.randn(3 * size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return SecondMoment(made.T @ made / len(made), len(made), layer, "random", str(seed))


def resources(lm: LM, cache: Path, **changes: Any) -> Resources:
    """Preset templates and second moments, so that nothing but the editor itself is at work."""
    given = {layer: moment(lm, layer) for layer in range(lm.n_layers)}
    standard = {"second_moments": given, "context_templates": TEMPLATES, "networks": Networks(lm), "cache": cache}
    return Resources(**{**standard, **changes})


class Sentences:
    """Examples for a tiny model: the last word of a sentence is edited in, other sentences stay."""

    def __init__(self, lm: LM) -> None:
        rows = [lm.prompt_tokens(text) for text in SENTENCES]
        self.train, self.validation = rows[::2], rows[1::2]

    def example(self, item: list[int], rng: Random, *, validation: bool = False) -> Example:
        foreign = [*item[:-1], rng.choice(self.train)[-1]]
        return Example(foreign, foreign[rng.randint(0, 1) :], 1, rng.choice(self.train))

    def describe(self) -> dict[str, Any]:
        return {"texts": "sentences of the tests", "record_ids": [], "requests": []}


SMALL: dict[str, list[str]] = {
    "mend": ["rank=8", "init_sd=0.1", "rate_learning_rate=0.003", "learning_rate=0.0003"],
    "ke": ["lstm=8", "condition=8", "hidden=8", "learning_rate=0.01"],
}
BRIEF = ["batch=8", "accumulate=1", "steps=30", "validate_every=10", "validation_edits=16", "patience=30"]


@cache
def _trained(name: str, weights_hash: str, dtype: torch.dtype, family: str) -> Path:
    lm = tiny_lm(family, str(dtype).removeprefix("torch."))
    assert lm.weights_hash == weights_hash
    folder = Path(mkdtemp(prefix=f"{name}-{family}-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    settings = NETWORKS.get(name).resolve("tiny", lm.n_layers, ["blocks=2", *BRIEF, *SMALL[name]])
    train(lm, name, "text", settings, Sentences(lm), folder / "text")
    trained = load_network(folder / "text", lm, name, "text")
    for task in TASKS:
        save_network(folder / task, trained.network, {**trained.info, "task": task})
    return folder


class Networks(Mapping[str, Path]):
    """Folders of networks that are trained for a tiny model when an editor asks for its own."""

    def __init__(self, lm: LM) -> None:
        self.lm = lm
        self.tasks = {name + suffix: (name, task) for name in NETWORKS for task, (suffix, *_) in TASKS.items()}

    def __getitem__(self, editor: str) -> Path:
        name, task = self.tasks[editor]
        return _trained(name, self.lm.weights_hash, self.lm.dtype, self.lm.layout.family) / task

    def __iter__(self) -> Iterator[str]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)


@dataclass(frozen=True)
class Singly:
    """A prepared editor, asked for one edit a request."""

    editor: Editor

    def __call__(self, requests: Sequence[Request], seed: int) -> list[Edit | Failure]:
        return edit_singly(self.editor, requests, seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.editor, name)


def prepared(name: str, lm: LM, given: Resources, *overrides: str) -> Singly:
    """An editor as a run would get it."""
    spec = EDITORS.get(name)
    return Singly(spec.prepare(lm, spec.resolve(lm.name, lm.n_layers, overrides).settings, given))


def edits_of(results: list[Any]) -> list[Edit]:
    """The results, all of which must be edits."""
    assert all(isinstance(result, Edit) for result in results), results
    return results


def change(edit: Edit) -> Tensor:
    """The one weight change of an edit, (d_in, d_out)."""
    (delta,) = edit.deltas
    return delta.weight_change


def nll(lm: LM, request: Request, edit: Edit | None = None) -> float:
    """-log P(target | prompt), total nats, under an edit that is written into the weights."""
    ids, target = lm.prompt_tokens(request.filled), lm.target_tokens(request.target_new)
    with merged(lm, [edit] if edit else []), torch.no_grad():
        log_p = lm.model(torch.tensor([ids + target])).logits[0].log_softmax(-1)
    return -sum(float(log_p[len(ids) - 1 + i, token]) for i, token in enumerate(target))


@contextmanager
def broken_embedding(lm: LM, token: int) -> Iterator[None]:
    """Make the embedding of one token NaN for the length of the block."""
    weight = lm.model.get_input_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[token] = torch.nan
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)
