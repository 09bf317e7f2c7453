r"""Measure tracing against the plain loop, one forward pass for each cell, and against libraries that trace.

    python -m benchmarks.tracing --model small        # GPT-2 small's shape, random weights
    python -m benchmarks.tracing --model factlm

All sides run in one process, in turns, on the same weights, prompts, noise, windows and threads; each reports the
states' trace, or the three kinds. captum is measured where it is installed (`pip install -e '.[bench]'`).
"""

import argparse
import importlib.util
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.machine import describe, device_name, measure_ceiling, product_library, synchronize
from benchmarks.setting import open_model
from core.files import write_json
from lm.hooks import Patch, Site, hooked
from lm.loading import LM, wrap_lm
from lm.products import packs_products
from tracing.causal import KINDS, SEVERED, Scan, Traced, trace, window_of
from tracing.corruption import Corruption, make_corruption
from tracing.facts import Fact, Prompt, encode
from tracing.gradients import PARTS, Attributed, attribute, quadrature

RESULTS = Path(__file__).parent / "results"
SHAPES = {"small": (12, 768, 12), "medium": (24, 1024, 16), "xl": (48, 1600, 25)}
SUBJECTS = ("Barcelona", "Lower Silesian Voivodeship", "Swedish Academy", "Winnipeg")
PROMPT = "In a word, {} is in the country of"


def open_lm(name: str, device: str | None) -> LM:
    """Load a model, or make one of a GPT-2's shape with random weights and factlm's tokenizer.

    Weights are scaled so that the corruption matters: with the usual initialisation a wrong trace would look right.
    """
    if name not in SHAPES:
        return open_model(name, (), device)
    layers, width, heads = SHAPES[name]
    torch.manual_seed(0)
    config: Any = GPT2Config(n_layer=layers, n_embd=width, n_head=heads)
    model: Any = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "attn.c_attn.weight" in parameter_name:
                parameter.mul_(6)
            if parameter_name.endswith("wte.weight"):
                parameter.mul_(3)
    tokenizer = open_model("factlm", (), "cpu").tokenizer
    return wrap_lm(model.to(device or "cpu"), tokenizer, name=f"gpt2-{name}-random")


class PlainLoop:
    """Causal tracing as the reference does it: for each cell one forward pass of 11 rows, all positions' logits."""

    def __init__(self, lm: LM, prompt: Prompt, noise: Tensor, window: int) -> None:
        self.lm, self.prompt, self.noise, self.window = lm, prompt, noise.to(lm.device, lm.dtype), window
        self.ids = torch.tensor(prompt.ids, device=lm.device).expand(1 + len(noise), -1)
        self.answer = 0
        self.answer = int(self.run([])[0].argmax())

    @torch.no_grad()
    def run(self, pairs: Sequence[tuple[Site, Patch]]) -> Tensor:
        """Return the last position's probabilities, (rows, vocabulary)."""

        def corrupt(rows: Tensor) -> Tensor:
            rows = rows.clone()
            rows[1:, self.prompt.begin : self.prompt.corrupted_end] += self.noise
            return rows

        with hooked(self.lm.model, (Site(self.lm.layout.embed), corrupt), *pairs):
            logits: Tensor = self.lm.model(self.ids, use_cache=False).logits
        return logits[:, -1].softmax(-1)

    def cell(self, kind: str, token: int, layer: int) -> float:
        """Return the score of one cell."""
        layout = self.lm.layout
        name = {"state": layout.block, "mlp": layout.mlp, "attn": layout.attention}[kind]
        one = (layer, layer + 1)
        layers = range(*(one if kind == "state" else window_of(layer, self.window, self.lm.n_layers)))

        def restore(rows: Tensor) -> Tensor:
            rows = rows.clone()
            rows[1:, token] = rows[0, token]
            return rows

        found = self.run([(Site(name(at)), restore) for at in layers])
        return float(found[1:, self.answer].mean())


def captum_gradients(lm: LM, prompt: Prompt, answer: int, nodes: int) -> None:
    """Attribute every layer's states as captum does."""
    from captum.attr import LayerIntegratedGradients  # noqa: PLC0415

    ids = torch.tensor([prompt.ids], device=lm.device)

    def forward(rows: Tensor) -> Tensor:
        probabilities: Tensor = lm.model(rows, use_cache=False).logits[:, -1].softmax(-1)[:, answer]
        return probabilities

    for layer in range(lm.n_layers):
        method = LayerIntegratedGradients(forward, lm.model.get_submodule(lm.layout.block(layer)))
        with torch.enable_grad():
            method.attribute(ids, baselines=torch.zeros_like(ids), n_steps=nodes, method="gausslegendre")


def timed(run: Callable[[], Any], lm: LM, times: int) -> list[float]:
    """Return seconds of each of some runs."""
    seconds = []
    for _ in range(times):
        synchronize(lm.device)
        start = time.perf_counter()
        run()
        synchronize(lm.device)
        seconds.append(time.perf_counter() - start)
    return seconds


def gflop(run: Callable[[], Any]) -> float:
    """Count the products of one run, in 1e9 operations."""
    # The counter does not see packed products; without oneDNN the same ones are torch's own.
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 1e9


def packed_ceiling(width: int) -> float:
    """Return what packed oneDNN products of 1024 x H by H x 4H reach on this processor, in GFLOP/s."""
    layer = torch.nn.Linear(width, 4 * width)
    rows, packed = torch.rand(1024, width), torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
    best = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        torch.ops.mkldnn._linear_pointwise(rows, packed, layer.bias.detach(), "none", [], "")
        best = min(best, time.perf_counter() - start)
    return 2 * rows.numel() * 4 * width / best / 1e9


def facts_of(lm: LM) -> list[Fact]:
    """Return facts to trace; what the model knows does not matter for speed."""
    return [
        Fact(known_id=number, subject=subject, attribute=lm.decode([7]), prompt=PROMPT.format(subject))
        for number, subject in enumerate(SUBJECTS)
    ]


def measure_kinds(lm: LM, facts: Sequence[Fact], noise: Corruption, window: int, cells: int, times: int) -> Any:
    """Measure each kind of one fact's trace against the plain loop, of which `cells` cells are run."""
    fact, rows = facts[0], []
    prompt = encode(lm, fact)
    plain = PlainLoop(lm, prompt, noise.noise(fact.known_id, prompt.end - prompt.begin, lm.width), window)
    every = [(token, layer) for token in range(len(prompt.ids)) for layer in range(lm.n_layers)]
    chosen = [every[place] for place in np.linspace(0, len(every) - 1, min(cells, len(every)), dtype=int)]
    for kind in KINDS:
        [found] = trace(lm, [fact], noise, Scan((kind,), window))
        assert isinstance(found, Traced)
        scores = found.traces[kind].scores
        worst, loop = 0.0, []
        for cell in chosen:
            start = time.perf_counter()
            score = plain.cell(kind, *cell)
            loop.append(time.perf_counter() - start)
            worst = max(worst, abs(score - scores[cell]))

        def ours(kind: Any = kind) -> Any:
            return trace(lm, [fact], noise, Scan((kind,), window))

        seconds = timed(ours, lm, times)
        mean, work = sum(loop) / len(loop) * (len(every) + 2), gflop(ours)
        rows.append(
            {
                "what": kind,
                "plain": mean,
                "plain_cells_run": len(chosen),
                "ours": median(seconds),
                "ours_turns": seconds,
                "ratio": mean / median(seconds),
                "gflop": work,
                "gflops": work / median(seconds),
                "worst_difference": worst,
                "high": found.high,
                "low": found.low,
            }
        )
    return rows


def measure_others(lm: LM, facts: Sequence[Fact], noise: Corruption, window: int, times: int) -> list[dict[str, Any]]:
    """Measure what has no plain loop of its own here: severed paths, an extra token, several facts at once."""
    runs: dict[str, Callable[[], Any]] = {
        "three kinds, one fact": lambda: trace(lm, facts[:1], noise, Scan(KINDS, window)),
        f"three kinds, {len(facts)} facts one by one": lambda: [
            trace(lm, [fact], noise, Scan(KINDS, window)) for fact in facts
        ],
        f"three kinds, {len(facts)} facts at once": lambda: trace(lm, facts, noise, Scan(KINDS, window)),
        "severed, last subject token": lambda: trace(
            lm, facts[:1], noise, Scan(("state", *SEVERED), at="last_subject")
        ),
        "three kinds, extra token": lambda: trace(lm, facts[:1], noise, Scan(KINDS, window), extra_token=True),
    }
    return [{"what": name, "seconds": median(timed(run, lm, times))} for name, run in runs.items()]


def measure_gradients(lm: LM, fact: Fact, nodes: int, times: int) -> dict[str, Any]:
    """Measure integrated gradients of all layers' states against captum's."""
    [found] = attribute(lm, [fact], PARTS[:1], nodes=nodes)
    assert isinstance(found, Attributed)
    ours = timed(lambda: attribute(lm, [fact], PARTS[:1], nodes=nodes), lm, times)
    result: dict[str, Any] = {"nodes": len(quadrature(nodes)[0]), "ours": median(ours), "captum": None, "ratio": None}
    if importlib.util.find_spec("captum"):
        theirs = timed(lambda: captum_gradients(lm, found.prompt, found.answer, nodes), lm, max(1, times - 1))
        result |= {"captum": median(theirs), "ratio": median(theirs) / median(ours)}
    return result


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    machine = result["machine"]
    print(
        f"{result['model']['name']}: {result['model']['layers']} layers, {result['tokens']} tokens; {machine['device']}"
    )
    print(f"{machine['threads']} threads, load {machine['load'][0]}")
    for side, library in result["products"].items():
        print(f"products, {side}: {library}, ceiling {result['ceiling_gflops'][side]:.0f} GFLOP/s")
    for row in result["kinds"]:
        share = row["gflops"] / result["ceiling_gflops"]["ours"]
        print(
            f"{row['what']:<8} plain {row['plain']:8.2f} s  ours {row['ours']:7.3f} s  {row['ratio']:5.1f}x  "
            f"{share:4.0%} of the ceiling  worst difference {row['worst_difference']:.1e}, "
            f"high {row['high']:.3f}, low {row['low']:.3f}"
        )
    for row in result["others"]:
        print(f"{row['what']:<34} {row['seconds']:7.3f} s")
    gradients = result["gradients"]
    captum = "captum is not installed" if gradients["captum"] is None else f"captum {gradients['captum']:.2f} s"
    ratio = "" if gradients["ratio"] is None else f", {gradients['ratio']:.1f}x"
    print(f"integrated gradients of all states  ours {gradients['ours']:.3f} s, {captum}{ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="factlm", help="folder, Hub id, embedded name, or small, medium, xl")
    parser.add_argument("--window", type=int, help="layers in a window; default 10, or half the depth if shallow")
    parser.add_argument("--cells", type=int, default=24, help="cells of each kind that the plain loop really runs")
    parser.add_argument("--times", type=int, default=3, help="runs of our side; the median counts")
    parser.add_argument("--nodes", type=int, default=50, help="nodes of the quadrature")
    parser.add_argument("--device", help="cpu, cuda ...; by default an accelerator if there is one")
    parser.add_argument("--out", type=Path, help="the file to write; by default in benchmarks/results")
    arguments = parser.parse_args()
    lm = open_lm(arguments.model, arguments.device)
    facts = facts_of(lm)
    window = arguments.window or (10 if lm.n_layers > 10 else max(1, lm.n_layers // 2))
    noise = make_corruption(lm, "s3", subjects=SUBJECTS)
    library, plain_ceiling = product_library(lm.device), measure_ceiling(lm.width, lm.device).gflops
    packs = packs_products(lm)
    result = {
        "what": "causal traces and integrated gradients; seconds a fact",
        "made_by": f"python -m benchmarks.tracing --model {arguments.model}",
        "machine": describe(lm.device),
        "model": {**lm.identity, "layers": lm.n_layers, "width": lm.width, "vocabulary": lm.vocabulary},
        "tokens": len(encode(lm, facts[0]).ids),
        "window": window,
        "samples": noise.samples,
        "products": {"plain": library, "ours": "oneDNN, packed weights" if packs else library},
        "ceiling_gflops": {"plain": plain_ceiling, "ours": packed_ceiling(lm.width) if packs else plain_ceiling},
        "kinds": measure_kinds(lm, facts, noise, window, arguments.cells, arguments.times),
        "others": measure_others(lm, facts, noise, window, arguments.times),
        "gradients": measure_gradients(lm, facts[0], arguments.nodes, arguments.times),
    }
    show(result)
    slug = re.sub(r"\W+", "-", f"{lm.name}-{device_name(lm.device)}".lower()).strip("-")
    path = arguments.out or RESULTS / f"tracing-{slug}.json"
    write_json(path, json.loads(json.dumps(result)))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
