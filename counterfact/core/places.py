"""Where things lie: the embedded data, and the cache."""

import os
from pathlib import Path


def data_folder() -> Path:
    """Return the folder of the embedded world: `COUNTERFACT_DATA`, else the `data/` of this package."""
    return Path(os.environ.get("COUNTERFACT_DATA") or Path(__file__).parent.parent / "data").resolve()


def cache_folder() -> Path:
    """Return the folder of everything that can be made again: `COUNTERFACT_CACHE`, else the XDG cache folder."""
    if given := os.environ.get("COUNTERFACT_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "counterfact"
