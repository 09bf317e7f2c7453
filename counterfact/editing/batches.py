"""Work through many requests in batches that fit the memory; a request that fails costs nobody else anything."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from counterfact.contracts.editors import Edited, Failure, Group
from counterfact.core.records import Request
from counterfact.editing.requests import Encoded
from counterfact.lm.edits.edit import Edit
from counterfact.lm.planning.batch_plan import Plan, in_halves

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
