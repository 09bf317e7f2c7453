"""What of a search is run once, and what is left for each step: the tokens that an intervention can change.

An intervention at a row's lookup position acts on nothing before it and on no layer below. So the layers up to the
edited one are run once, and above them a step runs only the tokens from the lookup position on, after a prefix of
constant keys and values. Rows of different records begin alike, with the same context text: these tokens are run once
for all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from counterfact.editing.requests import Encoded, Row
from counterfact.lm.forward.blocks import embed, record_rows, run_blocks
from counterfact.lm.forward.caches import PrefixKV, RecordedKV
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM

StreamChange = Callable[..., Tensor]
"""The model, a layer, what stands there at single tokens, (rows, width) each, and what is added to it, (rows, ...) ->
by how much the residual stream after the layer moves, (rows, width)."""


@dataclass(frozen=True)
class Suffixes:
    """Rows of several records from their lookup position on, ready to be run above the edited layer.

    A record's rows are consecutive, and stand one after the other without padding.
    """

    start: int
    """The first layer above the edited one."""
    each: int
    """Rows of a record."""
    tail: int
    """How many of the last tokens of each row are read."""
    layout: RaggedLayout
    """How the rows lie in the line."""
    prefix: PrefixKV | None
    """Keys and values of the tokens before them."""
    hidden: Tensor
    """Output of the edited layer, (1, tokens, width)."""
    positions: Tensor
    """Positions in the whole rows, (1, tokens)."""
    change: StreamChange | None = None
    """What an intervention does to the residual stream after the edited layer; `None`: it moves the stream itself."""
    standing: tuple[Tensor, ...] = ()
    """What `change` is given of the edited layer: what stands there at each row's lookup position, (rows, width)."""

    @cached_property
    def rows(self) -> RaggedRows:
        """The rows as attention receives them."""
        return RaggedRows(self.layout, self.hidden.device, self.prefix, self.tail)

    @cached_property
    def firsts(self) -> Tensor:
        """The token at each row's lookup position, (rows,)."""
        return torch.tensor(self.layout.starts, device=self.hidden.device)

    def keep(self, lm: LM, records: Sequence[bool], tail: int) -> "Suffixes":
        """Go on with these records only, and read the last `tail` tokens of each row."""
        kept = [keep for keep in records for _ in range(self.each)]
        layout, groups, places, tokens = self.layout.keep(kept)
        tokens, rows = tokens.to(self.hidden.device), torch.tensor(kept, device=self.hidden.device)
        upper = range(self.start, lm.n_layers)
        return replace(
            self,
            tail=tail,
            layout=layout,
            prefix=None if self.prefix is None else self.prefix.keep(upper, groups, places),
            hidden=self.hidden[:, tokens],
            positions=self.positions[:, tokens],
            standing=tuple(states[rows] for states in self.standing),
        )

    def run(self, lm: LM, delta: Tensor) -> Tensor:
        """Add `delta` (records, ...) to what is moved at every row's lookup position; run the layers above.

        Returns:
            The last states of the tokens that are read, in the order of `RaggedRows.asked_for`, (1, tokens, width).
        """
        moves = delta.to(self.hidden.dtype).repeat_interleave(self.each, 0)
        if self.change is not None:
            moves = self.change(lm, self.start - 1, *self.standing, moves)
        hidden = self.hidden.index_add(1, self.firsts, moves[None])
        if self.start == lm.n_layers:
            return hidden[:, self.rows.asked_for]
        return run_blocks(lm, hidden, self.start, lm.n_layers, positions=self.positions, rows=self.rows)


@torch.no_grad()
def split_rows(lm: LM, batch: Sequence[Encoded], layer: int, *sites: Site) -> tuple[list[Tensor], Suffixes]:
    """Run rows up to the edited layer, and what stands before their lookup positions through the layers above.

    Args:
        lm: the model.
        batch: records, all with the same number of rows.
        layer: the edited layer.
        sites: what is looked at in it.

    Returns:
        What stands at each site at every row's lookup position, (rows, ...); and the rows from there on, of which the
        last tokens are read, as many as the longest new object has.
    """
    rows, each = [row for record in batch for row in record.rows], len(batch[0].rows)
    shared = common_starts(rows, each)
    texts = _run_shared(lm, rows[:each], shared[:each], len(rows) // each)
    own, positions, states = lay_out(lm, [row.ids[start:] for row, start in zip(rows, shared, strict=True)], shared)
    tape = Tape()
    ragged = RaggedRows(own, lm.device, None if texts is None else texts.before(own.members, lm.working_dtype))
    with hooked(lm.model, *map(tape.read, sites)):
        hidden = run_blocks(lm, states, 0, layer + 1, positions=positions, rows=ragged)
    # Where each row's lookup position stands among the tokens that are its own.
    lookups = [at + row.lookup - start for at, row, start in zip(own.starts, rows, shared, strict=True)]
    at_lookup = torch.tensor(lookups, device=lm.device)
    suffixes = RaggedLayout.of([len(row.ids) - row.lookup for row in rows])
    tokens = [range(at, at + len(row.ids) - row.lookup) for at, row in zip(lookups, rows, strict=True)]
    before = [range(at, end) for at, end in zip(own.starts, lookups, strict=True)]
    recorded = _run_before(lm, before, shared, hidden, layer + 1, texts)
    return [tape[site][0, at_lookup] for site in sites], Suffixes(
        start=layer + 1,
        each=each,
        tail=max(len(record.target) for record in batch),
        layout=suffixes,
        prefix=None if recorded is None else _prefix_of(lm, recorded, suffixes, layer + 1),
        hidden=hidden[:, torch.tensor(suffixes.flat(tokens), device=lm.device)],
        positions=_row_of(suffixes.counted([row.lookup for row in rows]), lm),
    )


def common_starts(rows: Sequence[Row], each: int) -> list[int]:
    """Return how many first tokens each row has in common with the same row of all records, before any lookup position.

    >>> rows = [Row((5, 6, 7, 8), 3), Row((1, 2), 0), Row((5, 6, 9), 2), Row((1, 3), 1)]
    >>> common_starts(rows, 2)
    [2, 0, 2, 0]
    """
    counts = []
    for template in range(each):
        alike = rows[template::each]
        most = min(row.lookup for row in alike)
        for first, second in pairwise(alike):
            pairs = zip(first.ids[:most], second.ids[:most], strict=True)
            most = next((i for i, (one, other) in enumerate(pairs) if one != other), most)
        counts.append(most)
    return counts * (len(rows) // each)


def lay_out(lm: LM, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> tuple[RaggedLayout, Tensor, Tensor]:
    """Lay rows of token ids out in one line, each counted from its start, and embed them.

    Returns:
        The layout, positions (1, tokens), and the states before the first block, (1, tokens, width).
    """
    layout = RaggedLayout.of(list(map(len, rows)))
    positions = _row_of(layout.counted(starts), lm)
    return layout, positions, embed(lm, _row_of(layout.flat(rows), lm), positions)


def places_of(layout: RaggedLayout, parts: Sequence[Sequence[int]]) -> list[range]:
    """Return where the tokens of each part stand in a layout of those parts that have any."""
    starts = iter(layout.starts)
    places = []
    for part in parts:
        start = next(starts) if part else 0
        places.append(range(start, start + len(part)))
    return places


def _run_shared(lm: LM, rows: Sequence[Row], shared: Sequence[int], records: int) -> RecordedKV | None:
    """Run the tokens that the rows of every record share; return their keys and values before every record's rows."""
    parts = [row.ids[:count] for row, count in zip(rows, shared, strict=True)]
    having = [part for part in parts if part]
    if not having:
        return None
    layout, positions, states = lay_out(lm, having, [0] * len(having))
    keys, values = record_rows(lm, states, 0, positions, RaggedRows(layout, lm.device, tail=0))
    return RecordedKV(keys, values, places_of(layout, parts) * records)


def _run_before(
    lm: LM,
    before: Sequence[range],
    shared: Sequence[int],
    hidden: Tensor,
    start: int,
    texts: RecordedKV | None,
) -> RecordedKV | None:
    """Run the tokens `before` of each row through the layers from `start` on; return all that stands before it."""
    having = [number for number, tokens in enumerate(before) if tokens]
    if start == lm.n_layers or not having:
        return texts
    layout = RaggedLayout.of([len(before[number]) for number in having])
    states = hidden[:, torch.tensor(layout.flat([before[number] for number in having]), device=lm.device)]
    positions = _row_of(layout.counted([shared[number] for number in having]), lm)
    prefix = None
    if texts is not None:
        mine = RecordedKV(texts.keys, texts.values, [texts.places[number] for number in having])
        prefix = mine.before(layout.members, lm.working_dtype)
    rows = RaggedRows(layout, lm.device, prefix, tail=0)
    found = RecordedKV(*record_rows(lm, states, start, positions, rows), places_of(layout, before))
    return found if texts is None else texts.beside(found)


def _prefix_of(lm: LM, recorded: RecordedKV, suffixes: RaggedLayout, start: int) -> PrefixKV:
    """Hold what stands before each row for all passes through the layers from `start` on."""
    return recorded.before(suffixes.members, lm.working_dtype).hold(range(start, lm.n_layers))


def _row_of(numbers: Sequence[int], lm: LM) -> Tensor:
    return torch.tensor([numbers], device=lm.device)
