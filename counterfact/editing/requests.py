"""Requests as rows of tokens, in batches that fit the memory; one that fails costs nobody else anything."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from counterfact.contracts.editors import Edited, Failure, Group
from counterfact.core.prompts import fill
from counterfact.core.records import Request
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.encoding import SubjectRule
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan, in_halves

KL_TEMPLATE = "{} is a"
"""The sentence whose next-token distribution at the subject ROME keeps (paper, eq. 4)."""


@dataclass(frozen=True)
class Row:
    """One sentence as tokens."""

    ids: tuple[int, ...]
    lookup: int
    """The position the editor looks the subject up at."""


@dataclass(frozen=True)
class Encoded:
    """One request as rows: one a context template, the bare prompt first, then perhaps the KL term's."""

    rows: tuple[Row, ...]
    target: tuple[int, ...]
    """Token ids of the new object. All but the last stand at the end of every context row."""

    @property
    def suffixes(self) -> int:
        """Tokens of all rows from their lookup positions on."""
        return sum(len(row.ids) - row.lookup for row in self.rows)

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.ids) for row in self.rows)


def encode(lm: LM, request: Request, templates: Sequence[str], position: SubjectRule, *, kl_row: bool) -> Encoded:
    """Turn a request into rows.

    Args:
        lm: the model.
        request: what to edit.
        templates: context templates, each with one `{}` that takes the request's own template.
        position: which token is the lookup position, as `LM.locate` names it.
        kl_row: whether to add the row `{} is a` for ROME's KL term, cut after its lookup position: what follows never
            acts on it.

    Raises:
        ValueError: the subject or the target cannot be found in the tokens, or a row is too long for the model.
    """
    if not request.subject.strip():
        raise ValueError("the subject is empty")
    target = tuple(lm.target_tokens(request.target_new, request.joiner))
    prompts = [fill(template, request.prompt) for template in templates]
    located = lm.locate([*prompts, KL_TEMPLATE], [request.subject] * (len(prompts) + 1), position)
    rows = [Row((*ids, *target[:-1]), index) for ids, index in located[:-1]]
    if kl_row:
        ids, index = located[-1]
        rows.append(Row(tuple(ids[: index + 1]), index))
    encoded = Encoded(tuple(rows), target)
    if encoded.length > lm.max_length:
        raise ValueError(f"the prompt takes {encoded.length} tokens, the model at most {lm.max_length}")
    return encoded


E = TypeVar("E", bound=Encoded)
R = TypeVar("R")


def edit_each(
    groups: Sequence[Group],
    encode: Callable[[Request], E],
    run: Callable[[list[E]], Sequence[R]],
    finish: Callable[[Request, R], Edit | Failure],
    *,
    size: Callable[[E], int],
    plan: Plan,
    most: int | None = None,
    padded: bool = True,
) -> list[Edited]:
    """Edit groups of one request each, batch by batch.

    Args:
        groups: what to edit.
        encode: request -> rows; a `ValueError` becomes a `Failure`.
        run: a batch -> one result for each. A batch that is out of memory is halved, which the plan notes; a batch of
            one becomes a `Failure`.
        finish: a result -> the edit.
        size, plan, most, padded: how large a batch may be, as in `cut`.

    Returns:
        What became of each group, in order.
    """
    requests = [request for [request] in groups]
    encoded, failed = encode_group(requests, encode)
    results: dict[int, Edit | Failure] = {i: Failure(requests[i].id, reason) for i, reason in failed.items()}

    def run_batch(batch: Sequence[int]) -> None:
        made = run([encoded[i] for i in batch])
        results.update((i, finish(requests[i], result)) for i, result in zip(batch, made, strict=True))

    for batch in cut(encoded, size, plan.tokens_per_batch, most, padded):
        for i in in_halves("edit", batch, run_batch, plan):
            results[i] = Failure(requests[i].id, "out of memory with one request")
    return [Edited.of(results[i]) for i in range(len(requests))]


def encode_group(group: Group, encode: Callable[[Request], E]) -> tuple[dict[int, E], dict[int, str]]:
    """Turn the requests of a group into rows.

    Returns:
        The rows of each, by its place in the group, and why others have none: what `encode` said in a `ValueError`.
    """
    encoded: dict[int, E] = {}
    failed: dict[int, str] = {}
    for i, request in enumerate(group):
        try:
            encoded[i] = encode(request)
        except ValueError as error:
            failed[i] = str(error)
    return encoded, failed


def failures_of(group: Group, failed: Mapping[int, str]) -> tuple[Failure, ...]:
    """Return why requests of a group failed, in their order; `failed` has the reasons by place in the group."""
    return tuple(Failure(group[i].id, failed[i]) for i in sorted(failed))


def cut(
    items: Mapping[int, E], size: Callable[[E], int], tokens: int, most: int | None = None, padded: bool = True
) -> list[list[int]]:
    """Cut requests into batches of like shape, of at most `tokens` tokens and `most` requests.

    The batches depend on the arguments alone.

    Args:
        items: requests as rows.
        size: tokens of one request, when it is alone.
        tokens, most: limits. A request that is too large by itself is a batch of its own.
        padded: whether every request of a batch takes as many tokens as the largest.

    Returns:
        The keys of `items`, batch by batch.
    """
    order = sorted(items, key=lambda i: (len(items[i].target), size(items[i]), items[i].length, i))
    batches: list[list[int]] = []
    sizes: list[int] = []
    for i in order:
        sizes.append(size(items[i]))
        used = max(sizes) * len(sizes) if padded else sum(sizes)
        if batches and used <= tokens and (most is None or len(sizes) <= most):
            batches[-1].append(i)
        else:
            batches.append([i])
            sizes = sizes[-1:]
    return batches
