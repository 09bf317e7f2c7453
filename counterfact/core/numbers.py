"""Numbers as files hold them: finite, or missing."""

import math
from typing import Any


def finite(value: Any) -> float | None:
    """Return a finite number, and `None` for NaN, an infinity or anything else.

    >>> finite(2), finite(float("nan")), finite("2")
    (2.0, None, None)
    """
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
