"""Computes the least time of the main job on a device that is not at hand, from counted work and its data sheet.

    python -m speed.floor --shape gpt2-xl --dataset counterfact.json

A calculation, no measurement: nothing is run, and no weights are made.
"""

import argparse
from pathlib import Path

from counterfact.lm.model.loading import Dtype
from speed.machine import Ceiling
from speed.measure import RECORDS, work_of
from speed.setting import Setting, Wanted, describe_only
from speed.shapes import SHAPES

DEVICES: dict[str, dict[str, Ceiling]] = {
    "H200": {
        "bfloat16": Ceiling(989e3, 4800),
        "TF32": Ceiling(494e3, 4800),
        "float32": Ceiling(67e3, 4800),
    },
    "H100 SXM": {
        "bfloat16": Ceiling(989e3, 3350),
        "TF32": Ceiling(494e3, 3350),
        "float32": Ceiling(67e3, 3350),
    },
}
"""Data-sheet values, products without sparsity."""


def rows(setting: Setting, products: str, ceiling: Ceiling, length: int) -> list[str]:
    """Return the lines of a table, one a stage: work a record, and minutes for all records of CounterFact."""
    work = work_of(setting, [setting.settings.steps] * len(setting.records), length)
    lines, total, apart = [], 0.0, 0.0
    for stage in ("edit", "score", "generate"):
        part = work[stage]
        computing, reading = part.gflop / ceiling.gflops, part.gigabytes / ceiling.gigabytes
        total, apart = total + part.seconds(ceiling), apart + computing + reading
        minutes = f"{_minutes(computing)} | {_minutes(reading)} | {_minutes(part.seconds(ceiling))}"
        lines.append(f"| {products} | {stage} | {part.gflop / 1e3:.2f} | {part.gigabytes:.2f} | {minutes} |")
    return [*lines, f"| {products} | total | | | | | {_minutes(total)} (one after the other: {_minutes(apart)}) |"]


def _minutes(seconds: float) -> str:
    return f"{seconds * RECORDS / 60:.2f}"


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-xl")
    parser.add_argument("--dataset", help="a built folder or counterfact.json; by default made of the embedded world")
    parser.add_argument("--tokenizer", type=Path, help="folder of GPT-2's tokenizer; by default trained")
    parser.add_argument("--on", choices=DEVICES, default="H200")
    parser.add_argument("--chunk", type=int, default=512, help="records at once: weights are read once for all of them")
    parser.add_argument("--length", type=int, default=100, help="tokens of a generated text")
    arguments = parser.parse_args()
    print(f"{arguments.on}, {arguments.shape}, {RECORDS:,} records, {arguments.chunk} at once; minutes, computed\n")
    print("| products | stage | TFLOP a record | GB a record | computing | reading | the longer |")
    print("|---|---|---|---|---|---|---|")
    for products, ceiling in DEVICES[arguments.on].items():
        dtype: Dtype = "bfloat16" if products == "bfloat16" else "float32"
        shape = SHAPES[arguments.shape]
        wanted = Wanted("", shape, arguments.dataset, arguments.chunk, "meta", dtype, arguments.tokenizer)
        print("\n".join(rows(describe_only(wanted), products, ceiling, arguments.length)))


if __name__ == "__main__":
    main()
