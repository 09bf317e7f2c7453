"""What the tests of evaluation share: records of our own, editors made for the purpose, ways to run and compare."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.contracts.editors import EDITORS, Edited, Editor, EditorSpec, Failure, Group, Resources
from counterfact.core.files import write_json, write_jsonl
from counterfact.core.records import Request
from counterfact.core.seeds import derive_seed
from counterfact.core.settings import Resolved, Settings
from counterfact.evaluation.harness import evaluate
from counterfact.evaluation.store import Run
from counterfact.evaluation.task import Options
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape
from counterfact.lm.planning.batch_plan import Plan
from tests.support.models import tiny_lm

LENGTH = 32
PEOPLE = ("Anna Ferrand", "Pavel Dvořák", "Harlan Reed", "Ada Orsa", "Jo Marlow", "Q", "Ångström", "Monday Point")
CITIES = ("Lisbon", "Oslo", "Turin", "Leeds", "São Paulo", "Zürich")


def counterfact_record(case_id: int) -> dict[str, Any]:
    """A record whose targets have different numbers of tokens."""
    subject, new, true = PEOPLE[case_id % 8], CITIES[case_id % 6], CITIES[(case_id + 1) % 6]
    others = [person for person in PEOPLE if person != subject]
    return {
        "case_id": case_id,
        "requested_rewrite": {
            "prompt": "{} was born in",
            "relation_id": "P19",
            "target_new": {"str": new, "id": f"Q{case_id % 6}"},
            "target_true": {"str": true, "id": f"Q{(case_id + 1) % 6}"},
            "subject": subject,
        },
        "paraphrase_prompts": [f"The ferry leaves. {subject} comes from", f"It is late. The town of {subject} is"],
        "neighborhood_prompts": [f"{person} was born in" for person in others[:4]],
        "attribute_prompts": [f"{person} comes from" for person in others[4:]],
        "generation_prompts": [f"{subject} speaks", f"{subject} speaks", f"{subject} works in"],
    }


def references() -> list[dict[str, Any]]:
    """Texts for all new objects but one."""
    texts = {
        f"Q{index}": [
            {"name": "Jo Marlow", "text": f"Jo Marlow was born in {city}. The ferry is new."},
            {"name": f"{city} bridge", "text": f"The bridge of {city} is closed since Monday."},
        ]
        for index, city in enumerate(CITIES[:5])
    }
    return [{"relation_id": "P19", "target_id": key, "samples": samples} for key, samples in texts.items()]


def counterfact(folder: Path, n: int = 7, bad: Sequence[int] = (4,)) -> Dataset:
    """A data set as `build` writes it, in which the records `bad` cannot be read."""
    records = [counterfact_record(case_id) for case_id in range(n)]
    for case_id in bad:
        records[case_id]["requested_rewrite"]["prompt"] = "{} and {} were born in"
    write_jsonl(folder / "records.jsonl", records)
    write_jsonl(folder / "reference_texts.jsonl", references())
    write_json(folder / "build.json", {"name": "ours", "version": "1"})
    return load_dataset(folder)


def zsre(path: Path, n: int = 5) -> Dataset:
    """A file in the schema of MEND's; the fourth record's subject is not in its question."""
    records = [
        {
            "subject": PEOPLE[index],
            "src": f"Where was {'no one' if index == 3 else PEOPLE[index]} born?",
            "rephrase": f"What is the place where {PEOPLE[index]} was born?",
            "answers": [CITIES[index % 6], "elsewhere"],
            "loc": "nq question: what is the capital of Norway",
            "loc_ans": "Oslo",
        }
        for index in range(n)
    ]
    write_json(path, records)
    return load_dataset(path)


class FakeSettings(Settings):
    """Settings of the editors below."""

    strength: float = 0.5
    """Standard deviation of the change."""


def low_rank_edit(lm: LM, request: Request, seed: int, strength: float = 0.5) -> Edit:
    """A random change of rank one, which depends on nothing but the request, the seed and the strength."""
    module = lm.layout.fc_out(1)
    d_in, d_out = weight_shape(lm.model, module)
    generator = torch.Generator().manual_seed(derive_seed(seed, "fake", request.id))
    left = torch.randn(1, d_in, generator=generator, dtype=torch.float64) * strength
    right = torch.randn(1, d_out, generator=generator, dtype=torch.float64) * strength
    return Edit((LowRank(module, left.float(), right.float()),), (request.id,), {"strength": strength})


def fake_spec(edit_one: Callable[[LM, Request, int, float], Edit | Failure] = low_rank_edit, **spy: Any) -> EditorSpec:
    """An editor that makes each edit with `edit_one`; `spy["chunks"]` is told the ids of each call."""

    def prepare(lm: LM, settings: FakeSettings, _resources: Resources) -> Editor:
        def edit(groups: Sequence[Group], seed: int) -> list[Edited]:
            if "chunks" in spy:
                spy["chunks"].append([request.id for [request] in groups])
            return [Edited.of(edit_one(lm, request, seed, settings.strength)) for [request] in groups]

        return edit

    return EditorSpec("fake", FakeSettings, prepare, "", "made for tests", Path("fake"))


def options(**changes: Any) -> Options:
    """Small chunks, short texts."""
    given: dict[str, Any] = {"length": LENGTH, "plan": Plan(chunk=3)}
    return Options(**(given | changes))


def run_fake(dataset: Dataset, results: Path, spec: EditorSpec | None = None, **changes: Any) -> Run:
    """Evaluate the fake editor (or another one) on the tiny model in float32."""
    lm = tiny_lm("gpt2", "float32")
    resolved = Resolved(FakeSettings(), "tests", {})
    return evaluate(lm, spec or fake_spec(), resolved, dataset, results, options=options(**changes))


def run_identity(dataset: Dataset, results: Path, **changes: Any) -> Run:
    """Evaluate the identity editor on the tiny model in float32."""
    lm = tiny_lm("gpt2", "float32")
    spec = EDITORS.get("identity")
    resolved = spec.resolve(lm.name, lm.n_layers)
    return evaluate(lm, spec, resolved, dataset, results, options=options(**changes))


def contents(results: Path) -> dict[str, Any]:
    """All that equal runs share: every file's bytes but for times, and JSON without its environment."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in results.rglob("*") if p.is_file() and p.name != "timings.jsonl"):
        name = str(path.relative_to(results))
        if path.suffix == ".json":
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "environment"}
        else:
            found[name] = path.read_bytes()
    return found
