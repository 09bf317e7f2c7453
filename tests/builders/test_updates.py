"""Updates: all differences of two synthetic dumps are found and none invented, each of its kind; records of them."""

import gzip
import random
from pathlib import Path
from typing import Any

import pytest

from counterfact.builders.sources.queries import DIRECT, ENTITY, LABEL
from counterfact.builders.updates.build import build
from counterfact.builders.updates.finding import Found, find_updates
from counterfact.builders.updates.picking import DERIVED, QUALIFIER, RANK, SAME, STATEMENT, VALUE
from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl
from counterfact.core.records import BadRecord
from tests.support import Command
from tests.support.truthy_dump import escaped, head, useless

Facts = dict[tuple[str, str], list[str]]


def label(entity: str, text: str) -> list[str]:
    return [
        f"<{ENTITY}{entity}> <{LABEL}> {escaped('Ding ' + text)}@de .\n",
        f"<{ENTITY}{entity}> <{LABEL}> {escaped(text)}@en .\n",
    ]


def fact(subject: str, relation: str, object: str) -> str:
    return f"<{ENTITY}{subject}> <{DIRECT}{relation}> <{ENTITY}{object}> .\n"


def statement(subject: str, relation: str, object: str, uuid: str, **said: str) -> list[str]:
    """The lines of one statement of a full dump; `rank`, `start`, `end`, `reference` may be said of it."""
    iri = f"<{STATEMENT}{subject if uuid != 'low' else subject.lower()}-{uuid}>"
    lines = [f"<{ENTITY}{subject}> <http://www.wikidata.org/prop/{relation}> {iri} .\n"]
    lines.append(f"{iri} <{RANK}> <http://wikiba.se/ontology#{said.get('rank', 'Normal')}Rank> .\n")
    lines.append(f"{iri} <{VALUE}{relation}> <{ENTITY}{object}> .\n")
    for key, qualifier in (("start", "P580"), ("end", "P582")):
        if key in said:
            date = f'"{said[key]}"^^<http://www.w3.org/2001/XMLSchema#dateTime>' if said[key] else "_:genid7"
            lines.append(f"{iri} <{QUALIFIER}{qualifier}> {date} .\n")
    if "reference" in said:
        lines.append(f"{iri} <{DERIVED}> <http://www.wikidata.org/reference/{said['reference']}> .\n")
    return lines


def write(path: Path, entities: list[list[str]], seed: int = 0) -> Path:
    """Write a dump whose entities come in any order, with others of no use between."""
    shuffled = random.Random(seed).sample(entities, len(entities))
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        for number, lines in enumerate(shuffled):
            file.write(useless(10_000_000 + number))
            file.writelines(lines)
    return path


def entity(id: str, facts: Facts, more: list[str] | None = None) -> list[str]:
    own = [
        fact(id, relation, object)
        for (subject, relation), objects in facts.items()
        if subject == id
        for object in objects
    ]
    return [
        *head(id),
        *label(id, f"Thing {int(id[1:]):04}"),
        *own,
        f"<{ENTITY}{id}> <{DIRECT}P36> _:genid1 .\n",
        *(more or []),
    ]


def test_every_difference_of_two_dumps_is_found_and_none_invented(tmp_path: Path) -> None:
    """A thousand facts, many of them changed by a rule that is known, the dumps in different orders."""
    rng = random.Random(3)
    before: Facts = {
        (f"Q{n}", relation): rng.sample([f"Q{1000 + k}" for k in range(30)], 1 if n % 7 else 2)
        for n in range(1, 400)
        for relation in ("P36", "P108", "P27")
        if rng.random() < 0.8
    }
    now, expected = dict(before), set()
    for key, objects in before.items():
        what = rng.choice(["same"] * 6 + ["replace", "add", "remove", "all"])
        fresh = f"Q{rng.randrange(1000, 1030)}"
        if what == "replace":
            now[key] = [fresh, *objects[1:]]
            if len(objects) == 1 and fresh != objects[0]:
                expected.add((*key, objects[0], fresh))
        elif what == "add":
            now[key] = sorted({*objects, fresh})
        elif what == "remove":
            now[key] = objects[1:]
        elif what == "all":
            now[key] = ["Q1001", "Q1002", "Q1003"]
    ids = [f"Q{n}" for n in (*range(1, 400), *range(1000, 1030))]
    old = write(tmp_path / "old.nt.gz", [entity(id, before) for id in ids], 1)
    new = write(tmp_path / "new.nt.gz", [entity(id, now) for id in ids], 2)
    found = find_updates(old, new, ["P36", "P108"])
    wanted = {each for each in expected if each[1] != "P27"}
    assert {(f"Q{one.subject}", one.relation, f"Q{one.old}", f"Q{one.new}") for one in found.replaced} == wanted
    assert len(wanted) > 30 and len(found.replaced) == len(wanted)
    assert {one.kind for one in found.replaced} == {"undated"}
    looked_at = [key for key in before if key[1] != "P27"]
    assert sum(found.counts.values()) == len(looked_at)
    # Unchanged facts with the same objects, which the records ask about.
    for (relation, object), subjects in found.holders.items():
        for subject in subjects:
            key = (f"Q{subject}", relation)
            assert before[key] == now[key] == [f"Q{object}"]


KINDS: dict[str, tuple[list[str], list[str]]] = {
    # Old statements, new statements: the object Q90 becomes Q91.
    "Q1": (statement("Q1", "P108", "Q90", "a"), statement("Q1", "P108", "Q90", "a", end="2025-01-01T00:00:00Z")),
    "Q2": (statement("Q2", "P108", "Q90", "a"), [*statement("Q2", "P108", "Q91", "low", start="2025-01-01T00:00:00Z")]),
    "Q3": (
        statement("Q3", "P108", "Q90", "a"),
        [*statement("Q3", "P108", "Q90", "a"), *statement("Q3", "P108", "Q91", "b", rank="Preferred")],
    ),
    "Q4": (statement("Q4", "P108", "Q90", "a"), statement("Q4", "P108", "Q90", "a", rank="Deprecated")),
    "Q5": (statement("Q5", "P108", "Q90", "a"), statement("Q5", "P108", "Q91", "b", reference="r")),
    "Q6": (statement("Q6", "P108", "Q90", "a", reference="r"), statement("Q6", "P108", "Q91", "b")),
    "Q7": (statement("Q7", "P108", "Q90", "a"), statement("Q7", "P108", "Q91", "b")),
}


def full_dumps(folder: Path) -> tuple[Path, Path]:
    """Employers that were replaced, once for each kind; two statements of one relation where the dump has both."""
    before: Facts = {(f"Q{n}", "P108"): ["Q90"] for n in range(1, 12)}
    now: Facts = {**{key: ["Q91"] for key in before}, ("Q8", "P108"): ["Q92"], ("Q9", "P108"): ["Q93"]}
    # Of two facts of best rank one ended: the other alone holds now, and of the old dump too where nothing ended.
    before[("Q10", "P108")], now[("Q10", "P108")] = ["Q90"], ["Q90", "Q91"]
    ended = [*statement("Q10", "P108", "Q90", "a", end=""), *statement("Q10", "P108", "Q91", "b")]
    before[("Q11", "P108")] = now[("Q11", "P108")] = ["Q90"]
    before |= {(f"Q{n}", "P108"): ["Q90"] for n in range(20, 40)}
    now |= {(f"Q{n}", "P108"): ["Q90" if n < 30 else "Q91"] for n in range(20, 40)}
    before |= {(f"Q{n}", "P108"): ["Q91"] for n in range(30, 40)}
    ids = [*(f"Q{n}" for n in range(1, 12)), *(f"Q{n}" for n in range(20, 40)), "Q90", "Q91", "Q94"]
    old = [entity(id, before, KINDS.get(id, ([], []))[0]) for id in ids]
    new = [entity(id, now, KINDS.get(id, ([], []))[1] + (ended if id == "Q10" else [])) for id in ids]
    old += [entity("Q92", before), entity("Q93", before)]
    new += [[*entity("Q92", now), fact("Q92", "P749", "Q90")], entity("Q93", now)]
    new.append([f"<{ENTITY}Q90> <{SAME}> <{ENTITY}Q93> .\n"])
    return write(folder / "old.nt.gz", old, 1), write(folder / "new.nt.gz", new, 2)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return full_dumps(tmp_path_factory.mktemp("dumps"))


def kinds(found: Found) -> dict[str, str]:
    return {f"Q{one.subject}": one.kind for one in found.replaced}


def test_references_dates_and_ranks_tell_what_a_difference_is(full: tuple[Path, Path]) -> None:
    found = find_updates(*full, ["P108"])
    assert kinds(found) == {
        "Q1": "change",
        "Q2": "change",
        "Q3": "change",
        "Q4": "correction",
        "Q5": "correction",
        "Q6": "suspect",
        "Q7": "undated",
        "Q8": "refinement",
        "Q9": "merged",
        "Q10": "change",
    }
    assert found.counts["replaced: change"] == 4 and found.counts["unchanged"] == 21


def test_several_processes_and_small_blocks_find_the_same(full: tuple[Path, Path]) -> None:
    assert find_updates(*full, ["P108"], workers=2) == find_updates(*full, ["P108"])


def test_updates_become_records_that_evaluate_takes(full: tuple[Path, Path], tmp_path: Path, command: Command) -> None:
    out = tmp_path / "updates"
    code, said, err = command("updates", *full, "--out", out, "--relation", "P108")
    assert code == 0, err
    assert "7 records" in " ".join(said.split()) and "1 kind: suspect" in said
    data = load_dataset(out)
    records: list[Any] = [record for record in data.records if not isinstance(record, BadRecord)]
    assert data.kind == "counterfact" and len(records) == 7
    for record in records:
        rewrite, provenance = record.requested_rewrite, record.provenance
        assert (rewrite.target_true.text, rewrite.target_new.text) == ("Thing 0090", "Thing 0091")
        assert provenance["fact_id"] == f"{provenance['subject_id']}-P108-Q90"
        assert len(record.paraphrase_prompts) == 2 and len(record.neighborhood_prompts) == 10
        assert {int(id[1:]) for id in provenance["neighborhood_ids"]} <= {11, *range(20, 30)}
        assert {int(id[1:]) for id in provenance["attribute_ids"]} <= set(range(30, 40))
    lines = list(read_jsonl(out / "updates.jsonl"))
    assert len(lines) == 10 and lines[0]["old"] == {"id": "Q90", "label": "Thing 0090"}
    assert build(out, *full, relations=["P108"]).reused
    few = build(tmp_path / "few", *full, relations=["P108"], kinds=["suspect"], most=1)
    assert few.records == 1 and few.meta["counts"]["dropped"]["kind: change"] == 4


def test_wrong_input_is_named(full: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = full
    with pytest.raises(BadInput, match="no dump at"):
        build(tmp_path / "out", tmp_path / "none.nt", new)
    with pytest.raises(BadInput, match="expected kinds among change, correction"):
        build(tmp_path / "out", old, new, kinds=["vandalism"])
    with pytest.raises(BadInput, match="no template in en for P9999"):
        build(tmp_path / "out", old, new, relations=["P9999"])
    with pytest.raises(BadInput, match="neither dump has a fact of P6"):
        find_updates(old, new, ["P6"])
    (tmp_path / "cut.nt.gz").write_bytes(new.read_bytes()[:-9])
    with pytest.raises(BadInput, match="not a whole dump"):
        find_updates(old, tmp_path / "cut.nt.gz", ["P108"])
