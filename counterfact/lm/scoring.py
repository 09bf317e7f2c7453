"""How likely a model finds given continuations: many prompts, and many edits, in one batch."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from counterfact.lm.edits.apply import EditStack
from counterfact.lm.edits.edit import Edit, in_context
from counterfact.lm.forward.blocks import embed, logits, record_rows, run_blocks
from counterfact.lm.forward.caches import RecordedKV
from counterfact.lm.forward.products import fused_activations
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan, cut_at, default_plan, in_halves
from counterfact.lm.queries import Query, TargetScore, Unscored


class _Read(NamedTuple):
    """A token whose probability is read at a position of a row, and where it goes."""

    position: int
    token: int
    slot: int


@dataclass(frozen=True)
class _ScoredRow:
    """What is fed to the model, and what is read off."""

    ids: list[int]
    edit_index: int
    reads: list[_Read]
    query: int

    @property
    def tail(self) -> int:
        """How many of its last tokens are read."""
        return len(self.ids) - min(read.position for read in self.reads)


def score(
    lm: LM,
    queries: Sequence[Query],
    edit_index: Sequence[int] | None = None,
    edits: Sequence[Edit] = (),
    *,
    plan: Plan | None = None,
) -> list[tuple[TargetScore, ...] | Unscored]:
    """Score each query's targets under the query's edit.

    Rows stand one after the other, without padding, whatever the tokenizer's own. Targets that share
    all tokens but their last share a row, so that a prompt with one-token targets is run once. Logits are computed
    only where they are read, and normalised in float32 (float64 for a model of that dtype).

    Args:
        lm: the model.
        queries: what to score.
        edit_index: for each query, the index of its edit, or -1 for the unedited model; by default all -1.
        edits: what `edit_index` points into.
        plan: sizes of batches, by default those for the model on its device.

    Returns:
        In order, for each query, a score for each of its targets; or `Unscored` where the row is longer than the
        model takes, a target cannot be encoded, or memory does not suffice for one row.
    """
    plan = plan or default_plan(lm)
    edit_index = [-1] * len(queries) if edit_index is None else edit_index
    if len(edit_index) != len(queries):
        raise ValueError(f"expected one edit index for each of {len(queries)} queries, got {len(edit_index)}")
    rows, slots, failed = _lay_out(lm, queries, edit_index, edits)
    kept: list[tuple[list[int], Tensor, Tensor]] = []
    with torch.inference_mode(), fused_activations(lm):
        stack = EditStack(lm, edits) if edits else None
        for begin, alike in _by_context(rows, edits):
            before = _record(lm, begin, alike[0].edit_index, stack) if begin else None
            run = partial(_score_batch, lm, stack, before, len(begin), plan.logit_rows, kept)
            # Rows of like length of what is read together, so that little is computed that nobody reads.
            ordered = sorted(alike, key=lambda row: (row.tail, len(row.ids)))
            for batch in cut_at(ordered, lambda row: len(row.ids) - len(begin), plan.tokens_per_batch):  # noqa: B023
                for row in in_halves("score", batch, run, plan):
                    failed[row.query] = f"out of memory with one row of {len(row.ids)} tokens"
        found = _collect(kept)
    return [
        Unscored(failed[i]) if i in failed else tuple(_target_score(found, tokens) for tokens in slots[i])
        for i in range(len(queries))
    ]


def _lay_out(
    lm: LM, queries: Sequence[Query], edit_index: Sequence[int], edits: Sequence[Edit]
) -> tuple[list[_ScoredRow], list[list[list[int]]], dict[int, str]]:
    """Turn queries into rows; return them, the slots of each query's targets, and why queries have none."""
    prompts, unread = lm.encoding.each_prompt(in_context([query.prompt for query in queries], edit_index, edits))
    targets, unencodable = _encode(lm, {(query.joiner, target): None for query in queries for target in query.targets})
    rows: list[_ScoredRow] = []
    slots: list[list[list[int]]] = []
    failed: dict[int, str] = {}
    count = 0
    for i, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
        slots.append([])
        if reason := unread.get(i) or _refuse(lm, prompt, query, targets, unencodable):
            failed[i] = reason
            continue
        by_prefix: dict[tuple[int, ...], _ScoredRow] = {}
        for target in query.targets:
            ids = targets[query.joiner, target]
            row = by_prefix.setdefault(tuple(ids[:-1]), _ScoredRow([*prompt, *ids[:-1]], edit_index[i], [], i))
            places = range(len(prompt) - 1, len(row.ids))
            row.reads.extend(_Read(p, t, count + j) for j, (p, t) in enumerate(zip(places, ids, strict=True)))
            slots[i].append(list(range(count, count + len(ids))))
            count += len(ids)
        rows.extend(by_prefix.values())
    return rows, slots, failed


_Joined = tuple[str, str]
"""A target behind its joiner."""


def _encode(lm: LM, targets: Iterable[_Joined]) -> tuple[dict[_Joined, list[int]], dict[_Joined, str]]:
    """Return the ids of each target, and the reason for each that has none."""
    ids: dict[_Joined, list[int]] = {}
    reasons: dict[_Joined, str] = {}
    for joiner, target in targets:
        try:
            ids[joiner, target] = lm.target_tokens(target, joiner)
        except ValueError as error:
            reasons[joiner, target] = str(error)
    return ids, reasons


def _refuse(
    lm: LM, prompt: list[int], query: Query, targets: dict[_Joined, list[int]], unencodable: dict[_Joined, str]
) -> str | None:
    if not prompt:
        return "the prompt has no tokens"
    for target in ((query.joiner, each) for each in query.targets):
        if target in unencodable:
            return unencodable[target]
        if (length := len(prompt) + len(targets[target]) - 1) > lm.max_length:
            return f"prompt and target need {length} tokens, the model takes {lm.max_length}"
    return None


def _by_context(rows: Sequence[_ScoredRow], edits: Sequence[Edit]) -> Iterator[tuple[list[int], list[_ScoredRow]]]:
    """Yield the rows of each edit with a context, and the tokens that all of them begin with; the others together."""
    groups: dict[int, list[_ScoredRow]] = {}
    for row in rows:
        has_context = row.edit_index >= 0 and edits[row.edit_index].context
        groups.setdefault(row.edit_index if has_context else -1, []).append(row)
    for index, mine in groups.items():
        own = max(row.tail for row in mine)
        yield [] if index < 0 else _common_start([row.ids[: max(0, len(row.ids) - own)] for row in mine]), mine


def _common_start(rows: Sequence[list[int]]) -> list[int]:
    """Return what all rows begin with: that of the first and the last of them in lexical order.

    >>> _common_start([[5, 6, 7], [5, 6], [5, 6, 9, 1]])
    [5, 6]
    """
    first, last = min(rows), max(rows)
    return next((first[:i] for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), first)


def _record(lm: LM, begin: list[int], edit_index: int, stack: EditStack | None) -> RecordedKV:
    """Run what rows begin with, once for all of them."""
    layout = RaggedLayout.of([len(begin)])
    ids, positions = (torch.tensor([it], device=lm.device) for it in (begin, layout.counted()))
    rows = RaggedRows(layout, lm.device, tail=0)
    with stack.rows([edit_index], rows) if stack else nullcontext():
        return RecordedKV(*record_rows(lm, embed(lm, ids, positions), 0, positions, rows), [range(len(begin))])


def _score_batch(
    lm: LM,
    stack: EditStack | None,
    before: RecordedKV | None,
    begun: int,
    logit_rows: int,
    kept: list[tuple[list[int], Tensor, Tensor]],
    batch: Sequence[_ScoredRow],
) -> None:
    """Run one batch, and keep what is read.

    Args:
        lm: the model.
        stack: the edits, if there are any.
        before: keys and values of what all rows begin with, if there is anything.
        begun: how many tokens that is.
        logit_rows: positions whose logits are held at once.
        kept: what is found is appended here.
        batch: the rows.
    """
    layout = RaggedLayout.of([len(row.ids) - begun for row in batch])
    prefix = None if before is None else before.before([(0,)] * len(layout.groups), lm.model.dtype)
    ragged = RaggedRows(layout, lm.device, prefix, tail=max(row.tail for row in batch))
    ids = torch.tensor([layout.flat([row.ids[begun:] for row in batch])], device=lm.device)
    positions = torch.tensor([layout.counted([begun] * len(batch))], device=lm.device)
    with stack.rows([row.edit_index for row in batch], ragged) if stack else nullcontext():
        states = run_blocks(lm, embed(lm, ids, positions), 0, lm.n_layers, positions=positions, rows=ragged)[0]
        kept.extend(list(_read_off(lm, batch, ragged, states, begun, logit_rows)))


def _read_off(
    lm: LM, batch: Sequence[_ScoredRow], ragged: RaggedRows, states: Tensor, begun: int, logit_rows: int
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield slots, nats, and whether the token is the likeliest one, for groups of positions."""
    layout = ragged.layout
    place = {token: i for i, token in enumerate(ragged.asked_for.tolist())}
    where: dict[int, list[_Read]] = {token: [] for token in place}  # what is read at each token
    for row, start in zip(batch, layout.starts, strict=True):
        for read in row.reads:
            where[start + read.position - begun].append(read)
    read_at = [token for token, reads in where.items() if reads]
    reads = [(number, read) for number, token in enumerate(read_at) for read in where[token]]
    states = states[torch.tensor([place[token] for token in read_at], device=states.device)]
    for start in range(0, len(states), logit_rows):
        part = [(place - start, read) for place, read in reads if start <= place < start + logit_rows]
        scores = logits(lm, states[start : start + logit_rows])
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        index = torch.tensor([place for place, _ in part], device=scores.device)
        token = torch.tensor([read.token for _, read in part], device=scores.device)
        nats = scores.logsumexp(-1)[index] - scores[index, token]
        best = (scores.argmax(-1)[index] == token) & nats.isfinite()
        yield [read.slot for _, read in part], nats.clamp_min(0), best


def _collect(kept: Sequence[tuple[list[int], Tensor, Tensor]]) -> dict[int, tuple[float, bool]]:
    """Bring all results from the device at once."""
    if not kept:
        return {}
    nats = torch.cat([nats for _, nats, _ in kept]).tolist()
    best = torch.cat([best for _, _, best in kept]).tolist()
    slots = [slot for slots, _, _ in kept for slot in slots]
    return {slot: (nat, hit) for slot, nat, hit in zip(slots, nats, best, strict=True)}


def _target_score(found: dict[int, tuple[float, bool]], slots: Sequence[int]) -> TargetScore:
    values = [found[slot] for slot in slots]
    return TargetScore(sum(nat for nat, _ in values), len(values), tuple(hit for _, hit in values))
