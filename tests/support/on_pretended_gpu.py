"""Does all that uses a model, on the processor and on a pretended GPU, and writes how they differ: for the test beside.

A program of its own: torch must learn of the device before anything is differentiated, and does not forget it.
"""

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from counterfact.contracts.editors import EDITORS
from counterfact.editing.networks import NETWORKS
from counterfact.evaluation.harness import evaluate
from counterfact.evaluation.schedule import Schedule
from counterfact.evaluation.showcase import say
from counterfact.lm.drift import text_perplexities
from counterfact.lm.model.language_model import LM
from counterfact.lm.moments.second_moment import second_moments
from counterfact.lm.planning.batch_plan import Plan
from counterfact.tracing.causal import Traced, trace
from counterfact.tracing.gradients import Attributed, attribute
from counterfact.training.trainer import train
from tests.editors.test_editor_contract import QUICK
from tests.support import pretend_gpu
from tests.support.editing import BRIEF, REQUESTS, SMALL, TEXTS, Sentences, edits_of, prepared, resources
from tests.support.evaluating import counterfact, low_rank_edit, options, zsre
from tests.support.models import SENTENCES, tiny_lm
from tests.tracing.test_causal import FACTS, SCAN, corruption

Found = dict[str, Any]
FAMILIES = ("gpt2", "gptj", "gpt_neox", "qwen3")
"""Learned positions; an attention of its own; one product for queries, keys and values; fewer keys than queries."""


def traces(lm: LM) -> Found:
    """Scores of all kinds of cells."""
    found = [one for one in trace(lm, FACTS, corruption(lm), SCAN) if isinstance(one, Traced)]
    return {f"{one.fact.known_id} {kind}": one.traces[kind].scores for one in found for kind in SCAN.kinds}


def gradients(lm: LM, single: bool) -> Found:
    """Norms of integrated gradients."""
    [one] = attribute(lm, FACTS[:1], nodes=4, single=single)
    assert isinstance(one, Attributed), one
    return {part: found.norm for part, found in one.parts.items()}


def edits(lm: LM, name: str, *overrides: str) -> Found:
    """The changes that an editor makes."""
    with tempfile.TemporaryDirectory() as folder:
        editor = prepared(name, lm, resources(lm, Path(folder)), *QUICK.get(name, []), *overrides)
        several = EDITORS.get(name).most_at_once is None  # each group by itself, so that few show all
        made = edits_of(editor(REQUESTS[:3] if several else REQUESTS, 3))
    return {f"{edit.request_ids[0]}": [delta.weight_change for delta in edit.deltas] for edit in made}


def run(lm: LM, kind: str, name: str, schedule: Schedule | None = None) -> Found:
    """The records of a whole evaluation, in one batch and of short texts; what became of a model edited in sequence."""
    spec = EDITORS.get(name)
    resolved = spec.resolve(lm.name, lm.n_layers, QUICK.get(name, []))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        dataset = counterfact(place / "data", n=4, bad=()) if kind == "counterfact" else zsre(place / "zsre.json")
        given = resources(lm, place / "cache")
        chosen = options(schedule=schedule or Schedule(), length=16, plan=Plan(chunk=4), text_workers=0)
        done = evaluate(lm, spec, resolved, dataset, place / "results", resources=given, options=chosen)
        checkpoints = done.data.get("sequence", {}).get("checkpoints", [])
        cases = {str(case["case_id"]): {key: case[key] for key in case if key != "time"} for case in done.cases}
        return cases | {"checkpoints": [{key: found[key] for key in ("texts", "weights")} for found in checkpoints]}


def moments(lm: LM) -> Found:
    """Second moments of two layers."""
    with tempfile.TemporaryDirectory() as folder:
        found = second_moments(lm, [2, 0], TEXTS, folder=Path(folder))
    return {str(layer): moment.matrix for layer, moment in found.items()}


def trained(lm: LM) -> Found:
    """The weights of a trained network."""
    briefer = ["steps=6", "validate_every=3", "validation_edits=4"]
    settings = NETWORKS.get("mend").resolve("tiny", lm.n_layers, ["blocks=2", *BRIEF, *SMALL["mend"], *briefer])
    with tempfile.TemporaryDirectory() as folder:
        train(lm, "mend", "text", settings, Sentences(lm), Path(folder))
        return {name: tensor.double() for name, tensor in load_file(next(Path(folder).glob("*.safetensors"))).items()}


def shown(lm: LM) -> Found:
    """What a model says after a prompt, and how surprised it is by texts, edited."""
    edit = low_rank_edit(lm, REQUESTS[0], 0)
    saying = say(lm, "The capital of Norway is", edit, length=20)
    return {"text": saying.text, "texts": text_perplexities(lm, SENTENCES[:5], [0, -1, 0, -1, 0], [edit])}


ONCE: dict[str, Callable[[LM], Found]] = {
    "second moments": moments,
    **{f"edits by {name}": partial(edits, name=name) for name in EDITORS},
    "a run on zsRE": partial(run, kind="zsre", name="ft"),
    "a sequential run": partial(run, kind="counterfact", name="rome", schedule=Schedule(2, sequential=True)),
    "a trained network": trained,
    "a prompt and texts": shown,
}
EVERYWHERE: dict[str, Callable[[LM], Found]] = {
    "traces": traces,
    "gradients of layers": partial(gradients, single=False),
    "gradients of single tokens": partial(gradients, single=True),
    "a run on CounterFact": partial(run, kind="counterfact", name="rome"),
}


def checks() -> dict[str, tuple[Callable[[LM], Found], str]]:
    """Return what is done, by name, and with which family's model."""
    everywhere = {f"{name}, {family}": (check, family) for name, check in EVERYWHERE.items() for family in FAMILIES}
    longer = {"edits by rome, 12 steps": (lambda lm: edits(lm, "rome", "steps=12"), "gpt2")}
    return {name: (check, "gpt2") for name, check in ONCE.items()} | everywhere | longer


def difference(one: Any, other: Any) -> float:
    """The largest difference of two things of one form; words must be the same."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), (one.keys(), other.keys())
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list):
        assert len(one) == len(other)
        return max((difference(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, str | bool | None):
        assert one == other, (one, other)
        return 0.0
    first, second = (torch.as_tensor(it).cpu().double() for it in (one, other))
    return float((first - second).abs().max()) if first.numel() else 0.0


def checked(check: Callable[[LM], Found], lm: LM) -> dict[str, Any]:
    """Do it on the processor and on the device; say how far they differ and when the host waited, or what failed."""
    there = check(lm)
    with pretend_gpu.pretended_gpu() as rules:
        try:
            found = check(pretend_gpu.moved(lm))
            waits = dict(rules.waits)
            return {"difference": difference(there, found), "waits": waits}
        except Exception:
            return {"failed": traceback.format_exc(limit=-5)}


def _without_gradients(mode: Any = True) -> Any:
    return torch.no_grad() if mode is True else torch.no_grad()(mode) if callable(mode) else torch.enable_grad()


def main(path: str) -> None:
    """Check everything and write what was found."""
    pretend_gpu.device()
    # Tensors of `inference_mode` cannot be wrapped. Nothing that is run here can tell it from `no_grad`.
    torch.inference_mode = _without_gradients  # type: ignore[assignment, misc]
    found = {name: checked(check, tiny_lm(family)) for name, (check, family) in checks().items()}
    Path(path).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
