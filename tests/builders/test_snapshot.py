"""Slices: from a source and from a dump they give the build that the whole gives; the dump's traps; flat memory."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.counterfact import build_from_sources
from counterfact.builders.sources.articles import EMBEDDED_SITE
from counterfact.builders.sources.dump_filter import LineFilter, entity_blocks, filter_block
from counterfact.builders.sources.endpoint import EndpointSource
from counterfact.builders.sources.local_store import StoreSource
from counterfact.builders.sources.opened import Sources
from counterfact.builders.sources.options import SourceOptions
from counterfact.builders.sources.pararel import load_pararel
from counterfact.builders.sources.queries import DIRECT, ENTITY, LABEL
from counterfact.builders.sources.snapshot import take_snapshot, write_slice
from counterfact.builders.sources.truthy_dump import write_dump_slice
from counterfact.core.errors import BadInput
from tests.builders.test_sparql import store_of
from tests.support import ROOT
from tests.support.fast_client import fast_client
from tests.support.made_up_world import World, crowded, small_world
from tests.support.sparql_server import query_of, serve
from tests.support.truthy_dump import write_dump
from tests.support.web_server import Asked, Reply


def same_build(first: Sources, second: Sources, folder: Path, **given: object) -> None:
    settings = BuildSettings.check(given, "test")
    made = [build_from_sources(sources, settings, folder / name) for sources, name in ((first, "a"), (second, "b"))]
    assert made[0].records > 0
    for name in ("records.jsonl", "reference_texts.jsonl", "stats.json", "dropped.jsonl"):
        assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes(), name


@pytest.fixture
def world() -> World:
    made = small_world()
    for entity in list(made.labels)[7:20:3]:
        made.labels[entity] += ' "the Ölm" \\ Дом'
        for relation, tuples in made.tuples.items():
            made.tuples[relation] = [
                (uuid, made.labels[entity] if f'{subject} "the' in made.labels[entity] else subject, object)
                for uuid, subject, object in tuples
            ]
    made.mul = set(list(made.labels)[2:30:5])
    made.sitelinks = {entity: n for n, entity in enumerate(made.labels)}
    # Aldic is a kind of Borrish by way of something that is no object itself.
    made.labels["Q77"] = "Northern"
    made.facts += [("Q1", "P279", "Q77"), ("Q77", "P131", "Q2")]
    return made


def test_a_slice_of_a_source_gives_the_same_build(world: World, tmp_path: Path) -> None:
    sources = world.write(tmp_path / "world")
    lines = take_snapshot(load_pararel(sources.pararel), sources.facts, site=EMBEDDED_SITE, sitelinks=True)
    count = write_slice(tmp_path / "slice.nt.gz", lines)
    assert gzip.decompress((tmp_path / "slice.nt.gz").read_bytes()).decode().splitlines(True) == sorted(lines)
    assert count == len(lines)
    again = replace(sources, facts=StoreSource.open(tmp_path / "slice.nt.gz"))
    same_build(sources, again, tmp_path, fewest_sitelinks=20)


def test_a_slice_of_an_endpoint_that_cuts_big_answers_is_that_of_the_files(world: World, tmp_path: Path) -> None:
    sources = world.write(tmp_path / "world")
    relations = load_pararel(sources.pararel)
    cut: Counter[str] = Counter()

    def cut_off(reply: Reply, asked: Asked) -> Reply:
        if reply.body.count(b'"bindings"') and len(reply.body) > 2_500:
            cut.update(kind for kind in ("sitelinks", "schema:about") if kind in query_of(asked).split("WHERE")[1])
            return reply._replace(body=reply.body[:-200])
        return reply

    with serve(store_of(tmp_path / "world/wikidata/facts.nt"), None, cut_off) as url:
        endpoint = EndpointSource(url, fast_client(tmp_path / "a.sqlite"))
        found = take_snapshot(relations, endpoint, site=EMBEDDED_SITE, sitelinks=True)
    assert cut["sitelinks"] and cut["schema:about"]
    assert found == take_snapshot(relations, sources.facts, site=EMBEDDED_SITE, sitelinks=True)


def test_the_embedded_slice_is_reproduced_by_the_same_command(tmp_path: Path) -> None:
    sources = SourceOptions().open()
    relations = [one for one in load_pararel(sources.pararel) if one.id in ("P103", "P36", "P641")]
    lines = take_snapshot(relations, sources.facts, site=EMBEDDED_SITE)
    (file,) = sources.facts.files  # type: ignore[attr-defined]
    assert lines <= set(file.read_text(encoding="utf-8").splitlines(True))
    write_slice(tmp_path / "slice.nt", lines)
    again = replace(sources, facts=StoreSource.open(tmp_path / "slice.nt"))
    same_build(sources, again, tmp_path, relations=[one.id for one in relations])


@pytest.mark.parametrize("suffix", [".nt", ".nt.gz", ".nt.bz2"])
def test_a_slice_of_a_dump_gives_the_same_build(suffix: str, world: World, tmp_path: Path) -> None:
    sources = world.write(tmp_path / "world")
    dump, out = tmp_path / f"dump{suffix}", tmp_path / "slice.nt.gz"
    size = write_dump(dump, world, 1.0)
    counts = write_dump_slice(dump, load_pararel(sources.pararel), out, workers=1)
    assert counts["bytes"] == size
    assert counts["facts"] == len(world.facts)
    assert counts["facts with an unknown value"] == 2 * len({fact[0] for fact in world.facts})
    assert counts["labels"] == len({entity for fact in world.facts for entity in fact[::2]} - {"Q77"})
    written = gzip.decompress(out.read_bytes()).decode()
    assert "of no use" not in written
    assert counts["aliases"] == written.count('by another name"@en') == written.count("altLabel>")
    assert counts["aliases"] >= counts["labels"]
    again = replace(sources, facts=StoreSource.open(out), articles=None)
    same_build(replace(sources, articles=None), again, tmp_path, paraphrase_context="none", fewest_sitelinks=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a", "b", dump.name, out.name, "world"])


def test_of_an_object_with_very_many_subjects_a_sample_is_kept(tmp_path: Path) -> None:
    world = crowded(small_world(), 3_000)
    sources = world.write(tmp_path / "world")
    relations = load_pararel(sources.pararel)
    write_dump(tmp_path / "dump.nt", world, 0.5)
    outs = [tmp_path / name for name in ("all.nt", "some.nt", "again.nt")]
    for out, most, workers in zip(outs, (0, 400, 400), (1, 1, 2), strict=True):
        counts = write_dump_slice(tmp_path / "dump.nt", relations, out, most=most, workers=workers, block=100_000)
        assert counts["objects with a sample of their subjects"] == (most > 0)
    assert outs[1].read_bytes() == outs[2].read_bytes()
    every, some = ({line for line in out.read_text().splitlines() if "P103>" in line} for out in outs[:2])
    assert some < every and len(every) - len(some) == counts["facts of subjects not drawn"] > 2_000
    own = sorted(int(fact[0][1:]) for fact in world.facts if fact[1:] == ("P103", "Q1"))
    assert all(any(f"/Q{number}> <" in line for line in some) for number in own[:80]), "the lowest ids are kept"
    crowd = [n for n in range(3_000) if n % 10 and any(f"/Q{5000 + n}> <" in line for line in some)]
    assert 0.9 * 340 < len(crowd) < 0.9 * 460
    tuples = {id for id, label in world.labels.items() if any(label == s for _, s, _ in world.tuples["P103"])}
    for subject, relation, object in world.facts:
        line = f"<{ENTITY}{subject}> <{DIRECT}{relation}> <{ENTITY}{object}> ."
        if relation == "P103" and (subject in tuples or any(f"/{subject}> <" in other for other in some)):
            assert line in some, "of a subject that stays, all objects do"
    report = build_from_sources(replace(sources, facts=StoreSource.open(outs[1])), BuildSettings(), tmp_path / "out")
    held = {(subject, object) for subject, relation, object in world.facts if relation == "P103"}
    ids = {label: id for id, label in world.labels.items()}
    drawn = set()
    for line in (report.path / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["requested_rewrite"]["relation_id"] == "P103":
            drawn |= set(record["provenance"]["neighborhood_ids"])
            new = ids[record["requested_rewrite"]["target_new"]["str"]]
            assert not any((id, new) in held for id in record["provenance"]["neighborhood_ids"])
    assert any(int(id[1:]) >= 5_000 for id in drawn)


def test_a_later_dump_changes_the_sample_little(tmp_path: Path) -> None:
    samples = []
    for people in (2_000, 2_100):
        world = crowded(small_world(), people)
        sources = world.write(tmp_path / f"world-{people}")
        write_dump(tmp_path / "dump.nt", world, 0.5)
        write_dump_slice(tmp_path / "dump.nt", load_pararel(sources.pararel), tmp_path / "x.nt", most=500, workers=1)
        text = (tmp_path / "x.nt").read_text().splitlines()
        samples.append({line for line in text if line.endswith("/Q1> .")})
    assert len(samples[0] & samples[1]) > 0.85 * len(samples[0])


def test_neither_blocks_nor_workers_change_a_byte(world: World, tmp_path: Path) -> None:
    sources = world.write(tmp_path / "world")
    relations = load_pararel(sources.pararel)
    write_dump(tmp_path / "dump.nt", world, 0.5)
    made = set()
    for name, workers, block in (("a", 1, 1 << 22), ("b", 1, 700), ("c", 2, 60_000)):
        write_dump_slice(tmp_path / "dump.nt", relations, tmp_path / name / "x.nt.gz", workers=workers, block=block)
        made.add((tmp_path / name / "x.nt.gz").read_bytes())
    assert len(made) == 1


def test_blocks_hold_whole_entities(tmp_path: Path, world: World) -> None:
    write_dump(tmp_path / "dump.nt", world, 0.1)
    whole = (tmp_path / "dump.nt").read_bytes()
    for size in (100, 5_000, 1 << 20):
        with (tmp_path / "dump.nt").open("rb") as stream:
            blocks = list(entity_blocks(stream, size))
        assert b"".join(blocks) == whole
        seen: set[bytes] = set()
        for block in blocks:
            here = {line.split(b">")[0] for line in block.splitlines() if line.startswith(b"<http://www.wikidata")}
            assert not here & seen
            seen |= here


def test_articles_of_the_site_alone_are_kept() -> None:
    about = "<https://en.wikipedia.org/wiki/Ada> <http://schema.org/about> <http://www.wikidata.org/entity/Q7> .\n"
    wanted = LineFilter(frozenset({"P103"}), frozenset(), site="https://en.wikipedia.org/")
    block = (about + about.replace("//en", "//de")).encode()
    assert filter_block(block, wanted).lines == about.encode()
    assert filter_block(block, LineFilter(frozenset({"P103"}), frozenset())).lines == b""


def test_what_is_no_dump_is_refused_and_leaves_nothing(world: World, tmp_path: Path) -> None:
    sources = world.write(tmp_path / "world")
    relations = load_pararel(sources.pararel)
    out = tmp_path / "slice.nt"
    with pytest.raises(BadInput, match="no dump at"):
        write_dump_slice(tmp_path / "none.nt", relations, out, workers=1)
    write_dump(tmp_path / "dump.nt.gz", world, 0.3)
    whole = (tmp_path / "dump.nt.gz").read_bytes()
    (tmp_path / "cut.nt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="not a whole dump"):
        write_dump_slice(tmp_path / "cut.nt.gz", relations, out, workers=1)
    (tmp_path / "other.nt").write_text("<urn:a> <urn:b> <urn:c> .\n")
    with pytest.raises(BadInput, match="is it a dump"):
        write_dump_slice(tmp_path / "other.nt", relations, out, workers=1)
    assert not out.exists() and not list(tmp_path.glob(".*"))


SCRIPT = """
import json, resource, sys
from pathlib import Path
from counterfact.builders.sources.truthy_dump import write_dump_slice
from counterfact.builders.sources.pararel import load_pararel
relations = load_pararel(Path(sys.argv[2]))
counts = write_dump_slice(Path(sys.argv[1]), relations, Path(sys.argv[3]), workers=int(sys.argv[4]))
used = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"facts": counts["facts"], "bytes": counts["bytes"], "kilobytes": max(used)}))
"""


def measured(dump: Path, sources: Sources, out: Path, workers: int = 1) -> dict[str, int]:
    arguments = [sys.executable, "-c", SCRIPT, str(dump), str(sources.pararel), str(out), str(workers)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("few", "many"), [(5_000, 40_000), pytest.param(20_000, 600_000, marks=pytest.mark.soak)], ids=["few", "many"]
)
def test_memory_does_not_grow_with_the_subjects_of_an_object(few: int, many: int, tmp_path: Path) -> None:
    sources = small_world().write(tmp_path / "world")
    used = []
    for people in (few, many):
        write_dump(tmp_path / "dump.nt", small_world(), 0.1)
        with (tmp_path / "dump.nt").open("a") as file:
            for n in range(people):
                file.write(f'<{ENTITY}Q{5000 + n}> <{LABEL}> "Vir {n}"@en .\n')
                file.write(f"<{ENTITY}Q{5000 + n}> <{DIRECT}P103> <{ENTITY}Q1> .\n")
        found = measured(tmp_path / "dump.nt", sources, tmp_path / "slice.nt.gz")
        assert 900 < found["facts"] < 1_400
        used.append(found["kilobytes"])
    assert used[1] < used[0] + 8_000


@pytest.mark.parametrize(
    ("small", "large"), [(10, 50), pytest.param(100, 3_000, marks=pytest.mark.soak)], ids=["50 MB", "3 GB"]
)
def test_memory_does_not_grow_with_the_dump(small: int, large: int, tmp_path: Path) -> None:
    world = small_world()
    sources = world.write(tmp_path / "world")
    used = []
    for size in (small, large):
        written = write_dump(tmp_path / "dump.nt", world, size)
        found = measured(tmp_path / "dump.nt", sources, tmp_path / "slice.nt.gz", min(2, os.cpu_count() or 1))
        assert (found["facts"], found["bytes"]) == (len(world.facts), written)
        used.append(found["kilobytes"])
    assert used[1] < used[0] + 20_000
