"""The three ways of looking into a model, each as what is computed for a fact and kept of it."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan
from counterfact.tracing.causal import Traced, trace
from counterfact.tracing.cells import KINDS, SEVERED, Kind, Scan
from counterfact.tracing.corruption import Corruption
from counterfact.tracing.facts import BadFact, Fact, Prompt
from counterfact.tracing.gradients import Attributed, attribute
from counterfact.tracing.store import Result

Method = Literal["causal", "severed", "ig"]
METHODS: tuple[Method, ...] = ("causal", "severed", "ig")
Compute = Callable[[Sequence[Fact]], list[Result | BadFact]]


def causal_method(
    lm: LM, corruption: Corruption, *, window: int = 10, extra_token: bool = False, plan: Plan | None = None
) -> tuple[dict[str, Any], Compute]:
    """Return settings and computation of causal traces: each token by each layer, three kinds."""
    return _traces(lm, corruption, Scan(KINDS, window), extra_token, plan)


def severed_method(
    lm: LM, corruption: Corruption, *, extra_token: bool = False, plan: Plan | None = None
) -> tuple[dict[str, Any], Compute]:
    """Return settings and computation of severed paths: each subject token by each layer, with the ordinary trace.

    The embedding comes before layer 0: a state after layer 0 already holds what the first MLP looked up, so where a
    model looks facts up there, severing shows it only from the embedding on.
    """
    kinds: tuple[Kind, ...] = ("state", *SEVERED)
    return _traces(lm, corruption, Scan(kinds, at="subject", embedding=True), extra_token, plan)


def gradient_method(lm: LM, *, nodes: int = 50, single: bool = False) -> tuple[dict[str, Any], Compute]:
    """Return settings and computation of integrated gradients."""

    def compute(facts: Sequence[Fact]) -> list[Result | BadFact]:
        found = attribute(lm, facts, nodes=nodes, single=single)
        return [one if isinstance(one, BadFact) else _attributed(one) for one in found]

    return {"nodes": nodes, "single": single, "baseline": "zero", "of": "p(o)"}, compute


def _traces(
    lm: LM, corruption: Corruption, scan: Scan, extra_token: bool, plan: Plan | None
) -> tuple[dict[str, Any], Compute]:
    settings = {
        "kinds": list(scan.kinds),
        "at": scan.at,
        "window": scan.window,
        "extra_token": extra_token,
        "corruption": corruption.identity,
    }

    if scan.embedding:
        settings["embedding"] = True

    def compute(facts: Sequence[Fact]) -> list[Result | BadFact]:
        found = trace(lm, facts, corruption, scan, extra_token=extra_token, plan=plan)
        return [one if isinstance(one, BadFact) else _traced(one) for one in found]

    return settings, compute


def _traced(one: Traced) -> Result:
    line = {
        **_line(one.fact, one.prompt, one.answer_text, one.correct),
        "high": one.high,
        "low": one.low,
        "traced_tokens": {kind: list(found.tokens) for kind, found in one.traces.items()},
    }
    arrays: dict[str, NDArray[Any]] = {"ids": np.array(one.prompt.ids)}
    for kind, found in one.traces.items():
        arrays |= {kind: found.scores.astype(np.float32), f"{kind}_spread": found.spread.astype(np.float32)}
    return Result(one.fact.known_id, line, arrays)


def _attributed(one: Attributed) -> Result:
    line = {
        **_line(one.fact, one.prompt, one.answer_text, one.correct),
        "high": one.high,
        "traced_tokens": {part: list(range(len(one.prompt.ids))) for part in one.parts},
        "largest_gap": {part: float(np.abs(found.gap).max()) for part, found in one.parts.items()},
    }
    arrays: dict[str, NDArray[Any]] = {"ids": np.array(one.prompt.ids)}
    for part, found in one.parts.items():
        kept = {part: found.norm, f"{part}_contribution": found.contribution, f"{part}_gap": found.gap}
        arrays |= {name: array.astype(np.float32) for name, array in kept.items()}
    return Result(one.fact.known_id, line, arrays)


def _line(fact: Fact, prompt: Prompt, answer: str, correct: bool) -> dict[str, Any]:
    return {
        "known_id": fact.known_id,
        "prompt": fact.prompt,
        "subject": fact.subject,
        "attribute": fact.attribute,
        "relation_id": fact.relation_id,
        "answer": answer,
        "correct": correct,
        "tokens": list(prompt.tokens),
        "subject_range": [prompt.begin, prompt.end],
        "corrupted_end": prompt.corrupted_end,
    }
