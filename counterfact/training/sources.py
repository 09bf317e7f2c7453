"""Opens the examples of a task: which data it needs, and how they are cut."""

from counterfact.contracts.datasets import Dataset
from counterfact.core.errors import BadInput
from counterfact.core.texts import TextSource
from counterfact.editing.networks import NetworkSettings, Task
from counterfact.lm.model.language_model import LM
from counterfact.training.examples import Source
from counterfact.training.records import Records
from counterfact.training.texts import Texts, Windows


def open_source(
    lm: LM,
    task: Task,
    settings: NetworkSettings,
    *,
    dataset: Dataset | None,
    texts: TextSource | None,
    max_texts: int | None = None,
    reserved: int = 0,
    seed: int = 0,
) -> Source:
    """Return the examples of a task.

    Args:
        lm: the model.
        task: what to train for.
        settings: lengths and labels.
        dataset: records, for every task but `text`.
        texts: plain texts: what `text` is trained on, and half of the locality of `counterfact`.
        max_texts: how many of them.
        reserved: records at the start of a CounterFact data set that are for evaluation.
        seed: of the training.

    Raises:
        BadInput: what the task needs is missing, or of the wrong kind.
    """
    if texts is None and task in {"text", "counterfact"}:
        raise BadInput(f"training for {task!r} needs plain texts")
    needs_texts = texts is not None and task in {"text", "counterfact"}
    windows = (
        Windows(lm, texts, settings.text_tokens, settings.locality_tokens, max_texts)
        if texts is not None and needs_texts
        else None
    )
    if task == "text":
        fewest, most = settings.fewest_text_labels, settings.most_text_labels
        if windows is None or not fewest <= most < settings.text_tokens:
            raise BadInput(f"expected fewest <= most < {settings.text_tokens} text labels, got {fewest} and {most}")
        return Texts(windows, fewest, most)
    kind = "zsre" if task == "zsre" else "counterfact"
    if dataset is None or dataset.kind != kind:
        raise BadInput(f"training for {task!r} needs {kind} records, got {dataset.kind if dataset else 'none'}")
    locality = "neighbors" if task == "neighbors" else "facts"
    return Records(lm, dataset, 0 if kind == "zsre" else reserved, settings, locality, windows, seed)
