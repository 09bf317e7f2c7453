"""Uploading to a Hub on loopback: what arrives, that nothing is sent twice, and what each fault leads to."""

import logging
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from counterfact.builders.hub.parts import read_parts
from counterfact.builders.hub.staging import Staged, check_repo, stage
from counterfact.builders.hub.upload import Upload, push
from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import hash_json, read_jsonl, write_json
from tests.support.evaluating import counterfact
from tests.support.hub_server import TOKEN, Fault, Hub, serve

REPO = "org/name"
DAY = "2026-11-23"
Made = Callable[..., Staged]


def built(folder: Path, n: int = 6, version: str = "1") -> Path:
    """A data set as `build` writes it."""
    counterfact(folder, n, bad=())
    records = list(read_jsonl(folder / "records.jsonl"))
    meta = {
        "schema": 1,
        "name": "ours",
        "version": version,
        "kind": "counterfact",
        "content_hash": hash_json(records),
    }
    write_json(
        folder / "build.json", {**meta, "seed": 0, "counts": {"records": n}, "environment": {"places": "/home/me"}}
    )
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Stages a data set of `n` records, once for all tests."""
    folder, there = tmp_path_factory.mktemp("made"), {}

    def make(n: int = 6, version: str = "1") -> Staged:
        if (n, version) not in there:
            parts = read_parts([str(built(folder / f"data-{n}", n, version))])
            there[n, version] = stage(parts, REPO, version, folder / f"staged-{n}-{version}", DAY)
        return there[n, version]

    return make


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub()) as running:
        yield running


def upload(hub: Hub, what: Staged, token: str | None = TOKEN, attempts: int = 3) -> Upload:
    return push(what, token, endpoint=hub.url, wait=0.01, attempts=attempts)


def files_of(what: Staged) -> dict[str, bytes]:
    return {path: (what.folder / path).read_bytes() for path in what.files}


def test_everything_arrives_in_one_commit_under_a_tag(hub: Hub, made: Made) -> None:
    what = made()
    done = upload(hub, what)
    repo = hub.repos[REPO]
    assert {path: content for path, content in repo.head.files.items() if path != ".gitattributes"} == files_of(what)
    assert len(repo.commits) == 2
    assert repo.tags == {"v1.0.0": repo.head.oid}
    assert done == Upload(f"{hub.url}/datasets/{REPO}", repo.head.oid, "v1.0.0", what.files, True, ())
    assert not any(b"/home/me" in content for content in repo.head.files.values())


def test_an_unchanged_upload_changes_nothing(hub: Hub, made: Made, tmp_path: Path) -> None:
    what = made()
    first = upload(hub, what)
    parts = read_parts([str(built(tmp_path / "data"))])
    later = stage(parts, REPO, "1", tmp_path / "again", "2027-01-01")
    before = len(hub.log)
    again = upload(hub, later)
    assert again == Upload(first.url, first.commit, first.tag, (), False, ())
    assert all(asked.method == "GET" or asked.method == "HEAD" for asked in hub.log[before:])
    assert len(hub.repos[REPO].commits) == 2


def test_a_new_version_sends_what_differs_and_leaves_the_old_one(hub: Hub, made: Made) -> None:
    upload(hub, made())
    old = dict(hub.repos[REPO].head.files)
    done = upload(hub, made(7, "1.1"))
    repo = hub.repos[REPO]
    assert set(repo.tags) == {"v1.0.0", "v1.1.0"}
    state = repo.at("v1.0.0")
    assert state is not None
    assert state.files == old
    assert "reference_texts/test-00000-of-00001.parquet" not in done.sent
    assert "counterfact/test-00000-of-00001.parquet" in done.sent


def test_other_data_under_a_tagged_version_are_refused(hub: Hub, made: Made) -> None:
    upload(hub, made())
    with pytest.raises(BadInput, match=r"version 1\.0\.0 already.*counterfact/test.*give a new one with --version"):
        upload(hub, made(7))
    assert len(hub.repos[REPO].commits) == 2


def test_what_a_person_added_stays(hub: Hub, made: Made) -> None:
    upload(hub, made())
    repo = hub.repos[REPO]
    card = repo.head.files["README.md"].decode()
    edited = card.replace("license:", "# asked the lawyers\nextra: [mine]\nlicense:").replace(
        "## Use", "## Thanks\n\nAll.\n\n## Use"
    )
    repo.commit(**{"README.md": edited.encode(), "notes.txt": b"mine"})
    assert upload(hub, made()).sent == ()
    upload(hub, made(7, "2"))
    after = repo.head.files["README.md"].decode()
    assert "# asked the lawyers\nextra: [mine]" in after
    assert "## Thanks\n\nAll." in after
    assert "7 requests to edit" in after
    assert repo.head.files["notes.txt"] == b"mine"


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, BadInput, "401.*does not know this token.*hf auth login"),
        (403, BadInput, "403.*may not write to org/name.*write access to org"),
        (409, Failed, r"409.*someone else changed org/name meanwhile \(3 attempts\)"),
        (412, Failed, "412.*someone else changed"),
        (418, Failed, "418, which it should not"),
        (429, Failed, r"429.*too many requests \(3 attempts\).*run the same command again later"),
        (500, Failed, r"500.*fault of the server \(3 attempts\)"),
    ],
)
def test_a_refusal_that_stays_is_said_and_costs_nothing(
    hub: Hub, made: Made, status: int, kind: type[Exception], says: str
) -> None:
    what = made()
    hub.spoil = lambda method, path, before: Fault(status) if "/commit/" in path else None
    with pytest.raises(kind, match=says) as caught:
        upload(hub, what)
    assert TOKEN not in str(caught.value)
    assert len(hub.repos[REPO].commits) == 1
    sent = hub.count("PUT", "/lfs/")
    hub.spoil = lambda method, path, before: None
    assert upload(hub, what).sent == what.files
    assert hub.count("PUT", "/lfs/") == sent == 2


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("/api/whoami", Fault(429, (("Retry-After", "0"),))),
        ("/api/datasets/org/name", Fault(500)),
        ("/refs", Fault(0)),
        ("/repos/create", Fault(0)),
        ("/repos/create", Fault(0, after=True)),
        ("/commit/", Fault(429)),
        ("/commit/", Fault(503)),
        ("/commit/", Fault(0, after=True)),
        ("/tag/", Fault(0)),
        ("/tag/", Fault(0, after=True)),
        ("/objects/batch", Fault(500)),
    ],
)
def test_a_fault_that_passes_is_got_over(hub: Hub, made: Made, part: str, fault: Fault) -> None:
    what = made()
    left = [fault]
    hub.spoil = lambda method, path, before: left.pop() if part in path and left else None
    upload(hub, what)
    repo = hub.repos[REPO]
    assert not left
    assert files_of(what).items() <= repo.head.files.items()
    assert len(repo.commits) == 2
    assert repo.tags == {"v1.0.0": repo.head.oid}


def test_a_connection_that_breaks_in_the_middle_of_a_file_is_got_over(hub: Hub, made: Made) -> None:
    what = made()
    left = [Fault(0, read=1000)]
    hub.spoil = lambda method, path, before: left.pop() if method == "PUT" and left else None
    upload(hub, what)
    assert not left
    assert hub.count("PUT", "/lfs/") == 3
    assert files_of(what).items() <= hub.repos[REPO].head.files.items()


def test_an_upload_that_was_cut_off_goes_on(hub: Hub, made: Made) -> None:
    what = made()
    turn = count()
    hub.spoil = lambda method, path, before: Fault(403) if method == "PUT" and next(turn) else None
    with pytest.raises(BadInput, match="403"):
        upload(hub, what)
    [arrived] = hub.objects
    hub.spoil = lambda method, path, before: None
    before = len(hub.log)
    upload(hub, what)
    later = [asked.path for asked in hub.log[before:] if asked.method == "PUT"]
    assert len(later) == 1
    assert arrived not in later[0]


def test_a_commit_by_someone_else_in_between_is_kept(hub: Hub, made: Made) -> None:
    what = made()

    def meanwhile(method: str, path: str, before: int) -> None:
        if "/commit/" in path and len(hub.repos[REPO].commits) == 1:
            hub.repos[REPO].commit(**{"theirs.txt": b"theirs"})

    hub.spoil = meanwhile
    upload(hub, what)
    repo = hub.repos[REPO]
    assert repo.head.files["theirs.txt"] == b"theirs"
    assert files_of(what).items() <= repo.head.files.items()
    assert len(repo.commits) == 3


def test_no_token_appears_anywhere(
    hub: Hub, made: Made, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    what = made()
    left = [Fault(500)]
    hub.spoil = lambda method, path, before: left.pop() if method == "PUT" and left else None
    said: list[str] = []
    push(what, TOKEN, endpoint=hub.url, wait=0.01, tell=said.append)
    with pytest.raises(BadInput) as caught:
        upload(hub, what, TOKEN + "x")
    assert caught.value.__cause__ is caught.value.__context__ is None
    told = "".join(said) + caplog.text + "".join(capfd.readouterr()) + repr(caught.value)
    assert TOKEN not in told
    written = [file.read_bytes() for file in what.folder.rglob("*") if file.is_file()]
    assert not any(TOKEN.encode() in content for content in written)
    assert not any(TOKEN.encode() in content for content in hub.repos[REPO].head.files.values())


@pytest.mark.parametrize("token", [None, "", "hf_with a space", "hf_\nline", "hf_é"])
def test_a_token_that_cannot_be_sent_is_not_quoted(hub: Hub, made: Made, token: str | None) -> None:
    with pytest.raises(BadInput, match="hf auth login") as caught:
        upload(hub, made(), token)
    assert not token or token not in str(caught.value)
    assert hub.log == []


@pytest.mark.parametrize("name", ["", "name", "a/b/c", "../x", "org/", "org/na me", "org/..", "org/a--b", "hf_secret"])
def test_a_name_that_is_no_repository_is_refused_and_not_quoted(name: str) -> None:
    with pytest.raises(BadInput, match="as org/name") as caught:
        check_repo(name)
    assert "secret" not in str(caught.value)


def test_a_hub_that_is_not_there_is_said(made: Made) -> None:
    with pytest.raises(Failed, match="connection to the Hub broke"):
        push(made(), TOKEN, endpoint="http://127.0.0.1:9", wait=0.01, attempts=2)


def test_a_private_repository_is_made_private(hub: Hub, made: Made) -> None:
    push(made(), TOKEN, endpoint=hub.url, private=True)
    assert hub.repos[REPO].private


def test_the_header_of_the_writer_goes_to_the_hub_alone(hub: Hub, made: Made) -> None:
    upload(hub, made())
    assert not any(asked.authorised for asked in hub.log if asked.path.startswith("/lfs/"))
    assert all(asked.authorised for asked in hub.log if asked.method == "POST")
