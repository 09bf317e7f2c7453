"""Plain texts from anywhere: what second moments and context sentences are read from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from core.errors import BadInput
from core.files import hash_file, read_jsonl
from core.places import data_folder


@dataclass(frozen=True)
class TextSource:
    """Texts that can be read again and again, in one order."""

    name: str
    content_hash: str
    texts: Callable[[], Iterator[str]]


def load_texts(source: str | Path) -> TextSource:
    """Open a source of texts.

    Args:
        source: a `.txt` file (one text a line), a `.jsonl` file (key `text`), a folder of such files (read in the
            order of their names), `embedded` (the articles in this repository), or a data set on the Hub with a
            column `text`, as `name` or `name:config`.

    Raises:
        BadInput: there are no such texts.
    """
    path = data_folder() / "articles" if source == "embedded" else Path(source)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in {".txt", ".jsonl"})
    else:
        files = [path] if path.is_file() and path.suffix in {".txt", ".jsonl"} else []
    if files:
        digest = sha256("".join(map(hash_file, files)).encode()).hexdigest()
        return TextSource(str(source) if source == "embedded" else path.name, digest, lambda: _read_files(files))
    if path.exists() or str(source).startswith((".", "/")):
        raise BadInput(f"no texts at {source}: expected a .txt or .jsonl file, a folder of them, or a Hub id")
    return _hub_texts(str(source))


def _read_files(files: list[Path]) -> Iterator[str]:
    for file in files:
        if file.suffix == ".jsonl":
            for value in read_jsonl(file):
                if not isinstance(value, dict) or not isinstance(value.get("text"), str):
                    raise BadInput(f"{file}: expected a `text` in every line")
                if value["text"].strip():
                    yield value["text"]
        else:
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    if line.strip():
                        yield line.rstrip("\n")


def _hub_texts(name: str) -> TextSource:
    try:
        import datasets  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415
    except ImportError as error:
        raise BadInput(f"no file or folder {name}; reading it from the Hub needs `pip install datasets`") from error
    repository, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, config or None, split="train", streaming=True)
        revision = str(loaded.info.download_checksums or loaded.info.version or name)
    except Exception as error:
        raise BadInput(f"no file or folder {name}, and the Hub gave no texts of that name: {error}") from error
    digest = sha256(f"{name}\x1f{revision}".encode()).hexdigest()
    return TextSource(name, digest, lambda: (row["text"] for row in loaded if row["text"].strip()))
