"""How fast hypernetworks train: edits a second, against one edit at a time, and against the least arithmetic.

`python -m speed.hypernetworks` on factlm; `--shape gpt2-xl` on random weights of that shape (a GPU's job).
The floor counts products with weights: three runs of all blocks forward (edit, outer and locality text; the last of
them twice in the edited blocks), two runs back through the edited blocks, the output layer where it is read, and of
the network a forward and a backward pass over every token of the edit.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from counterfact.core.files import write_json
from counterfact.core.places import data_folder
from counterfact.core.texts import load_texts
from counterfact.editing.networks import NETWORKS, Hypernetwork, NetworkSettings
from counterfact.editors.ke import Ke
from counterfact.editors.mend import Mend
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm, wrap_lm
from counterfact.training.examples import Example, Sampler, Source
from counterfact.training.sources import open_source
from counterfact.training.steps import Step
from speed.machine import Ceiling, describe, measure_ceiling, synchronize
from speed.work import Sizes

RESULTS = Path(__file__).parent / "results"
SHAPES = {"gpt2-small": (12, 768, 12), "gpt2-xl": (48, 1600, 25)}
VOCABULARY = 50257


def random_model(shape: str, dtype: str, device: str) -> LM:
    """Return a GPT-2 of a published shape with random weights and factlm's tokenizer."""
    layers, width, heads = SHAPES[shape]
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, vocab_size=VOCABULARY)
    with torch.device(device):
        model = GPT2LMHeadModel(config).to(getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(data_folder() / "models/factlm")
    return wrap_lm(model, tokenizer, name=shape, weights_hash=shape)


def update(
    step: Step, optimizer: torch.optim.Optimizer, settings: NetworkSettings, examples: Sequence[Example]
) -> None:
    """Make one update, as the trainer does."""
    whole = step.losses(examples, observe=True).total(settings).mean()
    torch.autograd.backward(whole)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    float(nn.utils.clip_grad_norm_(parameters, settings.clip))
    optimizer.step()
    optimizer.zero_grad()


def seconds_an_edit(
    step: Step, settings: NetworkSettings, source: Source, batch: int, edits: int
) -> tuple[float, list[Example]]:
    """Return the seconds an edit takes in batches of a size, and the edits."""
    sampler = Sampler(source, 0)
    examples = [sampler.example(number) for number in range(edits)]
    optimizer = torch.optim.Adam(step.network.groups())
    step.network.observe(step.factors(examples[: max(2, batch)])[0])
    update(step, optimizer, settings, examples[:batch])
    synchronize(step.lm.device)
    start = time.perf_counter()
    for first in range(0, edits, batch):
        update(step, optimizer, settings, examples[first : first + batch])
    synchronize(step.lm.device)
    return (time.perf_counter() - start) / edits, examples


def floor_gflop(lm: LM, network: Hypernetwork, examples: Sequence[Example]) -> float:
    """Return the least arithmetic of an edit, 1e9 operations; see the module."""
    sizes, upper = Sizes.of(lm), lm.n_layers - network.start
    total = 0.0
    for example in examples:
        edit, outer, still = len(example.edit), len(example.outer), len(example.locality)
        below = (edit + outer + still) * network.start
        above = (edit * 2 + outer * 2 + still * 3) * upper
        heads = (example.labels * 4 + still * 3) * sizes.head
        total += 2 * ((below + above) * sizes.block + heads)
        if isinstance(network, Mend):
            total += 6 * edit * len(network.edited) * _weights(network.transforms) / len(network.transforms)
        elif isinstance(network, Ke):
            total += 6 * (edit * _weights(network.lstm) + _weights(network.code) + _weights(network.heads))
    return total / len(examples) / 1e9


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.ndim == 2 or isinstance(module, nn.LSTM))


def run(lm: LM, name: str, edits: int, *, autocast: bool, ceiling: Ceiling) -> dict[str, Any]:
    """Measure one hypernetwork."""
    model = lm.name if lm.name == "factlm" else "gpt2-xl"
    settings = NETWORKS.get(name).resolve(model, lm.n_layers).settings
    source = open_source(lm, "text", settings, dataset=None, texts=load_texts("embedded"), max_texts=500)
    batch = settings.batch * settings.accumulate
    rows = {}
    for label, size in (("batched", batch), ("one at a time", 1)):
        step = Step(lm, NETWORKS.get(name).build(lm, settings).to(lm.device), autocast)
        count = edits if size > 1 else max(8, edits // 4)
        rows[label], examples = seconds_an_edit(step, settings, source, size, count // size * size)
    floor = floor_gflop(lm, step.network, examples)
    least = floor / ceiling.gflops
    return {
        "network": name,
        "parameters": sum(p.numel() for p in step.network.parameters()),
        "batch": batch,
        "edits_per_second": round(1 / rows["batched"], 2),
        "edits_per_second_one_at_a_time": round(1 / rows["one at a time"], 2),
        "ratio": round(rows["one at a time"] / rows["batched"], 2),
        "floor_gflop_an_edit": round(floor, 3),
        "share_of_floor": round(least / rows["batched"], 3),
        "peak_memory": torch.cuda.max_memory_allocated() if lm.device.type == "cuda" else None,
    }


def main() -> None:
    """Measure MEND and KE, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=[*SHAPES], help="random weights of this shape instead of factlm")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--edits", type=int, default=320)
    parser.add_argument("--autocast", action="store_true", help="the model's products in bfloat16")
    parser.add_argument("--out", type=Path, help="a .json file; by default in speed/results")
    arguments = parser.parse_args()
    lm = (
        random_model(arguments.shape, arguments.dtype, arguments.device)
        if arguments.shape
        else load_lm(data_folder() / "models/factlm", device=arguments.device)
    )
    ceiling = measure_ceiling(lm.width, lm.device)
    found = {
        "command": "python -m speed.hypernetworks",
        "model": lm.name,
        "autocast": arguments.autocast,
        "machine": describe(lm.device),
        "ceiling": vars(ceiling),
        "networks": [
            run(lm, name, arguments.edits, autocast=arguments.autocast, ceiling=ceiling) for name in ("mend", "ke")
        ],
    }
    print(json.dumps(found, indent=1))
    write_json(arguments.out or RESULTS / f"hypernetworks-{lm.name}-{lm.device.type}.json", found)


if __name__ == "__main__":
    main()
