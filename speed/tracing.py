r"""Measure tracing against the plain loop, one forward pass for each cell, and against libraries that trace.

    python -m speed.tracing --shape gpt2-small            # GPT-2 small's shape, random weights
    python -m speed.tracing --model factlm
    python -m speed.tracing --shape gpt2-xl --dtype bfloat16 --device cuda
    python -m speed.tracing --growth                      # seconds and memory by tokens and layers

All sides run in one process, in turns, on the same weights, prompts, noise, windows and threads. The loops over cells
run a sample of their cells, evenly spread, and are scaled up; each sampled score must equal ours. With one thread on a
processor, seconds are the process's own, so that others' work does not count; else they are the clock's. captum,
TransformerLens and pyvene are measured where they are installed (`pip install -e '.[bench]'`).
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from counterfact.core.files import write_json
from counterfact.core.process import keep_freed_memory
from counterfact.lm.forward.products import packs_products
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import DTYPES, wrap_lm
from counterfact.tracing.corruption import make_corruption
from counterfact.tracing.facts import Fact, encode
from speed.machine import describe, device_name, measure_ceiling, packed_ceiling, product_library
from speed.main_job import RESULTS, slug
from speed.setting import open_model
from speed.tracing_runs import Job, growth, measure_gradients, measure_kinds, measure_others

SHAPES = {
    "tiny": (4, 64, 4),
    "gpt2-small": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-xl": (48, 1600, 25),
}
PROMPTS = (
    ("Winnipeg", "In {}, people are citizens of"),
    ("Winnipeg", "{} is in the country of"),
    ("Swedish Academy", "{} is in the country of"),
    ("Barcelona", "In {}, people are citizens of"),
)
"""Prompts of 9, 9, 10 and 7 tokens for factlm's tokenizer; the subject begins at the second, first, first, second."""
KNOWN = 1209
"""Facts of the paper's file."""


def random_model(shape: str, device: str | None, dtype: str, **changes: int) -> LM:
    """Make a model of a GPT-2's shape with random weights and factlm's tokenizer.

    Weights are scaled so that the corruption matters: with the usual initialisation a wrong trace would look right.
    """
    layers, width, heads = SHAPES[shape]
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_layer": layers, "n_embd": width, "n_head": heads, **changes}
    config: Any = GPT2Config(activation_function="gelu_pytorch_tanh", **sizes)
    model: Any = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attn.c_attn.weight" in name:
                parameter.mul_(ATTENTION_SCALE)
            if name.endswith("wte.weight"):
                parameter.mul_(EMBEDDING_SCALE)
    tokenizer = open_model("factlm", (), "cpu").tokenizer
    return wrap_lm(model.to(device or "cpu", DTYPES[dtype]), tokenizer, name=f"{shape}-random")


ATTENTION_SCALE, EMBEDDING_SCALE = 6, 8


def facts_of(lm: LM) -> list[Fact]:
    """Return facts to trace; what the model knows does not matter for speed."""
    return [
        Fact(known_id=number, subject=subject, attribute=lm.decode([7]), prompt=prompt.format(subject))
        for number, (subject, prompt) in enumerate(PROMPTS)
    ]


def measure(lm: LM, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run everything on one model."""
    facts = facts_of(lm)[: arguments.facts]
    window = arguments.window or (10 if lm.n_layers > 10 else max(1, lm.n_layers // 2))
    noise = make_corruption(lm, "s3", subjects=[fact.subject for fact in facts])
    library, packs = product_library(lm.device), packs_products(lm)
    plain_ceiling = measure_ceiling(lm.width, lm.device).gflops
    job = Job(lm, facts, noise, window, arguments.cells, arguments.times, arguments.nodes)
    kinds, others = measure_kinds(job), measure_others(job)
    return {
        "what": "causal traces and integrated gradients; seconds a fact",
        "machine": describe(lm.device),
        "model": {**lm.identity, "layers": lm.n_layers, "width": lm.width, "vocabulary": lm.vocabulary},
        "prompts": [
            {"tokens": len(prompt.ids), "subject": [prompt.begin, prompt.end]}
            for prompt in (encode(lm, fact) for fact in facts)
        ],
        "window": window,
        "samples": noise.samples,
        "seconds_are": job.clock_name,
        "products": {"plain": library, "ours": "oneDNN, packed weights" if packs else library},
        "ceiling_gflops": {
            "plain": plain_ceiling,
            "ours": packed_ceiling(lm.width, clock=job.clock) if packs else plain_ceiling,
        },
        "kinds": kinds,
        "others": others,
        "seconds_a_fact": others[0]["seconds"] / len(facts),
        "gradients": measure_gradients(job) if arguments.nodes else [],
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    machine, model, ceiling = result["machine"], result["model"], result["ceiling_gflops"]
    print(f"{model['name']}: {model['layers']} layers, {result['prompts'][0]} ; {machine['device']}")
    print(f"{machine['threads']} threads, load {machine['load'][0]}, {result['seconds_are']}")
    for side, library in result["products"].items():
        print(f"products, {side}: {library}, ceiling {ceiling[side]:.0f} GFLOP/s")
    for row in result["kinds"]:
        # At the ceiling our products alone would take this share of our seconds: no ratio can exceed what that gives.
        share = row["gflops"] / ceiling["ours"]
        others = "  ".join(
            f"{name} {found['seconds']:.2f} s ({found['ratio']:.1f}x, at most {found['ratio'] / share:.1f}x)"
            for name, found in row["against"].items()
        )
        print(
            f"{row['what']:<6} ours {row['seconds']:7.3f} s, {row['gflop']:.1f} GFLOP, {share:4.0%} of the ceiling; "
            f"high {row['high']:.4f}, low {row['low']:.4f}; {others}"
        )
    for row in result["others"]:
        print(f"{row['what']:<36} {row['seconds']:7.3f} s  plain {row['plain']:8.2f} s  {row['ratio']:5.1f}x")
    minutes = result["seconds_a_fact"] * KNOWN / 60
    print(f"a fact's three kinds: {result['seconds_a_fact']:.3f} s; {KNOWN:,} such facts: {minutes:.1f} minutes")
    for row in result["gradients"]:
        theirs = f"captum {row['captum']:.2f} s ({row['ratio']:.1f}x)" if "captum" in row else "no captum"
        print(f"integrated gradients of {row['what']}: ours {row['seconds']:.3f} s, {theirs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="factlm", help="folder, Hub id or embedded name")
    parser.add_argument("--shape", choices=SHAPES, help="instead: random weights of this shape")
    parser.add_argument("--growth", action="store_true", help="instead: seconds and memory by tokens and layers")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of random weights")
    parser.add_argument("--window", type=int, help="layers in a window; default 10, or half the depth if shallow")
    parser.add_argument("--cells", type=int, default=12, help="cells of each kind that each loop really runs")
    parser.add_argument("--facts", type=int, default=len(PROMPTS), help="facts that are traced at once")
    parser.add_argument("--times", type=int, default=3, help="turns; the median counts")
    parser.add_argument("--nodes", type=int, default=50, help="nodes of the quadrature; 0: no gradients")
    parser.add_argument("--device", help="cpu, cuda ...; by default an accelerator if there is one")
    parser.add_argument("--out", type=Path, help="the file to write; by default in speed/results")
    arguments = parser.parse_args()
    keep_freed_memory(os.environ)  # as the command line does
    if arguments.growth:
        result: dict[str, Any] = growth(
            lambda depth: random_model("tiny", "cpu", "float32", n_layer=depth, vocab_size=4096)
        )
        name = "growth"
    else:
        if arguments.shape:
            lm = random_model(arguments.shape, arguments.device, arguments.dtype)
        else:
            lm = open_model(arguments.model, (), arguments.device)
        result, name = measure(lm, arguments), lm.name
        show(result)
    given = [f"--{key.replace('_', '-')} {value}" for key, value in vars(arguments).items() if value and key != "out"]
    result["made_by"] = "python -m speed.tracing " + " ".join(given).replace(" True", "")
    parts = [name, device_name(torch.device(arguments.device or "cpu"))]
    if torch.get_num_threads() > 1:
        parts.append(f"{torch.get_num_threads()} threads")
    path = arguments.out or RESULTS / f"tracing-{slug(*parts)}.json"
    write_json(path, json.loads(json.dumps(result)))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
