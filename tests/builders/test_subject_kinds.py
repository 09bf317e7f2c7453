"""Kinds of subjects: newspapers have no original language of film; what a source does not tell leaves out nobody."""

import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.counterfact import build_from_sources
from counterfact.builders.request_estimate import Assumptions, estimate_requests
from counterfact.builders.sources.dump_filter import LineFilter, filter_block
from counterfact.builders.sources.endpoint import EndpointSource
from counterfact.builders.sources.knowledge import query_knowledge
from counterfact.builders.sources.local_store import StoreSource
from counterfact.builders.sources.pararel import load_pararel
from counterfact.builders.sources.queries import DIRECT, ENTITY
from counterfact.builders.sources.snapshot import take_snapshot, write_slice
from counterfact.builders.sources.subject_kinds import (
    HUMAN,
    ROOT,
    SubjectKinds,
    load_subject_kinds,
    query_subject_kinds,
    subjects_to_ask,
)
from counterfact.builders.sources.truthy_dump import write_dump_slice
from tests.builders.test_build_over_http import small_blocks, without_sources
from tests.builders.test_snapshot import same_build
from tests.builders.test_sparql import store_of
from tests.support.fast_client import fast_client
from tests.support.made_up_world import World, small_world
from tests.support.sparql_server import query_of, serve
from tests.support.truthy_dump import write_dump
from tests.support.web_server import Log

FILM, SILENT, PAPER, ATHLETE, PLAYER, FOOTBALLER, ACTOR, CLUB, CUT_OFF = (
    *("Q11424", "Q226730", "Q11032", "Q2066131", "Q18536342", "Q937857", "Q33999", "Q847017", "Q77001"),
)
TREE = [(SILENT, FILM), (FILM, "Q838948"), ("Q838948", ROOT), (PAPER, "Q1002697"), ("Q1002697", ROOT), (HUMAN, ROOT)]
TREE += [(FOOTBALLER, PLAYER), (PLAYER, ATHLETE), (ATHLETE, ROOT), (ACTOR, ROOT), (CLUB, ROOT), (CUT_OFF, "Q77002")]
WHAT = {3: "of another kind", 5: "not known", 7: "not known"}
"""Last digit of a subject to what is told of it."""


def world_of_kinds() -> World:
    """Films and people in sport, whose last digit says what they are: 3 is of another kind, 5 and 7 are not known."""
    world = small_world(("P364", "P641"))
    moved = {f"Q{n}": f"Q{9000 + n}" for n in range(1, 6)}
    world.labels = {moved.get(id, id): label for id, label in world.labels.items()}
    world.facts = [(subject, relation, moved[object]) for subject, relation, object in world.facts]
    works = {3: [PAPER], 5: [CUT_OFF], 7: [], 9: [SILENT, PAPER]}
    jobs = {3: [ACTOR], 5: [CUT_OFF, ACTOR], 7: [], 9: [ACTOR, FOOTBALLER]}
    for subject, relation in sorted({fact[:2] for fact in world.facts}):
        digit = int(subject[-1])
        if relation == "P364":
            world.facts += [(subject, "P31", kind) for kind in works.get(digit, [SILENT])]
        elif digit == 1:
            world.facts.append((subject, "P31", CLUB))
        else:
            world.facts.append((subject, "P31", HUMAN))
            world.facts += [(subject, "P106", job) for job in jobs.get(digit, [FOOTBALLER])]
    world.facts += [(below, "P279", above) for below, above in TREE]
    classes = {class_ for edge in TREE for class_ in edge} - {"Q77002"}
    world.labels |= {class_: f"class {n}" for n, class_ in enumerate(sorted(classes))}
    return world


def edited_and_near(out: Path) -> tuple[set[str], set[str]]:
    """Return the subjects of records, and those of the prompts about others."""
    records = [json.loads(line)["provenance"] for line in (out / "records.jsonl").read_text().splitlines()]
    near = {id for record in records for kind in ("neighborhood", "attribute") for id in record[f"{kind}_ids"]}
    return {record["subject_id"] for record in records}, near


@pytest.mark.parametrize("preset", ["paper", "strict"])
def test_subjects_of_another_kind_give_no_record_and_are_in_no_pool(preset: str, tmp_path: Path) -> None:
    sources = world_of_kinds().write(tmp_path / "world")
    given = {"preset": preset, "fewest_neighbors": 1, "too_few_attributes": "keep", "reference_texts": 0}
    reports = {
        chosen: build_from_sources(
            sources, BuildSettings.model_validate(given | {"subject_kinds": chosen}), tmp_path / chosen
        )
        for chosen in ("check", "any")
    }
    assert BuildSettings(preset="strict").subject_kinds == "any" != BuildSettings().subject_kinds
    told = {relation: counts["subject_kinds"] for relation, counts in reports["check"].meta["relations"].items()}
    each = {"asked about": 40, "of another kind": 4, "not known": 8}
    assert told == {"P364": each, "P641": each}
    assert reports["check"].meta["counts"]["subject_kinds"] == {kind: 2 * number for kind, number in each.items()}
    reasons = [json.loads(line) for line in (tmp_path / "check/dropped.jsonl").read_text().splitlines()]
    dropped = Counter(line["relation_id"] for line in reasons if line["reason"] == "subject of another kind")
    several = {"paper": 0, "strict": sum(n % 7 == 6 and n % 10 == 3 for n in range(40))}[preset]
    assert dropped == {"P364": 4 - several, "P641": 4 - several}

    def with_digit(ids: set[str], digit: int) -> set[str]:
        return {id for id in ids if int(id[-1]) == digit}

    edited, near = edited_and_near(tmp_path / "check")
    assert not with_digit(edited | near, 3)
    for digit in (1, 2, 5, 7, 9):
        assert {id[1] for id in with_digit(edited, digit)} == {id[1] for id in with_digit(near, digit)} == {"1", "2"}
    edited, near = edited_and_near(tmp_path / "any")
    assert with_digit(edited, 3) and with_digit(near, 3)
    assert "subject of another kind" not in reports["any"].meta["counts"]["dropped"]
    assert reports["any"].meta["counts"]["subject_kinds"] == {}


def test_other_relations_cost_no_query_and_all_pass_without_p31(tmp_path: Path) -> None:
    log = Log()
    other = small_world(("P103",)).write(tmp_path / "other")
    with serve(store_of(tmp_path / "other/wikidata/facts.nt"), log) as url:
        facts = EndpointSource(url, fast_client(tmp_path / "a.sqlite"))
        build_from_sources(replace(other, facts=facts), BuildSettings(reference_texts=0), tmp_path / "o")
    assert log.asked and not any("?kind" in query_of(asked) or "P279*" in query_of(asked) for asked in log.asked)
    world = small_world(("P364", "P641"))
    report = build_from_sources(world.write(tmp_path / "world"), BuildSettings(reference_texts=0), tmp_path / "out")
    assert report.meta["counts"]["subject_kinds"] == {"asked about": 80, "of another kind": 0, "not known": 80}
    free = BuildSettings(reference_texts=0, subject_kinds="any")
    build_from_sources(world.write(tmp_path / "again"), free, tmp_path / "any")
    assert (tmp_path / "out/records.jsonl").read_bytes() == (tmp_path / "any/records.jsonl").read_bytes()


def test_of_an_object_the_subjects_that_a_pool_may_hold_are_asked_about(tmp_path: Path) -> None:
    sources = world_of_kinds().write(tmp_path / "world")
    known = {one.id: query_knowledge(one, sources.facts) for one in load_pararel(sources.pararel)}
    rules = load_subject_kinds()
    film = replace(known["P364"], resolved=dict(list(known["P364"].resolved.items())[:1]))
    ((subject, _),) = film.resolved.values()
    first = {holder.id for held in film.holders.values() for holder in held[:3]}
    every = {holder.id for held in film.holders.values() for holder in held}
    assert subjects_to_ask({"P364": film, "P17": film}, rules, 1) == {"P364": first | {subject}}
    assert subjects_to_ask({"P364": film}, rules, 0) == {"P364": every}
    assert first < every


def test_pools_in_the_order_of_sitelinks_are_checked_as_a_whole(tmp_path: Path) -> None:
    world = world_of_kinds()
    world.sitelinks = {subject: int(subject[1:]) for subject, relation, _ in world.facts if relation == "P31"}
    world.tuples = {relation: tuples[:10] for relation, tuples in world.tuples.items()}
    sources, near = world.write(tmp_path / "world"), {}
    for chosen in ("check", "any"):
        settings = BuildSettings.model_validate(
            {
                "pool": 2,
                "pool_order": "sitelinks",
                "neighborhood_prompts": 4,
                "fewest_neighbors": 1,
                "reference_texts": 0,
            }
            | {"subject_kinds": chosen}
        )
        report = build_from_sources(sources, settings, tmp_path / chosen)
        assert report.meta["counts"]["subject_kinds"].get("asked about", 80) == 80
        near[chosen] = {id[-1] for id in edited_and_near(tmp_path / chosen)[1]}
    assert "3" in near["any"] and "3" not in near["check"]


def test_the_records_of_an_endpoint_a_slice_of_it_and_a_dump_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of_kinds()
    sources = replace(world.write(tmp_path / "world"), articles=None)
    relations = load_pararel(sources.pararel)
    settings = BuildSettings(paraphrase_context="none", reference_texts=0)
    build_from_sources(sources, settings, tmp_path / "local")
    assert "another kind" in (tmp_path / "local/dropped.jsonl").read_text()
    write_dump(tmp_path / "dump.nt", world, 0.5)
    counts = write_dump_slice(tmp_path / "dump.nt", relations, tmp_path / "dumped.nt.gz", workers=1)
    dumped = gzip.decompress((tmp_path / "dumped.nt.gz").read_bytes()).decode()
    kinds = [fact for fact in world.facts if fact[1] in ("P31", "P106", "P279")]
    assert counts["facts of kinds"] == len(kinds) and counts["facts"] == len(world.facts) - len(kinds)
    assert "of no use" not in dumped and not list(tmp_path.glob(".*"))
    small_blocks(monkeypatch, 3)
    with serve(store_of(tmp_path / "world/wikidata/facts.nt")) as url:
        endpoint = EndpointSource(url, fast_client(tmp_path / "a.sqlite"))
        build_from_sources(replace(sources, facts=endpoint), settings, tmp_path / "http")
        lines = take_snapshot(relations, endpoint)
    assert lines == take_snapshot(relations, sources.facts)
    assert without_sources(tmp_path / "http") == without_sources(tmp_path / "local")
    write_slice(tmp_path / "slice.nt", lines)
    for name in ("slice.nt", "dumped.nt.gz"):
        again = replace(sources, facts=StoreSource.open(tmp_path / name))
        (tmp_path / f"of-{name}").mkdir()
        same_build(sources, again, tmp_path / f"of-{name}", **settings.model_dump(exclude={"preset"}))
        build_from_sources(again, settings, tmp_path / f"of-{name}" / "out")
        assert without_sources(tmp_path / f"of-{name}" / "out") == without_sources(tmp_path / "local")


def test_what_they_are_keeps_no_entity_of_a_dump() -> None:
    def line(entity: str, relation: str, object: str) -> bytes:
        return f"<{ENTITY}{entity}> <{DIRECT}{relation}> <{ENTITY}{object}> .\n".encode()

    film, paper = line("Q7", "P31", FILM), line("Q8", "P31", PAPER)
    block = film + line("Q7", "P364", "Q1") + paper + b"<urn:a> <urn:b> <urn:c> .\n"
    wanted = LineFilter(frozenset({"P364"}), frozenset(), kinds=frozenset({"P31"}))
    assert set(filter_block(block, wanted).lines.splitlines(True)) == {film, line("Q7", "P364", "Q1")}
    relation = replace(wanted, relations=frozenset({"P364", "P31"}))
    assert paper in filter_block(block, relation).lines, "it does where it is a relation of the build itself"
    assert film not in filter_block(block, replace(wanted, kinds=frozenset())).lines


def test_a_subject_is_of_another_kind_only_where_the_source_tells(tmp_path: Path) -> None:
    rule = load_subject_kinds()["P641"]
    tree = {HUMAN: {HUMAN, ROOT}, CLUB: {CLUB, ROOT}, ACTOR: {ROOT}, FOOTBALLER: {ATHLETE, ROOT}, PAPER: {ROOT}}
    told = {
        (): None,
        (CUT_OFF,): None,
        (PAPER,): False,
        (PAPER, CUT_OFF): None,
        (CLUB, CUT_OFF): True,
        (ROOT,): False,
    }
    tree[ROOT] = {ROOT}
    assert {kinds: rule.admits(kinds, (), tree) for kinds in told} == told
    jobs = {(): None, (ACTOR,): False, (ACTOR, FOOTBALLER): True, (ACTOR, CUT_OFF): None, (FOOTBALLER, CUT_OFF): True}
    assert {held: rule.admits([HUMAN], held, tree) for held in jobs} == jobs
    assert rule.admits([HUMAN, CLUB], [ACTOR], tree) is True
    assert rule.admits([HUMAN, CUT_OFF], [ACTOR], tree) is None
    assert load_subject_kinds()["P1303"].admits([HUMAN], [ACTOR], tree) is True, "any occupation will do"
    facts = world_of_kinds().write(tmp_path / "world").facts
    (found,) = query_subject_kinds({"P641": {"Q203", "Q205", "Q202", "Q1"}}, {"P641": rule}, facts).values()
    assert (found.asked, found.other, found.unknown) == (4, {"Q203"}, 2)


def test_the_table_names_its_classes() -> None:
    rules = load_subject_kinds()
    assert list(rules) == sorted(rules, key=lambda relation: int(relation[1:]))
    assert {"P364", "P449", "P641", "P413", "P1303"} == rules.keys()
    names: dict[str, set[str]] = {}
    for rule in rules.values():
        assert isinstance(rule, SubjectKinds)
        assert not rule.occupations or HUMAN in rule.kinds
        for id, name in (rule.kinds | rule.occupations).items():
            names.setdefault(id, set()).add(name)
    assert all(len(given) == 1 for given in names.values())


def test_the_plan_counts_the_queries_about_kinds(tmp_path: Path) -> None:
    sources = world_of_kinds().write(tmp_path / "world")
    relations, few = load_pararel(sources.pararel), Assumptions(subjects_an_object=8)

    def requests(**given: int | None) -> int:
        (cost,) = (
            cost for cost in estimate_requests(relations, 0, 1.0, 0, few, **given) if cost.kind == "what subjects are"
        )
        return cost.requests

    assert requests(pool=None) == 0 < requests() == requests(pool=0)
    assert requests(pool=1) <= 3 < sum(cost.requests for cost in estimate_requests(relations, 0, 1.0, pool=0))
    log = Log()
    with serve(store_of(tmp_path / "world/wikidata/facts.nt"), log) as url:
        facts = EndpointSource(url, fast_client(tmp_path / "a.sqlite"))
        build_from_sources(replace(sources, facts=facts), BuildSettings(reference_texts=0), tmp_path / "out")
    about = ("{ wdt:P31 }", "{ wdt:P106 }", "P279*")
    asked = sum(any(mark in query_of(one) for mark in about) for one in log.asked)
    assert asked == 3 == requests()
