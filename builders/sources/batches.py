"""Asks a source about many things, block by block, in blocks as big as the source bears."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from .sparql import Answer, SourceError, SparqlSource, TooMuch

T = TypeVar("T")

_GROWTH = 20
_FEW = 10


def blocks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut values into lists of `size`, the last one shorter.

    >>> list(blocks("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    left = iter(values)
    while block := list(islice(left, size)):
        yield block


def ask_in_blocks(
    source: SparqlSource, values: Sequence[T], size: int, query: Callable[[Sequence[T]], str]
) -> Iterator[Answer]:
    """Ask about all values, and yield the answers.

    A block that is more than the source bears is halved; then blocks grow again, by a twentieth of `size` after each
    answer, but stay smaller than the smallest that was too much.

    Args:
        source: is asked.
        values: what it is asked about.
        size: values a query, at most.
        query: the text that asks about a block.
    """
    start, bears, most = 0, size, size
    while start < len(values):
        block = values[start : start + bears]
        try:
            answer = select(source, query(block), divisible=len(block) > 1)
        except TooMuch:
            if len(block) == 1:
                raise
            most = len(block) - 1
            bears = len(block) // 2
            continue
        yield answer
        start += len(block)
        bears = min(most, bears + max(1, size // _GROWTH))


def select(source: SparqlSource, query: str, *, divisible: bool) -> Answer:
    """Answer a query; that there is nothing is believed only when it is said twice."""
    answer = source.select(query, divisible=divisible)
    if answer.rows or answer.unknown:
        return answer
    return source.select(f"{query}\n# asked again, since the answer was empty", divisible=divisible)


def expect(found: int, known: int, what: str) -> None:
    """Refuse answers that lack what is known to be there; a live source may have lost a few since it said so.

    Raises:
        SourceError: a hundredth and more than a few are missing, or all.

    >>> expect(95, 100, "subjects")
    """
    if (known and not found) or known - found > max(_FEW, known // 100):
        raise SourceError(
            f"the source of facts contradicts itself: {what}: {found:,} came where {known:,} were known. Nothing is "
            "concluded from that; build again with a new cache"
        )
