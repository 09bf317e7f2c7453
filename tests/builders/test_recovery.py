"""What a build recovers of another data set, in the released form and in a flat one, and why it lacks the rest."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from counterfact.builders.audit.loading import load_counterfact
from counterfact.builders.audit.recovery import measure_recovery, read_recovery, triple, write_recovery
from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.counterfact import build_from_sources
from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import write_json, write_jsonl
from counterfact.core.prompts import fill
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from tests.support.made_up_world import small_world

Wanted = list[tuple[str, str, str, str]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recovery")
    world = small_world(("P103", "P1412"))
    settings = BuildSettings.check({"preset": "strict"}, "test")
    return build_from_sources(world.write(folder / "world"), settings, folder / "out").path


@pytest.fixture(scope="module")
def wanted(build: Path) -> Wanted:
    """Relation, prompt, subject and true object of two facts that are built, and of five that are not."""
    records = [r for r in load_dataset(build).records if isinstance(r, CounterFactRecord)]
    first = {r.requested_rewrite.relation_id: r.requested_rewrite for r in records}
    built = [(str(name), one.prompt, one.subject, one.true_text) for name, one in sorted(first.items())]
    two_tongues = small_world(("P103",)).tuples["P103"][6]
    return [
        *built,
        ("P103", "{} dreams in", *two_tongues[1:]),
        ("P103", "{} speaks", "Nobody", "Aldic"),
        ("P19", "{} was born in", "Nobody", "Aldic"),
        ("P19", "{} was born in", "Somebody", "Aldic"),
        ("P19", "{} was born in", "Somebody", "Aldic"),
    ]


def released(wanted: Wanted, path: Path) -> str:
    def one(case: int, relation: str, prompt: str, subject: str, true: str) -> dict[str, Any]:
        edit = {"prompt": prompt, "relation_id": relation, "subject": subject}
        edit |= {"target_true": {"str": true, "id": None}, "target_new": {"str": "Zud", "id": None}}
        kinds = ("paraphrase", "neighborhood", "attribute", "generation")
        return {"case_id": case, "requested_rewrite": edit, **{f"{kind}_prompts": [] for kind in kinds}}

    write_json(path, [one(case, *fact) for case, fact in enumerate(wanted)])
    return str(path)


def flat(wanted: Wanted, path: Path) -> str:
    """Write the form without relations, the prompt filled in."""
    lines = [
        {"prompt": fill(prompt, subject), "subject": subject, "target_new": "Zud", "ground_truth": true}
        for _, prompt, subject, true in wanted
    ]
    write_json(path, lines)
    return str(path)


def test_every_missing_fact_has_its_reason(build: Path, wanted: Wanted, tmp_path: Path) -> None:
    found = measure_recovery(str(build), released(wanted, tmp_path / "theirs.json"))
    by_relation = {row.relation: row for row in found.relations}
    assert {name: (row.official, row.recovered) for name, row in by_relation.items()} == {
        "P19": (2, 0),
        "P103": (3, 1),
        "P1412": (1, 1),
    }
    assert by_relation["P103"].missing == {"several objects": 1, "no such tuple": 1}
    assert by_relation["P19"].missing == {"no tuples of the relation": 2}
    total = found.total
    assert (total.official, total.recovered, found.assigned) == (6, 2, 0)
    assert total.recovery.value == 2 / 6 and total.recovery.low is not None and total.recovery.low > 0.09
    assert total.recovered + total.missing.total() == total.official
    assert Counter(fact.reason for fact in found.missing) == total.missing
    theirs = {record.case_id: triple(record) for record in load_counterfact(str(tmp_path / "theirs.json")).records}
    assert {theirs[case] for fact in found.missing for case in fact.case_ids} == {fact[:3] for fact in found.missing}
    assert found.to_json()["missing_facts"][0].keys() == {"relation", "subject", "object", "case_ids", "reason"}


def test_a_flat_form_gets_its_relations_by_tuple_and_template(build: Path, wanted: Wanted, tmp_path: Path) -> None:
    found = measure_recovery(str(build), flat(wanted, tmp_path / "flat.json"))
    rows = {row.relation: (row.official, row.recovered) for row in found.relations}
    # Who speaks what by no tuple may be of any relation: the templates are the same, and P19 is not known.
    assert rows == {"P103": (2, 1), "P1412": (1, 1), None: (2, 0)}
    assert found.assigned == 3
    assert found.total.missing == {"several objects": 1, "no such tuple": 2}


def test_a_share_of_ours_needs_the_whole_of_theirs(build: Path, wanted: Wanted, tmp_path: Path) -> None:
    assert measure_recovery(str(build), released(wanted, tmp_path / "few.json")).total.precision.value is None
    whole = measure_recovery(str(build), str(build))
    assert whole.total.recovery.value == whole.total.precision.value == 1.0


def test_what_was_measured_is_kept_for_these_records_alone(build: Path, wanted: Wanted, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("records.jsonl", "build.json", "dropped.jsonl", "stats.json"):
        (folder / name).write_bytes((build / name).read_bytes())
    found = measure_recovery(str(folder), released(wanted, tmp_path / "theirs.json"))
    write_recovery(folder, found)
    assert read_recovery(folder) == json.loads(json.dumps(found.to_json()))
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    write_jsonl(folder / "records.jsonl", map(json.loads, lines[1:]))
    assert read_recovery(folder) is None
    with pytest.raises(BadInput, match="no folder that a build wrote"):
        write_recovery(tmp_path, found)
