"""Times the main job, an edit by ROME and its measurement, against the same job done one record at a time.

    python -m speed.main_job --model factlm --records 6
    python -m speed.main_job --model smollm2 --precision bf16 --set layer=3 --records 1 --chunk 8
    python -m speed.main_job --shape gpt2-small --dataset counterfact.json --chunk 16 --records 1
    python -m speed.main_job --shape gpt2-xl --dataset counterfact.json --chunk 512 --dtype bfloat16 --device cuda

All sides run in one process, in turns, on the same records, weights and threads. One at a time is measured with torch's
own products, and with ours around it where these differ. The unedited model is measured once for a data set and is no
part of the stages; what measuring it for each record adds to one at a time is stated apart. Context templates and the
second moment are no part either. If the sides come to different numbers, no ratio is given; the exit status is 1.
"""

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from counterfact.core.files import write_json
from counterfact.core.process import keep_freed_memory
from counterfact.lm.model.loading import DTYPES
from counterfact.lm.model.precision import PRECISIONS
from counterfact.lm.planning.batch_plan import default_plan
from speed.machine import describe, device_name
from speed.measure import Extent, measure
from speed.report import show
from speed.setting import Setting, Wanted, prepare
from speed.shapes import SHAPES

RESULTS = Path(__file__).parent / "results"


def parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--model", default="factlm", help="folder, Hub id or embedded name")
    found.add_argument("--shape", choices=SHAPES, help="in place of a model: random weights of this size")
    found.add_argument("--dataset", help="a built folder or counterfact.json; by default made of the embedded world")
    found.add_argument("--tokenizer", type=Path, help="folder of GPT-2's tokenizer, for a shape; by default trained")
    found.add_argument("--records", type=int, default=6, help="how many are done one at a time")
    found.add_argument("--chunk", type=int, default=32, help="how many are done at once; repeated if need be")
    found.add_argument("--turns", type=int, help="how often these are done; by default as often as --records")
    found.add_argument("--length", type=int, default=100, help="tokens of a generated text")
    found.add_argument("--counted", type=int, default=1, help="records whose operations are counted; 0: none")
    found.add_argument("--device", help="cpu, cuda ...; by default an accelerator if there is one")
    found.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights")
    found.add_argument("--precision", choices=PRECISIONS, default="strict", help="of float32 products")
    found.add_argument("--without", action="store_true", help="measure our side without packed products too")
    found.add_argument("--set", action="append", default=[], help="a setting of ROME, as name=value; may be repeated")
    found.add_argument("--out", type=Path, help="the file to write; by default in speed/results")
    return found


def facts(setting: Setting, command: str) -> dict[str, Any]:
    """Return what a reader must know to judge or repeat a measurement."""
    lm, plan = setting.lm, asdict(default_plan(setting.lm))
    plan.pop("splits")
    return {
        "what": "edit by ROME, scores of 13 prompts, 10 texts; seconds a record, unedited values not counted",
        "command": command,
        "machine": describe(lm.device),
        "model": {"layers": lm.n_layers, "width": lm.width, "vocabulary": lm.vocabulary, **lm.identity},
        "dataset": {"name": setting.dataset, "distinct": setting.distinct},
        "settings": setting.settings.model_dump(),
        "plan": plan,
        "chunk": len(setting.records),
    }


def command_of(module: str, arguments: Sequence[str]) -> str:
    """Return the command as it was given, without the folders of this machine.

    >>> command_of("main_job", ["--dataset", "/some/where/counterfact.json", "--tokenizer=/some/where/gpt2"])
    'python -m speed.main_job --dataset counterfact.json --tokenizer=gpt2'
    """
    names = (re.sub(r"(?<![^=])/(\S*/)*", "", argument) for argument in arguments)
    return f"python -m speed.{module} {shlex.join(names)}".strip()


def rounded(value: Any) -> Any:
    """Return a result with six digits of each float, ready for JSON."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def slug(*names: str) -> str:
    """Return a file's name.

    >>> slug("Random 6x192", "AMD EPYC")
    'random-6x192-amd-epyc'
    """
    return re.sub(r"\W+", "-", "-".join(names).lower()).strip("-")


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit status."""
    given = sys.argv[1:] if given is None else given
    arguments = parser().parse_args(given)
    keep_freed_memory(os.environ)  # as the command line does
    setting = prepare(
        Wanted(
            model=arguments.model,
            shape=SHAPES[arguments.shape] if arguments.shape else None,
            dataset=arguments.dataset,
            chunk=arguments.chunk,
            device=arguments.device,
            dtype=arguments.dtype,
            precision=arguments.precision,
            tokenizer=arguments.tokenizer,
            overrides=tuple(arguments.set),
        )
    )
    count = min(arguments.records, arguments.chunk)
    extent = Extent(
        records=count,
        turns=arguments.turns or count,
        length=arguments.length,
        counted=arguments.counted,
        without=arguments.without,
    )
    result = {**facts(setting, command_of("main_job", given)), "records": count, "length": arguments.length}
    result = rounded({**result, **measure(setting, extent)})
    show(result)
    kind = arguments.dtype if arguments.precision == "strict" else arguments.precision
    name = slug("main_job", arguments.shape or setting.lm.name, kind, device_name(setting.lm.device))
    path = arguments.out or RESULTS / f"{name}.json"
    write_json(path, json.loads(json.dumps(result)))
    print(f"\nwritten to {path}")
    return 0 if result["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
