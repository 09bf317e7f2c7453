"""Tables of scores from `speed/results/`: how far arithmetic moves them, and how the edited layer does."""

from collections.abc import Mapping
from typing import Any

from docs.measured import percent, result, table

EDITORS = {"rome": "ROME", "ft": "FT", "identity": "none"}
ARITHMETIC = {
    "float32": "float32",
    "float64": "float64",
    "bfloat16": "bfloat16",
    "bf16": "float32, bf16 products",
    "tf32": "float32, tf32 products",
    "chunk 1": "float32, 1 at once",
    "chunk 7": "float32, 7 at once",
    "chunk 64": "float32, 64 at once",
}
SCORES = {"S": 2, "ES": 1, "PS": 1, "NS": 1, "EM": 2, "PM": 2, "NM": 2, "GE": 1, "RS": 1}
"""Metrics of a drift, and the digits they are written with."""


def drift_factlm() -> str:
    """Return how far factlm's results move with what they are computed in."""
    return _drift("factlm-cpu", "factlm-bf16-cpu")


def drift_smollm2() -> str:
    """Return how far SmolLM2's results move in bf16 products."""
    return _drift("smollm2-bf16-cpu")


def _drift(*names: str) -> str:
    files = [result(f"drift-{name}")["drift"] for name in names]
    rows = []
    for editor, words in EDITORS.items():
        # Each file holds the strict run that its others are held against; the first one's is shown.
        found = {kind: row for file in reversed(files) for kind, row in file.get(editor, {}).items()}
        kinds = [kind for kind in ARITHMETIC if kind in found]
        rows += [_drift_row("" if place else words, kind, found[kind]) for place, kind in enumerate(kinds)]
    head = ["editor", "computed in", *SCORES, "nats a token, largest", "mean", "successes changed", "texts the same"]
    return table(head, rows)


def _drift_row(editor: str, kind: str, found: Mapping[str, Any]) -> list[str]:
    values = ((found["metrics"].get(name), digits) for name, digits in SCORES.items())
    metrics = ["–" if value is None else f"{value:.{digits}f}" for value, digits in values]
    if kind == "float32":
        return [editor, ARITHMETIC[kind], *metrics, *[""] * 4]
    moved = (found[f"nats_{which}_difference"] for which in ("largest", "mean"))
    flips = f"{found['flags_changed']} of {found['flags']:,}"
    same = percent(found["texts_identical"] / found["texts"]) if found["texts"] else "–"
    return [editor, ARITHMETIC[kind], *metrics, *(f"{value:.1e}" for value in moved), flips, same]


def sweep_smollm2() -> str:
    """Return what ROME scores on SmolLM2 at each layer."""
    points = result("sweep-smollm2-bf16-cpu")["points"]
    found = {(point["layer"], point["metric"]): point for point in points}
    metrics = list(dict.fromkeys(point["metric"] for point in points))
    rows = [
        [str(layer), *(_scored(found[layer, metric]) for metric in metrics)]
        for layer in sorted({p["layer"] for p in points})
    ]
    return table(["layer", *metrics], rows)


def _scored(point: Mapping[str, Any]) -> str:
    return f"{point['value']:.1f} [{point['low']:.1f}, {point['high']:.1f}]"
