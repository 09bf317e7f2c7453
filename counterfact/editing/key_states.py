"""Keys of many requests, layer by layer, on a model that is edited from the lowest layer up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from counterfact.editing.requests import Encoded
from counterfact.editing.suffixes import common_starts, lay_out, places_of
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.forward.blocks import run_blocks
from counterfact.lm.forward.caches import KVRecorder, PrefixKV, RecordedKV
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan, cut_at


@dataclass(frozen=True)
class _Line:
    """A row's tokens up to its lookup position: nothing after it acts on what is read there."""

    ids: tuple[int, ...]
    before: range
    """Where the first of them, which every request begins this context with, stand among all contexts' beginnings."""
    is_bare: bool
    """Whether it is a prompt without a context: what stands at the goal is read of these."""

    @property
    def own(self) -> tuple[int, ...]:
        """The tokens after those that are shared, the last one always among them."""
        return self.ids[len(self.before) :]


@dataclass
class _Part:
    """Some lines, and the states that they have reached."""

    layout: RaggedLayout
    positions: Tensor
    hidden: Tensor
    """States before `KeyStates.layer`, (1, tokens, width)."""
    before: list[range]
    """Which tokens of the contexts' beginnings stand before each line."""
    are_bare: bool

    @classmethod
    def of(cls, lm: LM, tokens: Sequence[Sequence[int]], before: list[range], are_bare: bool = False) -> "_Part":
        """Embed the tokens of lines that come after `before`."""
        return cls(*lay_out(lm, tokens, list(map(len, before))), before, are_bare)

    def rows(self, recorded: tuple[dict[int, Tensor], dict[int, Tensor]] | None, dtype: torch.dtype) -> RaggedRows:
        """Return the lines after the keys and values of the contexts' beginnings; the last token of each is read."""
        prefix: PrefixKV | None = None
        if recorded is not None and any(self.before):
            prefix = RecordedKV(*recorded, self.before).before(self.layout.members, dtype)
        return RaggedRows(self.layout, self.hidden.device, prefix, tail=1)

    def go_on(self, lm: LM, rows: RaggedRows, start: int, stop: int, recorder: KVRecorder | None = None) -> Tensor:
        """Run the lines from `start`, before which `hidden` stands, and return the states before `stop`."""
        return run_blocks(lm, self.hidden, start, stop, positions=self.positions, cache=recorder, rows=rows)


class KeyStates:
    """The rows of many requests up to their lookup positions, each run once, on the model as it is edited so far.

    Rows that are alike, as those of two requests about one subject, are run once; so is what all requests begin a
    context with. Rows with a context go no further than the key that is asked for, and those without one on to the
    goal. The states before the lowest layer that is not written yet are kept: n rows of r tokens of their own take n r
    numbers of the model's width.
    """

    def __init__(self, texts: _Part | None, parts: list[_Part], places: Tensor) -> None:
        self.layer = 0
        """The layer that has been reached."""
        self.texts = texts
        """What all requests begin their contexts with."""
        self.parts = parts
        """The lines, those without a context before the others."""
        self.places = places
        """Place of each request's rows among all lines, (n, contexts)."""

    @classmethod
    @torch.no_grad()
    def of(cls, lm: LM, records: Sequence[Encoded], plan: Plan) -> "KeyStates":
        """Lay out the rows of records, without the KL term's."""
        rows = [row for record in records for row in record.rows[:-1]]
        contexts = len(records[0].rows) - 1
        shared = common_starts(rows, contexts)
        begins = [row.ids[:count] for row, count in zip(rows[:contexts], shared[:contexts], strict=True)]
        having = [ids for ids in begins if ids]
        texts = _Part.of(lm, having, [range(0)] * len(having)) if having else None
        before = [range(0)] * contexts if texts is None else places_of(texts.layout, begins)
        cut = [row.ids[: row.lookup + 1] for row in rows]
        bare, lines = set(cut[::contexts]), dict[tuple[int, ...], _Line]()
        for number, ids in enumerate(cut):
            lines.setdefault(ids, _Line(ids, before[number % contexts], ids in bare))
        ordered = sorted(lines.values(), key=lambda line: (not line.is_bare, len(line.own), line.ids))
        parts = []
        for are_bare, alike in groupby(ordered, lambda line: line.is_bare):
            for batch in cut_at(alike, lambda line: len(line.own), plan.tokens_per_batch):
                parts.append(_Part.of(lm, [line.own for line in batch], [line.before for line in batch], are_bare))
        place = {line.ids: number for number, line in enumerate(ordered)}
        places = torch.tensor([place[ids] for ids in cut], device=lm.device).view(len(records), contexts)
        return cls(texts, parts, places)

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
            recorded = self._record(lm, layer, last)
            for part in self.parts:
                tape, rows = Tape(), part.rows(recorded, lm.working_dtype)
                part.hidden = part.go_on(lm, rows.whole, self.layer, layer)
                sites = (key, goal) if part.are_bare else (key,)
                with hooked(lm.model, *map(tape.read, sites)):
                    part.go_on(lm, rows, layer, (last if part.are_bare else layer) + 1)
                keys.append(_at_ends(rows, tape[key]))
                reached += [_at_ends(rows, tape[goal])] if part.are_bare else []
        self.layer = layer
        found = torch.cat(keys)[self.places]
        bare, contexts = found[:, 0], found[:, 1:]
        mean = bare if contexts.shape[1] == 0 else (bare + contexts.mean(1)) / 2
        return mean, torch.cat(reached)[self.places[:, 0]]

    def _record(self, lm: LM, layer: int, last: int) -> tuple[dict[int, Tensor], dict[int, Tensor]] | None:
        """Run what all requests begin their contexts with through L; return its keys and values by layer."""
        if self.texts is None:
            return None
        recorder, rows = KVRecorder(), self.texts.rows(None, lm.working_dtype)
        self.texts.hidden = self.texts.go_on(lm, rows.whole, self.layer, layer, recorder)
        self.texts.go_on(lm, replace(rows, tail=0), layer, last + 1, recorder)
        return recorder.of_line()


def _at_ends(rows: RaggedRows, states: Tensor) -> Tensor:
    """Return what stands at the last token of each line, float64, from states of all tokens or of these alone."""
    ends = states[0] if states.shape[1] != rows.layout.tokens else states[0, rows.asked_for]
    return ends.double()
