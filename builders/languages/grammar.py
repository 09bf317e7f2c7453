"""How a name joins a sentence: articles, elision and contraction, by the rules of a language in `data/languages`."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from counterfact.core.errors import BadInput
from counterfact.core.files import read_json
from counterfact.core.prompts import fill
from counterfact.core.records import Border


class JoiningRule(Border):
    """One rule: where a name and what stands before it match, both are rewritten."""

    why: str
    group: str | None = None
    """Of the rules of one group the first that matches is the only one."""
    name: str = ""
    """Regular expression of the name."""
    name_to: str | None = None
    """What its match becomes; None leaves the name."""
    before: str
    """Regular expression of what stands before the name, up to its end."""
    before_to: str
    """What its match becomes."""

    @cached_property
    def compiled(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """The two expressions: of what stands before, and of the name."""
        return re.compile(self.before), re.compile(self.name)


class _Rules(Border):
    words_that_change: list[str]
    rules: list[JoiningRule]


@dataclass(frozen=True)
class Grammar:
    """The rules of one language, in the order in which they apply; English has none."""

    rules: tuple[JoiningRule, ...] = ()
    words_that_change: tuple[str, ...] = ()
    """Words that a template must not end in: what they become depends on the object."""

    def join(self, template: str, name: str) -> tuple[str, str]:
        """Return a template and the name for its slot, so that one put into the other is a sentence.

        Articles go to the template, and the name stays as it is where it can.

        >>> elision = JoiningRule(why="elision", name="^[AEIOU]", before="de $", before_to="d'")
        >>> Grammar((elision,)).join("La capitale de {} est", "Oman")
        ("La capitale d'{} est", 'Oman')
        """
        before, after = template.split("{}", 1)
        starts = not before
        done: set[str] = set()
        for rule in self.rules:
            place, named = rule.compiled
            if rule.group in done or not place.search(before) or not named.search(name):
                continue
            before = place.sub(rule.before_to, before, count=1)
            if rule.name_to is not None:
                name = named.sub(rule.name_to, name, count=1)
            if rule.group is not None:
                done.add(rule.group)
        if starts and before:
            before = before[0].upper() + before[1:]
        return f"{before}{{}}{after}", name

    def fill(self, template: str, name: str) -> str:
        """Return the template with the name in its slot."""
        return fill(*self.join(template, name)) if self.rules else fill(template, name)


def load_grammar(folder: Path, language: str) -> Grammar:
    """Read the rules of a language; one that has no file has no rules.

    Raises:
        BadInput: the file is malformed.
    """
    path = folder / f"{language}.json"
    if not path.exists():
        return Grammar()
    try:
        read = _Rules.model_validate(read_json(path))
        for rule in read.rules:
            _ = rule.compiled
    except (ValidationError, re.error) as error:
        raise BadInput(f"{path}: {error}") from error
    return Grammar(tuple(read.rules), tuple(read.words_that_change))
