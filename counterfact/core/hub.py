"""Reads a data set repository, on the Hub or as the folder that was staged for it, through `datasets`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import read_json

_SOURCE = re.compile(r"(?P<place>.+?)(?::(?P<config>\w+))?(?:@(?P<revision>[\w.-]+))?")
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_TEXTS = "reference_texts"
_UNPREFIXED = "counterfact"
"""The configuration whose reference texts are published under that name alone; others put their own before it."""


@dataclass(frozen=True)
class Source:
    """Which rows of which repository."""

    place: str
    """`org/name`, or a folder."""
    config: str | None = None
    """None for the default one."""
    revision: str | None = None
    """A tag, a branch or a commit; None for the newest."""


@dataclass(frozen=True)
class Published:
    """What a repository holds of one configuration."""

    rows: list[dict[str, Any]]
    references: list[dict[str, Any]] | None
    """The reference texts that belong to it, where there are."""
    meta: dict[str, Any]
    """The `build.json` that was published with it; empty where there is none."""


def published_source(text: str) -> Source | None:
    """Read `PLACE[:CONFIG][@REVISION]`; None where the place is neither a Hub id nor a folder of a repository.

    >>> published_source("org/name:zsre@v1.0.0")
    Source(place='org/name', config='zsre', revision='v1.0.0')
    >>> published_source("records.json")
    """
    for source in (Source(text), *_parsed(text)):
        if (Path(source.place) / "README.md").is_file() and not (Path(source.place) / "records.jsonl").exists():
            return source
    *_, source = Source(text), *_parsed(text)
    is_id = _REPO.fullmatch(source.place) and not text.startswith(".") and not Path(text).exists()
    return source if is_id else None


def read_published(source: Source) -> Published:
    """Read one configuration: its `test` split, else its first.

    Raises:
        BadInput: `datasets` is not installed, or there is no such data set.
    """
    try:
        import datasets  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415
    except ImportError as error:
        raise BadInput(f"reading {source.place} from the Hub needs `pip install datasets`") from error
    try:
        loaded = datasets.load_dataset(source.place, source.config, revision=source.revision)
        split = "test" if "test" in loaded else next(iter(loaded))
        config = loaded[split].info.config_name or "default"
        texts = _TEXTS if config == _UNPREFIXED else f"{config}_{_TEXTS}"
        references = None
        if texts in datasets.get_dataset_config_names(source.place, revision=source.revision):
            reference_rows = datasets.load_dataset(source.place, texts, revision=source.revision)
            references = list(reference_rows[split]) if split in reference_rows else None
        meta = _build_of(source, f"builds/{config}-{split}.json")
    except Exception as error:
        raise BadInput(
            f"no file or folder {source.place}, and the Hub gave no data set of that name: {error}"
        ) from error
    return Published(list(loaded[split]), references, meta)


def _parsed(text: str) -> list[Source]:
    found = _SOURCE.fullmatch(text)
    return [Source(found["place"], found["config"], found["revision"])] if found else []


def _build_of(source: Source, path: str) -> dict[str, Any]:
    if Path(source.place).is_dir():
        file = Path(source.place) / path
    else:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415
        from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

        try:
            file = Path(hf_hub_download(source.place, path, repo_type="dataset", revision=source.revision))
        except EntryNotFoundError:
            return {}
    value = read_json(file) if file.is_file() else {}
    return value if isinstance(value, dict) else {}
