"""Train factlm: a GPT-2 that looks facts up early, at the subject's last token.

Two additions, both dropped after training, make it so: what follows a subject sees only its last token, and two linear
heads read there, from the output of a low block, which objects the subject has and which subject it is.
Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from world.rows import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the data."""

    width: int = 192
    layers: int = 6
    heads: int = 6
    length: int = 256
    vocabulary: int = 6144
    steps: int = 4000
    fact_rows: int = 2
    article_rows: int = 7
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    decay: float = 0.05
    warm_up: float = 0.03
    head_layer: int = 2
    """The block whose output the throwaway heads read."""
    object_weight: float = 0.5
    identity_weight: float = 0.5
    seed: int = 0


class Heads(nn.Module):
    """The throwaway heads: object and identity of a subject from its last token's state.

    Args:
        width: size of a state.
        owned: `(subjects, objects)`, each row the distribution over the subject's objects.
    """

    owned: Tensor

    def __init__(self, width: int, owned: Tensor) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.object = nn.Linear(width, owned.shape[1])
        self.identity = nn.Linear(width, owned.shape[0])
        self.register_buffer("owned", owned)

    def forward(self, states: Tensor, subjects: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross entropies, in nats, of the objects and of the identity.

        Args:
            states: `(mentions, width)`.
            subjects: `(mentions,)` indices.
        """
        states = self.norm(states)
        objects = functional.cross_entropy(self.object(states).float(), self.owned[subjects])
        return objects, functional.cross_entropy(self.identity(states).float(), subjects)


def new_model(recipe: Recipe, end: int) -> GPT2LMHeadModel:
    """Return an untrained model; `end` is the id of the end-of-text token."""
    config = GPT2Config(
        vocab_size=recipe.vocabulary,
        n_positions=recipe.length,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    model = GPT2LMHeadModel(config)
    model.set_attn_implementation(
        "eager"
    )  # on a CPU faster than the fused one, whose backward pass is slow with a mask
    return model


def loss_of(model: GPT2LMHeadModel, heads: Heads, batch: Batch, recipe: Recipe) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch, and its parts in nats."""
    bias = torch.zeros(batch.visible.shape).masked_fill_(~batch.visible, torch.finfo(torch.float32).min)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.transformer(
            input_ids=batch.ids,
            attention_mask=bias,
            position_ids=batch.positions,
            output_hidden_states=True,
            use_cache=False,
        )
        counted = batch.weights[:, :-1] > 0
        logits = model.lm_head(output.last_hidden_state[:, :-1][counted])
        states = output.hidden_states[recipe.head_layer + 1][batch.lasts[:, 0], batch.lasts[:, 1]]
        objects, identity = heads(states, batch.subjects)
    nats = functional.cross_entropy(logits.float(), batch.ids[:, 1:][counted], reduction="none")
    weights = batch.weights[:, :-1][counted]
    words = (nats * weights).sum() / weights.sum()
    loss = words + recipe.object_weight * objects + recipe.identity_weight * identity
    return loss, {"words": words.item(), "objects": objects.item(), "identity": identity.item()}


def train(
    recipe: Recipe,
    batches: Iterator[Batch],
    owned: Tensor,
    end: int,
    watch: Callable[[int, Mapping[str, float]], None] | None = None,
) -> GPT2LMHeadModel:
    """Train a model for `recipe.steps` steps.

    Args:
        recipe: shapes and rates.
        batches: one a step.
        owned: `(subjects, objects)`, each row the distribution over the subject's objects.
        end: id of the end-of-text token.
        watch: is told the number of steps made and the parts of the loss, after each.

    Returns:
        The model, in float32, without the heads.
    """
    torch.manual_seed(recipe.seed)
    model = new_model(recipe, end)
    heads = Heads(recipe.width, owned)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    inner = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inner]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=recipe.decay),
        torch.optim.AdamW([*others, *heads.parameters()], lr=recipe.adam_rate, weight_decay=recipe.decay),
    ]
    rates = [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, recipe)) for optimizer in optimizers]
    model.train()
    for step in range(1, recipe.steps + 1):
        loss, parts = loss_of(model, heads, next(batches), recipe)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
        for optimizer, schedule in zip(optimizers, rates, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if watch:
            watch(step, parts)
    model.train(False)
    return model


def rate(step: int, recipe: Recipe) -> float:
    """Return the factor on the learning rates before step `step` (from 0): linear warm-up, linear decay.

    >>> [rate(step, Recipe(steps=100, warm_up=0.02)) for step in (0, 1, 51)]
    [0.5, 1.0, 0.5]
    """
    warm = max(1, round(recipe.warm_up * recipe.steps))
    return min((step + 1) / warm, (recipe.steps - step) / (recipe.steps - warm + 0.0), 1.0)
