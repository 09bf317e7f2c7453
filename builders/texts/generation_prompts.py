"""Hand-curated generation prompts, P^G of the paper: `P*.txt`, one prompt a line, each with one `{}`."""

from pathlib import Path

from counterfact.core.errors import BadInput
from counterfact.core.prompts import check_template


def load_generation_prompts(folder: Path) -> dict[str, tuple[str, ...]]:
    """Read the prompts of every relation in a folder.

    Raises:
        BadInput: there is no such file, or a line has not exactly one `{}`; file and line are named.
    """
    files = generation_files(folder)
    if not files:
        raise BadInput(f"no generation prompts at {folder}: expected files named P103.txt and so on")
    return {file.stem: _read(file) for file in files}


def generation_files(folder: Path) -> list[Path]:
    """Return the files that `load_generation_prompts` reads."""
    return sorted(folder.glob("P*.txt"))


def _read(file: Path) -> tuple[str, ...]:
    prompts = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            check_template(line)
        except ValueError as error:
            raise BadInput(f"{file}:{number}: {error}") from error
        prompts.append(line.strip())
    return tuple(dict.fromkeys(prompts))
