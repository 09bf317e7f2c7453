"""The one pass of clean and corrupted rows that every trace of a fact starts from."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from counterfact.lm.forward.blocks import embed, logits, run_blocks
from counterfact.lm.forward.caches import KVRecorder
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import is_out_of_memory
from counterfact.tracing.facts import Prompt

Module = Literal["mlp", "attn"]
MODULES: tuple[Module, ...] = ("mlp", "attn")


@dataclass(frozen=True, eq=False)
class Base:
    """What the clean run (row 0) and the corrupted runs (rows 1 ...) of one prompt left behind."""

    prompt: Prompt
    answer: int
    """The clean run's likeliest next token."""
    high: float
    """Probability of the answer in the clean run."""
    low: Tensor
    """Probability of the answer in each corrupted run, (samples,)."""
    embedded: Tensor
    """States before the first block, (1 + samples, tokens, width)."""
    states: Tensor
    """Outputs of the blocks, (layers, 1 + samples, tokens, width)."""
    outputs: dict[Module, Tensor]
    """Outputs of MLPs and attentions, of the same shape."""
    keys: tuple[Tensor, ...]
    """Keys by layer, (1 + samples, heads, tokens, head width)."""
    values: tuple[Tensor, ...]


def site_of(lm: LM, module: Module, layer: int) -> Site:
    """Return the site of a module's output, what it adds to the residual stream."""
    layout = lm.layout
    return Site(layout.mlp_to_stream(layer) if module == "mlp" else layout.attention_to_stream(layer))


def run_base(lm: LM, prompt: Prompt, noise: Tensor, *, replace: bool) -> Base:
    """Run a prompt once clean and once with each noise sample.

    Args:
        lm: the model.
        prompt: its tokens.
        noise: (samples, corrupted tokens, width).
        replace: whether noise stands in the place of the embeddings, instead of being added to them.

    Raises:
        ValueError: the model gives NaN.
    """
    noise = noise.to(lm.device, lm.dtype)
    span = slice(prompt.begin, prompt.corrupted_end)

    def corrupt(rows: Tensor) -> Tensor:
        rows = rows.clone()
        rows[1:, span] = noise if replace else rows[1:, span] + noise
        return rows

    tape, recorder = Tape(), KVRecorder()
    blocks = [Site(lm.layout.block(layer)) for layer in range(lm.n_layers)]
    parts = {module: [site_of(lm, module, layer) for layer in range(lm.n_layers)] for module in MODULES}
    ids = torch.tensor(prompt.ids, device=lm.device).expand(1 + len(noise), -1)
    with hooked(lm.model, (Site(lm.layout.embed), corrupt)):
        embedded = embed(lm, ids)
    with hooked(lm.model, *(tape.read(site) for sites in (blocks, *parts.values()) for site in sites)):
        last = run_blocks(lm, embedded, 0, lm.n_layers, cache=recorder)[:, -1]
    scores = logits(lm, last)
    if not scores.isfinite().all():
        raise ValueError("the model gave NaN or infinite logits")
    answer = int(scores[0].argmax())
    found = probability(scores, torch.full((len(scores),), answer, device=lm.device))
    return Base(
        prompt=prompt,
        answer=answer,
        high=float(found[0]),
        low=found[1:],
        embedded=embedded,
        states=torch.stack([tape[site] for site in blocks]),
        outputs={module: torch.stack([tape[site] for site in sites]) for module, sites in parts.items()},
        keys=tuple(recorder.keys[layer] for layer in range(lm.n_layers)),
        values=tuple(recorder.values[layer] for layer in range(lm.n_layers)),
    )


def costs_a_fact(error: Exception) -> bool:
    """Return whether an error is one fact's, and the others go on: it cannot be traced, or memory does not suffice."""
    return isinstance(error, ValueError) or is_out_of_memory(error)


def probability(scores: Tensor, answers: Tensor) -> Tensor:
    """Return the probability of each row's answer: logits (rows, vocabulary) to (rows,), in float32 or wider."""
    scores = scores if scores.dtype == torch.float64 else scores.float()
    return scores.log_softmax(1).gather(1, answers[:, None])[:, 0].exp()


def run_beside(lm: LM, before: Tensor, layer: int, attended: Tensor) -> Tensor:
    """Run a block as if its attention added `attended` to the residual stream, whatever it gives.

    Args:
        lm: the model.
        before: the states before it, (rows or 1, tokens, width).
        layer: the block.
        attended: (rows, tokens, width).
    """
    if lm.layout.adds_in_place:
        before = before.expand(len(attended), -1, -1)
    with hooked(lm.model, (site_of(lm, "attn", layer), lambda _: attended)):
        return run_blocks(lm, before, layer, layer + 1)
