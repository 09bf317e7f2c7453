"""Labels as names in running text: what is left out, what stays, what names nothing."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfact.builders.sources.articles import split
from counterfact.builders.sources.labels import clean_label

CLEANED = {
    "Grey Heron": "Grey Heron",
    "Grey Heron (film)": "Grey Heron",
    "Grey Heron (novella) (1987)": "Grey Heron",
    "Grey (Heron) Song": "Grey (Heron) Song",
    '"Ann ""Bo"" Cy"': 'Ann "Bo" Cy',
    '"Herons"': '"Herons"',
    "Grey\nHeron\t Song ": "Grey Heron Song",
    "Grey\u00a0Heron": "Grey Heron",
    "\u200eGrey\u200b He\u00adron\ufeff": "Grey Heron",
    "Zoe\u0308": "Zo\u00eb",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "A\u200dB": "AB",
    "Italy": "Italy",
    "He": None,
    "it": None,
    "Q42": None,
    " \u200b ": None,
}


@pytest.mark.parametrize(("label", "name"), CLEANED.items())
def test_a_label_is_a_name_or_nothing(label: str, name: str | None) -> None:
    assert clean_label(label) == name


@given(st.text(st.characters() | st.sampled_from(' ()"\u200c\u00ad'), max_size=30))
def test_a_name_is_clean_and_stays_as_it_is(label: str) -> None:
    name = clean_label(label)
    if name is not None:
        assert clean_label(name) == name
        assert name == " ".join(name.split()) == unicodedata.normalize("NFC", name)
        assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


def test_sentences_end_where_sentences_end() -> None:
    text = (
        "and began in the middle of one. J. S. Bach lived near St. Ives with Dr. Grey. Was it in the U.S. Navy? "
        "No. 4 was the last of the ships. They sailed from Mt. Heron etc. Nobody"
    )
    assert split(text) == [
        "J. S. Bach lived near St. Ives with Dr. Grey.",
        "Was it in the U.S. Navy?",
        "No. 4 was the last of the ships.",
    ]
