"""What an edit costs the rest: benchmarks of EleutherAI's lm-evaluation-harness, before and after it.

Gao et al. The Language Model Evaluation Harness. https://github.com/EleutherAI/lm-evaluation-harness
"""

import importlib.util
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput, Failed, did_you_mean
from counterfact.core.files import finite
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit
from counterfact.lm.edits.whole_model import check_in_weights
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.precision import float32_products

HARNESS = "lm-eval"
SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
"""The harness's own, which it sets itself and reports under these names."""


def general_ability(
    lm: LM,
    edits: Sequence[Edit],
    tasks: Sequence[str],
    *,
    task_folder: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
) -> list[dict[str, Any]]:
    """Measure the unedited model, then the model with each edit in its weights, by tasks of the harness.

    The model is handed over in memory, and is afterwards as it was. Numbers are the harness's: those that it gives for
    the folder that `save_model` writes. Its passes are its own, so that bf16 products, which are this package's, are
    strict ones here.

    Args:
        lm: the model.
        edits: each is measured by itself.
        tasks: names of the harness's tasks, tags and groups.
        task_folder: holds task files of your own, beside those of the harness.
        num_fewshot: examples in front of each question; `None`: as each task has it.
        limit: documents of each task, from the first; `None`: all.
        batch_size: rows that are run together.

    Returns:
        For each edit: harness and version, what was chosen, seeds, versions of the tasks, numbers of documents, and
        `results`: by task and metric, `unedited` and `edited`, with standard errors where the harness has them.

    Raises:
        BadInput: lm-eval is not installed, a task is not known, or an edit is a text before the prompt.
        Failed: the data of a task cannot be read.
    """
    check_harness()
    check_in_weights(edits)
    if lm.precision == "bf16":
        lm = replace(lm, precision="strict")
    asked = {"tasks": list(tasks), "num_fewshot": num_fewshot, "limit": limit}
    manager = _manager(tasks, task_folder)
    before = _run(lm, [], asked, manager, batch_size)
    found = []
    for edit in edits:
        after = _run(lm, [edit], asked, manager, batch_size)
        both = {task: _both(before["results"][task], numbers) for task, numbers in after["results"].items()}
        found.append(
            {
                "harness": {"name": HARNESS, "version": metadata.version(HARNESS)},
                "model": dict(lm.identity),
                **asked,
                "seeds": {name: after["config"][name] for name in SEEDS},
                "task_versions": {task: after["versions"].get(task) for task in both},
                "documents": {task: count["effective"] for task, count in after["n-samples"].items()},
                "results": both,
            }
        )
    return found


def check_harness() -> None:
    """Raise `BadInput` unless the harness is installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise BadInput(
            "general ability is measured by EleutherAI's lm-evaluation-harness, which is not installed: "
            "pip install 'counterfact-toolkit[lm-eval]'"
        )


def _manager(tasks: Sequence[str], task_folder: Path | None) -> Any:
    """Return what finds tasks: in the folder alone, where that has them all, as the harness's own are thousands."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    folders = [] if task_folder is None else [str(task_folder)]
    for own in (False, True):
        manager = TaskManager(include_path=folders, include_defaults=own)
        unknown = [task for task in tasks if task not in manager.all_tasks]
        if not unknown:
            return manager
    raise BadInput(f"the harness has no task {unknown[0]!r}. {_near(unknown[0], manager.all_tasks)}")


def _run(lm: LM, edits: Sequence[Edit], asked: Mapping[str, Any], manager: Any, batch_size: int) -> dict[str, Any]:
    from lm_eval import simple_evaluate  # noqa: PLC0415
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

    with float32_products(lm.precision), merged(lm, edits):
        # It changes its tokenizer.
        wrapped = HFLM(pretrained=lm.model, tokenizer=deepcopy(lm.tokenizer), batch_size=batch_size)
        try:
            found: dict[str, Any] = simple_evaluate(model=wrapped, **asked, task_manager=manager, log_samples=False)
        except OSError as error:
            raise Failed(f"the harness could not read the data of its tasks: {error}") from error
    return found


def _near(name: str, known: Sequence[str]) -> str:
    """Return the first half of the usual hint: the harness knows thousands of names."""
    hint, _, _ = did_you_mean(name, known).partition("Known: ")
    return hint.strip() or "Task files of your own are found with --task-folder"


def _both(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the numbers of one task, before and after, by metric; the harness's names end in a comma and a filter."""
    found: dict[str, dict[str, float | None]] = {}
    for key in after:
        name, comma, chosen = key.partition(",")
        if not comma:
            continue
        metric = name.removesuffix("_stderr") + ("" if chosen == "none" else f",{chosen}")
        numbers = found.setdefault(metric, {})
        for side, values in (("unedited", before), ("edited", after)):
            value = finite(values[key])
            if name == metric.partition(",")[0]:
                numbers[side] = value
            elif value is not None:
                numbers[f"{side}_stderr"] = value
    return found
