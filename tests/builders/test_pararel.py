"""The loader of ParaRel's format, and the rule by which patterns are cut."""

import json
from pathlib import Path

import pytest

from counterfact.builders.sources.pararel import Relation, cut_pattern, load_pararel, top_up
from counterfact.builders.texts.generation_prompts import load_generation_prompts
from counterfact.core.errors import BadInput

CUT = {
    "[X] is a citizen of [Y].": "{} is a citizen of",
    "[X],  a native of [Y] .": "{}, a native of",
    "[X], a work by [Y],": "{}, a work by",
    "[X]'s home is [Y]": "{}'s home is",
    "[X] hums [Y] tunes .": "{} hums",
    "[X] uses [Y] to communicate .": "{} uses",
    "[X] follows the [Y] religion.": "{} follows the",
    "The charter of [X] declares [Y] the official language.": "The charter of {} declares",
    "[X] is part of the [Y] organization.": "{} is part of the",
    "[X] is a [Y] player.": "{} is a",
    "[X] is an [Y] by profession.": "{} is an",
    "The tongue of [X] is the [Y] language.": "The tongue of {} is the",
}
DROPPED = {
    "[Y] is where [X] was born.": "object before subject",
    "In [Y], [X] ruled.": "object before subject",
    "[X] was a [Y]-born person.": "object inside a longer word",
    "[X] is named in [Y]'s honor.": "object inside a longer word",
    "[X] and [Y] are twin cities.": "meaning after the object",
    "In [X], [Y] is the official language.": "meaning after the object",
    "The law in [X] defines the [Y] language as the official language.": "meaning after the object",
    "[X] and a [Y] player sang.": "nothing said before the object",
    "[X] is [Y] citizen.": "nothing said before the object",
    "[X] had [Y] as a first language.": "nothing said before the object",
    "The tongue of [X] is [Y] language.": "object describes the word after it",
    "[X] [Y]": "nothing between subject and object",
    "[X] likes [X] and [Y].": "not one [X] and one [Y]",
    "[X] likes {} and [Y].": "not one [X] and one [Y]",
    "[X] likes.": "not one [X] and one [Y]",
}


@pytest.mark.parametrize(("pattern", "template"), CUT.items())
def test_patterns_that_leave_a_natural_prompt_are_cut(pattern: str, template: str) -> None:
    assert cut_pattern(pattern).template == template


@pytest.mark.parametrize(("pattern", "reason"), DROPPED.items())
def test_other_patterns_are_dropped_with_a_reason(pattern: str, reason: str) -> None:
    cut = cut_pattern(pattern)
    assert cut.template is None
    assert cut.outcome == reason


def write(folder: Path, patterns: list[str], tuples: list[object]) -> Path:
    for name, values in (
        ("pattern_data/graphs_json", [{"pattern": p} for p in patterns]),
        ("trex_lms_vocab", tuples),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        text = "\n".join(map(json.dumps, values))
        (folder / name / "P103.jsonl").write_text(text + "\n\n", encoding="utf-8")
    return folder


def test_patterns_are_counted_and_equal_templates_kept_once(tmp_path: Path) -> None:
    patterns = ["[X] speaks [Y].", "[X] speaks [Y] .", "[Y] is spoken by [X].", "[X] hums [Y] tunes."]
    row = {"sub_label": "Zoë Ölm", "obj_label": "Aldic", "uuid": "u"}
    (relation,) = load_pararel(write(tmp_path, patterns, [row]))
    assert relation.templates == ("{} speaks", "{} hums")
    assert relation.outcomes == {
        "object last": 1,
        "the same as another": 1,
        "object before subject": 1,
        "closing cut off": 1,
    }
    assert (relation.tuples[0].subject, relation.tuples[0].line) == ("Zoë Ölm", 0)


def test_only_a_thin_relation_is_topped_up() -> None:
    thin = Relation("P103", (), ("{} speaks", "{} hums"), {})
    other = Relation("P103", (), ("{} hums", "{} dreams in", "{} counts in"), {})
    full = top_up(thin, other, 3)
    assert (full.templates, full.added) == (("{} speaks", "{} hums", "{} dreams in", "{} counts in"), 2)
    spared = top_up(thin, other, 2)
    assert (spared.templates, spared.added, spared.spare) == (thin.templates, 0, ("{} dreams in", "{} counts in"))
    assert top_up(thin, None, 3) is thin


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, ["[X] speaks [Y]."], [{"sub_label": "Zoë"}])
    with pytest.raises(BadInput, match="obj_label"):
        load_pararel(folder)
    (folder / "trex_lms_vocab" / "P103.jsonl").write_text('{"sub_label":\n', encoding="utf-8")
    with pytest.raises(BadInput, match=r"P103\.jsonl:1"):
        load_pararel(folder)


def test_a_folder_without_tuples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected trex_lms_vocab"):
        load_pararel(tmp_path)


def test_generation_prompts_need_one_slot(tmp_path: Path) -> None:
    (tmp_path / "P103.txt").write_text("At home {} hums in\n\n{} writes in\n", encoding="utf-8")
    assert load_generation_prompts(tmp_path) == {"P103": ("At home {} hums in", "{} writes in")}
    (tmp_path / "P104.txt").write_text("{} calls {}\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"P104\.txt:1"):
        load_generation_prompts(tmp_path)
