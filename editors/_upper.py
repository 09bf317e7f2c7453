"""The upper half of a model on the tokens that an intervention can change, everything before them held constant.

An intervention at a row's lookup position acts on nothing before it. So the tokens before it pass through the
upper layers once, and only their attention keys and values are kept; a step of a search then runs the tokens from
the lookup position on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editors._rows import Lower
from lm.loading import LM
from lm.stack import ConstantPrefix, Recorder, causal_mask, run_blocks


@dataclass(frozen=True)
class Upper:
    """Rows of several records, ready to be run from the edited layer on. The first dimension is the record."""

    start: int
    """The first layer above the edited one."""
    hidden: Tensor
    """Output of the edited layer from the lookup position on, (records, rows, suffix, width)."""
    positions: Tensor
    """(records, rows, suffix)."""
    mask: Tensor
    """What is added to attention scores, (records, rows, 1, suffix, prefix + suffix)."""
    keys: Mapping[int, Tensor]
    """Of the tokens before, by layer, (records, rows, heads, prefix, head width); empty where there are none."""
    values: Mapping[int, Tensor]

    def keep(self, records: Tensor) -> "Upper":
        """Go on with these records only."""
        return replace(
            self,
            hidden=self.hidden[records],
            positions=self.positions[records],
            mask=self.mask[records],
            keys={layer: key[records] for layer, key in self.keys.items()},
            values={layer: value[records] for layer, value in self.values.items()},
        )

    def run(self, lm: LM, delta: Tensor) -> Tensor:
        """Add `delta` (records, width) at every row's lookup position and run the upper layers.

        Returns:
            The hidden states, (records, rows, suffix, width).
        """
        first = self.hidden[:, :, :1] + delta.to(self.hidden.dtype)[:, None, None]
        hidden = torch.cat([first, self.hidden[:, :, 1:]], 2)
        prefix = self._prefix() if self.keys else None
        run = run_blocks(
            lm,
            hidden.flatten(0, 1),
            self.start,
            lm.n_layers,
            positions=self.positions.flatten(0, 1),
            mask=self.mask.flatten(0, 1),
            cache=prefix,
        )
        return run.view_as(hidden)

    def _prefix(self) -> ConstantPrefix:
        keys = {layer: key.flatten(0, 1) for layer, key in self.keys.items()}
        values = {layer: value.flatten(0, 1) for layer, value in self.values.items()}
        return ConstantPrefix(keys, values)


@torch.no_grad()
def run_prefix(lm: LM, lower: Lower, lookup: Tensor, lengths: Tensor, records: int, start: int) -> Upper:
    """Run the tokens before each row's lookup position through the upper layers, and lay out the others.

    Args:
        lm: the model.
        lower: a pass over rows padded on the right, rows of one record together.
        lookup: lookup positions, (rows,).
        lengths: tokens of each row, (rows,).
        records: how many records the rows belong to.
        start: the first layer above the edited one.
    """
    width = int(lookup.max())
    recorder = Recorder()
    if width:
        run_blocks(lm, lower.hidden[:, :width], start, lm.n_layers, positions=lower.positions[:width], cache=recorder)
    suffix = int((lengths - lookup).max())
    offsets = torch.arange(suffix, device=lookup.device)
    positions = (lookup[:, None] + offsets).clamp(max=lower.hidden.shape[1] - 1)
    index = positions[..., None].expand(-1, -1, lower.hidden.shape[2])
    seen = torch.arange(width, device=lookup.device) < lookup[:, None]
    return Upper(
        start=start,
        hidden=_by_record(lower.hidden.gather(1, index), records),
        positions=_by_record(positions, records),
        mask=_by_record(causal_mask(lm, suffix, width, seen), records),
        keys={layer: _by_record(key, records) for layer, key in recorder.keys.items()},
        values={layer: _by_record(value, records) for layer, value in recorder.values.items()},
    )


def _by_record(tensor: Tensor, records: int) -> Tensor:
    return tensor.reshape(records, -1, *tensor.shape[1:])
