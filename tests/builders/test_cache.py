"""The cache of responses: what is stored comes back, once, after kills too, and other files are refused."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfact.builders.sources.cache import ResponseCache, StoredResponse, response_key
from counterfact.core.errors import BadInput
from tests.support import ROOT
from tests.support.fast_client import stored_by_endpoint


def stored(body: bytes, request: str = "ask") -> StoredResponse:
    return StoredResponse(
        "http://a", request, "2026-01-01T00:00:00+00:00", 200, "text/plain", sha256(body).hexdigest(), body
    )


@settings(deadline=None, max_examples=25)
@given(st.binary(max_size=300), st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_what_is_stored_comes_back(body: bytes, request: str) -> None:
    with closing(ResponseCache(Path(f"/dev/shm/counterfact-test-{os.getpid()}.sqlite"))) as cache:
        try:
            assert cache.find("http://a", request) is None
            cache.store(stored(body, request))
            assert cache.find("http://a", request) == stored(body, request)
            assert cache.find("http://b", request) is None
        finally:
            cache.path.unlink()


def test_the_first_response_stays(tmp_path: Path) -> None:
    with closing(ResponseCache(tmp_path / "a.sqlite")) as cache:
        cache.store(stored(b"first"))
        cache.store(stored(b"second"))
        found = cache.find("http://a", "ask")
        assert found is not None and found.body == b"first"
        assert stored_by_endpoint(cache) == {"http://a": 1}


def test_a_pack_holds_what_was_named_and_nothing_else(tmp_path: Path) -> None:
    with closing(ResponseCache(tmp_path / "a.sqlite")) as cache:
        cache.store(stored(b"one", "1"))
        cache.store(stored(b"two", "2"))
        cache.pack(tmp_path / "packed.sqlite", [response_key("http://a", "2")])
        with pytest.raises(BadInput, match="the cache itself"):
            cache.pack(tmp_path / "a.sqlite", [])
    (tmp_path / "packed.sqlite").chmod(0o444)
    with closing(ResponseCache(tmp_path / "packed.sqlite", read_only=True)) as packed:
        assert packed.find("http://a", "1") is None
        assert packed.find("http://a", "2") == stored(b"two", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.sqlite", "packed.sqlite"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="without --replay"):
        ResponseCache(tmp_path / "missing.sqlite", read_only=True)
    (tmp_path / "text").write_text("years of work, and no database at all" * 40)
    with pytest.raises(BadInput, match="expected a cache"):
        ResponseCache(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE work (years)")
    other.close()
    with pytest.raises(BadInput, match="another program"):
        ResponseCache(tmp_path / "other.sqlite")
    ResponseCache(tmp_path / "newer.sqlite").close()
    with sqlite3.connect(tmp_path / "newer.sqlite") as newer:
        newer.execute("PRAGMA user_version = 9")
    newer.close()
    with pytest.raises(BadInput, match="version 9"):
        ResponseCache(tmp_path / "newer.sqlite")


@pytest.mark.parametrize("change", ["sha256 = 'x'", "body = x'00'"])
def test_a_damaged_response_is_never_used(change: str, tmp_path: Path) -> None:
    with closing(ResponseCache(tmp_path / "a.sqlite")) as cache:
        cache.store(stored(b"one"))
    with sqlite3.connect(tmp_path / "a.sqlite") as other:
        other.execute(f"UPDATE responses SET {change}")
    other.close()
    with closing(ResponseCache(tmp_path / "a.sqlite")) as cache, pytest.raises(BadInput, match="damaged"):
        cache.find("http://a", "ask")


WRITER = """
import sys
from hashlib import sha256
from pathlib import Path
from counterfact.builders.sources.cache import ResponseCache, StoredResponse
cache = ResponseCache(Path(sys.argv[1]))
print("ready", flush=True)
for n in range(10**6):
    body = sha256(str(n).encode()).digest() * 400
    cache.store(StoredResponse("http://a", str(n), "2026", 200, "", sha256(body).hexdigest(), body))
    print(n, flush=True)
"""


@pytest.mark.parametrize("times", [2, pytest.param(50, marks=pytest.mark.soak)])
def test_kill_9_in_the_middle_of_writes_loses_nothing(times: int, tmp_path: Path) -> None:
    moments = random.Random(times)
    for n in range(times):
        path = tmp_path / f"{n}.sqlite"
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(moments.uniform(0.05, 0.3))
        writer.send_signal(signal.SIGKILL)
        said = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        with closing(ResponseCache(path)) as cache:
            assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
            kept = stored_by_endpoint(cache)["http://a"]
            assert len(said) <= kept <= len(said) + 1
            assert all(cache.find("http://a", str(request)) is not None for request in range(kept))
