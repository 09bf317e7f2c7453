"""Real ParaRel and real facts of WikiData make a data set; the genuine CounterFact loads beside it."""

import json
import logging
import resource
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from counterfact.builders.audit.recovery import measure_recovery
from counterfact.builders.build_folder import BuildReport
from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.counterfact import build_from_sources
from counterfact.builders.request_estimate import estimate_requests, queried_relations
from counterfact.builders.sources.knowledge import query_knowledge
from counterfact.builders.sources.local_store import StoreSource
from counterfact.builders.sources.opened import Sources
from counterfact.builders.sources.options import SourceOptions
from counterfact.builders.sources.pararel import load_pararel
from counterfact.builders.sources.pararel_download import FILES
from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.core.places import data_folder
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from tests.support import ROOT

MEMORY = 1.5e9
_LOG = logging.getLogger(__name__)
"""Counts, shown by `pytest --log-cli-level=INFO`."""


def real_build(real_data: Path, templates: Path | None, out: Path, **given: Any) -> BuildReport:
    sources = Sources(
        pararel=real_data / "pararel",
        facts=StoreSource.open(real_data / "wikidata" / "facts.tsv.gz"),
        generation=data_folder() / "prompts" / "generation",
        articles=None,
        templates=templates,
    )
    settings = BuildSettings.check({"name": "counterfact-real", "paraphrase_context": "none", **given}, "test")
    made = build_from_sources(sources, settings, out)
    _LOG.info(json.dumps({"counts": made.meta["counts"], "table_2": made.stats["table_2"]}, indent=1))
    return made


def weighed_build(real_data: Path, out: Path) -> tuple[BuildReport, int]:
    """Build, and return the most memory that this process ever held, in bytes."""
    return real_build(real_data, data_folder() / "pararel", out), resource.getrusage(
        resource.RUSAGE_SELF
    ).ru_maxrss * 1024


@pytest.fixture(scope="module")
def weighed(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildReport, int]:
    """Build in a process that does nothing else: this one has held models before."""
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        return alone.submit(weighed_build, real_data, tmp_path_factory.mktemp("real") / "out").result()


@pytest.fixture(scope="module")
def report(weighed: tuple[BuildReport, int]) -> BuildReport:
    return weighed[0]


def records_of(dataset: Dataset) -> list[CounterFactRecord]:
    return [record for record in dataset.records if isinstance(record, CounterFactRecord)]


def test_real_sources_make_a_data_set(report: BuildReport) -> None:
    counts = report.meta["counts"]
    assert counts["tuples"] == 29_411
    assert counts["facts"]["resolved"] > 19_400, "others have no templates, so their facts are not asked for"
    assert counts["tuples"] == counts["records"] + sum(counts["dropped"].values())
    assert counts["records"] >= 17_500
    assert counts["relations"] == 33


def test_prompts_about_others_are_spread_as_their_pools_predict(report: BuildReport) -> None:
    for kind, spread in report.meta["counts"]["spread"].items():
        for what, found in spread.items():
            assert found["measured"] == pytest.approx(found["predicted"], rel=0.02), (kind, what)
    assert 7.5 < report.meta["counts"]["spread"]["neighborhood"]["subjects_a_record"]["measured"] < 8.1


def test_prompts_are_as_long_as_the_genuine_ones(report: BuildReport, real_data: Path) -> None:
    genuine = records_of(load_dataset(real_data / "counterfact" / "counterfact_100.json"))

    def style(records: list[CounterFactRecord]) -> tuple[float, float, float]:
        """Words of a generation prompt with the subject as one, share that begins with it, prompts a record."""
        subjects = [(record, record.requested_rewrite.subject) for record in records]
        prompts = [prompt.replace(subject, "X") for record, subject in subjects for prompt in record.generation_prompts]
        distinct = sum(len(set(record.generation_prompts)) for record in records) / len(records)
        words = sum(len(prompt.split()) for prompt in prompts) / len(prompts)
        return words, sum(prompt.startswith("X") for prompt in prompts) / len(prompts), distinct

    ours, theirs = style(records_of(load_dataset(report.path))), style(genuine)
    assert ours == pytest.approx(theirs, rel=0.08)


def test_labels_lead_to_entities(real_data: Path) -> None:
    facts = StoreSource.open(real_data / "wikidata" / "facts.tsv.gz")
    found = sum(query_knowledge(relation, facts).counts["resolved"] for relation in load_pararel(real_data / "pararel"))
    assert found >= 22_721


def test_our_templates_top_up_thin_relations(real_data: Path, tmp_path: Path) -> None:
    strict = {"preset": "strict", "relations": ["P36", "P103", "P127", "P136", "P159", "P190", "P276"]}
    own = real_build(real_data, None, tmp_path / "own", **strict)
    topped = real_build(real_data, data_folder() / "pararel", tmp_path / "topped", **strict)
    counts, relations = topped.meta["counts"], topped.meta["relations"]
    thin = {name for name, relation in relations.items() if relation["templates_added"]}
    assert thin == {"P103", "P127", "P136", "P190", "P276"}
    before, after = ({tuple_of(record): record for record in records_of(load_dataset(r.path))} for r in (own, topped))
    assert len(before) == own.records
    for key, record in before.items():
        same = after[key].model_copy(update={"case_id": record.case_id})
        assert same == record, "templates from elsewhere change no record that was complete without them"
    added = [record for key, record in after.items() if key not in before and key[0] not in thin]
    assert len(added) == counts["records_topped_up"] > 20
    assert all((record.provenance or {})["neighborhood_templates"] == "topped up" for record in added)
    assert min((record.provenance or {})["neighborhood_subjects"] for record in added) == 1


def tuple_of(record: CounterFactRecord) -> tuple[str | None, str]:
    return record.requested_rewrite.relation_id, (record.provenance or {})["pararel_uuid"]


def test_the_documented_plan_is_the_computed_one(real_data: Path) -> None:
    named = SourceOptions(sparql="wdqs", pararel=str(real_data / "pararel"), templates=data_folder() / "pararel")
    page = (ROOT / "docs" / "live-build.md").read_text(encoding="utf-8")
    relations = queried_relations(named, BuildSettings())
    for cost in estimate_requests(relations, 25, 1.0, FILES):
        assert f"| {cost.kind} | {cost.requests:,} | {cost.basis} | {cost.hours:.2f} |" in page
    for texts in (10, 25):
        costs = estimate_requests(relations, texts, 1.0, FILES)
        assert f"| {sum(cost.requests for cost in costs):,} | {sum(cost.hours for cost in costs):.1f} |" in page


def test_memory_stays_small(weighed: tuple[BuildReport, int]) -> None:
    assert weighed[1] < MEMORY


def test_its_records_load_and_keep_the_rules(report: BuildReport) -> None:
    dataset = load_dataset(report.path)
    records = records_of(dataset)
    assert len(records) == len(dataset.records) == report.records
    keys = Counter(
        (r.requested_rewrite.relation_id, r.requested_rewrite.subject, r.requested_rewrite.true_text) for r in records
    )
    assert max(keys.values()) == 1
    settings = BuildSettings()
    for record in records:
        subject = record.requested_rewrite.subject.casefold()
        assert len(set(record.neighborhood_prompts)) == settings.neighborhood_prompts
        assert len(set(record.attribute_prompts)) == len(record.attribute_prompts) <= settings.attribute_prompts
        assert len(set(record.paraphrase_prompts)) == settings.paraphrase_prompts
        assert record.requested_rewrite.target_new.text.casefold() not in subject
        provenance = record.provenance or {}
        assert provenance["subject_id"] not in provenance["neighborhood_ids"]


def test_the_genuine_records_load(real_data: Path) -> None:
    dataset = load_dataset(real_data / "counterfact" / "counterfact_100.json")
    assert len(records_of(dataset)) == 100


def test_genuine_triples_are_found_again_and_the_others_have_a_reason(report: BuildReport, real_data: Path) -> None:
    found = measure_recovery(str(report.path), str(real_data / "counterfact" / "counterfact_100.json"))
    _LOG.info(json.dumps(found.to_json()["total"]))
    assert found.total.recovered + found.total.missing.total() == found.total.official == 100
    assert found.total.recovered >= 77
    flat = measure_recovery(str(report.path), str(real_data / "counterfact" / "easyedit_100.json"))
    assert flat.assigned >= 95, "the flat form names no relations"
    assert flat.total.recovered >= 74


def test_the_embedded_world_makes_enough_records(tmp_path: Path) -> None:
    report = build_from_sources(SourceOptions().open(), BuildSettings(), tmp_path / "out")
    counts = report.meta["counts"]
    assert counts["records"] >= 2_600
    assert counts["relations"] == 34
    assert counts["records_without_reference_texts"] == 0
    assert counts["tuples"] == counts["records"] + sum(counts["dropped"].values())
