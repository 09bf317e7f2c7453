"""The upper half of a model on the tokens that an intervention can change, everything before them held constant.

An intervention at a row's lookup position acts on nothing before it. So the tokens before it pass through the
upper layers once, and only their attention keys and values are kept; a step of a search then runs the tokens from
the lookup position on. Rows stand one after the other, without padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from editors._rows import Row
from lm.attention import Earlier, RaggedRows
from lm.hooks import Site, Tape, hooked
from lm.loading import LM
from lm.ragged import Ragged
from lm.stack import Recorder, embed, run_blocks


@dataclass(frozen=True)
class Upper:
    """Rows of several records, ready to be run from the edited layer on; a record's rows are consecutive."""

    start: int
    """The first layer above the edited one."""
    each: int
    """Rows of a record."""
    rows: RaggedRows
    """The rows from their lookup position on, of which the ends are read; the earlier tokens are held constant."""
    hidden: Tensor
    """Output of the edited layer, (1, tokens, width)."""
    positions: Tensor
    """(1, tokens)."""

    @cached_property
    def firsts(self) -> Tensor:
        """The token at each row's lookup position, (rows,)."""
        return torch.tensor(self.rows.layout.starts, device=self.hidden.device)

    def keep(self, records: Sequence[bool], tail: int) -> "Upper":
        """Go on with these records only, and read the last `tail` tokens of each row."""
        kept = [keep for keep in records for _ in range(self.each)]
        layout, groups, places, tokens = self.rows.layout.keep(kept)
        earlier = None if self.rows.earlier is None else self.rows.earlier.keep(groups, places)
        tokens = tokens.to(self.hidden.device)
        return replace(
            self,
            rows=RaggedRows(layout, self.rows.device, earlier, tail),
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


@dataclass(frozen=True)
class AtLookup:
    """What stands at every row's lookup position in one pass up to the edited layer."""

    keys: Tensor
    """Input of the edited module, (rows, d_in)."""
    outputs: Tensor
    """Its output, (rows, width)."""


@torch.no_grad()
def split_rows(lm: LM, rows: Sequence[Row], each: int, layer: int, tail: int) -> tuple[AtLookup, Upper]:
    """Run rows up to the edited layer, and what stands before their lookup positions through the layers above.

    Args:
        lm: the model.
        rows: record by record.
        each: rows of a record.
        layer: the edited layer.
        tail: of each row so many of its last tokens are read.
    """
    lengths = [len(row.ids) for row in rows]
    layout = Ragged.of(lengths)
    ids = _row_of(layout.flat([row.ids for row in rows]), lm)
    positions = _row_of(layout.counted(), lm)
    tape, module = Tape(), lm.layout.down(layer)
    key, output = Site(module, "in"), Site(module)
    with hooked(lm.model, tape.read(key), tape.read(output)):
        hidden = run_blocks(
            lm, embed(lm, ids, positions), 0, layer + 1, positions=positions, ragged=RaggedRows(layout, lm.device)
        )
    lookups = torch.tensor([s + row.lookup for s, row in zip(layout.starts, rows, strict=True)], device=lm.device)
    found = AtLookup(tape[key][0, lookups], tape[output][0, lookups])
    suffixes = Ragged.of([len(row.ids) - row.lookup for row in rows])
    prefix = _run_before(lm, rows, layout, hidden, layer + 1)
    tokens = [range(s + row.lookup, s + len(row.ids)) for s, row in zip(layout.starts, rows, strict=True)]
    upper = Upper(
        start=layer + 1,
        each=each,
        rows=RaggedRows(suffixes, lm.device, None if prefix is None else _earlier(lm, rows, suffixes, *prefix), tail),
        hidden=hidden[:, torch.tensor(suffixes.flat(tokens), device=lm.device)],
        positions=_row_of(suffixes.counted([row.lookup for row in rows]), lm),
    )
    return found, upper


def _run_before(
    lm: LM, rows: Sequence[Row], layout: Ragged, hidden: Tensor, start: int
) -> tuple[Recorder, Mapping[int, int]] | None:
    """Run the tokens before each row's lookup position through the layers from `start` on.

    Returns:
        Their keys and values, one row after the other, and where each row of `rows` that has any begins.
    """
    having = [number for number, row in enumerate(rows) if row.lookup]
    if not having or start == lm.n_layers:
        return None
    before = Ragged.of([rows[number].lookup for number in having])
    tokens = [range(layout.starts[number], layout.starts[number] + rows[number].lookup) for number in having]
    states = hidden[:, torch.tensor(before.flat(tokens), device=lm.device)]
    recorder = Recorder()
    # Of the last layer only keys and values are wanted.
    wanted = RaggedRows(before, lm.device, tail=0)
    positions = _row_of(before.counted(), lm)
    run_blocks(lm, states, start, lm.n_layers, positions=positions, cache=recorder, ragged=wanted)
    return recorder, dict(zip(having, before.starts, strict=True))


def _earlier(lm: LM, rows: Sequence[Row], suffixes: Ragged, recorder: Recorder, begins: Mapping[int, int]) -> Earlier:
    """Lay out recorded keys and values beside the rows they stand before, padded on the right in each group."""
    index, masks = [], []
    for members in suffixes.members:
        width = max(rows[number].lookup for number in members)
        offsets = torch.arange(width)
        lookups = torch.tensor([rows[number].lookup for number in members])
        starts = torch.tensor([begins.get(number, 0) for number in members])
        valid = offsets < lookups[:, None]
        index.append(torch.where(valid, starts[:, None] + offsets, 0).to(lm.device))
        lowest = torch.finfo(lm.working_dtype).min
        mask = torch.zeros(valid.shape, dtype=lm.working_dtype).masked_fill(~valid, lowest)
        masks.append(mask.to(lm.device))
    keys = {layer: [it[0][:, at].transpose(2, 3).contiguous() for at in index] for layer, it in recorder.keys.items()}
    values = {layer: [it[0][:, at] for at in index] for layer, it in recorder.values.items()}
    return Earlier(keys, values, masks)


def _row_of(numbers: Sequence[int], lm: LM) -> Tensor:
    return torch.tensor([numbers], device=lm.device)
