"""Where a text names its subject: found where that is certain, and said where it is not."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfact.core.records import Request
from counterfact.core.subjects import with_slot
from counterfact.tracing.facts import Fact


@pytest.mark.parametrize(
    ("text", "subject", "template", "written"),
    [
        ("Is Rio in Riojana, and who named Rio?", "Rio", "Is Rio in Riojana, and who named {}?", "Rio"),
        ("who dug lake orim?", "Lake Orim", "who dug {}?", "lake orim"),
        ("WHO DUG LAKE ORIM?", "Lake Orim", "WHO DUG {}?", "LAKE ORIM"),
        ("Who dug Lake_Orim?", "Lake Orim", "Who dug {}?", "Lake_Orim"),
        ("Who saw O\u2019Orim\u00a0Jr?", "O'Orim Jr", "Who saw {}?", "O\u2019Orim\u00a0Jr"),
        ("Who dug Lake Orim's bed?", "Lake Orim", "Who dug {}'s bed?", "Lake Orim"),
        ("The Orim-based firm", "Orim", "The {}-based firm", "Orim"),
        ("Where is Zoe\u0301 now?", "Zo\u00e9", "Where is {} now?", "Zoe\u0301"),
        ("Where is Zo\u00e9 now?", "Zoe\u0301", "Where is {} now?", "Zo\u00e9"),
        (
            unicodedata.normalize("NFD", "\uc11c\uc6b8 is"),
            "\uc11c\uc6b8",
            "{} is",
            unicodedata.normalize("NFD", "\uc11c\uc6b8"),
        ),
        ("Die Stra\u00dfe dort", "STRASSE", "Die {} dort", "Stra\u00dfe"),
        ("\u6771\u6e56\u5728\u54ea\u91cc\uff1f", "\u6771\u6e56", "{}\u5728\u54ea\u91cc\uff1f", "\u6771\u6e56"),
        (
            "\u5927\u6771\u6e56 \u6771\u6e56 \u6771\u6e56\u5e02",
            "\u6771\u6e56",
            "\u5927\u6771\u6e56 {} \u6771\u6e56\u5e02",
            "\u6771\u6e56",
        ),
        ("NBX\u662f\u4ec0\u4e48", "NBX", "{}\u662f\u4ec0\u4e48", "NBX"),
        ("\uc624\ub9bc\uc740 \uc5b4\ub514", "\uc624\ub9bc", "{}\uc740 \uc5b4\ub514", "\uc624\ub9bc"),
        ("  Orim  is", " Orim ", "  {}  is", "Orim"),
    ],
)
def test_a_certain_subject_is_found(text: str, subject: str, template: str, written: str) -> None:
    assert with_slot(text, subject) == (template, written)


@pytest.mark.parametrize(
    ("text", "subject", "said"),
    [
        ("Who dug it?", "Lake Orim", "is not in 'Who dug it"),
        ("Who dug Lake Orims bed?", "Lake Orim", "part of the longer word 'Lake Orims'"),
        ("Who sees Xorimar?", "Orim", "part of the longer word 'Xorimar'"),
        ("Who dug the Lake_Orim bed?", "Orim", "joined by an underscore to others in 'Lake_Orim'"),
        ("Who of us knows?", "US", "stands in other letter case, as 'us'"),
        ("\u092d\u093e\u0930\u0924\u0940\u092f", "\u092d\u093e\u0930\u0924", "part of the longer word"),
        ("Zoe\u0301 is", "Zoe", "is not in"),
        ("Who?", " ", "subject is empty"),
    ],
)
def test_an_uncertain_subject_is_said(text: str, subject: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_slot(text, subject)


@given(st.text(), st.text(min_size=1), st.text())
def test_what_is_found_fills_the_slot_to_the_text(before: str, subject: str, after: str) -> None:
    text = before + subject + after
    try:
        template, written = with_slot(text, subject)
    except ValueError:
        return
    begin = len(template) - len(template.rpartition("{}")[2]) - 2
    places = [i for i in range(len(template)) if template[i : i + 2] == "{}"]
    assert begin in places
    assert text in {f"{template[:place]}{written}{template[place + 2 :]}" for place in places}


def test_facts_to_trace_have_their_subject_where_it_is_a_word() -> None:
    def place(prompt: str, subject: str, template: str = "") -> tuple[str, str]:
        return Fact(known_id=0, subject=subject, attribute="x", prompt=prompt, template=template).slotted

    assert place("In Romania the Roma speak", "Roma") == ("In Romania the {} speak", "Roma")
    assert place("Roma lived here. Roma", "Roma", "{} lived") == ("{} lived here. Roma", "Roma")
    assert place("\u6771\u4eac\u306f", "\u6771\u4eac") == ("{}\u306f", "\u6771\u4eac")
    with pytest.raises(ValueError, match="part of the longer word 'Romania'"):
        place("Romania is", "Roma")


def test_a_request_is_joined_as_its_language_has_it() -> None:
    assert Request(0, "{}\u7684\u9996\u90fd\u662f", "a", "b").joiner == ""
    assert Request(0, "{} is", "a", "b").joiner == " "
    assert Request(0, "{} is", "a", "b", joiner="").joiner == ""
