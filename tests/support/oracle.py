"""The published method, written to be read: one record, one row at a time, the whole model, nothing kept.

It is the method in code for GPT-2-like models of the `transformers` library: what `lm`, `editors` and `metrics`
compute fast must equal what is computed here slowly. It shares no line with them but the plain engine. Equations are of
Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262. Give it a model in float64.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from counterfact.core.records import Request
from counterfact.editing import plain
from counterfact.editing.requests import encode as prompts_of
from counterfact.editors.rome import RomeSettings
from counterfact.lm.model.language_model import LM

Model = Any
Tokenizer = Any


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokenise a text alone, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def target_ids(tokenizer: Tokenizer, target: str) -> list[int]:
    """o_1 .. o_L: the target, tokenised alone after one space."""
    return encode(tokenizer, target if target.startswith(" ") else " " + target)


def lookup_index(tokenizer: Tokenizer, template: str, subject: str, rule: str = "subject_last") -> int:
    """Index of the token that a rule names, from three separate tokenisations: before, subject, after."""
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
    """The module whose weight is edited: the MLP's second projection; Conv1D, weight (D, H)."""
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
    """C = sum of k k^T / count over all tokens of all texts, each text alone and cut to the model's length."""
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
class RomeEdit:
    """All that comes up on the way to an edit, named as in §1."""

    k_bar: Tensor
    m_bar: Tensor
    u: Tensor
    k_0: Tensor
    v_0: Tensor
    trace: list[list[float]]
    """Loss, NLL, KL, WD at each forward pass."""
    delta: Tensor

    @property
    def v_star(self) -> Tensor:
        return self.v_0 + self.delta

    def r(self, variant: str = "rome") -> Tensor:
        """The right factor of the change u r^T: eq. 2 with the keys of each variant."""
        if variant == "r_rome":
            return (self.v_star - self.m_bar) / (self.k_bar @ self.u)
        return (self.v_star - self.v_0) / (self.k_0 @ self.u)


def rome(lm: LM, request: Request, templates: Sequence[str], moment: Tensor, settings: RomeSettings) -> RomeEdit:
    """Edit one fact by the plain engine and a dense solve; `templates[0]` is the bare `{}`."""
    record = prompts_of(lm, request, templates, settings.position, kl_row=True)
    values = plain.find_value(lm, record, settings)
    u = torch.linalg.solve(moment, values.mean_key)
    return RomeEdit(
        k_bar=values.mean_key,
        m_bar=values.mean_output,
        u=u / u.norm(),
        k_0=values.bare_key,
        v_0=values.bare_output,
        trace=values.trace[: int(values.passes)].tolist(),
        delta=values.delta,
    )
