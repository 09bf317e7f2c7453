"""The upper half of a model on the tokens that an intervention can change, everything before them held constant.

An intervention at a row's lookup position acts on nothing before it. So a step of a search runs the tokens from the
lookup position on, after keys and values of the earlier ones (`editing.split`). Rows stand one after the other,
without padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from counterfact.lm.forward.blocks import run_blocks
from counterfact.lm.forward.layout import RaggedLayout
from counterfact.lm.forward.prefix import Held
from counterfact.lm.forward.rows import RaggedRows
from counterfact.lm.model.loading import LM


@dataclass(frozen=True)
class Upper:
    """Rows of several records, ready to be run from the edited layer on; a record's rows are consecutive."""

    start: int
    """The first layer above the edited one."""
    each: int
    """Rows of a record."""
    tail: int
    """Of each row so many of its last tokens are read."""
    layout: RaggedLayout
    """The rows from their lookup position on."""
    earlier: Held | None
    """Keys and values of the tokens before."""
    hidden: Tensor
    """Output of the edited layer, (1, tokens, width)."""
    positions: Tensor
    """(1, tokens)."""

    @cached_property
    def rows(self) -> RaggedRows:
        """What attention is told."""
        return RaggedRows(self.layout, self.hidden.device, self.earlier, self.tail)

    @cached_property
    def firsts(self) -> Tensor:
        """The token at each row's lookup position, (rows,)."""
        return torch.tensor(self.layout.starts, device=self.hidden.device)

    def keep(self, records: Sequence[bool], tail: int) -> "Upper":
        """Go on with these records only, and read the last `tail` tokens of each row."""
        layout, groups, places, tokens = self.layout.keep([keep for keep in records for _ in range(self.each)])
        tokens = tokens.to(self.hidden.device)
        return replace(
            self,
            tail=tail,
            layout=layout,
            earlier=None if self.earlier is None else self.earlier.keep(groups, places),
            hidden=self.hidden[:, tokens],
            positions=self.positions[:, tokens],
        )

    def run(self, lm: LM, delta: Tensor) -> Tensor:
        """Add `delta` (records, width) at every row's lookup position and run the upper layers.

        Returns:
            The last states of the tokens that are read, in the order of `RaggedRows.asked_for`, (1, tokens, width).
        """
        moves = delta.to(self.hidden.dtype).repeat_interleave(self.each, 0)[None]
        hidden = self.hidden.index_add(1, self.firsts, moves)
        if self.start == lm.n_layers:
            return hidden[:, self.rows.asked_for]
        return run_blocks(lm, hidden, self.start, lm.n_layers, positions=self.positions, ragged=self.rows)
