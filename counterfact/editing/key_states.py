"""Keys of many requests, layer by layer, on a model that is edited from the lowest layer up."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterfact.editing.requests import Encoded, Row
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.forward.blocks import embed, run_blocks
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan, cut_at


@dataclass
class _Part:
    """Some rows, and the states that they have reached."""

    rows: RaggedRows
    positions: Tensor
    ends: Tensor
    """Place of each row's last token in the line, (rows,)."""
    hidden: Tensor
    """States before `KeyStates.layer`, (1, tokens, width)."""


class KeyStates:
    """The rows of many requests up to their lookup positions, each run once, on the model as it is edited so far.

    Rows that are alike, as those of two requests about one subject, are run once. The states before the lowest layer
    that is not written yet are kept: n rows of r tokens take n r numbers of the model's width.
    """

    def __init__(self, layer: int, parts: list[_Part], places: Tensor) -> None:
        self.layer = layer
        self.parts = parts
        self.places = places
        """Place of each request's rows among all that are run, (n, contexts)."""

    @classmethod
    @torch.no_grad()
    def of(cls, lm: LM, records: Sequence[Encoded], layer: int, plan: Plan) -> "KeyStates":
        """Run the rows of records, without the KL term's, up to a layer."""
        cut_rows = [[_cut(row) for row in record.rows[:-1]] for record in records]
        unique = sorted({ids for rows in cut_rows for ids in rows}, key=lambda ids: (len(ids), ids))
        parts = []
        for batch in cut_at(unique, len, plan.tokens_per_batch):
            layout = RaggedLayout.of([len(ids) for ids in batch])
            positions = torch.tensor([layout.counted()], device=lm.device)
            ids = torch.tensor([layout.flat(batch)], device=lm.device)
            ends = [start + length - 1 for start, length in zip(layout.starts, layout.lengths, strict=True)]
            rows = RaggedRows(layout, lm.device)
            hidden = run_blocks(lm, embed(lm, ids, positions), 0, layer, positions=positions, rows=rows)
            parts.append(_Part(rows, positions, torch.tensor(ends, device=lm.device), hidden))
        place = {ids: number for number, ids in enumerate(unique)}
        places = torch.tensor([[place[ids] for ids in rows] for rows in cut_rows], device=lm.device)
        return cls(layer, parts, places)

    @torch.no_grad()
    def look(self, lm: LM, layer: int, last: int, goal: Site, written: Sequence[LowRank]) -> tuple[Tensor, Tensor]:
        """Go on to a layer, and return what stands there and at the goal.

        Args:
            lm: the model.
            layer: whose keys are wanted; not below the one reached.
            last: L.
            goal: what H is read from, in layer L.
            written: what was written since the last call, to layers from the one reached on.

        Returns:
            K, (n, d_in): the mean of a request's bare key and the mean of its keys in contexts; and H, (n, width): what
            stands at the goal, of the bare prompt. Both float64.
        """
        key = Site(lm.layout.fc_out(layer), "in")
        keys, reached = [], []
        with merged(lm, [Edit(tuple(written), ())]):
            for part in self.parts:
                tape = Tape()
                with hooked(lm.model, tape.read(key), tape.read(goal)):
                    part.hidden = self._run(lm, part, part.hidden, self.layer, layer)
                    self._run(lm, part, part.hidden, layer, last + 1)
                keys.append(tape[key][0, part.ends].double())
                reached.append(tape[goal][0, part.ends].double())
        self.layer = layer
        found = torch.cat(keys)[self.places]
        bare, contexts = found[:, 0], found[:, 1:]
        mean = bare if contexts.shape[1] == 0 else (bare + contexts.mean(1)) / 2
        return mean, torch.cat(reached)[self.places[:, 0]]

    @staticmethod
    def _run(lm: LM, part: _Part, hidden: Tensor, start: int, stop: int) -> Tensor:
        return run_blocks(lm, hidden, start, stop, positions=part.positions, rows=part.rows) if stop > start else hidden


def _cut(row: Row) -> tuple[int, ...]:
    """A row's tokens up to its lookup position: nothing after it acts on what is read there."""
    return row.ids[: row.lookup + 1]
