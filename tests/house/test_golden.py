"""Our fast code against golden numbers of our own, computed slowly and independently by `tests.support.oracle`.

Every `tests/golden/*.json` is checked, by the function below that has its name; one without a function is an error.
The model, the requests and the settings come from the golden file, not from the code that made it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from counterfact.contracts.editors import EDITORS, Resources, edit_singly
from counterfact.core.prompts import fill
from counterfact.core.records import Request
from counterfact.core.texts import TextSource
from counterfact.editing.requests import encode
from counterfact.editing.value_search import Values, find_values
from counterfact.editors.finetune import lay_out, train
from counterfact.editors.rome import rank_one
from counterfact.lm.edits.edit import Edit
from counterfact.lm.generation import Generation, generate
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import wrap_lm
from counterfact.lm.moments.second_moment import SecondMoment, second_moments
from counterfact.lm.queries import Query, TargetScore
from counterfact.lm.scoring import score
from counterfact.metrics.consistency import cosine, fit_vectoriser, join_vector
from counterfact.metrics.fluency import text_entropy
from tests.golden import tiny
from tests.support import ROOT

FOLDER = ROOT / "tests" / "golden"
DTYPES = {"float64": torch.float64, "float32": torch.float32}
Inputs = Mapping[str, Any]


class Fast:
    """Our own code on the inputs of one golden file."""

    def __init__(self, dtype: str, inputs: Inputs, cache_folder: Path) -> None:
        self.dtype = dtype
        self.lm = tiny_lm(dtype)
        self.inputs = inputs
        self.cache = cache_folder

    @property
    def requests(self) -> list[Request]:
        given = enumerate(self.inputs["requests"])
        return [Request(i, item["prompt"], item["subject"], item["target"]) for i, item in given]

    @property
    def corpus(self) -> TextSource:
        texts = self.inputs["corpus"]
        return TextSource("golden", "golden", lambda: iter(texts))

    def moments(self, layers: list[int]) -> dict[int, SecondMoment]:
        return second_moments(self.lm, layers, self.corpus, tokens_per_batch=128, folder=self.cache)

    def rome_settings(self, name: str) -> Any:
        given = {"position": "subject_last", **self.inputs["rome"][name]}
        return EDITORS.get("rome").settings.check(given, f"golden {name}")

    def finetune_settings(self, name: str) -> Any:
        return EDITORS.get(name).settings.check(self.inputs["finetune"][name], f"golden {name}")

    def edits(self, method: str, settings: str) -> list[Edit]:
        """Edits of all requests, by the editor as a user calls it."""
        resources = Resources(
            second_moment_texts=self.corpus, context_templates=tuple(self.inputs["templates"]), cache=self.cache
        )
        chosen = self.finetune_settings(settings) if method.startswith("ft") else self.rome_settings(settings)
        found = edit_singly(EDITORS.get(method).prepare(self.lm, chosen, resources), self.requests, 0)
        assert all(isinstance(edit, Edit) for edit in found), found
        return [edit for edit in found if isinstance(edit, Edit)]

    @property
    def applied(self) -> list[Edit]:
        """The edits that scores, answers and texts are computed under."""
        return [self.edits(edit["method"], edit["settings"])[edit["request"]] for edit in self.inputs["edits"]]


@cache
def tiny_lm(dtype: str) -> LM:
    return wrap_lm(tiny.model(DTYPES[dtype]), tiny.tokenizer(), name="golden")


def tokens(fast: Fast) -> Any:
    rules = ("subject_last", "subject_first", "subject_first_after_last", "last")
    return [
        {
            "target": fast.lm.target_tokens(request.target_new),
            "prompt": fast.lm.prompt_tokens(request.filled),
            "index": {rule: fast.lm.subject_position(request.prompt, request.subject, rule) for rule in rules},
        }
        for request in fast.requests
    ]


def second_moment(fast: Fast) -> Any:
    return [
        {
            "count": moment.count,
            "diagonal": moment.matrix.diagonal(),
            "first_row": moment.matrix[0],
            "frobenius": moment.matrix.norm(),
            "solved_ones": moment.solve(torch.ones(1, len(moment.matrix), dtype=torch.float64))[0],
        }
        for _, moment in sorted(fast.moments([0, 1]).items())
    ]


def rome(fast: Fast) -> Any:
    return {name: _rome(fast, name) for name in fast.inputs["rome"]}


def _rome(fast: Fast, name: str) -> Iterator[Any]:
    settings = fast.rome_settings(name)
    batch = [
        encode(fast.lm, request, fast.inputs["templates"], settings.position, kl_row=True) for request in fast.requests
    ]
    values = find_values(fast.lm, batch, settings)
    edits, r_edits = fast.edits("rome", name), fast.edits("r_rome", name)
    for i, (edit, r_edit) in enumerate(zip(edits, r_edits, strict=True)):
        record, u = values.at(i), edit.deltas[0].left[0]
        yield {
            "delta": record.delta,
            "r": edit.deltas[0].right[0],
            "r_rome": r_edit.deltas[0].right[0],
            "k_bar": record.mean_key,
            "u": u,
            "k_0": record.bare_key,
            "v_0": record.bare_output,
            "m_bar": record.mean_output,
            "trace": record.trace[: int(record.passes)],
            "passes": int(record.passes),
            "last": record.trace[int(record.passes) - 1],
        }
        _check_identities(record, u.double(), edit)


def _check_identities(record: Values, u: torch.Tensor, edit: Edit) -> None:
    """The edited module says v* for the bare key; r is what the diagnostics say it is."""
    r, divisor = rank_one(record, u, "rome")
    moved = record.bare_output + (record.bare_key.double() @ u) * r
    assert torch.allclose(moved, (record.bare_output + record.delta).double(), rtol=1e-4)
    assert edit.diagnostics["k0_dot_u"] == pytest.approx(float(divisor), rel=1e-4)


def finetune(fast: Fast) -> Any:
    return {name: _finetune(fast, name) for name in fast.inputs["finetune"]}


def _finetune(fast: Fast, name: str) -> Iterator[Any]:
    settings = fast.finetune_settings(name)
    rows = [encode(fast.lm, request, ["{}"], "last", kl_row=False) for request in fast.requests]
    made = train(fast.lm, lay_out(fast.lm, rows, settings.layer), settings, getattr(settings, "bound", None))
    for record, edit in zip(made, fast.edits(name, name), strict=True):
        change = edit.deltas[0].weight_change
        yield {
            "passes": int(edit.diagnostics["steps"]),
            "losses": list(record.losses),
            "norm": change.norm(),
            "largest": change.abs().max(),
            "first_row": change[0],
            "column_sums": change.sum(0),
        }


def _scored(fast: Fast, queries: list[Query]) -> list[list[tuple[TargetScore, ...]]]:
    """Score the queries under no edit and under each, all in one call; by edit and query."""
    edits = fast.applied
    owners = [owner for owner in range(-1, len(edits)) for _ in queries]
    found = score(fast.lm, queries * (len(edits) + 1), owners, edits)
    assert all(isinstance(item, tuple) for item in found)
    return [list(found[start : start + len(queries)]) for start in range(0, len(found), len(queries))]


def scores(fast: Fast) -> Any:
    queries = [Query(prompt, tuple(fast.inputs["targets"])) for prompt in fast.inputs["prompts"]]
    return [[[target.nll for target in query] for query in queries] for queries in _scored(fast, queries)]


def answers(fast: Fast) -> Any:
    queries = [
        Query(fill(prompt, request.subject), (request.target_new,))
        for request in fast.requests
        for prompt in (request.prompt, *fast.inputs["questions"])
    ]
    per_request = len(fast.inputs["questions"]) + 1
    correct = [[list(answer.correct) for (answer,) in asked] for asked in _scored(fast, queries)]
    starts = range(0, len(queries), per_request)
    return [[asked[start : start + per_request] for start in starts] for asked in correct]


def generation(fast: Fast) -> Any:
    edits, prompts = fast.applied, list(fast.inputs["prompts"])
    owners = [owner for owner in range(-1, len(edits)) for _ in prompts]
    length = fast.inputs["length"]
    made = generate(fast.lm, prompts * (len(edits) + 1), [0] * len(owners), owners, edits, length=length, top_k=1)
    shown = [{"ids": list(item.ids), "text": item.text} for item in made if isinstance(item, Generation)]
    return [shown[start : start + len(prompts)] for start in range(0, len(shown), len(prompts))]


def texts(fast: Fast) -> Any:
    vectoriser = fit_vectoriser(fast.inputs["corpus"])
    assert vectoriser is not None
    pairs = [[join_vector(vectoriser, item[key]) for key in ("generated", "reference")] for item in references(fast)]
    return {
        "entropy": [text_entropy(text) for text in fast.inputs["texts"]],
        "reference_score": [cosine(one, other) for one, other in pairs],
    }


def references(fast: Fast) -> list[dict[str, list[str]]]:
    return list(fast.inputs["references"])


FAST: dict[str, Callable[[Fast], Any]] = {
    f.__name__: f for f in (tokens, second_moment, rome, finetune, scores, answers, generation, texts)
}


def differences(expected: Any, actual: Any, tolerance: Mapping[str, float], key: str = "default") -> Iterator[str]:
    """Say where two values differ: numbers by more than their key's tolerance times the largest of their list."""
    if isinstance(actual, torch.Tensor):
        actual = actual.tolist()
    if isinstance(expected, dict):
        for name, part in expected.items():
            inner = name if name in tolerance else key
            yield from (f"{name}: {line}" for line in differences(part, actual[name], tolerance, inner))
    elif _is_numeric(expected):
        one, other = (torch.as_tensor(value, dtype=torch.float64) for value in (expected, actual))
        if one.shape != other.shape:
            yield f"expected shape {tuple(one.shape)}, got {tuple(other.shape)}"
            return
        error, scale = float((one - other).abs().max()), float(one.abs().max())
        if not error <= tolerance[key] * scale:
            yield f"off by {error / (scale or 1):.1e} of the largest, {tolerance[key]:.0e} allowed"
    elif isinstance(expected, list):
        actual = list(actual)
        if len(expected) != len(actual):
            yield f"expected {len(expected)} values, got {len(actual)}"
            return
        for i, (one, other) in enumerate(zip(expected, actual, strict=True)):
            yield from (f"[{i}] {line}" for line in differences(one, other, tolerance, key))
    elif expected != actual:
        yield f"expected {expected!r}, got {actual!r}"


def _is_numeric(value: Any) -> bool:
    """Whether a value is a float, or a list of lists of floats."""
    return isinstance(value, float) or (isinstance(value, list) and bool(value) and all(map(_is_numeric, value)))


@pytest.fixture(scope="module")
def golden_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
@pytest.mark.parametrize("dtype", DTYPES)
def test_golden(path: Path, dtype: str, golden_cache: Path) -> None:
    golden = read(path)
    assert path.stem in FAST, f"{path} is an orphan: nothing here computes it"
    assert golden["model"] == tiny.fingerprint(), "the tiny model came out different on this machine: not our code"
    actual = FAST[path.stem](Fast(dtype, golden["inputs"], golden_cache))
    found = list(differences(golden["expected"], actual, golden["tolerance"][dtype]))
    assert not found, "\n".join(found)


def test_every_check_has_a_golden_file() -> None:
    assert set(FAST) == {path.stem for path in FOLDER.glob("*.json")}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_golden_files_say_where_they_come_from(path: Path) -> None:
    golden = read(path)
    assert set(golden) == {"what", "source", "made_by", "model", "tolerance", "inputs", "expected"}
    assert golden["tolerance"]["why"]
    assert path.stat().st_size < 100_000


def test_differences_are_found() -> None:
    fact = {"a": [1.0, 2.0], "b": [True, 3]}
    assert not list(differences(fact, {"a": torch.tensor([1.0, 2.0 + 1e-7]), "b": [True, 3]}, {"default": 1e-6}))
    assert list(differences(fact, {"a": [1.0, 2.1], "b": [True, 3]}, {"default": 1e-6}))
    assert list(differences(fact, {"a": [1.0, float("nan")], "b": [True, 3]}, {"default": 1e-6}))
    assert list(differences(fact, {"a": [1.0], "b": [False, 3]}, {"default": 1e-6, "a": 1.0}))
