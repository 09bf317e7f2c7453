"""Texts from anywhere: every kind of file gives the same texts, and what cannot be read costs itself."""

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from counterfact.core.errors import BadInput
from counterfact.core.texts import load_texts
from tests.support import ROOT
from tests.support.hub_server import Commit, Hub, Repo, serve

TEXTS = ["One line.", "Zwei, mit Ü.", " = A heading = ", "Vier."]
JSON_LINES = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(TEXTS))


def parquet(path: Path, texts: list[str | None]) -> None:
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path, row_group_size=2)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.txt": lambda path: path.write_text("\n\n".join(TEXTS) + "\n", encoding="utf-8"),
    "a.raw": lambda path: path.write_bytes("\r\n".join(TEXTS).encode()),
    "a.tokens": lambda path: path.write_text("\n".join(["", " ", *TEXTS]), encoding="utf-8"),
    "a.txt.gz": lambda path: path.write_bytes(gzip.compress("\n".join(TEXTS).encode())),
    "a.jsonl": lambda path: path.write_text(JSON_LINES, encoding="utf-8"),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(JSON_LINES.encode())),
    "a.parquet": lambda path: parquet(path, [*TEXTS, "", " \n"]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    for source in (load_texts(tmp_path / name), load_texts(str(tmp_path))):
        assert list(source.texts()) == list(source.texts()) == TEXTS
        assert source.size() == 4
        assert source.unreadable.count == 0
    assert load_texts(tmp_path / name).content_hash == load_texts(tmp_path).content_hash


def test_a_broken_line_costs_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "good"}\nno json\n{"text": 3}\n["text"]\n{"text": "\xff"}\n{"text": "\\ud800"}\n\n{"text": "fine"}'
    )
    source = load_texts(path)
    for _ in range(2):
        assert list(source.texts()) == ["good", "fine"]
        assert source.unreadable.count == 5
    places = [place.partition(": ")[0] for place in source.unreadable.first]
    assert places == [f"a.jsonl:{number}" for number in (2, 3, 4, 5, 6)]
    assert "a.jsonl: 5 texts cannot be read; the first: a.jsonl:2" in caplog.text
    (tmp_path / "b.txt").write_bytes(b"good\n\xff\xfe\nfine\n")
    source = load_texts(tmp_path / "b.txt")
    assert (list(source.texts()), source.unreadable.count) == (["good", "fine"], 1)


def test_only_the_first_faults_are_kept_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("broken\n" * 1000)
    source = load_texts(tmp_path)
    assert list(source.texts()) == []
    assert (source.unreadable.count, len(source.unreadable.first)) == (1000, 20)


def test_a_broken_file_costs_itself(tmp_path: Path) -> None:
    lines = "".join(f"{random.Random(i).random()}\n" for i in range(20000)).encode()
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(lines)[:-30000])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"body": TEXTS}), tmp_path / "c.parquet")
    parquet(tmp_path / "d.parquet", ["here", None, "there"])
    (tmp_path / "e.txt.gz").write_bytes(b"not packed")
    (tmp_path / "f.txt").write_text("last\n")
    source = load_texts(tmp_path)
    found = list(source.texts())
    assert found[-3:] == ["here", "there", "last"]
    assert 1000 < len(found) < 20000
    reasons = "\n".join(source.unreadable.first)
    assert source.unreadable.count == 5
    for part in (
        "a.txt.gz, all after line",
        "b.parquet, all after row 0",
        "c.parquet: expected a column `text`, got body",
    ):
        assert part in reasons
    assert "d.parquet, row 2: expected a text, got NoneType" in reasons
    assert "e.txt.gz, all after line 0" in reasons


def test_random_order(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(200)]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    plain, one, two = (load_texts(f"{tmp_path / 'a.txt'}{mark}") for mark in ("", "#1", "#2"))
    assert list(one.texts()) == list(one.texts()) != list(two.texts())
    assert sorted(one.texts()) == sorted(plain.texts()) == sorted(texts)
    assert list(one.texts()) != texts
    assert len({plain.content_hash, one.content_hash, two.content_hash}) == 3
    assert (one.name, one.size()) == ("a.txt#1", 200)
    (tmp_path / "b.txt#1").write_text("x")
    with pytest.raises(BadInput, match="no texts at"):
        load_texts(tmp_path / "b.txt#1")


def test_what_is_no_source() -> None:
    for wrong in ("./nothing", "/nothing/at/all", "a b", "x/y:z@v:w"):
        with pytest.raises(BadInput, match="no texts at"):
            load_texts(wrong)


ONLINE = {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
HUB = """
import json, sys
from counterfact.core.texts import load_texts
found = []
for name in sys.argv[1:]:
    source = load_texts(name)
    found.append([source.name, source.content_hash, list(source.texts()), source.size(), source.unreadable.count])
print(json.dumps(found))
"""


def test_a_data_set_on_the_hub_by_configuration_and_revision(tmp_path: Path) -> None:
    files = [f"en/train-0000{n}-of-00002.parquet" for n in (0, 1)]
    config = [{"config_name": "20231101.en", "data_files": [{"split": "train", "path": files}]}]
    readme = f"---\n{yaml.safe_dump({'configs': config})}---\n"
    for number, texts in enumerate([["First.", None, "Second."], ["Third.", ""]]):
        parquet(tmp_path / f"{number}.parquet", texts)
    parts = {file: (tmp_path / f"{n}.parquet").read_bytes() for n, file in enumerate(files)}
    repo = Repo([Commit("0" * 40, {})])
    hub = Hub({"wiki/pedia": repo})
    with serve(hub):
        old = repo.commit(**{"README.md": readme.encode(), **parts})
        parquet(tmp_path / "2.parquet", ["Newest."])
        repo.commit(**{files[0]: (tmp_path / "2.parquet").read_bytes()})
        name = "wiki/pedia:20231101.en"
        done = subprocess.run(
            [sys.executable, "-c", HUB, f"{name}@{old.oid}", name, f"{name}@{old.oid}#1"],
            cwd=ROOT,
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **ONLINE},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    before, newest, mixed = json.loads(done.stdout)
    assert before[2:] == [["First.", "Second.", "Third."], None, 1]
    assert before[0] == f"{name}@{old.oid[:8]}"
    assert newest[2] == ["Newest.", "Third."]
    assert before[1] != newest[1] != mixed[1] != before[1]
    assert sorted(mixed[2]) == sorted(before[2])
