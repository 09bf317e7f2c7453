"""What of a search is done once: the layers up to the edited one, and what stands before the lookup positions.

Rows of different records begin alike, with the same context text: these tokens are run once for all of them, through
all layers. Of the others, those before a row's lookup position pass through the layers above the edited one once, and
only their keys and values are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from counterfact.editing.requests import Row
from counterfact.editing.upper import Upper
from counterfact.lm.forward.blocks import Recorder, embed, run_blocks
from counterfact.lm.forward.layout import RaggedLayout
from counterfact.lm.forward.prefix import Recorded
from counterfact.lm.forward.rows import RaggedRows
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.loading import LM


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
    shared = common_starts(rows, each)
    texts = _run_shared(lm, rows[:each], shared[:each], len(rows) // each)
    own = RaggedLayout.of([len(row.ids) - start for row, start in zip(rows, shared, strict=True)])
    ids = _row_of(own.flat([row.ids[start:] for row, start in zip(rows, shared, strict=True)]), lm)
    positions = _row_of(own.counted(shared), lm)
    tape, module = Tape(), lm.layout.fc_out(layer)
    key, output = Site(module, "in"), Site(module)
    ragged = RaggedRows(own, lm.device, None if texts is None else texts.before(own, lm.working_dtype))
    with hooked(lm.model, tape.read(key), tape.read(output)):
        hidden = run_blocks(lm, embed(lm, ids, positions), 0, layer + 1, positions=positions, ragged=ragged)
    # Where each row's lookup position stands among the tokens that are its own.
    lookups = [at + row.lookup - start for at, row, start in zip(own.starts, rows, shared, strict=True)]
    at_lookup = torch.tensor(lookups, device=lm.device)
    suffixes = RaggedLayout.of([len(row.ids) - row.lookup for row in rows])
    tokens = [range(at, at + len(row.ids) - row.lookup) for at, row in zip(lookups, rows, strict=True)]
    before = [range(at, end) for at, end in zip(own.starts, lookups, strict=True)]
    earlier = _run_before(lm, before, shared, hidden, layer + 1, texts)
    return AtLookup(tape[key][0, at_lookup], tape[output][0, at_lookup]), Upper(
        start=layer + 1,
        each=each,
        tail=tail,
        layout=suffixes,
        earlier=None
        if earlier is None
        else earlier.before(suffixes, lm.working_dtype).held(range(layer + 1, lm.n_layers)),
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


def _run_shared(lm: LM, rows: Sequence[Row], shared: Sequence[int], records: int) -> Recorded | None:
    """Run the tokens that the rows of every record share; return their keys and values before every record's rows."""
    parts = [row.ids[:count] for row, count in zip(rows, shared, strict=True)]
    having = [part for part in parts if part]
    if not having:
        return None
    layout = RaggedLayout.of(list(map(len, having)))
    positions = _row_of(layout.counted(), lm)
    states = embed(lm, _row_of(layout.flat(having), lm), positions)
    keys, values = _record(lm, states, positions, 0, layout, None)
    return Recorded(keys, values, _places(layout, parts) * records)


def _run_before(
    lm: LM,
    before: Sequence[range],
    shared: Sequence[int],
    hidden: Tensor,
    start: int,
    texts: Recorded | None,
) -> Recorded | None:
    """Run the tokens `before` of each row through the layers from `start` on; return all that stands before it."""
    having = [number for number, tokens in enumerate(before) if tokens]
    if start == lm.n_layers or not having:
        return texts
    layout = RaggedLayout.of([len(before[number]) for number in having])
    states = hidden[:, torch.tensor(layout.flat([before[number] for number in having]), device=lm.device)]
    positions = _row_of(layout.counted([shared[number] for number in having]), lm)
    mine = None if texts is None else Recorded(texts.keys, texts.values, [texts.places[number] for number in having])
    found = Recorded(*_record(lm, states, positions, start, layout, mine), _places(layout, before))
    return found if texts is None else texts.beside(found)


def _record(
    lm: LM, states: Tensor, positions: Tensor, start: int, layout: RaggedLayout, texts: Recorded | None
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Run rows from block `start` on for their keys and values; of the last layer nothing else is computed."""
    recorder = Recorder()
    earlier = None if texts is None else texts.before(layout, lm.working_dtype)
    ragged = RaggedRows(layout, lm.device, earlier, tail=0)
    run_blocks(lm, states, start, lm.n_layers, positions=positions, cache=recorder, ragged=ragged)
    keys, values = ({layer: it[0] for layer, it in side.items()} for side in (recorder.keys, recorder.values))
    return keys, values


def _places(layout: RaggedLayout, parts: Sequence[Sequence[int]]) -> list[range]:
    """Return where the tokens of each part stand, of which only those with tokens are in the layout."""
    starts = iter(layout.starts)
    places = []
    for part in parts:
        start = next(starts) if part else 0
        places.append(range(start, start + len(part)))
    return places


def _row_of(numbers: Sequence[int], lm: LM) -> Tensor:
    return torch.tensor([numbers], device=lm.device)
