"""Two ways to apply edits, to each row of a batch its own or all to the model itself; tested equal."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from counterfact.lm.edits.edit import Delta, Dense, Edit, LowRank, check_edits, is_smaller_in_factors
from counterfact.lm.forward.ragged import RaggedRows
from counterfact.lm.model.hooks import Patch, Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape, weight_view


@contextmanager
def per_row(lm: LM, edits: Sequence[Edit], edit_index: Sequence[int] | Tensor) -> Iterator[None]:
    """Run each row of every batch within the block under an edit of its own.

    Position-free, so it holds in generation with a cache too; reordering rows (beam search) is not allowed.

    Args:
        lm: the model.
        edits: the edits that rows may be run under.
        edit_index: for each row of the batch, the index of its edit, or -1 for the unedited model.

    Raises:
        LookupError, ValueError: an edit's module is not in the model or has another shape, or an index names no edit.
    """
    with EditStack(lm, edits).rows(edit_index):
        yield


Products = Mapping[int, tuple[Tensor, ...]]
"""By edit, the matrices A, B ... of its change of a module: y += x A B ..."""
SHARED = 256
"""Vectors that would be copied for an edit's rows, from which on all rows of an edit are multiplied together."""


class EditStack:
    """Edits made ready to be applied row by row: low ranks padded with zeros to one rank and stacked by module.

    Single facts have factors of few vectors, which are copied for each row, so that all edits are one product. Where an
    edit holds many facts, or many rows share it, its rows are multiplied together and nothing is copied; factors that
    are no smaller than the matrix are multiplied out first. Sums and products are in float32, or float64 for a model of
    that dtype, whatever the model's own dtype.
    """

    def __init__(self, lm: LM, edits: Sequence[Edit]) -> None:
        check_edits(lm, edits)
        self._lm = lm
        self._count = len(edits)
        self._dtype = lm.working_dtype
        names = dict.fromkeys(name for edit in edits for name in edit.modules)
        self._low: dict[str, tuple[Tensor, Tensor]] = {}
        self._factored: dict[str, Products] = {}
        self._dense: dict[str, Products] = {}
        for name in names:
            factors = self._factors(name, edits)
            self._add_low(name, factors)
            self._add_dense(name, edits, factors.keys())

    @contextmanager
    def rows(self, edit_index: Sequence[int] | Tensor, ragged: RaggedRows | None = None) -> Iterator[None]:
        """Apply them to every batch within the block.

        Args:
            edit_index: as for `per_row`.
            ragged: the rows, where they stand one after the other.
        """
        with hooked(self._lm.model, *self._pairs(edit_index, ragged)):
            yield

    def _factors(self, name: str, edits: Sequence[Edit]) -> dict[int, list[LowRank]]:
        """Return the changes of a module that are kept as factors, by edit."""
        shape = weight_shape(self._lm.model, name)
        found = {
            i: [d for d in edit.deltas if isinstance(d, LowRank) and d.module == name] for i, edit in enumerate(edits)
        }
        return {i: low for i, low in found.items() if _rank(low) and is_smaller_in_factors(_rank(low), shape)}

    def _add_low(self, name: str, factors: Mapping[int, Sequence[LowRank]]) -> None:
        if not factors:
            return
        device, most = weight_view(self._lm.model, name).device, max(map(_rank, factors.values()))
        d_in, d_out = weight_shape(self._lm.model, name)
        # One row of zeros more than there are edits: the unedited model.
        left = torch.zeros(self._count + 1, most, d_in, dtype=self._dtype, device=device)
        right = torch.zeros(self._count + 1, most, d_out, dtype=self._dtype, device=device)
        for i, low in factors.items():
            left[i, : _rank(low)] = torch.cat([d.left.detach() for d in low])
            right[i, : _rank(low)] = torch.cat([d.right.detach() for d in low])
        self._low[name] = left, right
        self._factored[name] = {i: (left[i, : _rank(low)].T, right[i, : _rank(low)]) for i, low in factors.items()}

    def _add_dense(self, name: str, edits: Sequence[Edit], in_factors: Container[int]) -> None:
        device = weight_view(self._lm.model, name).device
        found: dict[int, Tensor] = {}
        for i, edit in enumerate(edits):
            for delta in edit.deltas:
                if delta.module == name and (isinstance(delta, Dense) or i not in in_factors):
                    change = _whole(delta, device, self._dtype)
                    found[i] = found[i] + change if i in found else change
        if found:
            self._dense[name] = {i: (change,) for i, change in found.items()}

    def _pairs(self, edit_index: Sequence[int] | Tensor, ragged: RaggedRows | None) -> list[tuple[Site, Patch]]:
        listed = edit_index.tolist() if isinstance(edit_index, Tensor) else list(edit_index)
        wrong = [i for i in listed if not -1 <= i < self._count]
        if wrong:
            raise ValueError(f"expected edit indices from -1 to {self._count - 1}, got {wrong[0]}")
        if ragged is not None:
            listed = [listed[row] for row in ragged.layout.order]
        tokens = _TokensByEdit(listed, ragged)
        pairs: list[tuple[Site, Patch]] = []
        for name, (left, right) in self._low.items():
            if len(listed) * left.shape[1] > SHARED * len(tokens.edits):
                pairs += _patched(name, partial(_add_by_edit, name, tokens, self._factored[name]))
            else:
                index = torch.tensor([i % (self._count + 1) for i in listed], device=left.device)
                pairs += low_rank_pairs(name, left[index], right[index], ragged)
        for name, changes in self._dense.items():
            pairs += _patched(name, partial(_add_by_edit, name, tokens, changes))
        return pairs


def _rank(changes: Sequence[LowRank]) -> int:
    return sum(len(change.left) for change in changes)


Change = Callable[[Tensor, Tensor], Tensor]
"""What a module is given (..., d_in) and gives (..., d_out) -> what it gives now."""


def low_rank_pairs(
    module: str, left: Tensor, right: Tensor, ragged: RaggedRows | None = None
) -> list[tuple[Site, Patch]]:
    """Return the patches that add to a module's output y += (x Lᵀ) R; gradients reach L and R.

    Args:
        module: name of a projection.
        left: L, (rows, rank, d_in), one for each row of the batch; or (rank, d_in), the same for all.
        right: R, (rows, rank, d_out) or (rank, d_out).
        ragged: of rows that stand one after the other; `left` and `right` are in their order.
    """
    if left.dim() == 2:
        return _patched(module, partial(_add_products, (left.T, right)))
    return _patched(module, partial(_add_by_row, module, left, right, ragged))


def _patched(module: str, change: Change) -> list[tuple[Site, Patch]]:
    tape, site = Tape(), Site(module, "in")
    return [tape.read(site), (Site(module), lambda output: change(tape.pop(site), output))]


def _add_by_row(
    module: str, left: Tensor, right: Tensor, ragged: RaggedRows | None, given: Tensor, output: Tensor
) -> Tensor:
    """y + (x Lᵀ) R, with `left` (rows, rank, d_in) and `right` (rows, rank, d_out)."""

    def add(rows: slice, given: Tensor, output: Tensor) -> Tensor:
        change = torch.bmm(given.to(left.dtype), left[rows].transpose(1, 2))  # (rows, tokens, rank)
        return torch.baddbmm(output.to(left.dtype), change, right[rows]).to(output.dtype)

    if ragged is not None:
        return ragged.layout_of(given).by_group(add, given, output)
    _check_rows(module, len(left), given)
    return add(slice(0, len(left)), given, output)


def _check_rows(module: str, rows: int, given: Tensor) -> None:
    if given.dim() != 3 or given.shape[0] != rows:
        raise ValueError(f"{module}: expected (rows, tokens, d_in) with {rows} rows, got {tuple(given.shape)}")


class _TokensByEdit:
    """Which tokens of a batch are run under which edit: asked by every module, found once for each number of tokens."""

    def __init__(self, edit_index: Sequence[int], ragged: RaggedRows | None) -> None:
        self._edit_index = edit_index
        """The edit of each row, in the order in which they stand."""
        self._ragged = ragged
        self._found: dict[tuple[int, torch.device], dict[int, Tensor]] = {}
        self.edits = set(edit_index)

    def of(self, module: str, given: Tensor) -> dict[int, Tensor]:
        """Return the places of each edit's tokens among those of a module's input, its first two dimensions as one."""
        rows, tokens, key = len(self._edit_index), given.shape[1], (given.shape[1], given.device)
        if self._ragged is None:
            _check_rows(module, rows, given)
        if key not in self._found:
            if self._ragged is None:
                lengths = [tokens] * rows
            else:
                lengths = [group.length for group in self._ragged.layout_of(given).groups for _ in range(group.rows)]
            owners = torch.tensor(self._edit_index).repeat_interleave(torch.tensor(lengths))
            places = {edit: (owners == edit).nonzero()[:, 0] for edit in self.edits}
            self._found[key] = {edit: at.to(given.device) for edit, at in places.items()}
        return self._found[key]


def _add_by_edit(
    module: str,
    tokens: _TokensByEdit,
    changes: Products,
    given: Tensor,
    output: Tensor,
) -> Tensor:
    """y + x A B ... for the tokens of each edit together, so that no change is ever copied for a row."""
    places = tokens.of(module, given)
    edited = places.keys() & changes.keys()
    if not edited:
        return output
    if len(places) == 1:
        return _add_products(changes[edited.pop()], given, output)
    flat, result = given.flatten(0, 1), output.flatten(0, 1).clone()
    for edit in edited:
        result[places[edit]] = _add_products(changes[edit], flat[places[edit]], result[places[edit]])
    return result.view(output.shape)


def _add_products(matrices: Sequence[Tensor], given: Tensor, output: Tensor) -> Tensor:
    """y + x A B ..., in the dtype of the matrices, returned in that of y."""
    change = given.to(matrices[0].dtype)
    for matrix in matrices:
        change = change @ matrix
    return (output.to(change.dtype) + change).to(output.dtype)


@contextmanager
def merged(lm: LM, edits: Sequence[Edit]) -> Iterator[None]:
    """Write all of `edits` into the weights for the length of the block; afterwards they are as before, bit for bit.

    Raises:
        LookupError, ValueError: as `per_row`, or an edit has a context, which no weight holds; nothing is changed then.
    """
    if any(edit.context for edit in edits):
        raise ValueError("an edit that is a text before the prompt cannot be written into weights")
    check_edits(lm, edits)
    changed = dict.fromkeys(name for edit in edits for name in edit.modules)
    before = len(lm.written)
    saved = {name: weight_view(lm.model, name).detach().clone() for name in changed}
    try:
        with torch.no_grad():
            for name, total in edited_weights(lm, edits):
                weight_view(lm.model, name).copy_(total)
        lm.written.extend(edit for edit in edits if edit.deltas)
        yield
    finally:
        del lm.written[before:]
        with torch.no_grad():
            for name, weight in saved.items():
                weight_view(lm.model, name).copy_(weight)


def edited_weights(lm: LM, edits: Sequence[Edit]) -> Iterator[tuple[str, Tensor]]:
    """Yield, for each module that edits change, its name and its weight with all of them, (d_in, d_out).

    Sums are in float32, or float64 for a model of that dtype: nothing is rounded to the model's own dtype.
    """
    together = Edit(tuple(delta for edit in edits for delta in edit.deltas), ())
    for name, deltas in together.by_module.items():
        weight = weight_view(lm.model, name).detach()
        total = weight.to(lm.working_dtype, copy=True)
        for delta in deltas:
            total += _whole(delta, weight.device, lm.working_dtype)
        yield name, total


def _whole(delta: Delta, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The change as a whole matrix, multiplied out in `dtype`."""
    if isinstance(delta, Dense):
        return delta.weight_change.detach().to(device, dtype)
    return delta.left.detach().to(device, dtype).T @ delta.right.detach().to(device, dtype)
