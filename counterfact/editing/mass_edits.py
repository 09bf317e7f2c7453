r"""The frame of editors that write many facts at once, spread over several layers.

Meng, Sen Sharma, Andonian, Belinkov, Bau. Mass-Editing Memory in a Transformer. ICLR 2023. https://arxiv.org/abs/2210.07229

With L the last edited layer, the residual stream $z_i$ that makes the model say each new object is searched for once,
on the model as it is. Then layers are written from the lowest up. At the i-th of m, keys K and the stream H after L are
taken on the model as it is edited below, the layer is given the share

$$R = \frac{Z - H}{m - i}, \quad i = 0, \dots, m - 1,$$

of what is still missing, and a *writer* turns (K, R) into the change of its weight. Methods differ by their writers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from counterfact.contracts.editors import Edited, Engine, Failure, Group, check_layer
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json
from counterfact.editing import plain
from counterfact.editing.batches import cut
from counterfact.editing.requests import Encoded, Row, encode
from counterfact.editing.value_search import find_targets
from counterfact.editing.values import Targets
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.forward.blocks import embed, run_blocks
from counterfact.lm.forward.packed_products import packed_products
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.forward.wide_passes import wide_passes
from counterfact.lm.model.encoding import SubjectRule
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.loading import LM
from counterfact.lm.planning.batch_plan import Plan, cut_at, in_halves

Writer = Callable[[int, Tensor, Tensor], Tensor]
"""A layer, keys K (n, d_in) and residuals R (n, width), float64 -> left (n, d_in): the change is leftᵀ R."""


class MassSettings(Protocol):
    """What the frame reads of an editor's settings, beside constants of the search."""

    @property
    def layers(self) -> list[int]: ...
    @property
    def position(self) -> SubjectRule: ...
    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def stop_loss(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def kl_factor(self) -> float: ...
    @property
    def clamp_norm_factor(self) -> float: ...


@dataclass(frozen=True)
class _Search:
    """Constants of the search, at the last edited layer."""

    layer: int
    steps: int
    learning_rate: float
    stop_loss: float
    weight_decay: float
    kl_factor: float
    clamp_norm_factor: float

    @classmethod
    def of(cls, settings: MassSettings) -> "_Search":
        names = set(cls.__dataclass_fields__) - {"layer"}
        return cls(layer=settings.layers[-1], **{name: getattr(settings, name) for name in names})


@dataclass(frozen=True)
class MassEditor:
    """A prepared editor of groups of any size."""

    lm: LM
    settings: MassSettings
    templates: tuple[str, ...]
    """Context templates, the bare `{}` first."""
    write: Writer
    facts: dict[str, Any]
    """What else the edits rest on."""
    plan: Plan
    engine: Engine = "batched"

    @property
    def provenance(self) -> dict[str, Any]:
        """What the edits rest on, beside model and settings."""
        templates = list(self.templates)
        return {"context_templates": templates, "context_templates_hash": hash_json(templates), **self.facts}

    def __call__(self, groups: Sequence[Group], _seed: int, /) -> list[Edited]:
        """Edit; see `contracts.editors.Editor`. Nothing here is random."""
        return [self.edit(group) for group in groups]

    def edit(self, group: Group) -> Edited:
        """Make one edit of all requests of a group that can be edited."""
        encoded: dict[int, Encoded] = {}
        failed: dict[int, str] = {}
        for i, request in enumerate(group):
            try:
                encoded[i] = encode(self.lm, request, self.templates, self.settings.position, kl_row=True)
            except ValueError as error:
                failed[i] = str(error)
        wanted, losses = self._targets(encoded, failed)
        kept = sorted(wanted)
        failures = tuple(Failure(group[i].id, failed[i]) for i in sorted(failed))
        if not kept:
            return Edited(None, failures)
        with packed_products(self.lm), wide_passes(self.lm):
            states = KeyStates.of(self.lm, [encoded[i] for i in kept], self.settings.layers[0], self.plan)
            deltas = self._deltas(states, torch.stack([wanted[i] for i in kept]).double())
        edit = Edit(deltas, tuple(group[i].id for i in kept))
        loss = math.fsum(losses[i] for i in kept) / len(kept)
        return Edited(replace(edit, diagnostics={"update_frobenius": edit.frobenius(), "loss": loss}), failures)

    def _targets(
        self, encoded: dict[int, Encoded], failed: dict[int, str]
    ) -> tuple[dict[int, Tensor], dict[int, float]]:
        """Return z and the loss of each request whose search came to an end; note why the others have none."""
        find = plain.find_targets if self.engine == "plain" else find_targets
        search, wanted, losses = _Search.of(self.settings), dict[int, Tensor](), dict[int, float]()

        def run(batch: Sequence[int]) -> None:
            found: Targets = find(self.lm, [encoded[i] for i in batch], search)
            for i, z, loss, passes in zip(batch, found.wanted, found.loss.tolist(), found.passes.tolist(), strict=True):
                if math.isfinite(loss) and bool(z.isfinite().all()):
                    wanted[i], losses[i] = z, loss
                else:
                    failed[i] = f"the loss became {loss} at forward pass {passes}"

        for batch in cut(encoded, lambda item: item.suffixes, self.plan.tokens_per_batch, padded=False):
            for i in in_halves("edit", batch, run, self.plan):
                failed[i] = "out of memory with one request"
        return wanted, losses

    def _deltas(self, states: "KeyStates", wanted: Tensor) -> tuple[LowRank, ...]:
        """Write the layers from the lowest up; `wanted` is Z, (n, width), float64."""
        lm, layers = self.lm, self.settings.layers
        deltas: list[LowRank] = []
        for place, layer in enumerate(layers):
            keys, present = states.look(lm, layer, layers[-1], deltas[-1:])
            residual = (wanted - present) / (len(layers) - place)
            left = self.write(layer, keys, residual)
            dtype = lm.working_dtype
            deltas.append(LowRank(lm.layout.fc_out(layer), left.to(lm.device, dtype), residual.to(lm.device, dtype)))
        return tuple(deltas)


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
    def look(self, lm: LM, layer: int, last: int, written: Sequence[LowRank]) -> tuple[Tensor, Tensor]:
        """Go on to a layer, and return what stands there and after the last edited one.

        Args:
            lm: the model.
            layer: whose keys are wanted; not below the one reached.
            last: L.
            written: what was written since the last call, to layers from the one reached on.

        Returns:
            K, (n, d_in): the mean of a request's bare key and the mean of its keys in contexts; and H, (n, width): the
            stream after L, of the bare prompt. Both float64.
        """
        key = Site(lm.layout.fc_out(layer), "in")
        keys, tops = [], []
        with merged(lm, [Edit(tuple(written), ())]):
            for part in self.parts:
                tape = Tape()
                with hooked(lm.model, tape.read(key)):
                    part.hidden = self._run(lm, part, part.hidden, self.layer, layer)
                    top = self._run(lm, part, part.hidden, layer, last + 1)
                keys.append(tape[key][0, part.ends].double())
                tops.append(top[0, part.ends].double())
        self.layer = layer
        found = torch.cat(keys)[self.places]
        bare, contexts = found[:, 0], found[:, 1:]
        mean = bare if contexts.shape[1] == 0 else (bare + contexts.mean(1)) / 2
        return mean, torch.cat(tops)[self.places[:, 0]]

    @staticmethod
    def _run(lm: LM, part: _Part, hidden: Tensor, start: int, stop: int) -> Tensor:
        return run_blocks(lm, hidden, start, stop, positions=part.positions, rows=part.rows) if stop > start else hidden


def _cut(row: Row) -> tuple[int, ...]:
    """A row's tokens up to its lookup position: nothing after it acts on what is read there."""
    return row.ids[: row.lookup + 1]


def check_layers(layers: Sequence[int], lm: LM) -> None:
    """Raise `BadInput` unless the model has these layers and they are in ascending order."""
    if not layers or list(layers) != sorted(set(layers)):
        raise BadInput(f"layers: expected one layer or more in ascending order, got {list(layers)}")
    for layer in layers:
        check_layer(layer, lm)
