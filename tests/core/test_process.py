"""What a program of ours asks of the machine, and that a user's word counts more."""

import os
import subprocess
import sys

import pytest

from counterfact.core.process import PRODUCTS, WAITING, keep_few_products, keep_freed_memory, wait_briefly

HELD = """
import sys
from pathlib import Path
from counterfact.core.process import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory({})

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = resident()
pieces = [bytearray(b"1" * 2**24) for _ in range(20)]
del pieces
print(resident() - before)
"""
"""How much more memory a program holds after it used, and freed, 320 MiB in pieces of 16."""


def test_threads_wait_briefly_unless_the_user_says_otherwise() -> None:
    nothing: dict[str, str] = {}
    wait_briefly(nothing)
    assert nothing == WAITING
    for said in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}):
        environment = dict(said)
        wait_briefly(environment)
        assert environment == said


def test_few_compiled_products_are_kept_unless_the_user_says_otherwise() -> None:
    environment = {"LRU_CACHE_CAPACITY": "7"}
    keep_few_products(environment)
    assert environment == {**PRODUCTS, "LRU_CACHE_CAPACITY": "7"}


@pytest.mark.skipif(sys.platform != "linux", reason="of the GNU C library")
def test_freed_memory_is_kept_to_be_used_again() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def held(how: str) -> int:
        command = [sys.executable, "-c", HELD, how]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    assert held("kept") > 300 * 2**20 > 100 * 2**20 > held("given back")


def test_nothing_is_set_where_the_user_did() -> None:
    assert not keep_freed_memory({"MALLOC_ARENA_MAX": "1"})
