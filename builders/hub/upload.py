"""Upload of a staged repository: only what differs, in one commit, under a version tag; repeatable.

Files that are there already are compared by content, so an unchanged upload changes nothing, and an interrupted one
continues: large files that arrived are not sent again. The protocol is that of `huggingface_hub`; its errors become
ours, without anything that could contain a token or a signed address.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha1, sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import indented_json

from .card import CARD, merge_card
from .errors import HubFailure, explain_failure
from .staging import CROISSANT, Staged, keep_date, read_croissant

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Upload:
    """What an upload did."""

    url: str
    commit: str
    """Commit that holds the version."""
    tag: str
    sent: tuple[str, ...]
    """Files that differed and were committed; none where nothing changed."""
    tagged: bool
    """Whether the tag was set now."""
    kept: tuple[str, ...]
    """Parts of the card that were edited by hand and so left as they are."""


@dataclass(frozen=True)
class _Repository:
    """What the repository holds at one commit."""

    commit: str
    files: dict[str, tuple[str, str | None]]
    """Path to git's name of the content and, for large files, its sha256."""
    tags: dict[str, str]


def push(
    staged: Staged,
    token: str | None,
    *,
    endpoint: str | None = None,
    private: bool = False,
    attempts: int = 5,
    wait: float = 2.0,
    tell: Callable[[str], None] = lambda _message: None,
) -> Upload:
    """Upload a staged repository.

    Args:
        staged: what is uploaded, and where to.
        token: a token that may write there.
        endpoint: address of the Hub; by default `HF_ENDPOINT`, else the public one.
        private: whether a repository that does not exist yet is made private.
        attempts: how often an upload is tried where the trouble may pass: a limit of requests, a fault of the server,
            a lost connection, a commit by someone else in between.
        wait: seconds before the second attempt, doubled each time.
        tell: function that is told what is done.

    Raises:
        BadInput: there is no token, the Hub refuses it, or the version's tag holds other data.
        Failed: the Hub could not do it, after all attempts.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415

    if token is None or not _TOKEN.fullmatch(token := token.strip()):
        raise BadInput("no usable token for the Hub: run `hf auth login`, or set HF_TOKEN to one that may write")
    with _quiet():
        api = HfApi(endpoint=endpoint, token=token)
        attempt = 1
        while True:
            try:
                return _push_once(api, staged, private, tell)
            except (BadInput, Failed):
                raise
            except Exception as error:
                failure = explain_failure(error, staged.repo)
            if not failure.may_pass or attempt >= attempts:
                # Outside of the handler: the error holds the request, whose header holds the token.
                raise _final(failure, attempt)
            pause = failure.wait if failure.wait is not None else wait * 2 ** (attempt - 1)
            tell(f"{failure.what}; trying again in {pause:g} s")
            time.sleep(pause)
            attempt += 1


def _final(failure: HubFailure, attempts: int) -> Exception:
    tried = f" ({attempts} attempts)" if attempts > 1 else ""
    message = f"{failure.what}{tried}: {failure.advice}"
    return BadInput(message) if failure.users_fault else Failed(message)


def _push_once(api: "HfApi", staged: Staged, private: bool, tell: Callable[[str], None]) -> Upload:
    api.whoami()  # says plainly that a token is unknown; other calls then say that the repository is
    there = _open(api, staged, private)
    _check_tag(api, staged, there)
    with ExitStack() as files:
        additions, kept = _differences(api, staged, there, files)
        commit = there.commit
        if additions:
            tell(f"uploading {len(additions)} files")
            info = api.create_commit(
                staged.repo,
                additions,
                commit_message=f"Version {staged.version}",
                repo_type=staged.kind,
                parent_commit=there.commit,
            )
            commit = info.oid
    sent = tuple(addition.path_in_repo for addition in additions)
    tagged = staged.tag not in there.tags
    if tagged:
        api.create_tag(staged.repo, tag=staged.tag, revision=commit, repo_type=staged.kind)
    url = f"{api.endpoint}/{'datasets/' if staged.kind == 'dataset' else ''}{staged.repo}"
    return Upload(url, there.tags.get(staged.tag, commit), staged.tag, sent, tagged, kept)


def _open(api: "HfApi", staged: Staged, private: bool) -> _Repository:
    from huggingface_hub.errors import RepositoryNotFoundError  # noqa: PLC0415

    with suppress(RepositoryNotFoundError):
        return _look(api, staged)
    api.create_repo(staged.repo, repo_type=staged.kind, private=private, exist_ok=True)
    return _look(api, staged)


def _look(api: "HfApi", staged: Staged) -> _Repository:
    commit = str(api.repo_info(staged.repo, repo_type=staged.kind).sha)
    refs = api.list_repo_refs(staged.repo, repo_type=staged.kind)
    return _Repository(commit, _tree(api, staged, commit), {tag.name: tag.target_commit for tag in refs.tags})


def _tree(api: "HfApi", staged: Staged, revision: str) -> dict[str, tuple[str, str | None]]:
    from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415

    entries = api.list_repo_tree(staged.repo, recursive=True, revision=revision, repo_type=staged.kind)
    return {
        entry.path: (entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
        for entry in entries
        if isinstance(entry, RepoFile)
    }


def _check_tag(api: "HfApi", staged: Staged, there: _Repository) -> None:
    """Refuse to give a version that is tagged other data."""
    if staged.tag not in there.tags:
        return
    tagged = _tree(api, staged, there.tags[staged.tag])
    other = []
    for path in staged.data:
        with (staged.folder / path).open("rb") as handle:
            if not _same(tagged.get(path), handle):
                other.append(path)
    if other:
        raise BadInput(
            f"{staged.repo} has version {staged.version} already, with other data ({', '.join(other)}); a version is "
            "never changed: give a new one with --version"
        )


def _differences(
    api: "HfApi", staged: Staged, there: _Repository, files: ExitStack
) -> tuple[list["CommitOperationAdd"], tuple[str, ...]]:
    """Return what is to be committed, and what of the card stays as a person edited it."""
    from huggingface_hub import CommitOperationAdd  # noqa: PLC0415

    kept: tuple[str, ...] = ()
    additions = []
    for path in staged.files:
        # A handle, not a path: `huggingface_hub` then uploads by LFS, one protocol for every Hub and mirror.
        handle: BinaryIO = files.enter_context((staged.folder / path).open("rb"))
        if path == CARD and path in there.files:
            merged = merge_card(_text(_read(api, staged, there.commit, path)), handle.read().decode())
            handle, kept = BytesIO(merged.text.encode()), merged.kept
        elif path == CROISSANT and path in there.files:
            ours = keep_date(_json(_read(api, staged, there.commit, path)), read_croissant(staged))
            handle = BytesIO(indented_json(ours).encode())
        if not _same(there.files.get(path), handle):
            additions.append(CommitOperationAdd(path, handle))
    return additions, kept


def _same(there: tuple[str, str | None] | None, handle: BinaryIO) -> bool:
    """Whether a file of the repository has just this content; leaves the handle at its start."""
    if there is None:
        return False
    blob, large = there
    handle.seek(0)
    if large is not None:
        digest = sha256()
        while block := handle.read(1 << 20):
            digest.update(block)
        same = large == digest.hexdigest()
    else:
        content = handle.read()
        same = blob == sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    handle.seek(0)
    return same


def _read(api: "HfApi", staged: Staged, revision: str, path: str) -> bytes:
    with TemporaryDirectory(prefix="counterfact-card-") as folder:
        found = api.hf_hub_download(staged.repo, path, repo_type=staged.kind, revision=revision, cache_dir=folder)
        return Path(found).read_bytes()


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"the card in the repository is not UTF-8; mend it there first: {error}") from error


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's warnings out of logs: they name addresses, which for large files are signed."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
