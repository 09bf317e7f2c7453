"""Real ParaRel and real facts of WikiData make a data set; the genuine CounterFact loads beside it."""

import json
import logging
import time
from collections import Counter
from pathlib import Path

import pytest

from builders.choices import RecordSettings
from builders.counterfact import BuildReport, BuildSettings, Sources, build_counterfact, embedded_sources
from builders.wikidata import StoreSource
from core.datasets import Dataset, load_dataset
from core.places import data_folder
from core.records import CounterFactRecord

A_MINUTE = 60
_LOG = logging.getLogger(__name__)
"""Counts, shown by `pytest --log-cli-level=INFO`."""


@pytest.fixture(scope="module")
def report(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    sources = Sources(
        pararel=real_data / "pararel",
        facts=StoreSource.open(real_data / "wikidata" / "facts.tsv.gz"),
        generation=data_folder() / "prompts" / "generation",
        articles=None,
    )
    settings = BuildSettings(name="counterfact-real", paraphrase_context="none")
    started = time.process_time()
    made = build_counterfact(sources, settings, tmp_path_factory.mktemp("real") / "out")
    assert time.process_time() - started < A_MINUTE
    return made


def records_of(dataset: Dataset) -> list[CounterFactRecord]:
    return [record for record in dataset.records if isinstance(record, CounterFactRecord)]


def test_real_sources_make_a_data_set(report: BuildReport) -> None:
    counts = report.meta["counts"]
    _LOG.info(json.dumps({"counts": counts, "table_2": report.stats["table_2"]}, indent=1))
    assert counts["tuples"] == 29_411
    assert counts["facts"]["resolved"] > 22_000
    assert counts["tuples"] == counts["records"] + sum(counts["dropped"].values())
    assert counts["records"] > 14_000
    assert counts["relations"] >= 27


def test_its_records_load_and_keep_the_rules(report: BuildReport) -> None:
    dataset = load_dataset(report.path)
    records = records_of(dataset)
    assert len(records) == len(dataset.records) == report.records
    keys = Counter((r.requested_rewrite.relation_id, r.requested_rewrite.subject) for r in records)
    assert max(keys.values()) == 1
    settings = RecordSettings()
    for record in records:
        subject = record.requested_rewrite.subject.casefold()
        assert len(set(record.neighborhood_prompts)) == settings.neighborhood_prompts
        assert len(set(record.attribute_prompts)) == settings.attribute_prompts
        assert len(set(record.paraphrase_prompts)) == settings.paraphrase_prompts
        assert record.requested_rewrite.target_new.text.casefold() not in subject
        provenance = record.provenance or {}
        assert provenance["subject_id"] not in provenance["neighborhood_ids"]


def test_the_genuine_records_load(real_data: Path) -> None:
    dataset = load_dataset(real_data / "counterfact" / "counterfact_100.json")
    assert len(records_of(dataset)) == 100


def test_some_genuine_triples_are_found_again(report: BuildReport, real_data: Path) -> None:
    def triples(dataset: Dataset) -> set[tuple[str | None, str, str]]:
        rewrites = [record.requested_rewrite for record in records_of(dataset)]
        return {(r.relation_id, r.subject, r.target_true.text) for r in rewrites}

    genuine = triples(load_dataset(real_data / "counterfact" / "counterfact_100.json"))
    found = genuine & triples(load_dataset(report.path))
    _LOG.info("%d of %d genuine triples", len(found), len(genuine))
    assert len(found) >= 40


def test_the_embedded_world_makes_enough_records(tmp_path: Path) -> None:
    report = build_counterfact(embedded_sources(), BuildSettings(), tmp_path / "out")
    counts = report.meta["counts"]
    assert counts["records"] >= 1_500
    assert counts["relations"] == 34
    assert counts["records_without_reference_texts"] == 0
    assert counts["tuples"] == counts["records"] + sum(counts["dropped"].values())
