"""Causal tracing as others do it, one cell at a time: the plain loop, TransformerLens, pyvene; and captum's gradients.

Each gives the score of one cell, so that a benchmark can run a sample of the cells, and a test compare them. The
packages are imported where they are used: `pip install -e '.[bench]'`.
"""

import contextlib
import io
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from counterfact.lm.model.hooks import Patch, Site, find_module, hooked
from counterfact.lm.model.language_model import LM
from counterfact.tracing.cells import window_of
from counterfact.tracing.facts import Prompt


class Tracer(ABC):
    """Scores of single cells of one fact's trace."""

    def __init__(self, lm: LM, prompt: Prompt, noise: Tensor, window: int) -> None:
        self.lm, self.prompt, self.window = lm, prompt, window
        self.noise = noise.to(lm.device, lm.dtype)
        self.span = slice(prompt.begin, prompt.corrupted_end)
        self.ids = torch.tensor(prompt.ids, device=lm.device).expand(1 + len(noise), -1)
        with torch.no_grad():
            self.answer = int(lm.model(self.ids[:1]).logits[0, -1].argmax())

    @abstractmethod
    def cell(self, kind: str, token: int, layer: int) -> float:
        """Return the mean over the noise samples of the answer's probability, the cell restored."""

    def layers(self, kind: str, layer: int) -> range:
        """Return the layers whose outputs are restored."""
        return range(*((layer, layer + 1) if kind == "state" else window_of(layer, self.window, self.lm.n_layers)))


class PlainLoop(Tracer):
    """As the reference does it: for each cell one forward pass of 11 rows, row 0 clean, all positions' logits."""

    @torch.no_grad()
    def run(self, pairs: Sequence[tuple[Site, Patch]]) -> Tensor:
        """Return the last position's probabilities, (rows, vocabulary)."""

        def corrupt(rows: Tensor) -> Tensor:
            rows = rows.clone()
            rows[1:, self.span] += self.noise
            return rows

        with hooked(self.lm.model, (Site(self.lm.layout.embed), corrupt), *pairs):
            logits: Tensor = self.lm.model(self.ids, use_cache=False).logits
        return logits[:, -1].softmax(-1)

    def cell(self, kind: str, token: int, layer: int) -> float:
        layout = self.lm.layout
        name = {"state": layout.block, "mlp": layout.mlp, "attn": layout.attention}[kind]

        def restore(rows: Tensor) -> Tensor:
            rows = rows.clone()
            rows[1:, token] = rows[0, token]
            return rows

        found = self.run([(Site(name(at)), restore) for at in self.layers(kind, layer)])
        return float(found[1:, self.answer].mean())


class TransformerLens(Tracer):
    """TransformerLens' bridge around a copy of the model as it is; 10 rows against the cache of the clean run."""

    PLACES: ClassVar = {"state": "hook_out", "mlp": "mlp.hook_out", "attn": "attn.hook_out"}

    def __init__(self, lm: LM, prompt: Prompt, noise: Tensor, window: int) -> None:
        from transformer_lens.model_bridge import TransformerBridge  # noqa: PLC0415

        super().__init__(lm, prompt, noise, window)
        with contextlib.redirect_stdout(io.StringIO()):
            self.bridge: Any = TransformerBridge.boot_transformers(
                "gpt2", hf_model=deepcopy(lm.model), tokenizer=lm.tokenizer, device=lm.device, dtype=lm.dtype
            )
        self.bridge.eval()
        with torch.no_grad():
            _, self.clean = self.bridge.run_with_cache(self.ids[:1])
        self.bridge.add_perma_hook("embed.hook_out", self._corrupt)

    def _corrupt(self, rows: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        if len(rows) == len(self.noise):
            rows = rows.clone()
            rows[:, self.span] += self.noise
        return rows

    def _chance(self, logits: Tensor) -> Tensor:
        return logits[:, -1].softmax(-1)[:, self.answer].mean()

    @torch.no_grad()
    def states(self) -> Tensor:
        """Return all cells of single states, (layers, tokens), by the library's own loop."""
        from transformer_lens.patching import generic_activation_patch  # noqa: PLC0415

        # Typed loosely: the library says that the clean run is its own cache, and a tensor serves as well.
        def put(rows: Tensor, index: Sequence[int], clean: Any) -> Tensor:
            rows[:, index[1]] = clean[0, index[1]]
            return rows

        with contextlib.redirect_stderr(io.StringIO()):
            found = generic_activation_patch(
                self.bridge,
                self.ids[1:],
                self.clean,
                self._chance,
                put,
                "resid_post",
                index_axis_names=("layer", "pos"),
            )
        return torch.as_tensor(found)

    @torch.no_grad()
    def cell(self, kind: str, token: int, layer: int) -> float:
        def put(rows: Tensor, hook: Any) -> Tensor:
            rows = rows.clone()
            rows[:, token] = self.clean[hook.name][0, token]
            return rows

        hooks = [(f"blocks.{at}.{self.PLACES[kind]}", put) for at in self.layers(kind, layer)]
        return float(self._chance(self.bridge.run_with_hooks(self.ids[1:], fwd_hooks=hooks)))


class Pyvene(Tracer):
    """pyvene's vanilla interventions; it runs the clean rows again for each cell.

    It takes away all hooks that it did not set, so the noise is in the embeddings that it is given.
    """

    PLACES: ClassVar = {"state": "block_output", "mlp": "mlp_output", "attn": "attention_output"}

    def __init__(self, lm: LM, prompt: Prompt, noise: Tensor, window: int) -> None:
        super().__init__(lm, prompt, noise, window)
        import pyvene  # noqa: PLC0415

        self.pyvene: Any = pyvene
        clean = find_module(lm.model, lm.layout.embed)(self.ids[1:])
        corrupted = clean.clone()
        corrupted[:, self.span] += self.noise
        self.clean, self.corrupted = {"inputs_embeds": clean}, {"inputs_embeds": corrupted}

    @torch.no_grad()
    def cell(self, kind: str, token: int, layer: int) -> float:
        chosen = [
            {"layer": at, "component": self.PLACES[kind], "intervention_type": self.pyvene.VanillaIntervention}
            for at in self.layers(kind, layer)
        ]
        with contextlib.redirect_stdout(io.StringIO()), _errors_only():
            model = self.pyvene.IntervenableModel(self.pyvene.IntervenableConfig(chosen), self.lm.model)
        places = {"sources->base": (token, token)}
        _, output = model(self.corrupted, [self.clean] * len(chosen), places)
        return float(output.logits[:, -1].softmax(-1)[:, self.answer].mean())


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """Within the block the root logger, which pyvene warns through at each call, passes errors only."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def captum_gradients(lm: LM, prompt: Prompt, answer: int, nodes: int, layer: int) -> Tensor:
    """Attribute one layer's states as captum does, (tokens, width); its baseline is the layer's output for zero ids."""
    from captum.attr import LayerIntegratedGradients  # noqa: PLC0415

    ids = torch.tensor([prompt.ids], device=lm.device)

    def forward(rows: Tensor) -> Tensor:
        probabilities: Tensor = lm.model(rows, use_cache=False).logits[:, -1].softmax(-1)[:, answer]
        return probabilities

    method = LayerIntegratedGradients(forward, lm.model.get_submodule(lm.layout.block(layer)))
    attribute = partial(method.attribute, ids, baselines=torch.zeros_like(ids), n_steps=nodes, method="gausslegendre")
    with torch.enable_grad():
        found = attribute()
    result: Tensor = (found[0] if isinstance(found, tuple) else found).detach()
    return result[0] if result.dim() == 3 else result


def captum_single(lm: LM, prompt: Prompt, answer: int, nodes: int, layer: int, token: int) -> Tensor:
    """Attribute one token's state after a layer by captum, (width,): our definition, its baseline is zero."""
    from captum.attr import IntegratedGradients  # noqa: PLC0415

    block, ids = Site(lm.layout.block(layer)), torch.tensor([prompt.ids], device=lm.device)
    kept: list[Tensor] = []
    with torch.no_grad(), hooked(lm.model, (block, kept.append)):
        lm.model(ids, use_cache=False)

    def forward(states: Tensor) -> Tensor:
        def put(output: Tensor) -> Tensor:
            return torch.cat([output[:, :token], states[:, None], output[:, token + 1 :]], 1)

        with hooked(lm.model, (block, put)):
            rows = lm.model(ids.expand(len(states), -1), use_cache=False)
        probabilities: Tensor = rows.logits[:, -1].softmax(-1)[:, answer]
        return probabilities

    method = IntegratedGradients(forward)
    with torch.enable_grad():
        found = method.attribute(kept[0][:, token], n_steps=nodes, method="gausslegendre")
    result: Tensor = found.detach()[0]
    return result
