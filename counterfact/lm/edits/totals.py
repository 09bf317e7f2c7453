"""Edits made one on top of the other, as one: kept as factors while these are smaller than the matrix, then as that."""

from collections.abc import Sequence

import torch
from torch import Tensor

from counterfact.lm.edits.edit import Delta, Dense, Edit, LowRank, is_smaller_in_factors, parts_of

NOTHING = Edit((), ())
"""The edit that nothing was added to yet."""


def added(total: Edit, edit: Edit) -> Edit:
    r"""Return two edits as one, with one change for each module.

    Factors of a $(d_{in}, d_{out})$ weight are kept while their rank is below $d_{in} d_{out} / (d_{in} + d_{out})$,
    where they are smaller than the matrix. Sums are in the dtype of the changes, on their device.

    Args:
        total: what was added up so far.
        edit: made on top of it; its context stands after the total's.

    >>> one = Edit((LowRank("m", torch.ones(1, 6), torch.ones(1, 6)),), (0,))
    >>> two = added(one, one)
    >>> two.deltas[0].left.shape, added(two, one).deltas[0].weight_change[0, 0]
    (torch.Size([2, 6]), tensor(3.))
    """
    both = Edit((*total.deltas, *edit.deltas), (*total.request_ids, *edit.request_ids))
    return Edit(tuple(map(_one, both.by_module.values())), both.request_ids, context=total.context + edit.context)


def is_finite(edit: Edit) -> bool:
    """Return whether an edit holds numbers only."""
    return all(bool(getattr(delta, part).isfinite().all()) for delta in edit.deltas for part in parts_of(delta))


def _one(deltas: Sequence[Delta]) -> Delta:
    low = [delta for delta in deltas if isinstance(delta, LowRank)]
    rank = sum(len(delta.left) for delta in low)
    if len(low) < len(deltas) or not is_smaller_in_factors(rank, deltas[0].shape):
        return _whole(deltas)
    left, right = (torch.cat([getattr(delta, part).detach() for delta in low]) for part in ("left", "right"))
    return LowRank(low[0].module, left, right)


def _whole(deltas: Sequence[Delta]) -> Dense:
    total: Tensor = deltas[0].weight_change.detach().clone()
    for delta in deltas[1:]:
        total += delta.weight_change.detach()
    return Dense(deltas[0].module, total.contiguous())
