"""Every kind of finding is found where it is planted and nowhere else; the page shows what it should and no more."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from counterfact.builders.audit.findings import KINDS, Audit, audit
from counterfact.builders.audit.page import audit_page
from counterfact.builders.audit.prompt_form import malformations
from counterfact.builders.choosing.settings import BuildSettings
from counterfact.builders.counterfact import build_from_sources
from counterfact.contracts.datasets import load_dataset
from counterfact.core.records import BadRecord
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord
from tests.support.made_up_world import small_world


def record(case_id: int = 0, subject: str = "Ada Low", **changes: object) -> CounterFactRecord:
    """A record that has nothing to mark, changed."""
    rewrite = {
        "prompt": changes.pop("prompt", "{} speaks"),
        "relation_id": changes.pop("relation", "P103"),
        "target_new": {"str": changes.pop("new", "Esk"), "id": None},
        "target_true": {"str": changes.pop("true", "Aldic"), "id": None},
        "subject": subject,
    }
    value = {
        "case_id": case_id,
        "requested_rewrite": rewrite,
        "paraphrase_prompts": [f"A bell rang. {subject} dreams in"],
        "neighborhood_prompts": ["Bo Ray speaks", "Cy Ray dreams in"],
        "attribute_prompts": ["Dag Ray speaks"],
        "generation_prompts": [f"{subject} wrote letters in"] * 2,
    }
    return CounterFactRecord.model_validate({**value, **changes})


def audit_of(records: Sequence[CounterFactRecord | BadRecord]) -> Audit:
    return audit(
        [one for one in records if isinstance(one, CounterFactRecord)],
        [one for one in records if isinstance(one, BadRecord)],
    )


PLANTED: dict[str, list[CounterFactRecord | BadRecord]] = {
    "duplicate record": [record(), record(1)],
    "near-duplicate record": [record(subject="Zoë Ölm"), record(1, subject="Olm, Zoe")],
    "repeated prompt": [record(neighborhood_prompts=["Bo Ray speaks", "Bo Ray speaks"])],
    "subject twice in a relation": [record(), record(1, new="Dovian")],
    "subject in several relations": [record(), record(1, relation="P1412")],
    "prompt holds the true object": [record(generation_prompts=["Ada Low wrote Aldic verses for"])],
    "prompt holds the new object": [record(paraphrase_prompts=["The Esk froze. Ada Low dreams in"])],
    "neighbor names its object": [record(neighborhood_prompts=["The Aldic Choir sings in"])],
    "attribute names its object": [record(attribute_prompts=["The Esk Choir sings in"])],
    "neighbor is the subject": [record(neighborhood_prompts=["Ada Low's mother speaks"])],
    "neighbor holds the new object": [record(attribute_prompts=["Bo Ray speaks"])],
    "neighbor edited elsewhere": [record(), record(1, subject="Bo Ray", neighborhood_prompts=[])],
    "malformed prompt": [record(neighborhood_prompts=["Bo  Ray speaks"])],
    "a or an": [record(prompt="{} is an", relation="P106", new="actor", true="lawyer")],
    "subject missing": [record(paraphrase_prompts=["A bell rang. Ada dreams in"])],
    "objects hold one another": [record(new="Old Aldic")],
    "context cut": [record(paraphrase_prompts=["froze over. Ada Low dreams in"])],
    "odd label": [record(neighborhood_prompts=["Бо speaks", "Cy Ray dreams in"])],
    "few neighbors": [record(provenance={"neighborhood_ids": ["Q1"] * 10}, neighborhood_prompts=["B i", "B j", "B k"])],
    "template reads badly": [record(prompt="{} used the")],
    "unusable record": [record(), BadRecord(1, "it has no subject")],
}


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_planted_is_found_and_nothing_else(kind: str) -> None:
    found = audit_of(PLANTED[kind])
    assert found.records == len(PLANTED[kind])
    assert {name for name, (count, _) in found.counts.items() if count} == {kind}
    assert found.counts[kind][1] <= len(PLANTED[kind])


def test_every_kind_is_planted_once_and_a_clean_record_has_none() -> None:
    assert list(PLANTED) == [kind.name for kind in KINDS]
    assert audit([record()]).findings == ()


NAMES = ["Ada Low", "Ben Hoy", "Cal Irk", "Dov Jin", "Eva Kip", "Fay Lux", "Gil Mud", "Hal Nix", "Ida Orr", "Jan Pye"]
NAMES += ["Kay Quo", "Lea Rus", "Max Sol", "Ned Tay", "Ole Urn", "Pia Vos", "Quy Wim", "Ria Xu", "Sam Yip", "Tom Zed"]
FAULTS: dict[str, tuple[str, dict[str, object]]] = {
    "the same edit twice": ("duplicate record", {"subject": "Ben Hoy"}),
    "the same name in other letters": ("near-duplicate record", {"subject": "Cal Ïrk"}),
    "a neighborhood prompt twice": ("repeated prompt", {"neighborhood_prompts": ["Bo Ray speaks", "Bo Ray speaks"]}),
    "the true object in a prompt": ("prompt holds the true object", {"generation_prompts": ["Aldic is what {} wrote"]}),
    "the new object in a context": (
        "prompt holds the new object",
        {"paraphrase_prompts": ["Esk is old. {} dreams in"]},
    ),
    "a neighbor named after its object": ("neighbor names its object", {"neighborhood_prompts": ["Aldic Club speaks"]}),
    "the subject among its neighbors": ("neighbor is the subject", {"neighborhood_prompts": ["{} dreams in"]}),
    "a neighbor with the new object": ("neighbor holds the new object", {"neighborhood_prompts": ["Dag Ray speaks"]}),
    "two spaces": ("malformed prompt", {"attribute_prompts": ["Dag Ray  speaks"]}),
    "an article before a vowel": (
        "a or an",
        {"prompt": "{} is a", "relation": "P106", "true": "actor", "new": "smith"},
    ),
    "a paraphrase about nobody": ("subject missing", {"paraphrase_prompts": ["A bell rang. He dreams in"]}),
    "an object within the other": ("objects hold one another", {"new": "Old Aldic"}),
    "a context that ends in an initial": ("context cut", {"paraphrase_prompts": ["It was J. {} speaks"]}),
    "a context from inside a sentence": ("context cut", {"paraphrase_prompts": ["of the lake. {} dreams in"]}),
    "a neighbor in another script": ("odd label", {"neighborhood_prompts": ["Бо Рей speaks"]}),
    "a note after a name": ("odd label", {"neighborhood_prompts": ["Bo Ray (bishop) speaks"]}),
    "one neighbor behind all prompts": ("few neighbors", {"neighborhood_prompts": []}),
    "a template that reads falsely": ("template reads badly", {"prompt": "{} used the"}),
    "a prompt of another relation": ("", {"paraphrase_prompts": ["A bell rang. {} was born in"]}),
    "a misspelt template": ("", {"prompt": "{} spaeks"}),
}
"""Twenty faults that a reader would mark: the kind by which each is found, if it is, and the change that plants it."""
TWINS = {"duplicate record", "near-duplicate record"}


def planted_set() -> tuple[list[CounterFactRecord], dict[int, str]]:
    """Return twenty records without a fault, each followed by one with one, and case id to the fault."""
    templates = ["{} speaks", "{} dreams in", "{} sings in", "At home {} talks"]
    FAULTS["one neighbor behind all prompts"][1]["neighborhood_prompts"] = [
        t.replace("{}", "Bo Ray") for t in templates
    ]
    records, planted = [], {}
    for number, (fault, (_, change)) in enumerate(FAULTS.items()):
        records.append(
            record(number, NAMES[number], prompt=templates[number % 4], generation_prompts=[f"{NAMES[number]} wrote"])
        )
        subject = str(change.get("subject", f"{NAMES[number]}ling"))
        filled = {
            key: [each.replace("{}", subject) for each in value] if isinstance(value, list) else value
            for key, value in change.items()
        }
        planted[case_id := 100 + number] = fault
        own = {"prompt": templates[1] if fault == "the same edit twice" else templates[0]}
        records.append(record(case_id, **{**own, **filled, "subject": subject}))
    return records, planted


def test_of_twenty_planted_faults_a_reader_would_mark_eighteen_are_found() -> None:
    records, planted = planted_set()
    found = audit(records)
    by_case = {case_id: {one.kind for one in found.findings if one.case_id == case_id} for case_id in planted}
    missed = [fault for case_id, fault in planted.items() if FAULTS[fault][0] not in by_case[case_id]]
    assert missed == ["a prompt of another relation", "a misspelt template"], by_case
    clean = [one for one in found.findings if one.case_id < 100 and one.kind not in TWINS]
    assert not clean, "nothing is marked in records without a fault, but for the twins of planted ones"


def test_a_neighbor_with_the_new_object_in_another_record() -> None:
    other = record(1, subject="Bo Ray", true="Esk", new="Aldic", neighborhood_prompts=["Eve Ray speaks"])
    texts = [f.text for f in audit([record(), other]).findings if f.kind == "neighbor holds the new object"]
    assert texts == ["Bo Ray speaks [Esk]"]


@pytest.mark.parametrize(
    ("prompt", "objects", "faults"),
    [
        ("The band that had had success is from", ["Wales"], 0),
        ("Badlay ibn Sa'ad ad-Din ruled", ["Adal"], 0),
        ("Lyon is in in", ["France"], 1),
        ("Lyon lies in the", ["the south"], 1),
        ("Lyon , a city in", ["France"], 1),
        (" Lyon is in", ["France"], 1),
        ("Lyon is in ", ["France"], 1),
        ("[X] is in", ["France"], 1),
        ("Ada is an", ["honorary consul", "hourly worker"], 0),
        ("Ada is a", ["university teacher", "European", "one-time guest"], 0),
    ],
)
def test_seams(prompt: str, objects: list[str], faults: int) -> None:
    assert len(list(malformations(prompt, objects))) == faults


class Links(HTMLParser):
    """Collects what a page would fetch, and its links inside itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.inside: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            elif name == "href" and str(value).startswith("#"):
                self.inside.append(str(value)[1:])
            elif name in ("src", "href"):
                self.fetched.append(str(value))


def test_the_page_stands_alone_and_shows_a_sample_of_every_relation(tmp_path: Path) -> None:
    report = build_from_sources(small_world().write(tmp_path / "world"), BuildSettings(), tmp_path / "out")
    records = [r for r in load_dataset(report.path).records if isinstance(r, CounterFactRecord)]
    page = audit_page(records, audit(records), "A <small> set", 2, 0)
    links = Links()
    links.feed(page)
    assert links.fetched == [] and "http" not in page
    assert links.inside == links.ids == ["P103", "P1412"]
    assert len(re.findall("<article", page)) == 4
    assert "A &lt;small&gt; set" in page
    assert page == audit_page(records, audit(records), "A <small> set", 2, 0)
    assert page != audit_page(records, audit(records), "A <small> set", 2, 1)


def test_labels_are_escaped_on_the_page() -> None:
    made = record(subject="<b>Ada & Co</b>")
    page = audit_page([made], audit([made]), "x", 1, 0)
    assert "<b>Ada" not in page and "&lt;b&gt;Ada &amp; Co&lt;/b&gt;" in page


def test_records_that_cannot_be_used_stand_on_the_page_with_their_reason() -> None:
    bad = BadRecord(7, "it has <no> subject")
    page = audit_page([record()], audit([record()], [bad]), "x", 1, 0)
    assert "Records that cannot be used" in page and "record 7: it has &lt;no&gt; subject" in page
    assert "Records that cannot be used" not in audit_page([record()], audit([record()]), "x", 1, 0)


def test_the_genuine_records_are_looked_through(real_data: Path) -> None:
    data = load_dataset(real_data / "counterfact" / "counterfact_100.json")
    records = [r for r in data.records if isinstance(r, CounterFactRecord)]
    counts = audit(records).counts
    assert counts["duplicate record"] == (0, 0)
    # In the released data: in about 1 % of records some neighborhood prompt contains the edited subject.
    assert counts["neighbor is the subject"][1] == 2
    assert counts["neighbor names its object"][1] > 5
