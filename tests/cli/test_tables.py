"""Tables of a terminal: no cell loses a character, however narrow it is; texts are printed as they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfact.cli import _tables
from counterfact.cli._common import console, progress_bar
from counterfact.cli._tables import arrange, print_table

WIDE = [["editor", "rome (layer=17)", "ft"]] + [[f"PM{i}", "-22.6 [-31.4, -12.0]*", "–"] for i in range(9)]
MARKED = "[/INST] [bold]x[/] :smile: C:\\[a]"


def shown(capsys: pytest.CaptureFixture[str], columns: list[list[str]], **given: str) -> str:
    print_table([head for head, *_ in columns], list(zip(*(cells for _, *cells in columns), strict=True)), **given)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [200, 80, 40, 12])
def test_numbers_are_whole_at_any_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(console, "width", width)
    out = shown(capsys, WIDE, title="a title", note="a note")
    assert out.count("-22.6") == 9 and out.count("[-31.4") == 9 and out.count("-12.0]*") == 9
    assert all(f"PM{i}" in out for i in range(9)) and "…" not in out
    assert max(map(len, out.splitlines())) <= max(width, 20)
    assert out.startswith("a title\n") and out.endswith("a note\n")
    assert out.count("editor") == {200: 1, 80: 2, 40: 3, 12: 9}[width]


@given(
    st.lists(st.lists(st.text("abc 1.5,[]-", max_size=20), min_size=3, max_size=3), min_size=1, max_size=8),
    st.integers(5, 120),
)
def test_every_column_stands_in_one_part(columns: list[list[str]], width: int) -> None:
    parts = arrange(columns, width)
    assert [cells[0] for part in parts for cells, _, _ in (part if part is parts[0] else part[1:])] == [
        head for head, *_ in columns
    ]
    for part in parts:
        for cells, size, numbers in part:
            words = [line for cell in cells for line in (cell.split() if not numbers else cell.split("\n"))]
            assert not numbers or all(len(word) <= size for word in words[1:])


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    assert MARKED in shown(capsys, [["token", MARKED], ["p", "9.9%"]], title=MARKED)
    console.print(MARKED)
    assert capsys.readouterr().out == f"{MARKED}\n"
    with progress_bar(MARKED) as advance:
        advance(MARKED, 1, 2, MARKED)
    assert _tables.console is console
