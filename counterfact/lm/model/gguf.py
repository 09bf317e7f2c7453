"""GGUF files, the format of llama.cpp, become folders that every command takes: unpacked to float32, once."""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as library_logging

from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import hash_file, one_writer, read_json, whole_folder, write_json
from counterfact.core.places import cache_folder
from counterfact.lm.model.sites import layout_of

MAGIC = b"GGUF"
SOURCE = "source.json"
"""File of a converted folder that says what it was made from."""
INSTALL = "pip install gguf accelerate 'transformers>=5.21'"
QUANTISATION = re.compile(r"[.-](i?q\d\w*|bf16|f16|f32)$", re.IGNORECASE)
"""How the names of files say their quantisation."""
WEIGHTS = "model.safetensors"
PROBE = "I'll say: Québec,  Zürich\t(in 1871) 3,456.70 _x+=1\n\n  你好 мир 🦊 ﬁn"
"""A text on which ways to split texts differ; the whole vocabulary follows it."""

Announce = Callable[[str], object]
"""Function that is told, in one line, what takes a while."""


def is_gguf(path: Path) -> bool:
    """Return whether a path names a GGUF file, by its ending or by how the file begins; a folder never is one."""
    named = path.suffix.lower() == ".gguf" and not path.is_dir()
    return named or (path.is_file() and _beginning(path) == MAGIC)


def model_name(file: Path) -> str:
    """Return the name of the model in a file: the file's, without its quantisation.

    >>> model_name(Path("models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    'SmolLM2-135M-Instruct'
    """
    return QUANTISATION.sub("", file.stem).lstrip(".") or "model"


def cached_conversion(digest: str, name: str) -> Path:
    """Return the folder in the cache of what is made of the file with this sha256."""
    return _place(digest) / name


def convert_once(file: Path, announce: Announce | None = None) -> Path:
    """Return the folder in the cache that holds the model of a GGUF file, made now unless it is there.

    Args:
        file: the GGUF file.
        announce: told that the file is converted, and where to.

    Raises:
        BadInput: as `convert`.
    """
    _check_beginning(file)
    digest = hash_file(file)
    folder = cached_conversion(digest, model_name(file))
    if not is_conversion_of(folder, digest):
        convert(file, digest, folder, announce)
    return folder


def is_conversion_of(folder: Path, digest: str) -> bool:
    """Return whether a folder holds what was made of the file with this sha256."""
    return (folder / SOURCE).is_file() and read_json(folder / SOURCE)["sha256"] == digest


def convert(
    file: Path, digest: str, folder: Path, announce: Announce | None = None, *, expected: str | None = None
) -> None:
    """Write the model of a GGUF file to a folder: config.json, weights in float32, tokenizer.

    The folder appears whole or not at all. Where several processes convert the same file, one does the work and the
    others wait for it.

    Args:
        file: the GGUF file.
        digest: sha256 of the file, which the folder keeps.
        folder: the folder to make.
        announce: told that the file is converted, and where to.
        expected: sha256 that `model.safetensors` must have, where it is known.

    Raises:
        BadInput: packages are missing, the file is damaged, the library or this package cannot use its model, or the
            folder holds something else.
        Failed: the weights are not the expected ones.
    """
    _check_beginning(file)
    _check_packages()
    with one_writer(_place(digest), wait=True):
        if is_conversion_of(folder, digest):
            return
        with whole_folder(folder, f"the model of {file}") as unfinished:
            if announce is not None:
                announce(f"converting {file} to {folder.resolve()}, once")
            with _quiet():
                _write(file, unfinished)
            check_weights(unfinished, expected)
            write_json(unfinished / SOURCE, {"file": file.name, "sha256": digest})


def check_weights(folder: Path, expected: str | None) -> None:
    """Raise `Failed` unless the weights in a folder have the sha256 that is expected, if any is."""
    if expected is not None and (found := hash_file(folder / WEIGHTS)) != expected:
        raise Failed(
            f"the weights in {folder} are not those that are known to be right: expected sha256 {expected[:12]}…, "
            f"found {found[:12]}…, with transformers {transformers.__version__}; remove the folder and try again"
        )


def _place(digest: str) -> Path:
    return cache_folder() / "models" / digest[:16]


def _write(file: Path, folder: Path) -> None:
    stored = _stored_numbers(file)
    where: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    with _named(file, "cannot be read as a model"):
        config = AutoConfig.from_pretrained(**where)
    with _named(file, "cannot be used"):
        layout_of(config)
    with _named(file, "holds no tokenizer that can be used"):
        tokenizer = AutoTokenizer.from_pretrained(**where)
    if not tokenizer.is_fast:
        raise BadInput(f"{file} holds no fast tokenizer, by whose offsets subjects are found; use another file")
    with _named(file, "cannot be read as a model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **where,
            dtype=torch.float32,
            quantization_config=transformers.GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    model, report = loaded
    _check_complete(file, stored, model, report)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _check_tokenizer(file, tokenizer, folder)


def _check_beginning(file: Path) -> None:
    if not file.is_file():
        raise BadInput(f"no file {file}")
    if (begins := _beginning(file)) != MAGIC:
        raise BadInput(f"{file} is no GGUF file: expected it to begin with {MAGIC!r}, found {begins!r}")


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(len(MAGIC))


def _check_packages() -> None:
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if not hasattr(transformers, "GgufConfig"):
        missing.append(f"a newer transformers than {transformers.__version__}")
    if missing:
        raise BadInput(f"reading a GGUF file needs {' and '.join(missing)}: {INSTALL}")


def _stored_numbers(file: Path) -> int:
    """Return how many numbers the tensors of a file hold; raise `BadInput` where it is damaged or a part."""
    from gguf import GGUFReader  # noqa: PLC0415

    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise BadInput(f"{file} is cut off or damaged ({error}); download it again") from error
    split = reader.get_field("split.count")
    if split is not None and (parts := int(split.contents())) > 1:
        raise BadInput(f"{file} is one of {parts} parts of a model; merge them with llama.cpp's gguf-split first")
    return sum(int(tensor.n_elements) for tensor in reader.tensors)


def _check_complete(file: Path, stored: int, model: Any, report: dict[str, Any]) -> None:
    """Raise `BadInput` unless every weight came from the file and every number of the file went into a weight."""
    if lacking := sorted(report["missing_keys"]):
        raise BadInput(f"{file} lacks weights that its model needs: {', '.join(lacking[:3])}; use a complete file")
    used = sum(parameter.numel() for parameter in model.parameters())
    if used != stored:
        raise BadInput(
            f"transformers uses {used:,} of the {stored:,} numbers in {file}, so that its model would be another one; "
            "use the folder or Hub id that the file was made from"
        )


def _check_tokenizer(file: Path, tokenizer: Any, folder: Path) -> None:
    """Raise `BadInput` unless the saved tokenizer encodes as that of the file: the library may rebuild it by family."""
    probe = f"{PROBE} {tokenizer.decode(range(len(tokenizer)))}"
    if AutoTokenizer.from_pretrained(folder)(probe).input_ids != tokenizer(probe).input_ids:
        raise BadInput(
            f"{file} splits texts in another way than transformers {transformers.__version__} does for models of its "
            "family; use the folder or Hub id that the file was made from"
        )


@contextmanager
def _named(file: Path, what: str) -> Iterator[None]:
    """Turn what the libraries raise about a file into `BadInput`."""
    try:
        yield
    except MemoryError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BadInput(f"{file} {what}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and warnings off the terminal."""
    level = library_logging.get_verbosity()
    library_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        library_logging.set_verbosity(level)
