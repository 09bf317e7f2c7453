"""Whose turn it is to ask a server: one process at a time, and none before the server wants to be asked again.

Processes that share a cache share a folder beside it with a folder for every server. Who asks holds that folder's lock;
its time of change is when the server may be asked next, so that a `Retry-After` outlives the process that was told.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from counterfact.core.files import one_writer


class Turn:
    """The right to ask one server, for the length of a block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def free_at(self) -> float:
        """When the server may be asked, in seconds since 1970."""
        return self._folder.stat().st_mtime

    def leave_alone_until(self, moment: float) -> None:
        """Say when the server may be asked next, by whoever is next."""
        os.utime(self._folder, (moment, moment))


class Turns:
    """The turns at all servers, of all processes with one cache.

    Args:
        cache: the file of the cache; the turns lie beside it.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = cache.with_name(f"{cache.name}.turns")

    @contextmanager
    def take(self, endpoint: str) -> Iterator[Turn]:
        """Wait until nobody else asks the server of this address, and keep all others waiting; a kill lets go."""
        folder = self._folder / quote(urlsplit(endpoint).netloc, safe=".-")
        with one_writer(folder, wait=True):
            yield Turn(folder)
