"""What a build can be asked for beside the default: counts, contexts, popularity, variants, languages, templates."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterfact.builders.build_folder import BuildReport
from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.code import code_behind, modules_behind
from counterfact.builders.counterfact import build_from_sources
from counterfact.builders.sources.knowledge import query_knowledge
from counterfact.builders.sources.opened import Sources
from counterfact.builders.sources.pararel import cut_pattern, load_pararel
from counterfact.core.errors import BadInput
from counterfact.core.places import data_folder
from counterfact.core.texts import load_texts
from tests.support.made_up_world import PATTERNS, World, small_world


def build(sources: Sources, out: Path, **given: Any) -> BuildReport:
    return build_from_sources(sources, BuildSettings(**given), out)


def rows(report: BuildReport) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report.path / "records.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_number_of_each_kind_of_prompt(tmp_path: Path) -> None:
    sources = small_world().write(tmp_path / "world")
    wanted = {"paraphrase_prompts": 1, "neighborhood_prompts": 4, "attribute_prompts": 3, "generation_prompts": 2}
    report = build(sources, tmp_path / "out", **wanted)
    assert report.meta["settings"].items() >= wanted.items()
    for row in rows(report):
        assert {kind: len(row[kind]) for kind in wanted} == wanted


def test_contexts_from_texts(tmp_path: Path) -> None:
    sources = small_world().write(tmp_path / "world")
    with pytest.raises(BadInput, match="give texts"):
        build(sources, tmp_path / "out", paraphrase_context="texts")
    sentences = ["The ferry leaves the northern pier at noon.", "Nobody had swept the long wooden stairs."]
    (tmp_path / "texts.txt").write_text("\n".join(sentences), encoding="utf-8")
    given = replace(sources, texts=load_texts(tmp_path / "texts.txt"))
    report = build(given, tmp_path / "out", paraphrase_context="texts")
    assert report.meta["sources"]["texts"]["name"] == "texts.txt"
    for row in rows(report):
        assert row["provenance"]["paraphrase_context"] == "texts"
        assert {prompt.split(".")[0] + "." for prompt in row["paraphrase_prompts"]} == set(sentences)


def test_popularity_leaves_out_little_known_subjects(tmp_path: Path) -> None:
    world = small_world(("P103",))
    plain = world.write(tmp_path / "plain")
    with pytest.raises(BadInput, match="wikibase:sitelinks"):
        build(plain, tmp_path / "out", fewest_sitelinks=3)
    subjects = sorted({fact[0] for fact in world.facts})
    world.sitelinks = {subject: n % 7 for n, subject in enumerate(subjects) if n % 5}
    report = build(world.write(tmp_path / "world"), tmp_path / "out", fewest_sitelinks=3)
    everyone = build(plain, tmp_path / "all")
    known = {row["provenance"]["subject_id"] for row in rows(everyone)}
    edited = {row["provenance"]["subject_id"] for row in rows(report)}
    assert edited == {subject for subject in known if world.sitelinks.get(subject, 0) >= 3}
    assert report.meta["counts"]["dropped"]["too few sitelinks"] == len(known) - len(edited) > 0
    # Neighbors need not be well known: only the edited subject must be.
    neighbors = {id for row in rows(report) for id in row["provenance"]["neighborhood_ids"]}
    assert any(world.sitelinks.get(id, 0) < 3 for id in neighbors)


def two_relations_one_template() -> World:
    """Everybody has a mother tongue and another one for work, asked for with the same words."""
    world = small_world(("P103",))
    people = [(subject, object) for subject, _, object in world.facts]
    label = world.labels
    seen = set()
    world.tuples["P1412"] = []
    for subject, object in people:
        other = f"Q{int(object[1:]) % 5 + 1}"
        world.facts.append((subject, "P1412", other))
        if subject not in seen:
            world.tuples["P1412"].append((f"P1412-{subject}", label[subject], label[other]))
        seen.add(subject)
    return world


def test_non_conflicting_records_never_ask_for_two_answers(tmp_path: Path) -> None:
    sources = two_relations_one_template().write(tmp_path / "world")
    every = build(sources, tmp_path / "every", paraphrase_context="none")
    fit = build(sources, tmp_path / "fit", paraphrase_context="none", non_conflicting=True)

    def answers(report: BuildReport) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for row in rows(report):
            edit = row["requested_rewrite"]
            for prompt in [edit["prompt"].format(edit["subject"]), *row["paraphrase_prompts"]]:
                found.setdefault(prompt, set()).add(edit["target_new"]["str"])
        return found

    assert any(len(objects) > 1 for objects in answers(every).values())
    assert all(len(objects) == 1 for objects in answers(fit).values())
    left_out = fit.meta["counts"]["dropped"]["contradicts another record"]
    assert left_out == every.records - fit.records > 0
    assert fit.meta["counts"]["tuples"] == fit.records + sum(fit.meta["counts"]["dropped"].values())
    kept = {row["provenance"]["pararel_uuid"]: {**row, "case_id": 0} for row in rows(fit)}
    assert kept.items() <= {row["provenance"]["pararel_uuid"]: {**row, "case_id": 0} for row in rows(every)}.items()


def test_another_language_has_its_own_labels_templates_and_prompts(tmp_path: Path) -> None:
    world = small_world(("P103",))
    world.patterns = ("[X] spricht [Y].", "[X] träumt auf [Y].", "Zu Hause redet [X] [Y].", "[X] kann [Y] sprechen.")
    world.tag = "de"
    sources = world.write(tmp_path / "world")
    with pytest.raises(BadInput, match="no label in en"):
        build(sources, tmp_path / "out")
    for folder in (sources.pararel, sources.generation):
        shutil.move(folder, tmp_path / "moved")
        shutil.move(tmp_path / "moved", folder / "de")
    report = build(sources, tmp_path / "out", language="de")
    assert report.meta["settings"]["language"] == "de"
    assert report.meta["relations"]["P103"]["patterns"] == {"object last": 3, "words after the object": 1}
    prompts = {row["requested_rewrite"]["prompt"] for row in rows(report)}
    assert prompts == {"{} spricht", "{} träumt auf", "Zu Hause redet {}"}
    with pytest.raises(BadInput, match="nothing in fr"):
        build(sources, tmp_path / "out", language="fr")
    with pytest.raises(BadInput, match="code of a language"):
        build(sources, tmp_path / "out", language="../de")
    assert cut_pattern("[X] spricht [Y] gut", "de").template is None


def test_other_templates_top_up_only_thin_relations(tmp_path: Path) -> None:
    world = small_world()
    world.patterns = world.patterns[:2]
    sources = world.write(tmp_path / "world")
    with pytest.raises(BadInput, match="too few templates"):
        build(sources, tmp_path / "out")
    more = World({}, [], {"P103": []}, patterns=("[X] counts in [Y].", "[X] prays in [Y].", "[X] speaks [Y]."))
    more.write(tmp_path / "more")
    report = build(replace(sources, templates=tmp_path / "more/pararel"), tmp_path / "out")
    counts = report.meta["relations"]
    assert (counts["P103"]["templates"], counts["P103"]["templates_added"]) == (4, 2)
    assert (counts["P1412"]["templates"], counts["P1412"]["templates_added"]) == (2, 0)
    assert counts["P1412"]["records"] == 0 < counts["P103"]["records"]
    assert report.meta["sources"]["templates"]
    short = build(replace(sources, templates=tmp_path / "more/pararel"), tmp_path / "short", paraphrase_prompts=1)
    assert short.meta["relations"]["P103"]["templates_added"] == 0


def test_spare_templates_complete_records_with_few_neighbors_and_change_no_other(tmp_path: Path) -> None:
    world = small_world(("P103",), people=30)
    for n, person in enumerate(("Tora Vell", "Ulm Wick")):
        world.labels |= {f"Q{900 + n}": person, "Q99": "Yorric"}
        world.facts.append((f"Q{900 + n}", "P103", "Q99"))
        world.tuples["P103"].append((f"rare-{n}", person, "Yorric"))
    sources = world.write(tmp_path / "world")
    more = World({}, [], {"P103": []}, patterns=[f"[X] {verb} in [Y]." for verb in "abcdef"])
    more.write(tmp_path / "more")
    own = build(sources, tmp_path / "own", fewest_neighbors=1)
    more_sources = replace(sources, templates=tmp_path / "more/pararel")
    full = build(more_sources, tmp_path / "full", fewest_neighbors=1)
    assert build(more_sources, tmp_path / "three").meta["counts"]["dropped"]["too few neighborhood prompts"] == 2

    def by_tuple(report: BuildReport) -> dict[str, dict[str, Any]]:
        return {row["provenance"]["pararel_uuid"]: {**row, "case_id": 0} for row in rows(report)}

    assert own.meta["counts"]["dropped"]["too few neighborhood prompts"] == 2
    assert full.meta["relations"]["P103"]["records_topped_up"] == full.meta["counts"]["records_topped_up"] == 2
    assert by_tuple(own).items() <= by_tuple(full).items()
    for tuple in ("rare-0", "rare-1"):
        row = by_tuple(full)[tuple]
        assert row["provenance"]["neighborhood_templates"] == "topped up"
        assert row["provenance"]["neighborhood_subjects"] == 1
        assert len(set(row["neighborhood_prompts"])) == 10
        templates = {pattern.replace("[X]", "{}").replace(" [Y].", "").replace(" [Y] .", "") for pattern in PATTERNS}
        assert row["requested_rewrite"]["prompt"] in templates


def test_dropping_subjects_that_name_their_object_spares_neighbors_that_do(tmp_path: Path) -> None:
    world = small_world(("P103",), people=60)
    for n, (subject, _, object) in enumerate(world.facts):
        if n % 4 == 0 and "Aldic" not in world.labels[subject]:
            world.labels[subject] += f" the {world.labels[object]}"
    sources = world.write(tmp_path / "world")

    def named(report: BuildReport) -> int:
        found = 0
        for row in rows(report):
            edit = row["requested_rewrite"]
            found += sum(edit["target_true"]["str"] in prompt for prompt in row["neighborhood_prompts"])
            found += sum(edit["target_new"]["str"] in prompt for prompt in row["attribute_prompts"])
        return found

    assert named(build(sources, tmp_path / "keep")) > 0
    assert named(build(sources, tmp_path / "drop", objects_in_subjects="drop")) == 0


def test_labels_of_several_entities_are_resolved_by_the_fact_and_counted(tmp_path: Path) -> None:
    world = small_world(("P103",))
    # A second tongue that is called Aldic too, and a second person with the first one's name who speaks it.
    first = world.tuples["P103"][0]
    world.labels |= {"Q8000": "Aldic", "Q8001": first[1], "Q8002": "Orla Vint"}
    world.facts += [("Q8002", "P103", "Q8000"), ("Q8001", "P103", "Q2")]
    world.tuples["P103"] += [("x1", "Orla Vint", "Aldic"), ("x2", first[1], "Borrish")]
    sources = world.write(tmp_path / "world")
    known = query_knowledge(load_pararel(sources.pararel)[0], sources.facts)
    assert known.resolved["Orla Vint", "Aldic"] == ("Q8002", "Q8000")
    assert known.resolved[first[1], first[2]][0] != known.resolved[first[1], "Borrish"][0] == "Q8001"
    assert (known.counts["object labels shared"], known.counts["subject labels shared"]) == (1, 1)


def test_one_call_builds_and_refuses_what_it_would_ignore(tmp_path: Path) -> None:
    from counterfact.builders.counterfact import build

    few = {"relations": ["P103"], "paraphrase_context": "none", "reference_texts": 0}
    report = build(str(tmp_path / "a"), seed=3, templates=str(data_folder() / "pararel"), **few)
    assert (report.meta["name"], report.meta["seed"]) == ("counterfact", 3), "it has templates from elsewhere"
    assert re.fullmatch("2[+][0-9a-f]{8}", report.meta["version"])
    with pytest.raises(BadInput, match="counterfact-embedded is the name"):
        build(str(tmp_path / "b"), name="counterfact-embedded", templates=str(data_folder() / "pararel"), **few)
    assert report.meta["sources"]["templates"] and report.records > 50
    assert report.meta["sources"]["articles"] is None, "articles that nothing needs are not opened"
    assert report.responses is None and report.packed is None
    assert build(tmp_path / "a", seed=3, templates=data_folder() / "pararel", **few).reused
    with pytest.raises(BadInput, match="--context texts"):
        build(tmp_path / "b", texts="texts.txt")
    with pytest.raises(BadInput, match="sede: Extra inputs"):
        build(tmp_path / "b", sede=1)
    assert not (tmp_path / "b").exists()


def test_two_builds_that_differ_share_no_version(tmp_path: Path) -> None:
    from counterfact.builders.counterfact import build

    few = {"relations": ["P413"], "paraphrase_context": "none", "reference_texts": 0}
    made = [build(tmp_path / str(seed), seed=seed, **few) for seed in (0, 1)]
    assert {report.meta["name"] for report in made} == {"counterfact-embedded"}
    assert len({report.meta["version"] for report in made}) == 2
    assert "2" not in {report.meta["version"] for report in made}, "2 is the embedded world with a preset as it is"
    assert BuildSettings(name="counterfact-embedded", preset="strict").as_preset
    assert not BuildSettings(name="counterfact-embedded", seed=1).as_preset


def test_records_follow_from_code_that_makes_them_and_from_no_other() -> None:
    behind = modules_behind("counterfact.builders.counterfact")
    needed = {"choosing.selection", "sources.knowledge", "sources.labels", "texts.contexts", "audit.statistics"}
    assert {f"counterfact.builders.{name}" for name in needed} <= behind
    assert not [name for name in behind if ".hub." in name or name.endswith((".findings", ".page", ".recovery"))]
    assert "counterfact.builders.languages.translation" in modules_behind("counterfact.builders.languages.translation")
    assert code_behind("counterfact.builders.counterfact") != code_behind("counterfact.builders.multi")
