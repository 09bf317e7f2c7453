"""Work through many requests in batches that fit the memory; a request that fails costs nobody else anything."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from core.records import Request
from editors import Failure
from editors._rows import Encoded
from lm.edits import Edit
from lm.plan import Plan, in_halves

E = TypeVar("E", bound=Encoded)
R = TypeVar("R")


def edit_each(
    requests: Sequence[Request],
    encode: Callable[[Request], E],
    run: Callable[[list[E]], Sequence[R]],
    finish: Callable[[Request, R], Edit | Failure],
    *,
    size: Callable[[E], int],
    plan: Plan,
    most: int | None = None,
) -> list[Edit | Failure]:
    """Edit requests batch by batch.

    Args:
        requests: what to edit.
        encode: request -> rows; a `ValueError` becomes a `Failure`.
        run: a batch -> one result for each. A batch that is out of memory is halved, which the plan notes; a batch of
            one becomes a `Failure`.
        finish: a result -> the edit.
        size, plan, most: how large a batch may be, as in `cut`.

    Returns:
        One edit or failure for each request, in order.
    """
    results: dict[int, Edit | Failure] = {}
    encoded: dict[int, E] = {}
    for i, request in enumerate(requests):
        try:
            encoded[i] = encode(request)
        except ValueError as error:
            results[i] = Failure(request.id, str(error))

    def run_batch(batch: Sequence[int]) -> None:
        made = run([encoded[i] for i in batch])
        results.update((i, finish(requests[i], result)) for i, result in zip(batch, made, strict=True))

    for batch in cut(encoded, size, plan.tokens_per_batch, most):
        for i in in_halves("edit", batch, run_batch, plan):
            results[i] = Failure(requests[i].id, "out of memory with one request")
    return [results[i] for i in range(len(requests))]


def cut(items: Mapping[int, E], size: Callable[[E], int], tokens: int, most: int | None = None) -> list[list[int]]:
    """Cut requests into batches of like shape, of at most `tokens` tokens (padding included) and `most` requests.

    The batches depend on the arguments alone.

    Args:
        items: requests as rows.
        size: tokens of one request, when it is alone.
        tokens, most: limits. A request that is too large by itself is a batch of its own.

    Returns:
        The keys of `items`, batch by batch.
    """
    order = sorted(items, key=lambda i: (len(items[i].target), size(items[i]), items[i].length, i))
    batches: list[list[int]] = []
    largest = 0
    for i in order:
        largest = max(largest, size(items[i]))
        count = len(batches[-1]) + 1 if batches else 0
        if count and count * largest <= tokens and (most is None or count <= most):
            batches[-1].append(i)
        else:
            batches.append([i])
            largest = size(items[i])
    return batches
