"""Requests as rows of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from counterfact.core.prompts import fill
from counterfact.core.records import Request
from counterfact.lm.model.encoding import SubjectRule
from counterfact.lm.model.loading import LM

KL_TEMPLATE = "{} is a"
"""The sentence whose next-token distribution at the subject ROME keeps (paper, eq. 4)."""


@dataclass(frozen=True)
class Row:
    """One sentence as tokens."""

    ids: tuple[int, ...]
    lookup: int
    """The position the editor looks the subject up at."""


@dataclass(frozen=True)
class Encoded:
    """One request as rows: one a context template, the bare prompt first, then perhaps the KL term's."""

    rows: tuple[Row, ...]
    target: tuple[int, ...]
    """Token ids of the new object. All but the last stand at the end of every context row."""

    @property
    def suffixes(self) -> int:
        """Tokens of all rows from their lookup positions on."""
        return sum(len(row.ids) - row.lookup for row in self.rows)

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.ids) for row in self.rows)


def encode(lm: LM, request: Request, templates: Sequence[str], position: SubjectRule, *, kl_row: bool) -> Encoded:
    """Turn a request into rows.

    Args:
        lm: the model.
        request: what to edit.
        templates: context templates, each with one `{}` that takes the request's own template.
        position: which token is the lookup position, as `LM.locate` names it.
        kl_row: whether to add the row `{} is a` for ROME's KL term, cut after its lookup position: what follows never
            acts on it.

    Raises:
        ValueError: the subject or the target cannot be found in the tokens, or a row is too long for the model.
    """
    if not request.subject.strip():
        raise ValueError("the subject is empty")
    target = tuple(lm.target_tokens(request.target_new, request.joiner))
    prompts = [fill(template, request.prompt) for template in templates]
    located = lm.locate([*prompts, KL_TEMPLATE], [request.subject] * (len(prompts) + 1), position)
    rows = [Row((*ids, *target[:-1]), index) for ids, index in located[:-1]]
    if kl_row:
        ids, index = located[-1]
        rows.append(Row(tuple(ids[: index + 1]), index))
    encoded = Encoded(tuple(rows), target)
    if encoded.length > lm.max_length:
        raise ValueError(f"the prompt takes {encoded.length} tokens, the model at most {lm.max_length}")
    return encoded
