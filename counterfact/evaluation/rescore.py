"""Fill in the metrics of texts that a run deferred, where nltk is at hand."""

from pathlib import Path

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import one_writer
from counterfact.evaluation.retention import sequence_of
from counterfact.evaluation.store import PRE, Run, lines_of, load_run, write_run
from counterfact.evaluation.text_metrics import TextScorer, fill_texts


def score_texts(folder: Path, dataset: Dataset | None = None) -> Run:
    """Fill in the text metrics that a run deferred, of the edited and of the unedited model; return the run.

    What comes out is what a run without deferring writes, byte for byte (but for `environment`).

    Args:
        folder: of the finished run.
        dataset: what it was run on, with its reference texts; `None`: read it where the run read it.

    Raises:
        BadInput: the run is not finished, or was run on another data set.
    """
    run = load_run(folder)
    dataset = dataset_of(run, dataset)
    with one_writer(run.folder, wait=False):
        return rescore(run, TextScorer(dataset.benchmark.text_metrics, dataset.reference_texts))


def dataset_of(run: Run, dataset: Dataset | None = None) -> Dataset:
    """Return what a run was run on, all records that were read; `dataset` is taken if it is that, `None` is read.

    Raises:
        BadInput: it is another one, or is not where the run read it.
    """
    if dataset is None:
        read = run.known_of or run.data["n"]["asked"]
        dataset = load_dataset(run.data["environment"]["dataset_path"], read, benchmark=run.benchmark.name)
    found = run.data["dataset"]["content_hash"]
    if dataset.content_hash != found:
        raise BadInput(f"{run.folder} was run on records with hash {found[:8]}, these have {dataset.content_hash[:8]}")
    return dataset


def rescore(run: Run, texts: TextScorer) -> Run:
    """Do the work of `score_texts` in a folder that this process holds."""
    with one_writer(run.unedited_folder, wait=True):
        fill_texts(run.unedited_folder / PRE, "pre", texts)
    for path in lines_of(run.folder):
        fill_texts(path, "post", texts)
    data = {name: value for name, value in run.data.items() if name != "environment"}
    if "sequence" in data:
        data["sequence"] = sequence_of(run.folder, run.unedited_folder, run.benchmark, run.data["seeds"]["run"])
    return write_run(run.folder, data, run.data["environment"])
