"""The pipeline: every rule on worlds made up by hypothesis, determinism, and builds that are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterfact.builders.build_folder import BuildReport
from counterfact.builders.choosing.expectation import expected, measured
from counterfact.builders.choosing.sampling import Draw, DrawnPrompt, WeightedOrder, collides, shuffled
from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.counterfact import build_from_sources
from counterfact.builders.sources.articles import LocalArticles
from counterfact.builders.sources.opened import Sources
from counterfact.builders.texts.contexts import Contexts
from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from tests.support import ROOT
from tests.support.made_up_world import TONGUES, World, small_world

FILES = ("records.jsonl", "reference_texts.jsonl", "stats.json")
TEMPLATES = ("{} speaks", "{} dreams in", "The tongue of {} is", "{} sings in")


def rows(report: BuildReport) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report.path / "records.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(out: Path) -> dict[str, Any]:
    """Everything that equal builds share."""
    meta = json.loads((out / "build.json").read_text(encoding="utf-8"))
    meta.pop("environment")
    return {name: (out / name).read_bytes() for name in FILES} | {"build.json": meta}


def by_tuple(report: BuildReport) -> dict[str, dict[str, Any]]:
    return {row["provenance"]["pararel_uuid"]: {**row, "case_id": None} for row in rows(report)}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """People with few, short, colliding names, and one to three tongues each; tuples true and untrue."""
    names = st.sampled_from(["Ana", "Anabel", "Bo", "Bob", "Cy", "Dag", "Eve", "Fay", "Gus", "Esk", "Hal", "Ida"])
    people = draw(
        st.lists(
            st.tuples(names, st.sampled_from(["", " Ray", " Roe", " Rust", " Zay", " Zhu"])), min_size=10, max_size=36
        )
    )
    tongues = ("Aldic", "Ald", "Esk", "Dovian")
    labels = {f"Q{n + 1}": tongue for n, tongue in enumerate(tongues)}
    facts, tuples = [], []
    for n, (first, last) in enumerate(people):
        id = f"Q{n + 100}"
        labels[id] = first + last
        spoken = draw(st.lists(st.sampled_from([1, 2, 3, 3, 4]), min_size=1, max_size=2, unique=True))
        facts += [(id, "P103", f"Q{object}") for object in spoken]
        stated = draw(st.sampled_from([*spoken, 1]))
        uuid = draw(st.sampled_from([str(n)] * 9 + ["0"]))
        tuples.append((uuid, labels[id], tongues[stated - 1]))
    return World(labels, facts, {"P103": tuples})


@given(world=worlds(), seed=st.integers(0, 3), preset=st.sampled_from(["paper", "strict"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_record_keeps_every_rule(world: World, seed: int, preset: str) -> None:
    with TemporaryDirectory() as folder:
        sources = world.write(Path(folder) / "world")
        try:
            chosen = BuildSettings.check({"seed": seed, "preset": preset}, "test")
            report = build_from_sources(sources, chosen, Path(folder) / "out")
        except BadInput as error:
            assert "no tuple gave a record" in str(error)
            return
        counts = report.meta["counts"]
        assert counts["tuples"] == len(world.tuples["P103"]) == report.records + sum(counts["dropped"].values())
        dataset = load_dataset(report.path)
        assert dataset.content_hash == report.meta["content_hash"]
        records = [record for record in dataset.records if isinstance(record, CounterFactRecord)]
        assert len(records) == len(dataset.records) == report.records
        assert [record.case_id for record in records] == list(range(len(records)))
        rewrites = [record.requested_rewrite for record in records]
        edited = [(one.subject, one.true_text if preset == "paper" else None) for one in rewrites]
        assert len(set(edited)) == len(edited)
        for record in records:
            check_record(record, world, preset)
            texts = dataset.reference_texts
            assert texts is not None
            check_references(record, world, [s.name for s in texts.get("P103", record.requested_rewrite.target_new.id)])


def check_record(record: CounterFactRecord, world: World, preset: str) -> None:
    """Check one record against the world itself, with code of its own."""
    spoken: dict[str, set[str]] = {}
    for subject, _, object in world.facts:
        spoken.setdefault(subject, set()).add(object)
    rewrite, provenance = record.requested_rewrite, record.provenance or {}
    new, true, subject = rewrite.target_new, rewrite.target_true, provenance["subject_id"]
    assert world.labels[subject] == rewrite.subject
    assert true.id in spoken[subject] and new.id not in spoken[subject]
    assert preset == "paper" or spoken[subject] == {true.id}
    assert new.id is not None and true.id is not None
    assert (world.labels[new.id], world.labels[true.id]) == (new.text, true.text)
    assert new.text in {object for _, _, object in world.tuples["P103"]}
    assert not collides(new.text, true.text) and not collides(new.text, rewrite.subject)
    assert rewrite.prompt in TEMPLATES
    used = [rewrite.prompt.format(rewrite.subject)]
    assert len(record.paraphrase_prompts) == 2
    for prompt in record.paraphrase_prompts:
        (template,) = [t for t in TEMPLATES if prompt.endswith(f" {t.format(rewrite.subject)}")]
        used.append(template.format(rewrite.subject))
        sentence = prompt.removesuffix(used[-1]).strip()
        assert sentence.endswith(".")
        assert not any(label in sentence for label in (rewrite.subject, new.text, true.text))
    assert len(set(used)) == 3
    check_others(record.neighborhood_prompts, provenance, "neighborhood", (true.id, new.id), world, spoken, preset)
    check_others(record.attribute_prompts, provenance, "attribute", (new.id, true.id), world, spoken, preset)
    assert len(record.generation_prompts) == 10
    assert set(record.generation_prompts) <= {prompt.format(rewrite.subject) for prompt in world.generation}


def check_others(
    prompts: list[str],
    provenance: dict[str, Any],
    stage: str,
    objects: tuple[str, str],
    world: World,
    spoken: dict[str, set[str]],
    preset: str,
) -> None:
    held, other = objects
    subject = provenance["subject_id"]
    namesakes = {world.labels[id] for id, known in spoken.items() if other in known}
    holders = sorted((id for id, known in spoken.items() if held in known), key=lambda id: int(id[1:]))
    if preset == "paper":
        first = {world.labels[id]: id for id in reversed(holders)}
        holders = [id for id in holders if first[world.labels[id]] == id][:20]
    allowed = {
        world.labels[id]
        for id in holders
        if id != subject
        and other not in spoken[id]
        and world.labels[id] not in namesakes
        and not collides(world.labels[id], world.labels[subject])
    }
    ids = provenance[f"{stage}_ids"]
    few = preset == "paper" and stage == "attribute"
    assert len(prompts) == len(set(prompts)) == len(ids) == (min(10, len(TEMPLATES) * len(allowed)) if few else 10)
    for prompt, id in zip(prompts, ids, strict=True):
        assert prompt in [template.format(world.labels[id]) for template in TEMPLATES]
        assert world.labels[id] in allowed
        assert held in spoken[id] and other not in spoken[id]
    assert len(set(ids)) == provenance[f"{stage}_subjects"]
    if preset == "strict":
        turns = Counter(ids).values()
        assert len(turns) == min(10, len(allowed)) and max(turns) - min(turns) <= 1
    elif not few:
        assert len(allowed) >= 3


def check_references(record: CounterFactRecord, world: World, names: list[str]) -> None:
    new = record.requested_rewrite.target_new.id
    speakers = {world.labels[subject] for subject, _, object in world.facts if object == new}
    assert names and set(names) <= speakers


def build(world: World, folder: Path, **given: Any) -> BuildReport:
    return build_from_sources(world.write(folder / "world"), BuildSettings(**given), folder / "out")


def test_equal_inputs_give_equal_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, second, other = tmp_path / "first", tmp_path / "second", tmp_path / "other"
    assert contents(build(small_world(), first).path) == contents(build(small_world(), second).path)
    assert (
        contents(build(small_world(), other, seed=1).path)["records.jsonl"] != contents(first / "out")["records.jsonl"]
    )


def test_a_further_tuple_leaves_the_records_of_others(tmp_path: Path) -> None:
    world = small_world(("P103",))
    before = by_tuple(build(world, tmp_path / "before"))
    first = world.tuples["P103"].pop(0)
    without = by_tuple(build(world, tmp_path / "without"))
    assert first[0] in before and len(without) == len(before) - 1
    moved = [uuid for uuid in without if without[uuid] | {"pararel_idx": 0} != before[uuid] | {"pararel_idx": 0}]
    assert all(before[uuid]["requested_rewrite"]["target_new"]["str"] == first[2] for uuid in moved)
    assert len(moved) <= 2


def test_a_relation_more_changes_no_record_and_no_order(tmp_path: Path) -> None:
    one = build(small_world(), tmp_path / "one", relations=["P103"])
    two = build(small_world(), tmp_path / "two")
    order = [
        row["provenance"]["pararel_uuid"] for row in rows(two) if row["requested_rewrite"]["relation_id"] == "P103"
    ]
    assert order == [row["provenance"]["pararel_uuid"] for row in rows(one)]
    assert by_tuple(one).items() <= by_tuple(two).items()


def test_any_prefix_is_a_mixture_of_relations(tmp_path: Path) -> None:
    report = build(small_world(people=60), tmp_path)
    relations = [row["requested_rewrite"]["relation_id"] for row in rows(report)]
    assert relations != sorted(relations)
    assert 0.25 < relations[: len(relations) // 2].count("P103") / (len(relations) // 2) < 0.75


def test_every_reason_is_counted(tmp_path: Path) -> None:
    world = small_world(("P103",), people=30)
    labels = world.labels
    tuples = world.tuples["P103"]
    tuples.append(("new-1", "Nobody", "Aldic"))
    tuples.append((tuples[0][0], "Anybody", "Aldic"))
    tuples.append(("new-2", tuples[0][1], tuples[0][2]))
    labels |= {"Q900": "Esk", "Q901": "Lone Speaker", "Q902": "Fenian"}
    world.facts += [("Q900", "P103", "Q5"), ("Q901", "P103", "Q902")]
    tuples += [("new-3", "Esk", "Esk"), ("new-4", "Lone Speaker", "Fenian")]
    tuples.append(("new-5", "It", "Aldic"))
    report = build(world, tmp_path, preset="strict")
    assert report.meta["counts"]["dropped"] == {
        "a label names nothing": 1,
        "label of subject or object in the other": 1,
        "no such fact": 1,
        "several objects": 4,
        "subject and relation of another record": 1,
        "too few neighborhood prompts": 1,
        "uuid of another tuple": 1,
    }
    assert report.records == 26
    assert report.meta["relations"]["P103"]["patterns"] == {"object last": 4}


def test_the_strict_preset_makes_the_records_that_were_made_before_there_were_presets(tmp_path: Path) -> None:
    report = build(small_world(), tmp_path, preset="strict")
    # Since then a record also names its tuple by the ids of its ends.
    made = [
        {**row, "provenance": {k: v for k, v in row["provenance"].items() if k != "fact_id"}} for row in rows(report)
    ]
    assert hash_json(made) == "cd0014b1124f976df4ffc0d431eed5d77b920a1a41dd6ebea8478ee17fc6bcd7"
    assert report.meta["counts"]["spread"]["neighborhood"]["subjects_a_record"]["predicted"] is None


def test_pools_hold_the_first_in_order_and_draws_are_what_they_predict(tmp_path: Path) -> None:
    world = small_world(("P103",), people=200)
    world.sitelinks = {fact[0]: int(fact[0][1:]) for fact in world.facts}
    sources = world.write(tmp_path / "world")
    speakers: dict[str, list[int]] = {}
    for subject, _, object in world.facts:
        speakers.setdefault(object, []).append(int(subject[1:]))
    for order, reverse in (("id", False), ("sitelinks", True)):
        chosen = BuildSettings.check({"pool": 6, "pool_order": order}, "test")
        report = build_from_sources(sources, chosen, tmp_path / order)
        pools = {object: set(sorted(set(ids), reverse=reverse)[:6]) for object, ids in speakers.items()}
        for row in rows(report):
            edit, provenance = row["requested_rewrite"], row["provenance"]
            for stage, target in (("neighborhood", "target_true"), ("attribute", "target_new")):
                assert {int(id[1:]) for id in provenance[f"{stage}_ids"]} <= pools[edit[target]["id"]]
        for spread in report.meta["counts"]["spread"].values():
            for found in spread.values():
                assert found["measured"] == pytest.approx(found["predicted"], rel=0.02)
        assert report.meta["counts"]["spread"]["neighborhood"]["subjects_a_record"]["measured"] < 6


def test_what_pools_predict_of_draws_with_more_templates_is_worked_out_by_hand() -> None:
    one, two = DrawnPrompt("Q1", "x a"), DrawnPrompt("Q1", "x b")
    draws = [("P103", Draw((one,), ("x",), 2)), ("P103", Draw((one, two), ("x",), 4))]
    # Either of two templates is missed by both with 1/2 x 1/2, either of the two others by the second with 1/2.
    assert expected(draws) == (1.0, pytest.approx(2 * 0.75 + 2 * 0.5))
    assert expected([("P103", Draw((one,), ("x", "y"), 1))])[0] == pytest.approx(1.0)
    assert measured([draw for _, draw in draws]) == (1.0, 2)


def test_other_objects_of_a_subject_are_neither_new_nor_near(tmp_path: Path) -> None:
    """Aldic is a kind of Borrish, two steps up: neither may replace the other, nor stand for a neighbor's tongue."""
    world = small_world(("P103",))
    world.facts += [("Q1", "P279", "Q77"), ("Q77", "P131", "Q2")]
    two = {
        subject for subject, count in Counter(fact[0] for fact in world.facts).items() if count > 1 and subject > "Q1"
    }
    spoken: dict[str, set[str]] = {}
    for subject, relation, object in world.facts:
        if relation == "P103":
            spoken.setdefault(subject, set()).add(object)
    report = build(world, tmp_path)
    edited = rows(report)
    assert {row["provenance"]["subject_id"] for row in edited} & two, "subjects of several objects are kept"
    kin = {"Q1": {"Q2"}, "Q2": {"Q1"}}
    for row in edited:
        provenance, new = row["provenance"], row["requested_rewrite"]["target_new"]["id"]
        near = {new, *kin.get(new, ())}
        assert not spoken[provenance["subject_id"]] & near
        assert not any(spoken[id] & near for id in provenance["neighborhood_ids"])
    free = build_from_sources(world.write(tmp_path / "b"), BuildSettings(implied_objects="allow"), tmp_path / "c")
    assert any(
        {row["requested_rewrite"][which]["id"] for which in ("target_new", "target_true")} == {"Q1", "Q2"}
        for row in rows(free)
    )


def test_relations_without_templates_or_prompts_are_dropped_and_counted(tmp_path: Path) -> None:
    world = small_world()
    sources = world.write(tmp_path / "world")
    (tmp_path / "world/generation/P103.txt").unlink()
    report = build_from_sources(sources, BuildSettings(), tmp_path / "out")
    assert report.meta["relations"]["P103"]["dropped"] == {"no generation prompts": 40}
    sources = Sources(sources.pararel, sources.facts, sources.generation, sources.articles)
    report = build_from_sources(sources, BuildSettings(generation_prompts=0, paraphrase_prompts=1), tmp_path / "out")
    assert report.meta["relations"]["P103"]["records"] > 0
    with pytest.raises(BadInput, match="too few templates"):
        build_from_sources(sources, BuildSettings(paraphrase_prompts=4), tmp_path / "out")


def test_contexts_may_be_left_out(tmp_path: Path) -> None:
    sources = small_world().write(tmp_path / "world")
    bare = Sources(sources.pararel, sources.facts, sources.generation, None)
    with pytest.raises(BadInput, match="paraphrase_context"):
        build_from_sources(bare, BuildSettings(), tmp_path / "out")
    report = build_from_sources(bare, BuildSettings(paraphrase_context="none"), tmp_path / "out")
    for row in rows(report):
        filled = {template.format(row["requested_rewrite"]["subject"]) for template in TEMPLATES}
        assert set(row["paraphrase_prompts"]) < filled
    counts = report.meta["counts"]
    assert counts["reference_texts"] == 0 and counts["records_without_reference_texts"] == report.records


def test_a_pool_without_a_fitting_sentence_drops_the_record(tmp_path: Path) -> None:
    articles = tmp_path / "articles.jsonl"
    lines = [{"id": "Q1", "title": "Geese", "text": f"Some geese speak the {tongue} tongue."} for tongue in TONGUES]
    articles.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    sentences = LocalArticles.open(articles).sentences
    assert Contexts(sentences).draw(1, ("the",), Random(0)) is None
    assert Contexts([]).draw(2, (), Random(0)) is None


def test_a_build_that_is_there_is_left_and_an_older_one_replaced(tmp_path: Path) -> None:
    first = build(small_world(), tmp_path)
    stamp = (first.path / "records.jsonl").stat().st_mtime_ns
    again = build(small_world(), tmp_path)
    assert again.reused and (again.path / "records.jsonl").stat().st_mtime_ns == stamp
    assert (again.records, again.stats) == (first.records, first.stats)
    assert not build(small_world(), tmp_path, seed=5).reused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "world"]


def test_files_of_others_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="no build wrote"):
        build(small_world(), tmp_path)


def test_unknown_relations_and_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="P9999"):
        build(small_world(), tmp_path, relations=["P9999"])
    with pytest.raises(BadInput, match="neighborhood_prompts"):
        BuildSettings.check({"neighborhood_prompts": -1}, "--set")


@given(st.dictionaries(st.text(max_size=5), st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 2**63 - 1))
def test_more_weight_only_brings_an_item_forward(weights: dict[str, int], seed: int) -> None:
    before = list(WeightedOrder(weights).order(seed))
    assert sorted(before) == sorted(weights)
    item = before[-1]
    after = list(WeightedOrder({**weights, item: weights[item] + 3}).order(seed))
    assert [other for other in after if other != item] == before[:-1]


def test_the_race_is_won_by_weight() -> None:
    race = WeightedOrder({"a": 1, "b": 3, "c": 6})
    won = Counter(next(race.order(7919 * seed)) for seed in range(20_000))
    assert won["a"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert won["c"] / 20_000 == pytest.approx(0.6, abs=0.015)


def test_shuffling_lazily_is_uniform() -> None:
    orders = Counter("".join(shuffled("abc", Random(seed))) for seed in range(6_000))
    assert len(orders) == 6
    assert min(orders.values()) > 850


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_build_killed_at_any_write_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = small_world().write(tmp_path / "world")
    whole = contents(build_from_sources(sources, BuildSettings(), tmp_path / "whole").path)
    replace, rename = os.replace, Path.rename
    for end in range(1, 40):
        left = end

        def step() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        def dying_replace(source: Any, target: Any) -> None:
            step()
            replace(source, target)

        def dying_rename(source: Path, target: Path) -> Path:
            step()
            return rename(source, target)

        out = tmp_path / f"out-{end}"
        if end % 2:
            build_from_sources(sources, BuildSettings(seed=9), out)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying_replace)
            patch.setattr(Path, "rename", dying_rename)
            try:
                build_from_sources(sources, BuildSettings(), out)
                finished = True
            except Killed:
                finished = False
        assert not out.exists() or (out / "build.json").exists()
        assert contents(build_from_sources(sources, BuildSettings(), out).path) == whole
        assert not list(tmp_path.glob(f".out-{end}.*"))
        if finished:
            return
    raise AssertionError("expected a build to need fewer writes")


SCRIPT = """
import sys
from pathlib import Path
from counterfact.builders.sources.articles import LocalArticles
from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.sources.opened import Sources
from counterfact.builders.counterfact import build_from_sources
from counterfact.builders.sources.local_store import StoreSource
world, out = Path(sys.argv[1]), Path(sys.argv[2])
sources = Sources(world / "pararel", StoreSource.open(world / "wikidata"), world / "generation",
                  LocalArticles.open(world / "articles"))
print("ready", flush=True)
build_from_sources(sources, BuildSettings(), out)
"""


def run_killed(world: Path, out: Path, delay: float | None) -> float:
    """Build in a process of its own, kill it `delay` seconds after its start, and return how long it ran."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(world), str(out)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    started = time.perf_counter()
    if delay is not None:
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    code = process.wait()
    process.stdout.close()
    assert delay is not None or code == 0
    return time.perf_counter() - started


@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.soak)])
def test_kill_9_at_random_moments(times: int, tmp_path: Path) -> None:
    world = small_world(tuple(f"P{n}" for n in range(100, 110)), people=60)
    world.write(tmp_path / "world")
    seconds = run_killed(tmp_path / "world", tmp_path / "whole", None)
    whole = contents(tmp_path / "whole")
    moments = random.Random(times)
    for n in range(times):
        out = tmp_path / f"out-{n}"
        run_killed(tmp_path / "world", out, moments.uniform(0, seconds))
        assert not out.exists() or contents(out) == whole
        run_killed(tmp_path / "world", out, None)
        assert contents(out) == whole
