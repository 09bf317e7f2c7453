"""What is published: folders that a build wrote, read, checked, and given a configuration and a split."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterfact.contracts.datasets import load_dataset
from counterfact.core.errors import BadInput
from counterfact.core.files import canonical_json, hash_file, hash_json, read_json, read_jsonl
from counterfact.core.places import data_folder
from counterfact.core.records import BadRecord

from ..audit.recovery import read_recovery
from ..build_folder import BUILD_FILE
from ..sources.articles import LocalArticles

TEXTS = "reference_texts"
"""The configuration of reference texts, apart from the facts: their licence is another."""

_ARGUMENT = re.compile(r"(?:(?P<config>[a-z0-9_]+)(?:/(?P<split>[a-z0-9_]+))?=)?(?P<folder>.+)")
_ARTICLES = {
    "cc-by-sa-4.0": "articles of Wikipedia",
    "cc-by-4.0": "articles of this project",
    "unknown": "articles as their source says",
}
_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{16,}|://[^/\s@]+@")


@dataclass(frozen=True)
class Part:
    """One split of one configuration."""

    config: str
    split: str
    kind: str | None
    """Kind of the records; None for reference texts."""
    rows: tuple[dict[str, Any], ...]
    """Rows of the folder's file, in its order."""
    build: Mapping[str, Any]
    """The build's `build.json`, without what may differ between equal builds (which names places on this machine)."""
    stats: Mapping[str, Any]
    """The build's `stats.json`."""
    licence: str
    """Identifier as the Hub spells it."""
    licence_note: str
    """Parts of a row that the licence covers, in words."""
    recovery: Mapping[str, Any] | None = None
    """What these records recover of CounterFact, where that was measured (`audit.recovery`)."""

    @property
    def language(self) -> str:
        """The language of its texts, as a code."""
        return str((self.build.get("settings") or {}).get("language") or "en")

    @property
    def content_hash(self) -> str:
        """The hash that `contracts.datasets` finds when it reads these rows."""
        return hash_json(list(self.rows))


def read_parts(arguments: Sequence[str]) -> list[Part]:
    """Read what is to be published.

    Args:
        arguments: `[CONFIG[/SPLIT]=]FOLDER` each. The configuration is by default what the folder holds
            (`counterfact` or `zsre`), the split `test`.

    Returns:
        A part for each folder, followed by its reference texts where it has them.

    Raises:
        BadInput: no build wrote the folder, its records were changed since, one of them cannot be used, two parts
            would be the same split, or a `build.json` holds what looks like a password or token.
    """
    if not arguments:
        raise BadInput("nothing to publish: name at least one folder that `counterfact build` or `zsre` wrote")
    parts = [part for argument in arguments for part in _read(argument)]
    twice = [key for key, count in Counter((part.config, part.split) for part in parts).items() if count > 1]
    if twice:
        config, split = twice[0]
        raise BadInput(f"{config}/{split} is given more than once: name each, as in `{config}/train=FOLDER`")
    return parts


def _read(argument: str) -> list[Part]:
    found = _ARGUMENT.fullmatch(argument)
    if found is None or Path(argument).exists():
        config, split, folder = None, None, Path(argument)
    else:
        config, split, folder = found["config"], found["split"], Path(found["folder"])
    if not (folder / BUILD_FILE).is_file():
        raise BadInput(f"{folder} is no folder that a build wrote: expected records.jsonl and {BUILD_FILE} in it")
    build = {key: value for key, value in read_json(folder / BUILD_FILE).items() if key != "environment"}
    if _SECRET.search(canonical_json(build)):
        raise BadInput(
            f"{folder / BUILD_FILE} holds what looks like a token or a password; remove it before publishing"
        )
    data = load_dataset(folder)
    if bad := [record for record in data.records if isinstance(record, BadRecord)]:
        raise BadInput(f"{folder}: {len(bad):,} records cannot be used, the first: {bad[0].case_id}: {bad[0].reason}")
    if data.content_hash != build.get("content_hash", data.content_hash):
        raise BadInput(
            f"{folder}: records.jsonl was changed since it was built; build it again, or under a new version"
        )
    config, split = config or data.kind, split or "test"
    if config == TEXTS:
        raise BadInput(f"a configuration of records cannot be called {TEXTS}")
    stats = read_json(folder / "stats.json") if (folder / "stats.json").is_file() else {}
    rows = tuple(read_jsonl(folder / "records.jsonl"))
    licence, note = _licence_of_records(data.kind, build)
    parts = [Part(config, split, data.kind, rows, build, stats, licence, note, read_recovery(folder))]
    texts = folder / "reference_texts.jsonl"
    if texts.is_file() and (entries := tuple(read_jsonl(texts))):
        texts_config = TEXTS if config == "counterfact" else f"{config}_{TEXTS}"
        licence = _licence_of_articles((build.get("sources") or {}).get("articles") or {})
        note = _ARTICLES[licence]
        parts.append(Part(texts_config, split, None, entries, build, {}, licence, note))
    return parts


def _licence_of_articles(articles: Mapping[str, Any]) -> str:
    if articles.get("kind") == "mediawiki":
        return "cc-by-sa-4.0"
    ours = LocalArticles.open(data_folder() / "articles").identity()
    return "cc-by-4.0" if articles.get("files") == ours["files"] else "unknown"


def _licence_of_records(kind: str, build: Mapping[str, Any]) -> tuple[str, str]:
    """Return the licence of a configuration of records, and what else is in its rows."""
    sources = build.get("sources") or {}
    if kind == "zsre":
        ours = {hash_file(file) for file in (data_folder() / "zsre").glob("*.json")}
        embedded = sources.get("zsre", {}).get("sha256") in ours
        return ("cc-by-4.0", "questions of this project") if embedded else ("unknown", "as the source of the file says")
    licence = "cc0-1.0"
    note = "facts of WikiData; templates and prompts as their source has them (ParaRel: MIT; the embedded: CC BY 4.0)"
    context = (build.get("settings") or {}).get("paraphrase_context")
    if context in {"articles", "texts"}:
        texts = sources.get(context) or {}
        licence = _licence_of_articles(texts.get("contexts") or texts)
        note = f"the sentence before a paraphrase prompt is from {_ARTICLES[licence]}; without it CC0: {note}"
    return licence, note
