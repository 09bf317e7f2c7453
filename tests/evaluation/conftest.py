"""What the tests of units and runners share: fourteen records, and what one process with one thread makes of them."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from counterfact.contracts.datasets import Dataset
from counterfact.evaluation.runners.local import LocalRunner
from tests.support.evaluating import contents
from tests.support.running import records, run_with


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Seven units; the tests of other things have a data set of their own."""
    return records(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the runs must come to; torch's own number of threads comes back afterwards."""
    threads, folder = torch.get_num_threads(), tmp_path_factory.mktemp("undisturbed")
    run_with(LocalRunner(1), dataset, folder)
    yield contents(folder)
    torch.set_num_threads(threads)
