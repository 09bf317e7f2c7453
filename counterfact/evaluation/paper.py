"""The numbers that papers print, to stand beside ours.

Single edits: Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262v5, tables 1, 4, 5 and 6. Many facts in one edit: Meng, Sharma, Andonian, Belinkov, Bau.
Mass-Editing Memory in a Transformer. ICLR 2023. https://arxiv.org/abs/2210.07229, tables 1 and 2. One group after
another: Fang et al. AlphaEdit. ICLR 2025. https://arxiv.org/abs/2410.02355, table 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Edits = Literal["single", "at once", "sequential"]
"""How a table's edits were made."""
IN_WORDS: Mapping[Edits, str] = {
    "single": "single edits",
    "at once": "many facts in one edit",
    "sequential": "one edit after another",
}

ROME_COLUMNS = ("S", "ES", "EM", "PS", "PM", "NS", "NM", "GE", "RS")
MEMIT_COLUMNS = ("S", "ES", "PS", "NS", "GE", "RS")
ALPHAEDIT_COLUMNS = ("ES", "PS", "NS", "GE", "RS")
ZSRE_COLUMNS = ("efficacy", "paraphrase", "specificity")

N: Mapping[str, Mapping[str, int]] = {
    "counterfact": {"gpt2-xl": 7500, "gpt2-medium": 7500, "gpt2-large": 7500, "gpt-j-6b": 2000},
    "zsre": {"gpt2-xl": 10000, "gpt2-medium": 10000, "gpt2-large": 10000},
}
"""How many records, from case id 0, each model was evaluated on, single edits."""

EDITORS = {
    "FT": "ft",
    "FT+L": "ft_l",
    "KN": "kn",
    "KE": "ke",
    "KE-CF": "ke_cf",
    "KE-zsRE": "ke_zsre",
    "MEND": "mend",
    "MEND-CF": "mend_cf",
    "MEND-zsRE": "mend_zsre",
    "ROME": "rome",
    "MEMIT": "memit",
    "RECT": "rect",
    "PRUNE": "prune_as_published",
    "AlphaEdit": "alphaedit",
}
"""Our names of the papers' editors."""

COUNTERFACT_ROWS = """
gpt2-xl|GPT-2 XL|30.5|22.2 0.9|-4.8 0.3|24.7 0.8|-5.0 0.3|78.1 0.6|5.0 0.2|626.6 0.3|31.9 0.2
gpt2-xl|FT|65.1|100.0 0.0|98.8 0.1|87.9 0.6|46.6 0.8|40.4 0.7|-6.2 0.4|607.1 1.1|40.5 0.3
gpt2-xl|FT+L|66.9|99.1 0.2|91.5 0.5|48.7 1.0|28.9 0.8|70.3 0.7|3.5 0.3|621.4 1.0|37.4 0.3
gpt2-xl|KN|35.6|28.7 1.0|-3.4 0.3|28.0 0.9|-3.3 0.2|72.9 0.7|3.7 0.2|570.4 2.3|30.3 0.3
gpt2-xl|KE|52.2|84.3 0.8|33.9 0.9|75.4 0.8|14.6 0.6|30.9 0.7|-11.0 0.5|586.6 2.1|31.2 0.3
gpt2-xl|KE-CF|18.1|99.9 0.1|97.0 0.2|95.8 0.4|59.2 0.8|6.9 0.3|-63.2 0.7|383.0 4.1|24.5 0.4
gpt2-xl|MEND|57.9|99.1 0.2|70.9 0.8|65.4 0.9|12.2 0.6|37.9 0.7|-11.6 0.5|624.2 0.4|34.8 0.3
gpt2-xl|MEND-CF|14.9|100.0 0.0|99.2 0.1|97.0 0.3|65.6 0.7|5.5 0.3|-69.9 0.6|570.0 2.1|33.2 0.3
gpt2-xl|ROME|89.2|100.0 0.1|97.9 0.2|96.4 0.3|62.7 0.8|75.4 0.7|4.2 0.2|621.9 0.5|41.9 0.3
gpt-j-6b|GPT-J|23.6|16.3 1.6|-7.2 0.7|18.6 1.5|-7.4 0.6|83.0 1.1|7.3 0.5|621.8 0.6|29.8 0.5
gpt-j-6b|FT|25.5|100.0 0.0|99.9 0.0|96.6 0.6|71.0 1.5|10.3 0.8|-50.7 1.3|387.8 7.3|24.6 0.8
gpt-j-6b|FT+L|68.7|99.6 0.3|95.0 0.6|47.9 1.9|30.4 1.5|78.6 1.2|6.8 0.5|622.8 0.6|35.5 0.5
gpt-j-6b|MEND|63.2|97.4 0.7|71.5 1.6|53.6 1.9|11.0 1.3|53.9 1.4|-6.0 0.9|620.5 0.7|32.6 0.5
gpt-j-6b|ROME|91.5|99.9 0.1|99.4 0.3|99.1 0.3|74.1 1.3|78.9 1.2|5.2 0.5|620.1 0.9|43.0 0.6
gpt2-medium|GPT-2 M|33.4|25.0 1.0|-3.3 0.2|27.4 0.9|-3.0 0.2|74.9 0.7|3.6 0.2|625.8 0.3|31.4 0.2
gpt2-medium|FT+L|68.0|100.0 0.1|94.9 0.3|68.5 0.9|6.1 0.4|51.3 0.8|-1.7 0.3|626.1 0.4|39.3 0.3
gpt2-medium|ROME|87.4|100.0 0.0|94.9 0.3|96.4 0.3|56.9 0.8|71.8 0.7|2.8 0.2|625.0 0.4|41.7 0.3
gpt2-large|GPT-2 L|32.8|23.9 1.0|-4.0 0.3|27.4 0.9|-3.5 0.2|75.7 0.7|4.3 0.2|625.4 0.3|31.8 0.2
gpt2-large|FT+L|71.2|100.0 0.1|96.3 0.2|63.0 0.9|5.1 0.4|61.5 0.7|1.1 0.3|625.2 0.3|39.3 0.3
gpt2-large|ROME|88.2|99.9 0.1|98.2 0.1|96.3 0.3|60.4 0.8|73.4 0.7|3.5 0.2|622.5 0.4|41.9 0.3
"""

ZSRE_ROWS = """
gpt2-xl|GPT-2 XL|22.2 0.5|21.3 0.5|24.2 0.5
gpt2-xl|FT|99.6 0.1|82.1 0.6|23.2 0.5
gpt2-xl|FT+L|92.3 0.4|47.2 0.7|23.4 0.5
gpt2-xl|KE|65.5 0.6|61.4 0.6|24.9 0.5
gpt2-xl|KE-zsRE|92.4 0.3|90.0 0.3|23.8 0.5
gpt2-xl|MEND|75.9 0.5|65.3 0.6|24.1 0.5
gpt2-xl|MEND-zsRE|99.4 0.1|99.3 0.1|24.1 0.5
gpt2-xl|ROME|99.8 0.0|88.1 0.5|24.2 0.5
gpt2-medium|GPT-2 M|18.8 0.5|18.1 0.5|21.3 0.4
gpt2-medium|FT+L|97.2 0.2|59.4 0.7|20.9 0.4
gpt2-medium|ROME|96.6 0.2|79.8 0.6|21.3 0.4
gpt2-large|GPT-2 L|20.6 0.5|19.8 0.5|22.5 0.5
gpt2-large|FT+L|98.3 0.2|56.8 0.7|22.4 0.5
gpt2-large|ROME|99.6 0.1|84.7 0.6|22.5 0.5
"""

MEMIT_COUNTERFACT_ROWS = """
gpt-j-6b|GPT-J|22.4|15.2 0.7|17.7 0.6|83.5 0.5|622.4 0.3|29.4 0.2
gpt-j-6b|FT-W|67.6|99.4 0.1|77.0 0.7|46.9 0.6|293.9 2.4|15.9 0.3
gpt-j-6b|MEND|23.1|15.7 0.7|18.5 0.7|83.0 0.5|618.4 0.3|31.1 0.2
gpt-j-6b|ROME|50.3|50.2 1.0|50.4 0.8|50.2 0.6|589.6 0.5|3.3 0.0
gpt-j-6b|MEMIT|85.8|98.9 0.2|88.6 0.5|73.7 0.5|619.9 0.3|40.1 0.2
gpt-neox-20b|GPT-NeoX|23.7|16.8|18.3|81.6|620.4|29.3
gpt-neox-20b|MEMIT|82.0|97.2|82.2|70.8|606.4|36.9
"""

MEMIT_ZSRE_ROWS = """
gpt-j-6b|GPT-J|26.4|25.8|27.0
gpt-j-6b|FT-W|69.6|64.8|24.1
gpt-j-6b|MEND|19.4|18.6|22.4
gpt-j-6b|ROME|21.0|19.6|0.9
gpt-j-6b|MEMIT|96.7|89.7|26.6
"""

ALPHAEDIT_COUNTERFACT_ROWS = """
meta-llama-3-8b|Llama-3|7.85|10.58|89.48|635.23|24.14
meta-llama-3-8b|FT|83.33|67.79|46.63|233.72|8.77
meta-llama-3-8b|MEND|63.24|61.17|45.37|372.16|4.21
meta-llama-3-8b|ROME|64.40|61.42|49.44|449.06|3.31
meta-llama-3-8b|MEMIT|65.65|64.65|51.56|437.43|6.58
meta-llama-3-8b|PRUNE|68.25|64.75|49.82|418.03|5.90
meta-llama-3-8b|RECT|66.05|63.62|61.41|526.62|20.54
meta-llama-3-8b|AlphaEdit|98.90|94.22|67.88|622.49|32.40
gpt-j-6b|GPT-J|16.22|18.56|83.11|621.81|29.74
gpt-j-6b|FT|92.15|72.38|43.35|297.92|6.65
gpt-j-6b|ROME|57.50|54.20|52.05|589.42|3.22
gpt-j-6b|MEMIT|98.55|95.50|63.64|546.28|34.89
gpt-j-6b|PRUNE|86.15|86.85|53.87|427.14|14.78
gpt-j-6b|RECT|98.80|86.58|72.22|617.31|41.39
gpt-j-6b|AlphaEdit|99.75|96.38|75.48|618.50|42.08
gpt2-xl|GPT-2 XL|22.23|24.34|78.53|626.64|31.88
gpt2-xl|FT|63.55|42.20|57.06|519.35|10.56
gpt2-xl|ROME|54.60|51.18|52.68|366.13|0.72
gpt2-xl|MEMIT|94.70|85.82|60.50|477.26|22.72
gpt2-xl|PRUNE|82.05|78.55|53.02|530.47|15.93
gpt2-xl|RECT|92.15|81.15|65.13|480.83|21.05
gpt2-xl|AlphaEdit|99.50|93.95|66.39|597.88|39.38
"""

ALPHAEDIT_ZSRE_ROWS = """
meta-llama-3-8b|Llama-3|36.99|36.34|31.89
meta-llama-3-8b|FT|30.48|30.22|15.49
meta-llama-3-8b|MEND|0.91|1.09|0.53
meta-llama-3-8b|ROME|2.01|1.80|0.69
meta-llama-3-8b|MEMIT|34.62|31.28|18.49
meta-llama-3-8b|PRUNE|24.77|23.87|20.69
meta-llama-3-8b|RECT|86.05|80.54|31.67
meta-llama-3-8b|AlphaEdit|94.47|91.13|32.55
gpt-j-6b|GPT-J|26.32|25.79|27.42
gpt-j-6b|FT|72.37|68.91|19.66
gpt-j-6b|ROME|56.42|54.65|9.86
gpt-j-6b|MEMIT|94.91|90.22|30.39
gpt-j-6b|PRUNE|0.15|0.15|0.00
gpt-j-6b|RECT|96.38|91.21|27.79
gpt-j-6b|AlphaEdit|99.79|96.00|28.29
gpt2-xl|GPT-2 XL|22.19|31.30|24.15
gpt2-xl|FT|37.11|33.30|10.36
gpt2-xl|ROME|47.50|43.56|14.27
gpt2-xl|MEMIT|79.17|71.44|26.42
gpt2-xl|PRUNE|21.62|19.27|13.19
gpt2-xl|RECT|81.02|73.08|24.85
gpt2-xl|AlphaEdit|94.81|86.11|25.88
"""

BASES = ("GPT-2 XL", "GPT-J", "GPT-2 M", "GPT-2 L", "GPT-NeoX", "Llama-3")
ROME_PAPER = "https://arxiv.org/abs/2202.05262v5"
MEMIT_PAPER = "https://arxiv.org/abs/2210.07229"
ALPHAEDIT_PAPER = "https://arxiv.org/abs/2410.02355"


@dataclass(frozen=True)
class Published:
    """One printed number and half the width of its 95 % interval, both rounded to one decimal."""

    value: float
    half: float | None


@dataclass(frozen=True)
class PaperRow:
    """One row of a table of a paper."""

    label: str
    editor: str | None
    """Our name of the editor; `unedited` for the model itself; `None` where we have no such editor."""
    n: int
    cells: Mapping[str, Published]
    source: str
    """The paper's address, and which table it is in."""


@dataclass(frozen=True)
class _Printed:
    """Tables of one paper, of one benchmark."""

    paper: str
    tables: Mapping[str, int]
    """Model to the number of the table."""
    n: Mapping[str, int]
    """Model to how many records it is of."""
    columns: tuple[str, ...]
    rows: str


def _printed(paper: str, table: int, n: int, columns: tuple[str, ...], rows: str) -> _Printed:
    models = [line.partition("|")[0] for line in rows.strip().split("\n")]
    return _Printed(paper, dict.fromkeys(models, table), dict.fromkeys(models, n), columns, rows)


PRINTED: Mapping[tuple[str, Edits], _Printed] = {
    ("counterfact", "single"): _Printed(
        ROME_PAPER,
        {"gpt2-xl": 4, "gpt-j-6b": 4, "gpt2-medium": 5, "gpt2-large": 5},
        N["counterfact"],
        ROME_COLUMNS,
        COUNTERFACT_ROWS,
    ),
    ("zsre", "single"): _Printed(
        ROME_PAPER, {"gpt2-xl": 1, "gpt2-medium": 6, "gpt2-large": 6}, N["zsre"], ZSRE_COLUMNS, ZSRE_ROWS
    ),
    ("counterfact", "at once"): _printed(MEMIT_PAPER, 2, 10_000, MEMIT_COLUMNS, MEMIT_COUNTERFACT_ROWS),
    ("zsre", "at once"): _printed(MEMIT_PAPER, 1, 10_000, ZSRE_COLUMNS, MEMIT_ZSRE_ROWS),
    ("counterfact", "sequential"): _printed(ALPHAEDIT_PAPER, 1, 2_000, ALPHAEDIT_COLUMNS, ALPHAEDIT_COUNTERFACT_ROWS),
    ("zsre", "sequential"): _printed(ALPHAEDIT_PAPER, 1, 2_000, ZSRE_COLUMNS, ALPHAEDIT_ZSRE_ROWS),
}


def edits_of(schedule: Mapping[str, Any]) -> Edits:
    """Return which tables a run's schedule of edits is like.

    >>> edits_of({"edits_at_once": 1, "sequential": False}), edits_of({"edits_at_once": 100, "sequential": True})
    ('single', 'sequential')
    """
    if schedule["sequential"]:
        return "sequential"
    return "at once" if schedule["edits_at_once"] > 1 else "single"


def paper_rows(benchmark: str, model: str, edits: Edits = "single") -> list[PaperRow]:
    """Return printed rows for a model, the unedited one first; none for a model or benchmark that is in no table.

    Many facts in one edit are 10,000, one group after another 2,000 in groups of 100, scored at the end.

    >>> [row.label for row in paper_rows("zsre", "gpt2-large")]
    ['GPT-2 L', 'FT+L', 'ROME']
    >>> paper_rows("counterfact", "EleutherAI/gpt-j-6B")[-1].cells["ES"]
    Published(value=99.9, half=0.1)
    >>> paper_rows("counterfact", "gpt-j-6b", "at once")[-1].source
    'https://arxiv.org/abs/2210.07229 Table 2'
    >>> paper_rows("choice", "gpt2-xl")
    []
    """
    printed = PRINTED.get((benchmark, edits))
    name = model.rpartition("/")[2].lower()
    if printed is None or name not in printed.tables:
        return []
    source, rows = f"{printed.paper} Table {printed.tables[name]}", []
    for line in printed.rows.split("\n"):
        of, _, rest = line.partition("|")
        if of == name:
            label, *cells = rest.split("|")
            editor = "unedited" if label in BASES else EDITORS.get(label)
            values = {column: _cell(cell) for column, cell in zip(printed.columns, cells, strict=True)}
            rows.append(PaperRow(label, editor, printed.n[name], values, source))
    return rows


def _cell(text: str) -> Published:
    value, _, half = text.partition(" ")
    return Published(float(value), float(half) if half else None)
