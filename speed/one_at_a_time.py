"""The main job as the authors' code does it: one record after the other, the whole model, every logit.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262. Written anew, from the description of their procedure, for GPT-2-like models: rows of
one record are padded into one batch, the edit is written into the weight, generation uses the library's own cache.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from counterfact.core.records import Request
from counterfact.editing import plain
from counterfact.editing.requests import encode
from counterfact.editors.rome import RomeSettings, key_direction, rank_one
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from counterfact.lm.forward.blocks import pad_right
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_view
from counterfact.lm.moments.second_moment import SecondMoment

TOP_K = 5


@dataclass(frozen=True)
class OneAtATime:
    """A model, and what ROME needs beside it."""

    lm: LM
    templates: Sequence[str]
    moment: SecondMoment
    settings: RomeSettings

    def edit(self, request: Request) -> tuple[Tensor, Tensor]:
        """Return u and r of the change u r^T, found by the plain engine; nothing is read from a cache."""
        record = encode(self.lm, request, self.templates, self.settings.position, kl_row=True)
        values = plain.find_value(self.lm, record, self.settings)
        [direction] = key_direction(values.mean_key[None].double(), self.moment)
        update, _ = rank_one(values, direction, "rome")
        return direction.to(values.delta), update.to(values.delta)

    @contextmanager
    def edited(self, change: tuple[Tensor, Tensor]) -> Iterator[None]:
        """Write u r^T into the weight, and afterwards the original again."""
        weight = weight_view(self.lm.model, self.lm.layout.fc_out(self.settings.layer))
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
        targets = [lm.target_tokens(target) for target in (asked.target_new.text, asked.true_text)]
        prompts = lm.encoding.prompts(scored_prompts(record))
        rows = [[*prompt, *target] for prompt in prompts for target in targets]
        log_p = plain.forward(lm, rows).log_softmax(-1)
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
        table, lengths = pad_right(prompts, self.lm.device, length)
        cache, start = DynamicCache(config=model.config), 0
        for column in range(int(lengths.min()), length):
            output = model(table[:, start:column], past_key_values=cache, use_cache=True)
            best, tokens = output.logits[:, -1].softmax(-1).topk(TOP_K)
            token = tokens.gather(1, torch.multinomial(best, 1))[:, 0]
            table[:, column] = torch.where(column < lengths, table[:, column], token)
            start = column
        rows: list[list[int]] = table.tolist()
        return rows


def scored_prompts(record: CounterFactRecord) -> list[str]:
    """Return the rewriting prompt, the paraphrases and the neighborhood prompts: 1 + 2 + 10."""
    return [record.request.filled, *record.paraphrase_prompts, *record.neighborhood_prompts]
