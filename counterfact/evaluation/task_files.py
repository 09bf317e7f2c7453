"""A data set as task files of EleutherAI's lm-evaluation-harness, which then scores unedited models as we do.

Gao et al. The Language Model Evaluation Harness. https://github.com/EleutherAI/lm-evaluation-harness

The harness knows texts, and the log-likelihood of one after another; CounterFact compares objects per token, and zsRE
counts tokens. So the files are made for one tokenizer: they hold the targets' numbers of tokens, and one document for
each token that is counted.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from counterfact.contracts.datasets import Dataset
from counterfact.contracts.metrics import METRICS
from counterfact.core.errors import BadInput
from counterfact.core.files import whole_folder, write_atomic, write_jsonl
from counterfact.core.records import BadRecord
from counterfact.evaluation import harness_utils
from counterfact.lm.model.language_model import LM
from counterfact.lm.queries import Query

TASK = """\
# {metric} of {dataset}, for the tokenizer of {model}; written by `counterfact lm-eval-tasks`. As a fraction, not in %.
task: {task}
tag: {tag}
custom_dataset: !function utils.load
dataset_kwargs:
  file: {task}.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: prompt
doc_to_choice: targets
doc_to_target: 0
target_delimiter: ""
num_fewshot: 0
process_results: !function utils.process_results
metric_list:
  - metric: {metric}
    aggregation: !function utils.mean_of_records
    higher_is_better: {higher}
metadata:
  version: {version}
"""


class TaskFiles(NamedTuple):
    """What was written."""

    folder: Path
    """What the harness is given as `--include_path`."""
    tag: str
    """Names all of the tasks together."""
    documents: dict[str, int]
    """How many each task has, by its name."""
    left_out: int
    """Queries that no texts ask with this tokenizer: numbers are without them."""


def write_task_files(folder: Path, dataset: Dataset, lm: LM) -> TaskFiles:
    """Write a task for each metric of a data set that log-likelihoods suffice for.

    Args:
        folder: the folder to make: one `.yaml` and one `.jsonl` file a task, and `utils.py`.
        dataset: records of a benchmark that says what is `asked` for its metrics; those that cannot be read are left
            out.
        lm: the model whose tokenizer and length the files are for.

    Raises:
        BadInput: the benchmark does not say it, or the folder holds something.
    """
    benchmark = dataset.benchmark
    if benchmark.asked is None:
        raise BadInput(f"{benchmark.title} has metrics that no log-likelihoods give: no task files can be made of it")
    found: dict[str, list[dict[str, Any]]] = {}
    left_out = 0
    for record in dataset.records:
        if isinstance(record, BadRecord):
            continue
        for metric, queries in benchmark.asked(record).items():
            for query in queries:
                try:
                    documents = list(_documents(lm, query))
                except ValueError:
                    left_out += 1
                    continue
                named = {"metric": metric, "case_id": record.case_id}
                found.setdefault(metric, []).extend(named | document for document in documents)
    if not found:
        raise BadInput(f"{dataset.path}: no record is asked anything that the tokenizer of {lm.name} can encode")
    tag = re.sub(r"\W+", "_", dataset.name).lower()
    tasks = {metric: f"{tag}_{metric.lower()}" for metric in found}
    with whole_folder(folder, "task files") as unfinished:
        write_atomic(unfinished / "utils.py", Path(harness_utils.__file__).read_text(encoding="utf-8"))
        for metric, task in tasks.items():
            write_jsonl(unfinished / f"{task}.jsonl", found[metric])
            text = TASK.format(
                metric=metric,
                dataset=dataset.label,
                model=lm.name,
                task=task,
                tag=tag,
                higher=str(METRICS.get(metric).better == "higher").lower(),
                version=METRICS.get(metric).definition,
            )
            write_atomic(unfinished / f"{task}.yaml", text)
    return TaskFiles(folder, tag, {task: len(found[metric]) for metric, task in tasks.items()}, left_out)


def _documents(lm: LM, query: Query) -> Iterator[dict[str, Any]]:
    """Yield one document for a query with two targets, and one for each token of a single target.

    Raises:
        ValueError: a target cannot be encoded, or no texts are encoded as the tokens that are asked about.
    """
    prompt = lm.prompt_tokens(query.prompt)
    targets = [lm.target_tokens(target, query.joiner) for target in query.targets]
    if len(targets) == 1:
        [ids] = targets
        for place, token in enumerate(ids):
            context, [text] = _texts(lm, [*prompt, *ids[:place]], [[token]])
            yield {"prompt": context, "targets": [text], "tokens": [1]}
    else:
        context, texts = _texts(lm, prompt, targets)
        yield {"prompt": context, "targets": texts, "tokens": [len(ids) for ids in targets]}


def _texts(lm: LM, before: list[int], targets: list[list[int]]) -> tuple[str, list[str]]:
    """Return the texts of a context and of what follows it, which the harness encodes as the ids that are given."""
    plain = before[len(lm.encoding.start) :]
    context, texts = lm.decode(plain), []
    for ids in targets:
        whole = lm.decode([*plain, *ids])
        # The harness encodes both together, and cuts where the context alone would end.
        same = lm.tokenizer(whole)["input_ids"] == [*before, *ids] and lm.tokenizer(context)["input_ids"] == before
        if not (same and whole.startswith(context) and context == context.rstrip()):
            raise ValueError(f"no texts are encoded as {context!r} and what follows it")
        if len(before) + len(ids) - 1 > lm.max_length:
            raise ValueError(f"the model takes {lm.max_length} tokens")
        texts.append(whole.removeprefix(context))
    return context, texts
