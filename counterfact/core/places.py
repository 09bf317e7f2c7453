"""Where things lie: the embedded data, and the cache."""

import os
from pathlib import Path

from counterfact.core.errors import BadInput

EMBEDDED_TEXTS = "embedded"
"""What the texts in the embedded data are called where a source of texts is named."""
EMBEDDED_MODEL = "factlm"
"""Name of the model in the embedded data."""


def data_folder() -> Path:
    """Return the folder of the embedded data: `COUNTERFACT_DATA`, else the `data/` of this package.

    Raises:
        BadInput: there is no such folder.
    """
    given = os.environ.get("COUNTERFACT_DATA")
    folder = Path(given or Path(__file__).parent.parent / "data").resolve()
    if not folder.is_dir():
        wrong = "correct or unset COUNTERFACT_DATA, which names it" if given else "install counterfact-toolkit again"
        raise BadInput(f"no embedded data at {folder}: {wrong}")
    return folder


def model_place(name: str) -> str:
    """Return where a model lies: `name` itself, or the embedded model of that name where there is no such path.

    Raises:
        BadInput: the embedded data are needed, and there are none.
    """
    if Path(name).exists() or "/" in name:
        return name
    embedded = data_folder() / "models" / name
    return str(embedded) if embedded.is_dir() else name


def check_hub_name(name: str) -> None:
    """Raise `BadInput` for what is never on the Hub: a name of the embedded data, which then lack what it names."""
    if name in {EMBEDDED_TEXTS, EMBEDDED_MODEL}:
        raise BadInput(f"the embedded data at {data_folder()} hold nothing called {name!r} that can be used here")


def cache_folder() -> Path:
    """Return the folder of everything that can be made again: `COUNTERFACT_CACHE`, else the XDG cache folder."""
    if given := os.environ.get("COUNTERFACT_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "counterfact"
