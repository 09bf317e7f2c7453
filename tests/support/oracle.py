"""The published method, written to be read: one record, one row at a time, the whole model, nothing kept.

It is the specification in code for GPT-2-like models of the `transformers` library, and shares no line with `lm`,
`editors` or `metrics`: what those compute fast must equal what is computed here slowly. Sections (§) are those of
`spec/reference.md`; equations are of Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT.
NeurIPS 2022. https://arxiv.org/abs/2202.05262. Give it a model in float64.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Model = Any
Tokenizer = Any


@dataclass(frozen=True)
class Fact:
    """What is to be edited: `prompt` with `subject` in its slot shall go on with `target`."""

    prompt: str
    subject: str
    target: str


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokenise a text alone, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def target_ids(tokenizer: Tokenizer, target: str) -> list[int]:
    """o_1 .. o_L: the target, tokenised alone after one space (§1.1)."""
    return encode(tokenizer, target if target.startswith(" ") else " " + target)


def lookup_index(tokenizer: Tokenizer, template: str, subject: str, rule: str = "subject_last") -> int:
    """Index of the token that a rule names, from three separate tokenisations: before, subject, after (§1.4)."""
    before, after = template.split("{}")
    if before:
        if not before.endswith(" "):
            raise ValueError(f"expected a space before the slot of {template!r}")
        before, subject = before[:-1], " " + subject.strip()
    p, w, s = (len(encode(tokenizer, part)) for part in (before, subject, after))
    return {
        "subject_last": p + w - 1,
        "subject_first": p,
        "subject_first_after_last": p + w if s else p + w - 1,
        "last": p + w + s - 1,
    }[rule]


def logits(model: Model, ids: Sequence[int]) -> Tensor:
    """Logits after every token of one row, (tokens, vocabulary)."""
    result: Tensor = model(torch.tensor([list(ids)]), use_cache=False).logits[0]
    return result


def edited_module(model: Model, layer: int) -> nn.Module:
    """The module whose weight is edited: the MLP's second projection; Conv1D, weight (D, H) (§1.2)."""
    module: nn.Module = model.transformer.h[layer].mlp.c_proj
    return module


@contextmanager
def on_output(module: nn.Module, act: Callable[[Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `act(input, output)` in every pass; what it returns takes the output's place."""
    handle = module.register_forward_hook(lambda _, args, output: act(args[0], output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def with_change(model: Model, layer: int, change: Tensor) -> Iterator[None]:
    """Add `change` (D, H) to the edited weight for the length of the block."""
    weight: Any = edited_module(model, layer).weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight += change
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


@torch.no_grad()
def keys_and_outputs(model: Model, layer: int, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Input (tokens, D) and output (tokens, H) of the edited module in one row."""
    seen: list[tuple[Tensor, Tensor]] = []
    with on_output(edited_module(model, layer), lambda given, output: seen.append((given[0], output[0]))):
        logits(model, ids)
    return seen[0]


def second_moment(model: Model, tokenizer: Tokenizer, layer: int, texts: Sequence[str]) -> tuple[Tensor, int]:
    """C = sum of k k^T / count over all tokens of all texts, each text alone and cut to the model's length (§1.10)."""
    total, count = 0.0, 0
    for text in texts:
        ids = encode(tokenizer, text)[: model.config.n_positions]
        if not ids:
            continue
        keys, _ = keys_and_outputs(model, layer, ids)
        for key in keys:
            total = total + torch.outer(key, key)
            count += 1
    return torch.as_tensor(total) / count, count


@dataclass(frozen=True)
class RomeConstants:
    """Settings of §1.2; the defaults are those of GPT-2 XL."""

    layer: int
    position: str = "subject_last"
    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    clamp_norm_factor: float = 4.0
    stop_loss: float = 0.05


@dataclass(frozen=True)
class RomeEdit:
    """All that comes up on the way to an edit, named as in §1."""

    k_bar: Tensor
    m_bar: Tensor
    u: Tensor
    k_0: Tensor
    v_0: Tensor
    trace: list[list[float]]
    """Loss, NLL, KL, WD at each forward pass."""
    norms: list[float]
    """||delta|| at each forward pass."""
    delta: Tensor

    @property
    def v_star(self) -> Tensor:
        return self.v_0 + self.delta

    def r(self, variant: str = "rome") -> Tensor:
        """The right factor of the change u r^T: eq. 2 with the keys of each variant (§1.7, §1.8)."""
        if variant == "r_rome":
            return (self.v_star - self.m_bar) / (self.k_bar @ self.u)
        return (self.v_star - self.v_0) / (self.k_0 @ self.u)


def rome(
    model: Model,
    tokenizer: Tokenizer,
    fact: Fact,
    templates: Sequence[str],
    moment: Tensor | None,
    constants: RomeConstants,
) -> RomeEdit:
    """Edit one fact (§1.5 to §1.7); `templates[0]` is the bare `{}`."""
    keys, outputs = [], []
    for template in templates:
        sentence = template.replace("{}", fact.prompt)
        index = lookup_index(tokenizer, sentence, fact.subject, constants.position)
        key, output = keys_and_outputs(model, constants.layer, encode(tokenizer, sentence.replace("{}", fact.subject)))
        keys.append(key[index])
        outputs.append(output[index])
    k_bar = sum(keys[1:], keys[0]) / len(keys)
    u = k_bar if moment is None else torch.linalg.solve(moment, k_bar)
    delta, trace, norms = find_delta(model, tokenizer, fact, templates, outputs[0], constants)
    return RomeEdit(
        k_bar=k_bar,
        m_bar=sum(outputs[1:], outputs[0]) / len(outputs),
        u=u / u.norm(),
        k_0=keys[0],
        v_0=outputs[0],
        trace=trace,
        norms=norms,
        delta=delta,
    )


def find_delta(
    model: Model,
    tokenizer: Tokenizer,
    fact: Fact,
    templates: Sequence[str],
    v_0: Tensor,
    constants: RomeConstants,
) -> tuple[Tensor, list[list[float]], list[float]]:
    """Minimise eq. 4 over delta (§1.6); return it with the terms and its norm at every forward pass."""
    target = target_ids(tokenizer, fact.target)
    taught = tokenizer.decode(target[:-1])
    rows = [template.replace("{}", fact.prompt + taught) for template in templates]
    delta = torch.zeros_like(v_0, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=constants.learning_rate)
    original: Tensor | None = None
    trace, norms = [], []
    for step in range(constants.steps):
        nll = torch.zeros(())
        for row in rows:
            log_p = _with_delta(model, tokenizer, row, fact.subject, delta, constants)[1]
            scored = log_p[len(log_p) - len(target) :]
            nll = nll - scored[range(len(target)), target].mean() / len(rows)
        index, log_p = _with_delta(model, tokenizer, "{} is a", fact.subject, delta, constants)
        here = log_p[index]  # at the subject, not after "is a"
        original = here.detach() if original is None else original
        kl = constants.kl_factor * (here.exp() * (here - original)).sum()
        wd = constants.weight_decay * delta.norm() / v_0.norm() ** 2
        loss = nll + kl + wd
        trace.append([float(part.detach()) for part in (loss, nll, kl, wd)])
        norms.append(float(delta.detach().norm()))
        if loss < constants.stop_loss or step == constants.steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        radius = constants.clamp_norm_factor * v_0.norm()
        with torch.no_grad():
            if delta.norm() > radius:
                delta *= radius / delta.norm()
    return delta.detach(), trace, norms


def _with_delta(
    model: Model, tokenizer: Tokenizer, template: str, subject: str, delta: Tensor, constants: RomeConstants
) -> tuple[int, Tensor]:
    """Run one row with delta added to the MLP's output at the subject; return that index and all log-probabilities."""
    index = lookup_index(tokenizer, template, subject, constants.position)

    def add(_: Tensor, output: Tensor) -> Tensor:
        moved = output.clone()
        moved[0, index] += delta
        return moved

    with on_output(model.transformer.h[constants.layer].mlp, add):
        return index, logits(model, encode(tokenizer, template.replace("{}", subject))).log_softmax(-1)


@dataclass(frozen=True)
class FinetuneConstants:
    """Settings of §2; `bound` is FT+L's epsilon."""

    layer: int
    learning_rate: float = 5e-4
    steps: int = 25
    bound: float | None = None
    stop_loss: float = 0.01


def finetune(
    model: Model, tokenizer: Tokenizer, fact: Fact, constants: FinetuneConstants
) -> tuple[Tensor, list[float]]:
    """Train the weight, teacher-forced, as published (§2); return its change (D, H) and the loss of every pass."""
    target = target_ids(tokenizer, fact.target)
    text = fact.prompt.replace("{}", fact.subject) + tokenizer.decode(target[:-1])
    weight: Any = edited_module(model, constants.layer).weight
    before, frozen = weight.detach().clone(), not weight.requires_grad
    adam = torch.optim.Adam([weight.requires_grad_()], lr=constants.learning_rate)
    losses = []
    for _ in range(constants.steps):
        log_p = logits(model, encode(tokenizer, text)).log_softmax(-1)
        loss = -log_p[len(log_p) - len(target) :][range(len(target)), target].mean()
        losses.append(float(loss.detach()))
        if loss >= constants.stop_loss:
            adam.zero_grad()
            loss.backward()
            adam.step()
        with torch.no_grad():
            if constants.bound is not None:
                weight.copy_(weight.clamp(before - constants.bound, before + constants.bound))
        if loss < constants.stop_loss:
            break
    change = weight.detach() - before
    weight.requires_grad_(not frozen)
    weight.grad = None
    with torch.no_grad():
        weight.copy_(before)
    return change, losses
