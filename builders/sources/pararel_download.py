"""ParaRel, downloaded once from its repository at one commit, and checked against a hash.

Elazar et al. Measuring and Improving Consistency in Pretrained Language Models. TACL 2021.
https://arxiv.org/abs/2102.01017, https://github.com/yanaiela/pararel (MIT).
"""

from hashlib import sha256
from pathlib import Path

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, hash_json, write_atomic

from .client import Client
from .http import NotFound, Response, ServerRequest, post_form

COMMIT = "cd9754e134f6e9af5fefd709acd261757bdbc9a3"
UPSTREAM = f"https://raw.githubusercontent.com/yanaiela/pararel/{COMMIT}/data"
CONTENT_HASH = "c79f6c9fd66c77e41b18f9fe3aecf22affccbbb5e8df36c120b055be644c86d5"
"""Hash over file names and the sha256 of each, for 41 files of tuples and 39 of patterns."""

FILES = 82
"""Number of addresses requested: one of tuples and one of patterns for each relation."""
_RELATIONS = (
    "P17 P19 P20 P27 P30 P31 P36 P37 P39 P47 P101 P103 P106 P108 P127 P131 P136 P138 P140 P159 P176 P178 P190 P264 "
    "P276 P279 P361 P364 P407 P413 P449 P463 P495 P527 P530 P740 P937 P1001 P1303 P1376 P1412"
)


def fetch_pararel(client: Client, folder: Path, url: str = UPSTREAM, content_hash: str | None = CONTENT_HASH) -> Path:
    """Fetch ParaRel's files, or take them from the cache, and lay them out in a folder of their own.

    Args:
        client: fetches them.
        folder: gets a folder named by the content.
        url: what stands before `/trex_lms_vocab/P103.jsonl`; of ParaRel's 41 relations, those there are taken.
        content_hash: what the whole must hash to; None for no check.

    Returns:
        the folder, in ParaRel's layout.

    Raises:
        BadInput: there are no tuples, or the content is not what was expected.
        SourceError: the server could not be reached.
    """
    files: dict[str, bytes] = {}
    for kind in ("pattern_data/graphs_json", "trex_lms_vocab"):
        for relation in _RELATIONS.split():
            name = f"{kind}/{relation}.jsonl"
            try:
                files[name] = client.fetch(ServerRequest(f"{url.rstrip('/')}/{name}", optional=True), post_form, _body)
            except NotFound:
                continue
    found = hash_json({name: sha256(body).hexdigest() for name, body in sorted(files.items())})
    if content_hash is not None and found != content_hash:
        raise BadInput(
            f"{url}: expected ParaRel with the content {content_hash}, got {len(files)} files with {found}: it has "
            "changed since it was pinned, or was changed on the way; give a folder with --pararel"
        )
    if not any(name.startswith("trex") for name in files):
        raise BadInput(f"no ParaRel at {url}: expected trex_lms_vocab/P*.jsonl and pattern_data/graphs_json/P*.jsonl")
    place = folder / f"pararel-{found[:16]}"
    for name, body in files.items():
        file = place / name
        if not file.exists() or hash_file(file) != sha256(body).hexdigest():
            write_atomic(file, body)
    return place


def _body(response: Response) -> bytes:
    return response.body
