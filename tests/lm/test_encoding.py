"""What stands before a prompt, how a target is joined to it, and which token is a subject's."""

import json
import unicodedata
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from counterfact.core.errors import BadInput
from counterfact.lm.drift import next_token_shifts
from counterfact.lm.generation import generate
from counterfact.lm.model.encoding import Encoding, SubjectRule
from counterfact.lm.model.language_model import LM
from counterfact.lm.queries import Query, Unscored
from counterfact.lm.scoring import score
from tests.support.models import BEGIN, END, FAMILIES, make_tokenizer, tiny_lm

TEMPLATES = ("{} speaks French", "The mother tongue of {} is", "She met {}", "{}", "In {}, the ferry", "What, {}?")
SUBJECTS = ("Anna Ferrand", "Pavel Dvořák", "Zoë", "José", "Ý", "東京", "a", "the city of Turin", "naïve")


def pieces(lm: LM, text: str) -> list[bytes]:
    """The bytes of each token, without special ones."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    back = {character: byte for byte, character in bytes_to_unicode().items()}
    return [bytes(back[c] for c in token) for token in lm.tokenizer.convert_ids_to_tokens(lm.tokens(text))]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_positions_by_counting_bytes(family: str, template: str, subject: str) -> None:
    lm = tiny_lm(family)
    text = template.replace("{}", subject)
    begin = len(template[: template.index("{}")].encode())
    end = begin + len(subject.encode())
    ends: list[int] = []
    for piece in pieces(lm, text):
        ends.append((ends[-1] if ends else 0) + len(piece))
    assert ends[-1] == len(text.encode())
    offset = 1 if family == "llama" else 0
    last = next(i for i, stop in enumerate(ends) if stop >= end) + offset
    # A space that is a token of its own counts as the subject's first, as where it is tokenised apart with the subject.
    space = template.partition("{}")[0].endswith(" ")
    first = next(i for i, stop in enumerate(ends) if stop > begin - space) + offset
    final = len(ends) - 1 + offset
    assert lm.subject_position(template, subject, "subject_last") == last
    assert lm.subject_position(template, subject, "subject_first") == first
    assert lm.subject_position(template, subject, "subject_first_after_last") == min(last + 1, final)
    assert lm.subject_position(template, subject, "last") == final == len(lm.prompt_tokens(text)) - 1


def test_some_of_these_subjects_end_within_a_character() -> None:
    lm = tiny_lm()
    for subject in ("Ý", "東京", "Zoë"):
        assert len(lm.tokens(subject[-1])) > 1
    assert lm.subject_position("{}", "Ý", "subject_last") == 1
    assert lm.subject_position("{}", "Ý", "subject_first") == 0


def test_many_at_once_are_as_one_by_one() -> None:
    lm = tiny_lm("llama")
    located = lm.locate(list(TEMPLATES), list(SUBJECTS[: len(TEMPLATES)]))
    for template, subject, (ids, position) in zip(TEMPLATES, SUBJECTS, located, strict=False):
        assert ids == lm.prompt_tokens(template.replace("{}", subject))
        assert position == lm.subject_position(template, subject, "subject_last")
    assert lm.locate([], []) == []


def test_spaces_around_a_subject_are_not_its_last_character() -> None:
    lm = tiny_lm()
    assert lm.subject_position("In {}is", " Turin ", "subject_last") == lm.subject_position(
        "In  {} is", "Turin", "subject_last"
    )


def test_bad_subjects_and_templates() -> None:
    lm = tiny_lm()
    for template, subject, message in (
        ("no slot", "Anna", "expected one {}"),
        ("{} and {}", "Anna", "expected one {}"),
        ("{} is", " ", "the subject is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            lm.subject_position(template, subject, "subject_last")
    with pytest.raises(ValueError, match="expected a rule among subject_last"):
        lm.subject_position("{}", "Anna", "middle")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_begins_as_the_tokenizer_says_and_ends_with_itself(family: str) -> None:
    lm = tiny_lm(family)
    start = lm.tokenizer.convert_tokens_to_ids([BEGIN]) if family == "llama" else []
    assert lm.prompt_tokens("Anna speaks") == start + lm.tokens("Anna speaks")
    assert lm.prompt_tokens("") == start
    assert lm.text_start == (start or [0])
    assert BEGIN not in lm.tokenizer.convert_ids_to_tokens(lm.tokens("Anna"))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("target", ["Oslo", " Oslo", "an engineer", "東京", "5,000", "'s"])
def test_a_target_follows_one_space(family: str, target: str) -> None:
    lm = tiny_lm(family)
    assert lm.decode(lm.target_tokens(target)) == " " + target.strip()
    assert lm.target_tokens(target) == lm.tokens(" " + target.strip())


@pytest.mark.parametrize("target", ["", "  ", "\n"])
def test_an_empty_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="the target is empty"):
        tiny_lm().target_tokens(target)


def composing(kind: str = "gpt2") -> Encoding:
    """A tokenizer that composes characters before it looks at them, as those of Qwen do."""
    tokenizer = deepcopy(tiny_lm(kind).tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return Encoding.of(tokenizer, len(tokenizer))


@pytest.mark.parametrize("subject", ["Zo\u00eb", "Ex\u00e4mpl\u00eb D\u00e9", "\u00c5ne Mo\u00e9", "\ud55c"])
@pytest.mark.parametrize("template", ["{} speaks French", "In {}, the ferry", "She met {}"])
def test_a_name_has_one_place_composed_and_decomposed(template: str, subject: str) -> None:
    encoding = composing()
    apart = unicodedata.normalize("NFD", subject)
    assert apart != subject
    for rule in get_args(SubjectRule):
        together, by_marks = (encoding.locate([template], [name], rule) for name in (subject, apart))
        assert together == by_marks
    assert encoding.locate([template], [subject]) == tiny_lm().locate([template], [subject])


def test_a_rule_that_needs_no_subject_asks_for_none() -> None:
    lm = tiny_lm()
    assert lm.subject_position("{} is", " ", "last") == len(lm.prompt_tokens("  is")) - 1
    with pytest.raises(ValueError, match="no token"):
        Encoding.of(blind(), 9).locate(["{}ab"], ["\u6771"])
    [(ids, position)] = Encoding.of(blind(), 9).locate(["{}ab"], ["\u6771"], "last")
    assert position == len(ids) - 1


def blind() -> PreTrainedTokenizerFast:
    """A tokenizer that drops a character."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    tokenizer.normalizer = normalizers.Replace("東", "")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("target", ["\u5317\u4eac", "Oslo", "5,000"])
def test_a_target_without_a_joiner_follows_at_once(family: str, target: str) -> None:
    lm = tiny_lm(family)
    assert lm.target_tokens(target, "") == lm.tokens(target)
    assert lm.decode(lm.target_tokens(target, "")) == target
    assert lm.target_tokens(target) == lm.tokens(f" {target}")


def sentence_piece(words: list[str]) -> Encoding:
    """A tokenizer that puts a space of its own before each text, as those of Llama 2 do, and knows few characters."""
    vocabulary = {"<unk>": 0, "</s>": 1}
    for piece in ["▁", *"abcdefghijklmnopqrstuvwxyzOPL", *words]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = []
    for word in words:
        for i in range(1, len(word)):
            vocabulary.setdefault(word[: i + 1], len(vocabulary))
            if (word[:i], word[i]) not in merges:
                merges.append((word[:i], word[i]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Metaspace()
    return Encoding.of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>"), 999)


def test_a_tokenizer_that_adds_a_space_does_not_add_two() -> None:
    encoding = sentence_piece(["▁Oslo", "▁in"])
    tokens = encoding.tokenizer.convert_ids_to_tokens(encoding.target("Oslo"))
    assert tokens == ["▁Oslo"]
    together = encoding.prompts(["a in Oslo"])[0]
    assert encoding.prompts(["a in"])[0] + encoding.target("Oslo") == together
    assert encoding.tokenizer.convert_ids_to_tokens(encoding.target("Oslo", "")) == ["O", "s", "l", "o"]
    with pytest.raises(ValueError, match="cannot encode the target 'Ångström'"):
        encoding.target("Ångström")
    ((_, position),) = encoding.locate(["a in {} a"], ["Oslo"])
    assert tokens[0] == encoding.tokenizer.convert_ids_to_tokens(encoding.prompts(["a in Oslo a"])[0])[position]


def test_both_rules_agree_on_real_records(real_data: Path) -> None:
    """The rule by separate tokenisation, as the reference has it, against ours by offsets."""
    from counterfact.lm.model.loading import load_lm

    lm = load_lm(real_data / "golden" / "model", device="cpu")
    for record in json.loads((real_data / "counterfact" / "counterfact_100.json").read_text()):
        template, subject = (record["requested_rewrite"][key] for key in ("prompt", "subject"))
        prefix, suffix = template.split("{}")
        p = len(lm.tokens(prefix.rstrip(" "))) if prefix else 0
        w, s = len(lm.tokens(f" {subject}" if prefix else subject)), len(lm.tokens(suffix))
        assert lm.subject_position(template, subject, "subject_last") == p + w - 1
        assert lm.subject_position(template, subject, "subject_first") == p
        assert lm.subject_position(template, subject, "subject_first_after_last") == p + w - (s == 0)
        assert lm.subject_position(template, subject, "last") == p + w + s - 1


def test_a_chat_template_doubles_no_start_token() -> None:
    template = "{{ bos_token }}[{{ messages[0]['role'] }}] {{ messages[0]['content'] }} [answer]"
    for begin, expected in ((True, "[user] Where? [answer]"), (False, f"{END}[user] Where? [answer]")):
        encoding = Encoding.of(make_tokenizer(begin), 999)
        with pytest.raises(BadInput, match="no chat template"):
            encoding.in_chat("Where?")
        encoding.tokenizer.chat_template = template
        assert encoding.in_chat("Where?") == expected


def test_a_token_without_an_embedding_is_refused_by_name() -> None:
    lm = tiny_lm("gpt2", "float32")
    tokenizer = deepcopy(lm.tokenizer)
    tokenizer.add_tokens(["<zebra>"])
    wider = replace(lm, tokenizer=tokenizer)
    said = r"no embedding for the token '<zebra>': its number is \d+, and there are \d+ embeddings"
    for call in (
        lambda: wider.tokens("a <zebra>"),
        lambda: wider.target_tokens("<zebra>"),
        lambda: wider.locate(["{} is <zebra>"], ["Oslo"]),
        lambda: wider.locate(["{} is <zebra>"], ["Oslo"], "last"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    prompts = ["Oslo is", "Oslo <zebra>"]
    for good, bad in (
        score(wider, [Query(prompt, ("a",)) for prompt in prompts]),
        generate(wider, prompts, [0, 0], length=12),
        next_token_shifts(wider, prompts, [-1, -1], []),
    ):
        assert isinstance(bad, Unscored) and "'<zebra>'" in bad.reason and not isinstance(good, Unscored)
    assert lm.encoding.flaw([0]) is None
