"""The main job as the authors' code does it: one record after the other, the whole model, every logit.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262. Written anew, from the description of their procedure, for GPT-2-like models: rows of
one record are padded into one batch, the edit is written into the weight, generation uses the library's own cache.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from counterfact.core.records import Request
from counterfact.editors.rome import RomeSettings
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.loading import LM

TOP_K = 5


@dataclass(frozen=True)
class OneAtATime:
    """A model, and what ROME needs beside it."""

    lm: LM
    templates: Sequence[str]
    inverse: Tensor
    """C^-1, (D, D), in the working dtype."""
    settings: RomeSettings

    def edit(self, request: Request) -> tuple[Tensor, Tensor]:
        """Return u and r of the change u r^T."""
        down, mlp = self.lm.layout.fc_out(self.settings.layer), self.lm.layout.mlp(self.settings.layer)
        filled = [template.replace("{}", request.prompt) for template in self.templates]
        with torch.no_grad():
            keys, _ = self._read(down, filled, request.subject)
            direction = self.inverse @ keys.to(self.inverse).mean(0)
            direction = direction / direction.norm()
        delta, value = self._search(mlp, filled, request)
        with torch.no_grad():
            read = self._read(down, [request.prompt], request.subject)
            [key], [output] = (states.to(self.inverse) for states in read)
        return direction, (value + delta - output) / (key @ direction)

    def _read(self, module: str, templates: Sequence[str], subject: str) -> tuple[Tensor, Tensor]:
        """Input and output of a module at the subject's last token, each (rows, ...)."""
        located = self.lm.locate(templates, [subject] * len(templates))
        tape, given, output = Tape(), Site(module, "in"), Site(module)
        with hooked(self.lm.model, tape.read(given), tape.read(output)):
            self._forward([ids for ids, _ in located])
        rows, index = range(len(located)), [index for _, index in located]
        return tape[given][rows, index], tape[output][rows, index]

    def _search(self, module: str, filled: Sequence[str], request: Request) -> tuple[Tensor, Tensor]:
        """Find delta by Adam over whole forward and backward passes; return it and v_0."""
        lm, settings = self.lm, self.settings
        target = lm.target_tokens(request.target_new)
        located = lm.locate([*filled, "{} is a"], [request.subject] * (len(filled) + 1))
        index = [index for _, index in located]
        rows = [[*ids, *target[:-1]] for ids, _ in located[:-1]] + [located[-1].ids]
        scored = torch.tensor([[*range(len(row) - len(target), len(row))] for row in rows[:-1]], device=lm.device)
        labels = torch.tensor(target, device=lm.device).expand(len(filled), -1)
        delta = torch.zeros(lm.width, device=lm.device, dtype=lm.working_dtype, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=settings.learning_rate)
        value = original = None
        for step in range(settings.steps):
            tape = Tape()
            with hooked(lm.model, tape.read(Site(module)), (Site(module), partial(_add, index, delta))):
                log_p = self._forward(rows).log_softmax(-1)
            value = tape[Site(module)][0, index[0]].detach().to(delta) if value is None else value
            new = log_p[torch.arange(len(filled), device=lm.device)[:, None], scored, labels]
            held = log_p[-1, index[-1]]
            original = held.detach() if original is None else original
            kl = settings.kl_factor * (held.exp() * (held - original)).sum()
            loss = -new.mean() + kl + settings.weight_decay * delta.norm() / value.norm() ** 2
            if loss < settings.stop_loss or step == settings.steps - 1:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            radius = settings.clamp_norm_factor * value.norm()
            with torch.no_grad():
                if delta.norm() > radius:
                    delta *= radius / delta.norm()
        assert value is not None
        return delta.detach(), value

    @contextmanager
    def edited(self, change: tuple[Tensor, Tensor]) -> Iterator[None]:
        """Write u r^T into the weight, and afterwards the original again."""
        weight: Any = self.lm.model.get_submodule(self.lm.layout.fc_out(self.settings.layer)).weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight += torch.outer(*change).to(weight)
        try:
            yield
        finally:
            with torch.no_grad():
                weight.copy_(before)

    @torch.no_grad()
    def score(self, record: CounterFactRecord) -> list[list[float]]:
        """Mean nats per token of the new and the true target after the 13 prompts, each pair a row of its own."""
        lm, asked = self.lm, record.requested_rewrite
        targets = [lm.target_tokens(target.text) for target in (asked.target_new, asked.target_true)]
        prompts = lm.encoding.prompts(scored_prompts(record))
        log_p = self._forward([[*prompt, *target] for prompt in prompts for target in targets]).log_softmax(-1)
        values: list[list[float]] = []
        row = 0
        for prompt in prompts:
            values.append([])
            for target in targets:
                at = range(len(prompt) - 1, len(prompt) - 1 + len(target))
                values[-1].append(-float(log_p[row, at, target].mean()))
                row += 1
        return values

    @torch.no_grad()
    def generate(self, record: CounterFactRecord, length: int = 100) -> list[list[int]]:
        """Go on with the record's ten prompts, one batch, column by column with the library's cache; top-k 5."""
        model, prompts = self.lm.model, self.lm.encoding.prompts(record.generation_prompts)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.lm.device)
        table = torch.zeros(len(prompts), length, dtype=torch.long, device=self.lm.device)
        for row, prompt in enumerate(prompts):
            table[row, : len(prompt)] = torch.tensor(prompt)
        cache, start = DynamicCache(config=model.config), 0
        for column in range(int(lengths.min()), length):
            output = model(table[:, start:column], past_key_values=cache, use_cache=True)
            best, tokens = output.logits[:, -1].softmax(-1).topk(TOP_K)
            token = tokens.gather(1, torch.multinomial(best, 1))[:, 0]
            table[:, column] = torch.where(column < lengths, table[:, column], token)
            start = column
        rows: list[list[int]] = table.tolist()
        return rows

    def _forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits of rows padded on the right, (rows, tokens, vocabulary), in the working dtype."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.lm.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.lm.device)
        logits: Tensor = self.lm.model(ids, attention_mask=mask, use_cache=False).logits
        return logits.to(self.lm.working_dtype)


def _add(index: Sequence[int], delta: Tensor, output: Tensor) -> Tensor:
    moved = output.clone()
    moved[range(len(index)), index] += delta.to(moved.dtype)
    return moved


def scored_prompts(record: CounterFactRecord) -> list[str]:
    """Return the rewriting prompt, the paraphrases and the neighborhood prompts: 1 + 2 + 10."""
    return [record.request.filled, *record.paraphrase_prompts, *record.neighborhood_prompts]
