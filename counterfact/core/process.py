"""How a program of ours behaves towards the machine: how its threads wait, and what it keeps of its memory."""

import ctypes
import sys
from collections.abc import Mapping, MutableMapping

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""How threads wait for each other: by sleeping, with GNU's OpenMP after some microseconds.

Threads that spin for long take the cores from other programs, measured 13 to 50 times slower then; threads that sleep
at once make a small model up to 1.5 times slower on an idle machine (docs/speed.md).
"""
PRODUCTS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
"""How many compiled products oneDNN keeps, and how many of them torch does: one for each number of rows.

At their 1,024, memory grows by half a megabyte a record until some thousands are measured; 128 cost no time.
"""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""The GNU C library's names of what `mallopt` sets."""
KEPT, LARGE = 2**30, 2**25
"""Bytes free at the end of the heap from which on they are given back; bytes of a piece that is mapped by itself."""


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Let threads wait so unless the user has set any of it; it is read when torch is first imported."""
    if not WAITING.keys() & environment.keys():
        environment.update(WAITING)


def keep_few_products(environment: MutableMapping[str, str]) -> None:
    """Let compiled products be dropped sooner, unless the user says when; it is read when torch is first imported."""
    for name, value in PRODUCTS.items():
        environment.setdefault(name, value)


def keep_freed_memory(environment: Mapping[str, str]) -> bool:
    """Let freed memory be used again instead of being given back and requested anew, page by page, by the next tensor.

    Of the GNU C library; pieces of 32 MiB or more are still given back at once, and so is what is free beyond 1 GiB.

    Returns:
        Whether it was set: not where the user says something about `malloc`, nor with another library.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in environment):
        return False
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version")):
        return False
    set_large = bool(library.mallopt(M_MMAP_THRESHOLD, LARGE))
    return bool(library.mallopt(M_TRIM_THRESHOLD, KEPT)) and set_large
