"""A data set repository as a folder: written beside its place, read back with `datasets`, then moved there whole."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, hash_json, read_json, write_atomic, write_json
from counterfact.core.places import cache_folder

from .card import CARD, build_path, card
from .croissant import StagedFile, croissant
from .parquet import features_of, write_table
from .parts import Part, read_parts
from .wording import wording_for

if TYPE_CHECKING:
    from datasets import Features

CROISSANT = "croissant.json"
_DATE = "datePublished"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_MARK = ".staged-by-counterfact"


@dataclass(frozen=True)
class Staged:
    """A repository that is ready to be uploaded."""

    folder: Path
    repo: str
    version: str
    files: tuple[str, ...]
    """Paths in the repository, card and Croissant metadata among them, sorted."""
    kind: Literal["dataset", "model"] = "dataset"

    @property
    def tag(self) -> str:
        """The name of the version in the repository."""
        return f"v{self.version}"

    @property
    def data(self) -> tuple[str, ...]:
        """The files that are the version: a version of which these differ is another version."""
        return tuple(file for file in self.files if file not in (CARD, CROISSANT))


def stage_datasets(datasets: Sequence[str], to: str, version: str | None = None, folder: Path | None = None) -> Staged:
    """Stage folders that builds wrote.

    Args:
        datasets: `[CONFIG[/SPLIT]=]FOLDER` each; the first one's configuration is the default.
        to: the repository, as `org/name`.
        version: one to three numbers with dots between; by default that of the first folder, up to a `+`.
        folder: where to stage; by default a folder in the cache.

    Raises:
        BadInput: see `read_parts` and `stage`.
    """
    repo = check_repo(to)
    parts = read_parts(datasets)
    out = folder or cache_folder() / "hub" / repo.replace("/", "--")
    given = version or str(parts[0].build.get("version") or "1").partition("+")[0]
    return stage(parts, repo, given, out, datetime.now(UTC).date().isoformat())


def stage(parts: Sequence[Part], repo: str, version: str, out: Path, today: str) -> Staged:
    """Write the repository's folder and check it.

    Args:
        parts: what is published; the first one's configuration is the default.
        repo: `org/name`.
        version: one to three numbers with dots between.
        out: the folder; an older one of the same kind is replaced.
        today: the day of a first publication, as `2026-11-23`.

    Raises:
        BadInput: the version is not of that form, `out` holds something else, rows would not come back as they are,
            or `datasets` reads another data set from the folder than was put there.
    """
    version = semantic(version)
    if out.exists() and not (out / _MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} holds files that no `counterfact push` wrote: choose another place, or remove it first")
    fresh = out.parent / f".{out.name}.unfinished"
    shutil.rmtree(fresh, ignore_errors=True)
    files = [
        _write(fresh, part, features_of([row for other in parts if other.config == part.config for row in other.rows]))
        for part in parts
    ]
    words = wording_for(parts)
    for file in files:
        if file.part.kind is not None:
            write_json(fresh / build_path(file), {**file.part.build, "stats": file.part.stats})
    write_atomic(fresh / CARD, card(repo, version, files, words))
    write_json(fresh / CROISSANT, croissant(repo, version, files, words, today))
    check_staged(fresh, parts)
    names = sorted(str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file())
    write_atomic(fresh / _MARK, "")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    return Staged(out, repo, version, tuple(names))


def check_repo(repo: str) -> str:
    """Return the name of a repository.

    Raises:
        BadInput: it is not of the form `org/name`. It is not quoted: a token may have been given in its place.
    """
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise BadInput("expected the name of a repository on the Hub, as org/name")
    return repo


def semantic(version: str) -> str:
    """Return a version as three numbers.

    >>> semantic("1"), semantic("v1.2")
    ('1.0.0', '1.2.0')

    Raises:
        BadInput: it is not one to three numbers.
    """
    numbers = version.removeprefix("v").split(".")
    if len(numbers) > 3 or not all(part.isascii() and part.isdigit() for part in numbers):
        raise BadInput(f"expected a version such as 1 or 1.2.0, got {version!r}: give one with --version")
    return ".".join([*(str(int(part)) for part in numbers), "0", "0"][:3])


def keep_date(theirs: Any, ours: dict[str, Any]) -> dict[str, Any]:
    """Return our Croissant metadata with the day on which the same version was first published."""
    same = isinstance(theirs, dict) and theirs.get("version") == ours["version"] and _DATE in theirs
    return {**ours, _DATE: theirs[_DATE]} if same else ours


def read_croissant(staged: Staged) -> dict[str, Any]:
    """Return the staged Croissant metadata."""
    value = read_json(staged.folder / CROISSANT)
    return value if isinstance(value, dict) else {}


def check_staged(folder: Path, parts: Sequence[Part]) -> None:
    """Read the folder with `datasets`, offline, as it would be read from the Hub.

    Raises:
        BadInput: a configuration does not load, or gives other rows than its part has.
    """
    from datasets import load_dataset  # noqa: PLC0415

    with TemporaryDirectory(prefix="counterfact-check-") as cache, _no_bars():
        for part in parts:
            try:
                loaded = load_dataset(str(folder), part.config, split=part.split, cache_dir=cache)
                found = hash_json(list(loaded))
            except Exception as error:
                raise BadInput(f"`datasets` cannot read {part.config}/{part.split} as staged: {error}") from error
            if found != part.content_hash:
                raise BadInput(f"`datasets` reads other rows from {part.config}/{part.split} than were staged")


def _write(folder: Path, part: Part, features: "Features") -> StagedFile:
    path = f"{part.config}/{part.split}-00000-of-00001.parquet"
    size = write_table(folder / path, part.rows, features)
    return StagedFile(path, part, features, hash_file(folder / path), (folder / path).stat().st_size, size)


@contextmanager
def _no_bars() -> Iterator[None]:
    from datasets.utils.logging import (  # noqa: PLC0415
        disable_progress_bar,
        enable_progress_bar,
        is_progress_bar_enabled,
    )

    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()
