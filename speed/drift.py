"""How far results move with precision and with chunk size: the same records, edits and seeds, computed otherwise.

`python -m speed.drift` on factlm and the embedded data set. The context templates and the second moment are
those of strict float32 in every setting, so that what is compared is arithmetic and not another draw. Runs are kept
in a folder and gone on with, so a stopped benchmark can be run again. `tf32` and `bf16` are left out where the device
does not have them. Of another model, scores alone:

    python -m speed.drift --model MODEL --editors identity rome --set layer=3 --records 20 --no-texts --settings bf16
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.contracts.editors import EDITORS, Resources
from counterfact.core.errors import BadInput
from counterfact.core.files import write_json
from counterfact.core.places import cache_folder, data_folder
from counterfact.core.texts import load_texts
from counterfact.editing.contexts import context_templates
from counterfact.evaluation.harness import evaluate
from counterfact.evaluation.store import Run
from counterfact.evaluation.task import Options
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import Dtype, default_device, load_lm
from counterfact.lm.model.precision import Precision, check_precision
from counterfact.lm.planning.batch_plan import Plan, default_plan
from speed.machine import describe
from speed.main_job import command_of
from speed.setting import open_records

RESULTS = Path(__file__).parent / "results"
BASE = "float32"
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float64")
CHUNKS = {f"chunk {size}": size for size in (1, 7, 64)}
FAST: tuple[Precision, ...] = ("tf32", "bf16")
SETTINGS = (*DTYPES, *FAST, *CHUNKS)
METRICS = ("S", "ES", "EM", "PS", "PM", "NS", "NM", "GE", "RS")
TEXTS = 400
"""Texts that the second moment is taken over: a part of them, so that scores are not those of the demo."""


def open_setting(setting: str, model: Path, device: str | None) -> tuple[LM, Plan]:
    """Return the model as a setting wants it, and its plan."""
    dtype: Dtype = next((name for name in DTYPES if name == setting), "float32")
    precision: Precision = next((name for name in FAST if name == setting), "strict")
    lm = load_lm(model, device=device, dtype=dtype, precision=precision)
    plan = default_plan(lm)
    return lm, replace(plan, chunk=CHUNKS.get(setting, plan.chunk))


def is_possible(setting: str, device: torch.device) -> bool:
    """Whether a device can compute in a setting."""
    try:
        check_precision(setting if setting in FAST else "strict", device, torch.float32)
    except BadInput:
        return False
    return True


def choices_of(editor: str, chosen: argparse.Namespace) -> Sequence[str]:
    """Return the settings given for an editor; the unedited model has none."""
    return () if editor == "identity" else chosen.set


def shared_resources(model: Path, device: str | None, cache: Path, choices: Sequence[str]) -> Resources:
    """Return what all settings are given: templates and second moment of strict float32."""
    lm = load_lm(model, device=device)
    chosen: Any = EDITORS.get("rome").resolve(lm.name, lm.n_layers, choices).settings
    own = Resources(second_moment_texts=load_texts("embedded"), second_moment_max_texts=TEXTS, cache=cache)
    return Resources(
        context_templates=context_templates(lm, own, chosen.context_lengths, chosen.contexts_per_length),
        second_moments={chosen.layer: own.second_moment(lm, chosen.layer)},
    )


def run_setting(
    setting: str, editors: Sequence[str], dataset: Dataset, shared: Resources, chosen: argparse.Namespace
) -> dict[str, Run]:
    """Evaluate every editor in one setting."""
    lm, plan = open_setting(setting, chosen.model, chosen.device)
    folder = chosen.runs / setting.replace(" ", "-")
    runs = {}
    for name in editors:
        spec, start = EDITORS.get(name), time.perf_counter()
        resources = replace(shared, cache=folder / "cache")
        options = Options(plan=replace(plan, splits=[]), generate=chosen.texts)
        resolved = spec.resolve(lm.name, lm.n_layers, choices_of(name, chosen))
        runs[name] = evaluate(lm, spec, resolved, dataset, folder, resources=resources, options=options)
        print(f"{setting}, {name}: {time.perf_counter() - start:.1f} s", flush=True)
    return runs


def metrics_of(run: Run) -> dict[str, float | None]:
    """The values of the paper's metrics."""
    found = run.data["metrics"]
    return {name: found[name]["value"] for name in METRICS if name in found}


def pairs_of(block: Mapping[str, Any]) -> list[Mapping[str, float]]:
    """Nats a token of both objects after each prompt of a record."""
    return [pair for name, pairs in block.items() if name.endswith("_probs") for pair in pairs]


def compare(run: Run, base: Run) -> dict[str, Any]:
    """Hold a run against the same run in strict float32, record by record."""
    moved: list[float] = []
    flips = flags = same = texts = 0
    for mine, theirs in zip(run.cases, base.cases, strict=True):
        if "post" not in mine or "post" not in theirs:
            continue
        one, other = mine["post"], theirs["post"]
        for pair, before in zip(pairs_of(one), pairs_of(other), strict=True):
            moved += [abs(pair[name] - before[name]) for name in ("target_new", "target_true")]
            # Which object is likelier is what every success flag is made of.
            flips += (pair["target_new"] < pair["target_true"]) != (before["target_new"] < before["target_true"])
            flags += 1
        both = list(zip(one.get("text", ()), other.get("text", ()), strict=True))
        same, texts = same + sum(a == b for a, b in both), texts + len(both)
    tensor = torch.tensor(moved, dtype=torch.float64)
    return {
        "metrics": metrics_of(run),
        "nats_largest_difference": float(tensor.max()),
        "nats_mean_difference": float(tensor.mean()),
        "nats": len(moved),
        "flags_changed": flips,
        "flags": flags,
        "texts_identical": same,
        "texts": texts,
        "failed": run.data["n"]["failed"],
        "wall_seconds": run.data["environment"]["wall_seconds"],
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Write a table for people."""
    head = ["", *METRICS, "nats, largest", "nats, mean", "flags changed", "same texts"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for label, found in results.items():
        metrics = (found["metrics"].get(name) for name in METRICS)
        values = ["–" if value is None else f"{value:.2f}" for value in metrics]
        values += [f"{found[f'nats_{kind}_difference']:.1e}" for kind in ("largest", "mean")]
        values += [f"{found['flags_changed']} of {found['flags']}"]
        values += [f"{100 * found['texts_identical'] / found['texts']:.1f} %" if found["texts"] else "–"]
        lines.append(f"| {label} | {' | '.join(values)} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Read arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=data_folder() / "models/factlm", help="folder of a model")
    parser.add_argument("--dataset", help="folder of a data set; by default the embedded one is built")
    parser.add_argument("--records", type=int, default=100)
    parser.add_argument("--editors", nargs="+", default=["identity", "ft", "rome"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--set", action="append", default=[], help="a setting of the editors, as name=value")
    parser.add_argument("--no-texts", dest="texts", action="store_false", help="scores only")
    parser.add_argument("--runs", type=Path, default=cache_folder() / "bench" / "drift", help="where runs are kept")
    parser.add_argument("--device")
    parser.add_argument("--name", help="of the result file; without it nothing is written")
    return parser.parse_args()


def main() -> None:
    """Run what is asked, compare with strict float32, print, and write the result."""
    chosen = parse()
    device = torch.device(chosen.device or default_device())
    settings = [BASE, *(name for name in chosen.settings if name != BASE and is_possible(name, device))]
    place = chosen.dataset
    if place is None:
        open_records(None)
        place = str(cache_folder() / "bench" / "counterfact")
    dataset = load_dataset(place, chosen.records)
    shared = shared_resources(chosen.model, chosen.device, chosen.runs / "shared", chosen.set)
    runs = {setting: run_setting(setting, chosen.editors, dataset, shared, chosen) for setting in settings}
    found = {
        editor: {setting: compare(runs[setting][editor], runs[BASE][editor]) for setting in settings}
        for editor in chosen.editors
    }
    for editor, results in found.items():
        print(f"\n{editor}\n\n{table(results)}")
    if chosen.name:
        machine = describe(device)
        about = {"model": chosen.model.name, "dataset": dataset.label, "records": len(dataset.records)}
        command = command_of("drift", sys.argv[1:])
        write_json(RESULTS / f"drift-{chosen.name}.json", {"command": command, **about, **machine, "drift": found})


if __name__ == "__main__":
    main()
