"""Queries about many entities, in batches as large as the source can answer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from .sparql import QueryResult, QueryTooLarge, SourceError, SparqlSource

T = TypeVar("T")

BYTES_A_QUERY = 100_000
"""Longest text of a query; labels in some scripts take four times the bytes of others."""
_GROWTH = 20
_FEW = 10


def batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut values into lists of `size`, the last one shorter.

    >>> list(batches("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    left = iter(values)
    while batch := list(islice(left, size)):
        yield batch


def query_in_batches(
    source: SparqlSource,
    values: Sequence[T],
    size: int,
    query: Callable[[Sequence[T]], str],
    too_large: Callable[[T], object] | None = None,
) -> Iterator[QueryResult]:
    """Ask about all values, and yield the answers.

    A batch that is too large for the source is halved; then batches grow again, by a twentieth of `size` after each
    answer, but stay smaller than the smallest that was too large. No text is longer than a server may accept.

    Args:
        source: the source of facts.
        values: what the queries are about.
        size: values a query, at most.
        query: function that returns the text of the query about a batch.
        too_large: function that is told of a value which alone was too much, twice; by default that is an error.
    """
    start, bears, most = 0, size, size
    while start < len(values):
        batch = values[start : start + bears]
        text = query(batch)
        if len(batch) > 1 and len(text.encode()) > BYTES_A_QUERY:
            bears = len(batch) // 2
            continue
        answer: QueryResult | None
        try:
            answer = select(source, text, divisible=len(batch) > 1 or too_large is not None)
        except QueryTooLarge:
            if len(batch) > 1:
                most = len(batch) - 1
                bears = len(batch) // 2
                continue
            if too_large is None:
                raise
            answer = _asked_once_more(source, text)
            if answer is None:
                too_large(batch[0])
        if answer is not None:
            yield answer
        start += len(batch)
        bears = min(most, bears + max(1, size // _GROWTH))


def _asked_once_more(source: SparqlSource, query: str) -> QueryResult | None:
    try:
        return select(source, f"{query}\n# asked again, since it took too long", divisible=True)
    except QueryTooLarge:
        return None


def select(source: SparqlSource, query: str, *, divisible: bool) -> QueryResult:
    """Answer a query; an empty answer is believed only when it comes twice."""
    answer = source.select(query, divisible=divisible)
    if answer.rows or answer.unknown:
        return answer
    return source.select(f"{query}\n# asked again, since the answer was empty", divisible=divisible)


def require_complete(found: int, known: int, what: str) -> None:
    """Refuse answers that lack what is known to exist; a live source may have lost a few since it counted them.

    Raises:
        SourceError: a hundredth and more than a few are missing, or all.

    >>> require_complete(95, 100, "subjects")
    """
    if (known and not found) or known - found > max(_FEW, known // 100):
        raise SourceError(
            f"the source of facts contradicts itself: {what}: {found:,} came where {known:,} were known. Nothing is "
            "concluded from that; build again with a new cache"
        )
