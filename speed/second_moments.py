"""Times second moments against one text at a time, one layer a pass; holds the stated sampling error against the true.

    python -m speed.second_moments --model factlm --texts embedded --error

The baseline is the plain way: the model's own modules, a text at a time, up to the layer, keys multiplied and summed in
float32. Both run in one process, in turns, on the same texts and threads. `--error` then takes 1 and 10 per cent of the
texts, in random orders, and compares the direction of edits with that of all of them.
"""

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from counterfact.core.files import write_json
from counterfact.core.places import data_folder
from counterfact.core.process import keep_freed_memory
from counterfact.core.texts import TextSource, load_texts
from counterfact.lm.forward.blocks import embed, run_blocks
from counterfact.lm.model.hooks import Site, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm, wrap_lm
from counterfact.lm.moments.second_moment import SecondMoment, second_moments
from counterfact.lm.moments.sums import key_width
from speed.machine import describe, device_name, measure_ceiling, synchronize

RESULTS = Path(__file__).parent / "results"
LARGE = {"small": (12, 768, 12), "xl": (48, 1600, 25)}
"""Layers, width and heads of GPT-2's sizes, 1,024 positions."""


def open_model(name: str, device: str | None) -> LM:
    """Load a model; `random-small` and `random-xl` have GPT-2's shapes, random weights and factlm's tokenizer."""
    embedded = data_folder() / "models" / name
    if not name.startswith("random-"):
        return load_lm(embedded if embedded.is_dir() else name, device=device)
    layers, width, heads = LARGE[name.removeprefix("random-")]
    tokenizer = load_lm(data_folder() / "models" / "factlm", device="cpu").tokenizer
    torch.manual_seed(0)
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, vocab_size=len(tokenizer), n_positions=1024)
    model: Any = GPT2LMHeadModel(config)
    return wrap_lm(model.to(device or "cpu"), tokenizer, name=name)


class _Enough(Exception):
    pass


@torch.inference_mode()
def plain_pass(lm: LM, layer: int, texts: Sequence[str]) -> tuple[Tensor, int]:
    """Sum keys of one layer, a text at a time; return the mean and the number of tokens."""
    total, count = torch.zeros(key_width(lm, layer), key_width(lm, layer), device=lm.device), 0

    def read(states: Tensor) -> None:
        nonlocal count
        keys = states[0].float()
        total.add_(keys.T @ keys)
        count += len(keys)
        raise _Enough

    with hooked(lm.model, (Site(lm.layout.fc_out(layer), "in"), read)):
        for text in texts:
            if ids := lm.tokens(text)[: lm.max_length]:
                try:
                    run_blocks(lm, embed(lm, torch.tensor([ids], device=lm.device)), 0, layer + 1)
                except _Enough:
                    continue
    return total.double() / count, count


def part_of(source: TextSource, count: int) -> TextSource:
    """Return the first texts of a source, held in memory."""
    texts = list(islice(source.texts(), count))
    return replace(source, content_hash=f"{source.content_hash}-{count}", texts=lambda: iter(texts))


def operations(lm: LM, layers: Sequence[int]) -> float:
    """Return the products that a token cannot do without: weights up to the last key, and half of each k kᵀ."""
    last = max(layers)

    def weights(module: str) -> int:
        parts = lm.model.get_submodule(module).modules()
        return sum(part.weight.numel() for part in parts if isinstance(part, Conv1D | nn.Linear))

    forward = sum(weights(lm.layout.block(layer)) for layer in range(last + 1)) - weights(lm.layout.fc_out(last))
    return float(2 * forward + sum(key_width(lm, layer) * (key_width(lm, layer) + 1) for layer in layers))


def ours(lm: LM, layers: Sequence[int], source: TextSource) -> tuple[dict[int, SecondMoment], float]:
    """Compute second moments with the toolkit; return them and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = second_moments(lm, layers, source, folder=Path(folder))
        synchronize(lm.device)
        return found, time.perf_counter() - start


def measure(lm: LM, layers: Sequence[int], source: TextSource, turns: int) -> dict[str, Any]:
    """Run both in turns; the plain way takes a pass for each layer."""
    last = max(layers)
    texts = list(source.texts())
    ours(lm, layers, part_of(source, 8))  # what is set up on first use is no part of it
    plain_pass(lm, last, texts[:4])
    speeds: dict[str, list[float]] = {"ours": [], "plain": []}
    ceilings = []
    for _ in range(turns):
        ceilings.append(measure_ceiling(lm.width, lm.device).gflops)
        found, seconds = ours(lm, layers, source)
        tokens = found[last].count
        speeds["ours"].append(tokens / seconds)
        start = time.perf_counter()
        for layer in layers:
            matrix, _ = plain_pass(lm, layer, texts)
        synchronize(lm.device)
        speeds["plain"].append(tokens / (time.perf_counter() - start))
    mean = {name: sum(values) / len(values) for name, values in speeds.items()}
    floor = max(ceilings) * 1e9 / operations(lm, layers)
    return {
        "layers": list(layers),
        "texts": len(texts),
        "tokens": tokens,
        "tokens_per_second": {name: round(value) for name, value in mean.items()},
        "turns": {name: [round(value) for value in values] for name, values in speeds.items()},
        "ratio": round(mean["ours"] / mean["plain"], 2),
        "mflop_per_token": round(operations(lm, layers) / 1e6, 2),
        "ceiling_gflops": round(max(ceilings)),
        "floor_tokens_per_second": round(floor),
        "achieved": round(mean["ours"] / floor, 3),
        "agreement": float((found[last].matrix - matrix).norm() / matrix.norm()),
    }


@torch.inference_mode()
def some_keys(lm: LM, layer: int, texts: Iterator[str], count: int) -> Tensor:
    """Return the key of the middle token of each of some texts, (count, D)."""
    keys: list[Tensor] = []
    for text in texts:
        if ids := lm.tokens(text)[: lm.max_length]:

            def read(states: Tensor, place: int = len(ids) // 2) -> None:
                keys.append(states[0, place].double())

            with hooked(lm.model, (Site(lm.layout.fc_out(layer), "in"), read)):
                run_blocks(lm, embed(lm, torch.tensor([ids], device=lm.device)), 0, layer + 1)
        if len(keys) == count:
            break
    return torch.stack(keys)


def errors(lm: LM, layer: int, name: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Hold the stated error of parts of a corpus against the true one, at keys of texts from the end of each order."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        whole = second_moments(lm, [layer], load_texts(name), folder=place)[layer]
        size = load_texts(name).size() or 0
        rows = []
        for percent in (1, 3, 10, 30):
            made = []
            for seed in seeds:
                source = load_texts(f"{name}#{seed}")
                count = max(1, size * percent // 100)
                part = second_moments(lm, [layer], source, max_texts=count, folder=place)[layer]
                keys = some_keys(lm, layer, islice(source.texts(), size - 200, None), 64)
                u, limit = part.solve(keys), whole.solve(keys)
                w, w_limit = (each / (each * keys).sum(1, keepdim=True) for each in (u, limit))
                update = ((w - w_limit).square().sum(1) / w_limit.square().sum(1)).mean().sqrt()
                told = part.sampling.left(percent / 100) if part.sampling else None
                made.append((part.count, told, float(cosine_similarity(u, limit).mean()), float(update)))
            rows.append({"percent": percent, "texts": count, **_means(made)})
    last = whole.sampling
    rows.append({"percent": 100, "texts": size, "tokens": whole.count, "limit": last._asdict() if last else None})
    return rows


def _means(made: Sequence[Any]) -> dict[str, Any]:
    tokens, told, cosines, updates = zip(*made, strict=True)
    known = [error for error in told if error is not None]
    stated = {
        "stated_cosine": round(sum(error.cosine for error in known) / len(known), 4),
        "stated_update": round(sum(error.update for error in known) / len(known), 4),
    }
    return {
        "tokens": round(sum(tokens) / len(tokens)),
        "orders": len(made),
        "true_cosine": round(sum(cosines) / len(cosines), 4),
        "true_update": round(sum(updates) / len(updates), 4),
        **(stated if len(known) == len(told) else {"stated_cosine": None, "stated_update": None}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="factlm", help="folder, Hub id, embedded name, random-small or random-xl")
    parser.add_argument("--texts", default="embedded", help="as `counterfact second-moment` takes them")
    parser.add_argument("--count", type=int, default=300, help="texts that are timed")
    parser.add_argument("--turns", type=int, default=2, help="how often both ways are timed")
    parser.add_argument("--layer", type=int, help="by default a third of the depth, as ROME's")
    parser.add_argument("--device", help="cpu, cuda ...")
    parser.add_argument("--error", action="store_true", help="also hold the stated sampling error against the true one")
    parser.add_argument("--out", type=Path, help="the file to write; by default in speed/results")
    given = parser.parse_args()
    keep_freed_memory(os.environ)  # as the command line does
    lm = open_model(given.model, given.device)
    layer = lm.n_layers // 3 if given.layer is None else given.layer
    source = part_of(load_texts(given.texts), given.count)
    result: dict[str, Any] = {
        "what": "second moments in float32, tokens per second; the plain way takes one pass for each layer",
        "made_by": f"python -m speed.second_moments --model {given.model} --texts {Path(given.texts).name}",
        "machine": describe(lm.device),
        "model": {"layers": lm.n_layers, "width": lm.width, **lm.identity},
        "one_layer": measure(lm, [layer], source, given.turns),
        "all_layers": measure(lm, range(lm.n_layers), source, given.turns),
    }
    if given.error:
        result["errors"] = errors(lm, layer, given.texts, range(1, 4))
    print(json.dumps(result, indent=1))
    slug = re.sub(r"\W+", "-", f"{given.model}-{Path(given.texts).stem}-{device_name(lm.device)}".lower()).strip("-")
    write_json(given.out or RESULTS / f"second_moments-{slug}.json", result)


if __name__ == "__main__":
    main()
