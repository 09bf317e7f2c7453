"""Compute the golden numbers again from `tests.support.oracle`, in float64, and show what changed: `make golden`.

Never run by the tests. A changed number goes with a line under **Numbers** in the changelog.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterfact.core.records import Request
from counterfact.editing.plain import TrainedWeight, train_alone
from counterfact.editing.requests import encode
from counterfact.editors.finetune import BoxedFinetuneSettings, FinetuneSettings
from counterfact.editors.rome import RomeSettings
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import wrap_lm
from tests.golden import cases, tiny
from tests.support import oracle, oracle_measures

FOLDER = Path(__file__).parent
DIGITS = 12
ROUNDING = f"Values are rounded to {DIGITS} digits."


def tokens() -> list[dict[str, Any]]:
    tokenizer = tiny.tokenizer()
    return [
        {
            "target": oracle.target_ids(tokenizer, request["target"]),
            "prompt": oracle.encode(tokenizer, request["prompt"].replace("{}", request["subject"])),
            "index": {
                rule: oracle.lookup_index(tokenizer, request["prompt"], request["subject"], rule)
                for rule in cases.RULES
            },
        }
        for request in cases.REQUESTS
    ]


@cache
def moment(layer: int) -> tuple[Tensor, int]:
    return oracle.second_moment(tiny.model(), tiny.tokenizer(), layer, cases.CORPUS)


def second_moment() -> list[dict[str, Any]]:
    result = []
    for layer in (0, 1):
        matrix, count = moment(layer)
        result.append(
            {
                "count": count,
                "diagonal": matrix.diagonal(),
                "first_row": matrix[0],
                "frobenius": matrix.norm(),
                "solved_ones": torch.linalg.solve(matrix, torch.ones(len(matrix), dtype=matrix.dtype)),
            }
        )
    return result


@cache
def rome_edit(settings: str, request: int) -> oracle.RomeEdit:
    chosen = RomeSettings(**cases.ROME[settings])
    return oracle.rome(tiny_lm(), request_of(request), cases.TEMPLATES, moment(chosen.layer)[0], chosen)


def request_of(number: int) -> Request:
    asked = cases.REQUESTS[number]
    return Request(number, asked["prompt"], asked["subject"], asked["target"])


@cache
def tiny_lm() -> LM:
    return wrap_lm(tiny.model(), tiny.tokenizer(), name="golden")


def rome() -> dict[str, list[dict[str, Any]]]:
    result: dict[str, list[dict[str, Any]]] = {}
    for settings in cases.ROME:
        result[settings] = []
        for request in range(len(cases.REQUESTS)):
            edit = rome_edit(settings, request)
            shown: dict[str, Any] = {"delta": edit.delta, "r": edit.r(), "r_rome": edit.r("r_rome")}
            if settings == "published":
                shown |= {"k_bar": edit.k_bar, "u": edit.u, "k_0": edit.k_0, "v_0": edit.v_0, "m_bar": edit.m_bar}
                shown |= {"trace": edit.trace}
            shown |= {"passes": len(edit.trace), "last": edit.trace[-1]}
            result[settings].append(shown)
    return result


@cache
def trained(settings: str, request: int) -> TrainedWeight:
    kind = BoxedFinetuneSettings if "bound" in cases.FINETUNE[settings] else FinetuneSettings
    chosen = kind(**cases.FINETUNE[settings])
    record = encode(tiny_lm(), request_of(request), ["{}"], "last", kl_row=False)
    return train_alone(tiny_lm(), record, chosen, getattr(chosen, "bound", None))


def finetune() -> dict[str, list[dict[str, Any]]]:
    result: dict[str, list[dict[str, Any]]] = {}
    for settings in cases.FINETUNE:
        result[settings] = []
        for request in range(len(cases.REQUESTS)):
            found = trained(settings, request)
            change, losses = found.change, found.losses
            shown = {"passes": len(losses), "losses": losses, "norm": change.norm(), "largest": change.abs().max()}
            result[settings].append(shown | {"first_row": change[0], "column_sums": change.sum(0)})
    return result


def models() -> Iterator[Any]:
    """The unedited model, then the model under each edit of the cases, one after the other."""
    yield tiny.model()
    for edit in cases.EDITS:
        if edit["method"].startswith("ft"):
            layer, change = cases.FINETUNE[edit["settings"]]["layer"], trained(edit["settings"], edit["request"]).change
        else:
            made = rome_edit(edit["settings"], edit["request"])
            layer, change = cases.ROME[edit["settings"]]["layer"], torch.outer(made.u, made.r(edit["method"]))
        model = tiny.model()
        with oracle.with_change(model, layer, change):
            yield model


def scores() -> list[list[list[float]]]:
    """Total nats: by edit, prompt and target."""
    return [
        [
            [math.fsum(oracle_measures.token_nlls(model, tiny.tokenizer(), prompt, target)) for target in cases.TARGETS]
            for prompt in cases.PROMPTS
        ]
        for model in models()
    ]


def answers() -> list[list[list[list[bool]]]]:
    """Token by token: by edit, request, and question (the request itself first)."""
    return [
        [
            [
                oracle_measures.answer_correct(
                    model, tiny.tokenizer(), prompt.replace("{}", request["subject"]), request["target"]
                )
                for prompt in (request["prompt"], *cases.QUESTIONS)
            ]
            for request in cases.REQUESTS
        ]
        for model in models()
    ]


def generation() -> list[list[dict[str, Any]]]:
    """Greedy texts: by edit and prompt."""
    result = []
    for model in models():
        made = [oracle_measures.greedy(model, tiny.tokenizer(), prompt, cases.LENGTH) for prompt in cases.GENERATION]
        if min(gap for _, gap in made) < 1e-3:
            raise ValueError("two best logits lie within 1e-3: choose other prompts, float32 may choose otherwise")
        texts = [oracle_measures.clean_text(tiny.tokenizer(), ids) for ids, _ in made]
        result.append([{"ids": ids, "text": text} for (ids, _), text in zip(made, texts, strict=True)])
    return result


def texts() -> dict[str, list[float]]:
    return {
        "entropy": [oracle_measures.n_gram_entropy(text) for text in cases.TEXTS],
        "reference_score": [
            oracle_measures.reference_score(cases.CORPUS, item["generated"], item["reference"])
            for item in cases.REFERENCES
        ],
    }


EDITED = {"requests": cases.REQUESTS, "templates": cases.TEMPLATES, "rome": cases.ROME, "finetune": cases.FINETUNE}
APPLIED = {**EDITED, "edits": cases.EDITS}

GOLDENS: dict[str, tuple[Callable[[], Any], dict[str, Any], str, dict[str, Any]]] = {
    "tokens": (
        tokens,
        {"requests": cases.REQUESTS},
        "ids of prompts and targets, and the index each rule names, from tokenising before, subject and after apart",
        {"float64": {}, "float32": {}, "why": "Integers: exact."},
    ),
    "second_moment": (
        second_moment,
        {"corpus": cases.CORPUS},
        "second moment of keys over the corpus, layers 0 and 1, and its solution for a vector of ones",
        {
            "float64": {"default": 1e-10},
            "float32": {"default": 1e-5, "solved_ones": 1e-4},
            "why": f"{ROUNDING} The matrix's condition number is 2e3, which multiplies the error of float32 keys.",
        },
    ),
    "rome": (
        rome,
        EDITED | {"corpus": cases.CORPUS},
        "ROME and r-ROME of every request under three settings: published, clamped norm, early stop at subject_first",
        {
            "float64": {"default": 1e-9},
            "float32": {"default": 2e-4, "trace": 1e-5, "k_bar": 1e-5, "k_0": 1e-5, "v_0": 1e-5, "m_bar": 1e-5},
            "why": f"{ROUNDING} In float32 the solve (condition number 2e3) and up to 23 Adam steps, which divide by "
            "small gradients, multiply rounding.",
        },
    ),
    "finetune": (
        finetune,
        EDITED | {"corpus": cases.CORPUS},
        "FT and FT+L (published variant: teacher-forced, weight only) of every request",
        {
            "float64": {"default": 1e-8},
            "float32": {"default": 2e-3, "losses": 1e-4, "norm": 1e-4},
            "why": f"{ROUNDING} Adam's first steps have the size of the learning rate however small the gradient, so "
            "single weights with gradients near zero go either way in float32; losses and norms do not.",
        },
    ),
    "scores": (
        scores,
        APPLIED | {"corpus": cases.CORPUS, "prompts": cases.PROMPTS, "targets": cases.TARGETS},
        "total nats of each target after each prompt, unedited and under five edits",
        {
            "float64": {"default": 1e-9},
            "float32": {"default": 1e-4},
            "why": f"{ROUNDING} In float32 the edits themselves differ by up to 2e-4 of their size.",
        },
    ),
    "answers": (
        answers,
        APPLIED | {"corpus": cases.CORPUS, "questions": cases.QUESTIONS},
        "zsRE's token accuracy, one token at a time: whether each token of the target is the model's first choice",
        {"float64": {}, "float32": {}, "why": "Booleans: exact."},
    ),
    "generation": (
        generation,
        APPLIED | {"corpus": cases.CORPUS, "prompts": cases.GENERATION, "length": cases.LENGTH},
        "greedy generation without a cache, unedited and under five edits",
        {"float64": {}, "float32": {}, "why": "Ids: exact; the two best logits are never nearer than 1e-3."},
    ),
    "texts": (
        texts,
        {"texts": cases.TEXTS, "corpus": cases.CORPUS, "references": cases.REFERENCES},
        "n-gram entropy (untrained Punkt, nltk words, numpy) and reference scores (dense TF-IDF vectors)",
        {"float64": {"default": 1e-10}, "float32": {"default": 1e-10}, "why": f"{ROUNDING} No model is involved."},
    ),
}


def build(name: str) -> dict[str, Any]:
    """Compute one golden file."""
    compute, inputs, what, tolerance = GOLDENS[name]
    return {
        "what": what,
        "source": "tests/support/oracle.py and oracle_measures.py: one record, one row at a time, float64",
        "made_by": "make golden",
        "model": tiny.fingerprint(),
        "tolerance": tolerance,
        "inputs": _plain(inputs),
        "expected": _plain(compute()),
    }


def _plain(value: Any) -> Any:
    """Turn tensors and tuples into lists, and round."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def dump(value: Any, indent: str = "") -> str:
    """JSON with one line for each innermost list."""
    deeper = indent + " "
    nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict | list) for v in value))
    if not nested or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    keys = [json.dumps(k, ensure_ascii=False) + ": " for k in value] if isinstance(value, dict) else [""] * len(value)
    parts = value.values() if isinstance(value, dict) else value
    lines = (f"{deeper}{key}{dump(part, deeper)}" for key, part in zip(keys, parts, strict=True))
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + "\n" + ",\n".join(lines) + f"\n{indent}{closing}"


def changes(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Say where two golden files differ: old → new."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from changes(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from changes(one, other, f"{path}[{i}]")
    elif old != new:
        yield f"{path}: {old} → {new}"


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for name in names or GOLDENS:
        path = FOLDER / f"{name}.json"
        new = build(name)
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        found = ["new"] if old is None else list(changes(old, new))
        for line in found or ["unchanged"]:
            sys.stdout.write(f"{name}: {line}\n")
        path.write_text(dump(new) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
