"""The plain loop of causal tracing, one whole forward pass for each cell: what the fast one is held against."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from counterfact.lm.model.hooks import Patch, Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.tracing.facts import Prompt

Pair = tuple[Site, Patch]


def site(lm: LM, part: str, layer: int) -> Site:
    if layer < 0:
        return Site(lm.layout.embed)
    names = {"state": lm.layout.block, "mlp": lm.layout.mlp_to_stream, "attn": lm.layout.attention_to_stream}
    return Site(names[part](layer))


def corrupting(lm: LM, prompt: Prompt, noise: Tensor, replace: bool) -> Pair:
    """Row 0 stays clean; noise goes to the corrupted positions of the others."""

    def corrupt(rows: Tensor) -> Tensor:
        rows = rows.clone()
        span = slice(prompt.begin, prompt.corrupted_end)
        rows[1:, span] = noise.to(rows) + (0 if replace else rows[1:, span])
        return rows

    return Site(lm.layout.embed), corrupt


def restoring(lm: LM, part: str, layer: int, token: int) -> Pair:
    """Put row 0's value of one output at one token into all other rows."""

    def restore(rows: Tensor) -> Tensor:
        rows = rows.clone()
        rows[1:, token] = rows[0, token]
        return rows

    return site(lm, part, layer), restore


def putting(lm: LM, part: str, layer: int, token: int, value: Tensor) -> Pair:
    """Force one output at one token to `value`, (rows, width)."""

    def put(rows: Tensor, value: Tensor) -> Tensor:
        rows = rows.clone()
        rows[1:, token] = value[1:]
        return rows

    return site(lm, part, layer), partial(put, value=value)


@torch.no_grad()
def run(
    lm: LM, prompt: Prompt, noise: Tensor, pairs: Sequence[Pair] = (), answer: int | None = None, replace: bool = False
) -> tuple[int, Tensor]:
    """Return the clean run's answer, and its probability in every row."""
    ids = torch.tensor([prompt.ids] * (1 + len(noise)))
    with hooked(lm.model, corrupting(lm, prompt, noise, replace), *pairs):
        last = lm.model(ids, use_cache=False).logits[:, -1].double().softmax(-1)
    answer = int(last[0].argmax()) if answer is None else answer
    return answer, last[:, answer]


def score(lm: LM, prompt: Prompt, noise: Tensor, pairs: Sequence[Pair], replace: bool = False) -> float:
    """Return the mean over the corrupted rows of the answer's probability, under `pairs`."""
    return float(run(lm, prompt, noise, pairs, replace=replace)[1][1:].mean())


def cell(lm: LM, prompt: Prompt, noise: Tensor, kind: str, token: int, layer: int, window: int) -> list[Pair]:
    """Return the patches of one cell."""
    if kind == "state":
        return [restoring(lm, "state", layer, token)]
    if kind in {"mlp", "attn"}:
        layers = range(max(0, layer - window // 2), min(lm.n_layers, layer + (window + 1) // 2))
        return [restoring(lm, kind, other, token) for other in layers]
    part, tape = kind.removeprefix("severed_"), Tape()
    sites = [site(lm, part, other) for other in range(lm.n_layers)]
    run(lm, prompt, noise, [tape.read(one) for one in sites])
    frozen = [putting(lm, part, other, token, tape[one][:, token]) for other, one in enumerate(sites)]
    return [*frozen, restoring(lm, "state", layer, token)]
