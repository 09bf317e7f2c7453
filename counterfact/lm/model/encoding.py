"""Text to token ids and back: what stands before a prompt, how a target is joined to it, where its subject ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

from counterfact.core.errors import BadInput
from counterfact.core.prompts import fill

SubjectRule = Literal["subject_last", "subject_first", "subject_first_after_last", "last"]

ANCHOR = "a"
"""A text of one word, before which a target is tokenised: tokenizers of the SentencePiece kind put a space of their
own at the start of a text, so that " Paris" alone would get two."""
BREAK = "\n"
"""The same before a target that nothing joins to its prompt: a text that no tokenizer merges with it."""


class Located(NamedTuple):
    """A filled prompt, and the index of one of its tokens."""

    ids: list[int]
    position: int


@dataclass(frozen=True, eq=False)
class Encoding:
    """A tokenizer, used in one way everywhere.

    Ids of a prompt and of what follows it are joined as ids, never by tokenising the joined text.
    """

    tokenizer: Any
    """A fast tokenizer of the `transformers` library."""
    start: tuple[int, ...]
    """What the tokenizer puts before a text (a beginning-of-sequence token), often nothing."""
    embedded: int
    """Tokens that the model has an embedding for: a tokenizer may know more."""

    @classmethod
    def of(cls, tokenizer: Any, embedded: int) -> "Encoding":
        """Find out what the tokenizer puts before a text; what it puts after one is never used."""
        plain = tokenizer(ANCHOR, add_special_tokens=False)["input_ids"]
        whole = tokenizer(ANCHOR)["input_ids"]
        places = [i for i in range(len(whole)) if whole[i : i + len(plain)] == plain]
        return cls(tokenizer, tuple(whole[: places[0]]) if places else (), embedded)

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many texts, without special tokens, in one call.

        Raises:
            ValueError: one of them holds a token that the model has no embedding for.
        """
        coded, flaws = self.each_text(texts)
        for flaw in flaws.values():
            raise ValueError(flaw)
        return coded

    def each_text(self, texts: Sequence[str]) -> tuple[list[list[int]], dict[int, str]]:
        """Return the ids of many texts; for those that the model cannot read, none, and by their places why."""
        if not texts:
            return [], {}
        coded = list(self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"])
        flaws = {place: flaw for place, ids in enumerate(coded) if (flaw := self.flaw(ids))}
        return [[] if place in flaws else ids for place, ids in enumerate(coded)], flaws

    def flaw(self, ids: Sequence[int]) -> str | None:
        """Return why the model cannot read some ids: the first that it has no embedding for, by its token."""
        found = next((i for i in ids if i >= self.embedded), None) if self._is_larger else None
        if found is None:
            return None
        token = self.tokenizer.convert_ids_to_tokens(found)
        return (
            f"the model has no embedding for the token {token!r}: its number is {found}, and there are {self.embedded} "
            f"embeddings, where the tokenizer has {len(self.tokenizer)} tokens"
        )

    def prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many prompts, each after `start`; raises `ValueError` as `texts` does."""
        return [[*self.start, *ids] for ids in self.texts(prompts)]

    def each_prompt(self, prompts: Sequence[str]) -> tuple[list[list[int]], dict[int, str]]:
        """Return the ids of many prompts, each after `start`; for those that cannot be read, none, and why."""
        coded, flaws = self.each_text(prompts)
        return [[] if place in flaws else [*self.start, *ids] for place, ids in enumerate(coded)], flaws

    def in_chat(self, prompt: str) -> str:
        """Return a prompt as a user's message, up to where the model's answer begins, by its tokenizer's chat template.

        What `start` puts before every prompt is left out, where the template has it too.

        Raises:
            BadInput: the tokenizer has no chat template.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise BadInput("the model's tokenizer has no chat template: it was not trained to chat")
        message = [{"role": "user", "content": prompt}]
        text = str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
        return text.removeprefix(self.tokenizer.decode(list(self.start))) if self.start else text

    def target(self, target: str, joiner: str = " ") -> list[int]:
        """Return the ids of a target with what joins it to its prompt, by default one space.

        Raises:
            ValueError: the target is empty, or the tokenizer does not know its characters.
        """
        if not target.strip():
            raise ValueError(f"the target is empty: {target!r}")
        text = target if target.startswith(" ") else joiner + target
        before = ANCHOR if joiner else BREAK
        anchor, joined, alone = self.texts([before, before + text, text])
        ids = joined[len(anchor) :] if joined[: len(anchor)] == anchor else alone
        unknown, name = self.tokenizer.unk_token_id, self.tokenizer.unk_token
        if not ids or (unknown in ids and name not in target):
            raise ValueError(f"the tokenizer cannot encode the target {target!r}")
        return ids

    def locate(
        self, templates: Sequence[str], subjects: Sequence[str], rule: SubjectRule = "subject_last"
    ) -> list[Located]:
        """Fill templates with subjects, tokenise them in one call, and find one token in each.

        By the characters each token stands for, in the whole filled prompt:
        `subject_last`: the last token of the subject that starts at or before its last character (a character may be
        split over several tokens, and a mark that the tokenizer composes with its letter has none); `subject_first`:
        the first that overlaps its first character or the space before it, which a small vocabulary keeps as a token
        of its own; `subject_first_after_last`: the one after `subject_last`, or `subject_last` itself if the prompt
        ends there; `last`: the prompt's last token, wherever the subject is.

        Raises:
            ValueError: unknown rule, a template without exactly one slot, and, unless the rule is `last`, a subject
                that is empty or has no token; or a token that the model has no embedding for.
        """
        if rule not in get_args(SubjectRule):
            raise ValueError(f"expected a rule among {', '.join(get_args(SubjectRule))}, got {rule!r}")
        filled = [fill(template, subject) for template, subject in zip(templates, subjects, strict=True)]
        if not filled:
            return []
        coded = self.tokenizer(filled, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [
            self._place(ids, spans, template.partition("{}")[0], subject, rule)
            for ids, spans, template, subject in zip(
                coded["input_ids"], coded["offset_mapping"], templates, subjects, strict=True
            )
        ]

    def _place(
        self, ids: list[int], spans: list[tuple[int, int]], before: str, subject: str, rule: SubjectRule
    ) -> Located:
        if flaw := self.flaw(ids):
            raise ValueError(flaw)
        if rule == "last" and ids:
            return Located([*self.start, *ids], len(self.start) + len(ids) - 1)
        text = subject.strip()
        if not text:
            raise ValueError("the subject is empty")
        begin = len(before) + len(subject) - len(subject.lstrip())
        space = before.endswith(" ")  # the authors tokenise the subject together with it
        final = begin + len(text) - 1
        last = max((i for i, (low, high) in enumerate(spans) if low <= final and high > max(low, begin)), default=None)
        first = min((i for i, (low, high) in enumerate(spans) if low <= begin and high > begin - space), default=None)
        if last is None or first is None:
            raise ValueError(f"the tokenizer gives no token for the subject {subject!r}")
        index = {
            "subject_last": last,
            "subject_first": first,
            "subject_first_after_last": min(last + 1, len(ids) - 1),
        }[rule]
        return Located([*self.start, *ids], len(self.start) + index)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included, spaces as they are."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def holding(self, characters: str) -> frozenset[int]:
        """Return the ids of all tokens whose text holds one of the characters."""
        return frozenset(i for i, text in enumerate(self._token_texts) if any(each in text for each in characters))

    @cached_property
    def _is_larger(self) -> bool:
        return len(self.tokenizer) > self.embedded

    @cached_property
    def chat_tokens(self) -> int:
        """Number of tokens that the chat template puts around a prompt."""
        plain, put = self.prompts([ANCHOR, self.in_chat(ANCHOR)])
        return len(put) - len(plain)

    @cached_property
    def _token_texts(self) -> list[str]:
        alone = [[i] for i in range(len(self.tokenizer))]
        return list(self.tokenizer.batch_decode(alone, clean_up_tokenization_spaces=False))
