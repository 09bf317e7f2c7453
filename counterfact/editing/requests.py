"""Rows of tokens that editors run through a model, and the lower half of the model on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterfact.core.prompts import fill
from counterfact.core.records import Request
from counterfact.lm.forward.blocks import embed, run_blocks
from counterfact.lm.model.encoding import SubjectRule
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.loading import LM

KL_TEMPLATE = "{} is a"
"""The sentence whose next-token distribution at the subject ROME holds still (paper, eq. 4)."""


@dataclass(frozen=True)
class Row:
    """One sentence as tokens."""

    ids: tuple[int, ...]
    lookup: int
    """The position the editor looks the subject up at."""


@dataclass(frozen=True)
class Encoded:
    """One request as rows: one a context template, the bare prompt first, then perhaps the row that is held still."""

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


def encode(lm: LM, request: Request, templates: Sequence[str], position: SubjectRule, *, hold: bool) -> Encoded:
    """Turn a request into rows.

    Args:
        lm: the model.
        request: what to edit.
        templates: context templates, each with one `{}` that takes the request's own template.
        position: which token is the lookup position, as `LM.locate` names it.
        hold: whether to add the row `{} is a`, cut after its lookup position: what follows never acts on it.

    Raises:
        ValueError: the subject or the target cannot be found in the tokens, or a row is too long for the model.
    """
    target = tuple(lm.target_tokens(request.target_new))
    prompts = [fill(template, request.prompt) for template in templates]
    located = lm.locate([*prompts, KL_TEMPLATE], [request.subject] * (len(prompts) + 1), position)
    rows = [Row((*ids, *target[:-1]), index) for ids, index in located[:-1]]
    if hold:
        ids, index = located[-1]
        rows.append(Row(tuple(ids[: index + 1]), index))
    encoded = Encoded(tuple(rows), target)
    if encoded.length > lm.max_length:
        raise ValueError(f"the prompt takes {encoded.length} tokens, the model at most {lm.max_length}")
    return encoded


@dataclass(frozen=True)
class Lower:
    """What one pass through the layers up to and with the edited one leaves behind."""

    hidden: Tensor
    """Output of the edited layer's block, (rows, tokens, width)."""
    keys: Tensor
    """Input of the edited module, (rows, tokens, d_in)."""


def pad(rows: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids (rows, tokens), padded on the right with 0, and lengths (rows,)."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows])
    lengths = torch.tensor([len(row.ids) for row in rows])
    return ids.to(device), lengths.to(device)


@torch.no_grad()
def run_lower(lm: LM, ids: Tensor, layer: int) -> Lower:
    """Run layers 0 to `layer`. Padding on the right is never attended to by what stands before it."""
    tape, key = Tape(), Site(lm.layout.fc_out(layer), "in")
    with hooked(lm.model, tape.read(key)):
        hidden = run_blocks(lm, embed(lm, ids), 0, layer + 1)
    return Lower(hidden, tape[key])
