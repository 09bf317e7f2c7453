"""A Hub on loopback for tests: the part of the protocol that `huggingface_hub` and `datasets` use, and its faults."""

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_loopbackWriterToken0123456789"
LARGE = (".parquet",)


class Fault(NamedTuple):
    """What happens in place of an answer."""

    status: int = 0
    """0: the connection is dropped."""
    headers: tuple[tuple[str, str], ...] = ()
    after: bool = False
    """Whether the request is carried out first, so that only its answer is lost."""
    read: int | None = None
    """How many bytes of the body are read before the connection is dropped; None for all."""


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    authorised: bool


Spoil = Callable[[str, str, int], Fault | None]
"""Told method, path, and how many such requests came before."""


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    oid: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A repository, its commits in order."""

    commits: list[Commit]
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False

    @property
    def head(self) -> Commit:
        """The newest commit."""
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag or an id."""
        oid = self.head.oid if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit.oid == oid), None)

    def commit(self, **files: bytes) -> Commit:
        """Add a commit, as a person does in the browser."""
        return self.add({**self.head.files, **files})

    def add(self, files: dict[str, bytes]) -> Commit:
        """Add a commit of all these files."""
        self.commits.append(Commit(sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest(), files))
        return self.head


@dataclass
class Hub:
    """What the server holds, what it was asked, and how it misbehaves."""

    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by sha256."""
    log: list[Asked] = field(default_factory=list)
    spoil: Spoil = lambda _method, _path, _before: None
    url: str = ""

    def count(self, method: str, part: str) -> int:
        """How many requests came whose path holds a part."""
        return sum(asked.method == method and part in asked.path for asked in self.log)


class Reply(NamedTuple):
    """An answer."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode(), (("Content-Type", "application/json"),))


def _missing(code: str) -> Reply:
    return Reply(404, b'{"error": "not found"}', (("X-Error-Code", code), ("X-Error-Message", "not found")))


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    if path.endswith(LARGE):
        oid = sha256(content).hexdigest()
        entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 132}
        return entry | {"oid": sha1(oid.encode()).hexdigest()}
    return entry | {"oid": blob(content)}


def blob(content: bytes) -> str:
    """Git's name for a content."""
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


def answer(hub: Hub, method: str, target: str, body: bytes, authorised: bool) -> Reply:
    """Answer one request."""
    path = unquote(urlsplit(target).path)
    if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
        if sha256(body).hexdigest() != found[1]:
            return Reply(400)
        hub.objects[found[1]] = body
        return Reply(200)
    if found := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
        return _resolve(hub, *found.groups())
    if method == "GET" and (found := re.fullmatch(r"/api/(?:datasets|models)/(.+)", path)):
        return _look(hub, found[1])
    if path.endswith("/paths-info/main") or re.search(r"/paths-info/[^/]+$", path):
        return _paths(hub, path, body)
    if not authorised:
        return _json({"error": "Invalid username or password."}, 401)
    return _write(hub, path, body)


def _look(hub: Hub, path: str) -> Reply:
    name, rest = "/".join(path.split("/")[:2]), path.split("/")[2:]
    repo = hub.repos.get(name)
    if repo is None:
        return _missing("RepoNotFound")
    if rest[:1] == ["refs"]:
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in repo.tags.items()]
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head.oid}
        return _json({"branches": [branch], "converts": [], "tags": tags})
    commit = repo.at(rest[1] if len(rest) > 1 else "main")
    if commit is None:
        return _missing("RevisionNotFound")
    if rest[:1] == ["tree"]:
        under = "/".join(rest[2:])
        files = {path: content for path, content in commit.files.items() if path.startswith(under)}
        return _json([_entry(path, content) for path, content in sorted(files.items())])
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    return _json({"id": name, "sha": commit.oid, "private": repo.private, "tags": [], "siblings": siblings})


def _paths(hub: Hub, path: str, body: bytes) -> Reply:
    _, _, _, owner, name, _, revision = path.split("/")
    commit = hub.repos[f"{owner}/{name}"].at(revision)
    if commit is None:
        return _missing("RevisionNotFound")
    wanted = parse_qs(body.decode()).get("paths", [])
    folders = [path for path in wanted if any(file.startswith(f"{path}/") for file in commit.files)]
    found = [_entry(path, commit.files[path]) for path in wanted if path in commit.files]
    return _json([*found, *({"type": "directory", "path": path, "oid": "0" * 40} for path in folders)])


def _resolve(hub: Hub, name: str, revision: str, path: str) -> Reply:
    if name not in hub.repos:
        return _missing("RepoNotFound")
    commit = hub.repos[name].at(revision)
    if commit is None:
        return _missing("RevisionNotFound")
    commit_header = ("X-Repo-Commit", commit.oid)
    if path not in commit.files:
        return Reply(404, b"", (("X-Error-Code", "EntryNotFound"), commit_header))
    content = commit.files[path]
    etag = sha256(content).hexdigest() if path.endswith(LARGE) else blob(content)
    return Reply(200, content, (commit_header, ("ETag", f'"{etag}"')))


def _write(hub: Hub, path: str, body: bytes) -> Reply:
    if path == "/api/whoami-v2":
        return _json({"type": "user", "name": "writer", "orgs": []})
    if path == "/api/validate-yaml":
        return _json({"errors": [], "warnings": []})
    value = json.loads(body) if path.split("/")[-2:-1] != ["commit"] else None
    if path == "/api/repos/create":
        name = f"{value['organization']}/{value['name']}"
        if name in hub.repos:
            return _json({"error": "You already created this dataset repo"}, 409)
        hub.repos[name] = Repo([Commit(sha1(name.encode()).hexdigest(), {".gitattributes": b"*.parquet lfs\n"})])
        hub.repos[name].private = value.get("visibility") == "private" or bool(value.get("private"))
        return _json({"url": f"{hub.url}/datasets/{name}"})
    if found := re.fullmatch(r"(?:/datasets)?/(.+)\.git/info/lfs/objects/batch", path):
        return _json({"transfer": "basic", "objects": [_batch(hub, entry) for entry in value["objects"]]})
    if path == "/lfs-verify":
        return Reply(200 if value["oid"] in hub.objects else 404)
    found = re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)/(\w+)/(.+)", path)
    if found is None or found[1] not in hub.repos:
        return _missing("RepoNotFound")
    repo = hub.repos[found[1]]
    if found[2] == "preupload":
        files = [_mode(repo, entry["path"]) for entry in value["files"]]
        return _json({"files": files})
    if found[2] == "tag":
        if value["tag"] in repo.tags:
            return _json({"error": "tag exists"}, 409)
        repo.tags[value["tag"]] = found[3]
        return _json({})
    return _commit(hub, repo, found[1], body)


def _batch(hub: Hub, entry: dict[str, Any]) -> dict[str, Any]:
    if entry["oid"] in hub.objects:
        return {"oid": entry["oid"], "size": entry["size"]}
    upload = {"href": f"{hub.url}/lfs/{entry['oid']}?X-Amz-Signature=signed0secret"}
    return {**entry, "actions": {"upload": upload, "verify": {"href": f"{hub.url}/lfs-verify"}}}


def _mode(repo: Repo, path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(LARGE) else "regular"
    there = repo.head.files.get(path)
    return {
        "path": path,
        "uploadMode": mode,
        "shouldIgnore": False,
        "oid": _entry(path, there)["oid"] if there else None,
    }


def _commit(hub: Hub, repo: Repo, name: str, body: bytes) -> Reply:
    header, *operations = map(json.loads, body.splitlines())
    if header["value"].get("parentCommit", repo.head.oid) != repo.head.oid:
        return _json({"error": "A commit has happened since. Please refresh and try again."}, 412)
    files = dict(repo.head.files)
    for operation in operations:
        value = operation["value"]
        if operation["key"] == "lfsFile":
            if value["oid"] not in hub.objects:
                return _json({"error": "the object was never uploaded"}, 400)
            files[value["path"]] = hub.objects[value["oid"]]
        else:
            files[value["path"]] = base64.b64decode(value["content"])
    commit = repo.add(files)
    return _json({"commitUrl": f"{hub.url}/datasets/{name}/commit/{commit.oid}", "commitOid": commit.oid})


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve a Hub on a free port, whose address it then knows."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_one(self) -> None:
            authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            before = sum(asked.method == self.command and asked.path == self.path for asked in hub.log)
            hub.log.append(Asked(self.command, self.path, authorised))
            fault = hub.spoil(self.command, self.path, before)
            length = int(self.headers.get("Content-Length", 0))
            if fault is not None and fault.read is not None:
                self.rfile.read(min(fault.read, length))
                self.close_connection = True
                return
            body = self._body(length)
            reply = None if fault and not fault.after else answer(hub, self.command, self.path, body, authorised)
            if fault is not None and fault.status == 0:
                self.close_connection = True
                return
            self._send(
                reply if fault is None and reply else Reply(fault.status, b"{}", fault.headers) if fault else Reply(500)
            )

        def _body(self, length: int) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(length)
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _send(self, reply: Reply) -> None:
            content, status = reply.body, reply.status
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if status == 200 else None
            if wanted:
                end = int(wanted[2]) + 1 if wanted[2] else len(content)
                content, status = content[int(wanted[1]) : end], 206
            self.send_response(status)
            for name, value in reply.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = handle_one

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing of connections that the test broke."""

    server = Server(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
