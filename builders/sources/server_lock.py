"""A lock for each server: one process at a time sends it a request, and none before the server allows it.

Processes that share a cache share a folder beside it, with a folder for every server. Whoever sends a request holds
that folder's lock; its modification time is when the server may be sent the next request, so that a
`Retry-After` outlives the process that received it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from counterfact.core.files import one_writer


class ServerLock:
    """The right to send one server a request.

    Args:
        folder: the server's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def free_at(self) -> float:
        """Time from which the server may be sent a request, in seconds since 1970."""
        return self._folder.stat().st_mtime

    def postpone(self, moment: float) -> None:
        """Allow no request before `moment`, in seconds since 1970, nor before a later one set already."""
        latest = max(moment, self.free_at)
        os.utime(self._folder, (latest, latest))


@contextmanager
def server_lock(cache: Path, endpoint: str) -> Iterator[ServerLock]:
    """Hold the lock of the server at an address; other processes wait, and a kill releases it.

    Args:
        cache: the file of the cache, beside which the locks lie.
        endpoint: an address on the server.
    """
    folder = cache.with_name(f"{cache.name}.locks") / quote(urlsplit(endpoint).netloc, safe=".-")
    with one_writer(folder, wait=True):
        yield ServerLock(folder)
