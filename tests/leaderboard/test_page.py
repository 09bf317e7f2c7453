"""The page in a real browser: sort, filter, open a run, compare two, themes, a phone's width; a silent console."""

import csv
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from counterfact.core.places import data_folder
from counterfact.leaderboard.entries import load_entries
from counterfact.leaderboard.page import ASSETS, write_site
from counterfact.leaderboard.submission import read_submission, run_id
from counterfact.statistics.summary import blocks_of, paired_differences
from speed.browser import Browser, find_browser
from tests.support.evaluating import counterfact, run_fake, run_identity

DIFFERENCES = """[...document.querySelector('table').tBodies[0].rows].map(({cells: [name, , , difference]}) => [
    name.firstChild.textContent.split(' ')[0], difference.firstChild.textContent,
    ...difference.lastChild.textContent.split(' to ')])"""
"""What a comparison shows of each metric: its name, the difference, the interval's ends."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("board")
    data = counterfact(root / "data")
    run_fake(data, root / "r")
    run_identity(data, root / "r")
    for name in ("ft", "rome"):  # editors of real work, on enough records to be ranked
        shutil.copytree(data_folder() / "board" / "smollm2-embedded" / name, root / "r" / "submitted" / name)
    entries, left_out = load_entries(root / "r")
    assert not left_out
    write_site(entries, root / "site")
    return root / "site"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("needs Chromium on the path")
    one = Browser(program, tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture
def page(browser: Browser, site: Path) -> Browser:
    browser.open(site / "index.html")
    browser.said.clear()
    return browser


def rows(page: Browser) -> int:
    return int(page.run("document.querySelectorAll('tbody tr:not(.part)').length"))


def ids(page: Browser) -> list[str]:
    found: list[str] = page.run("[...document.querySelectorAll('a[href^=\"#/run/\"]')].map((a) => a.hash.slice(6))")
    return found


def go(page: Browser, where: str, there: str) -> None:
    page.run(f"location.hash = '{where}'")
    page.wait(f"document.body.textContent.includes('{there}')")


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 300_000


def test_a_number_is_the_same_on_the_page_as_in_the_table(page: Browser, site: Path) -> None:
    cells = "[...document.querySelectorAll('td[title^=\"n = \"]')].map((td) => td.firstChild.textContent)"
    with (site / "board.csv").open(encoding="utf-8", newline="") as file:
        values = [row["value"] for row in csv.DictReader(file)]
    exact = json.loads((site / "data.js").read_text("utf-8").removeprefix("board.start(").removesuffix(");\n"))
    kept = [cell[0] for group in exact["groups"] for row in group["rows"] for cell in row["cells"].values()]
    assert sorted(kept) == sorted(float(value) for value in values if value)
    assert sorted(page.run(cells)) == sorted(f"{round(value, 1) + 0.0:.1f}" for value in kept)
    found = page.run("[21.950354, -0.04, null, 56.25, 56.75, 0.15].map((value) => fixed(value))")
    assert found == ["22.0", "0.0", "–", "56.2", "56.8", "0.1"]


def test_sorting(page: Browser) -> None:
    assert page.run("document.querySelector('th[aria-sort]').textContent").startswith("S ↑ ▾")
    column = "[...document.querySelectorAll('section')].find((s) => s.querySelector('[data-sort=ES]'))"
    ranked = f"{column}.querySelector('tbody').querySelectorAll('tr')"
    values = f"[...{ranked}].map((tr) => parseFloat(tr.children[4].textContent))"
    page.run("document.querySelector('[data-sort=ES]').click()")
    assert page.run("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"
    assert (down := page.run(values)) == sorted(down, reverse=True)
    page.run("document.querySelector('[data-sort=ES]').click()")
    assert page.run("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    assert page.run(values) == sorted(down)
    assert page.said == []


def test_the_keyboard_stays_where_it_was(page: Browser) -> None:
    page.run("document.querySelector('[data-sort=PS]').focus(); document.activeElement.click()")
    assert page.run("document.activeElement.dataset.sort") == "PS"
    page.run("document.querySelector('input[type=checkbox]').focus(); document.activeElement.click()")
    assert page.run("document.activeElement.type") == "checkbox"


def test_filtering(page: Browser) -> None:
    type_ = "var f = document.getElementById('filter-editor'); f.value = '{}'; f.dispatchEvent(new Event('input'))"
    whole = rows(page)
    page.run(type_.format("identity"))
    assert rows(page) == 1
    assert page.run("document.querySelector('[role=status]').textContent") == "1 row in 1 table"
    page.run(type_.format(""))
    page.run(
        "var d = document.getElementById('filter-dataset'); d.value = 'ours@1'; d.dispatchEvent(new Event('change'))"
    )
    assert rows(page) == 3 < whole, "two runs and the unedited model"
    page.run("d.value = ''; d.dispatchEvent(new Event('change'))")
    assert rows(page) == whole and page.said == []


def test_columns_say_what_they_mean(page: Browser) -> None:
    assert "Efficacy score" in page.run("document.querySelector('[data-sort=ES]').title")
    texts = page.run("[...document.querySelectorAll('dd')].map((dd) => dd.textContent)")
    assert len(texts) >= 9 and all(texts) and not any("$" in text or "Return" in text for text in texts)


def test_a_run_and_what_is_known_of_it(page: Browser) -> None:
    go(page, f"#/run/{ids(page)[0]}", "By relation")
    text = page.run("document.body.textContent")
    assert "weights_hash" in text and "wall_seconds" in text and "P19" in text and "dataset_path" not in text
    assert page.run("document.activeElement.id") == "main"
    assert "on ours@1" in page.run("document.title")
    assert page.said == []


def test_two_runs_record_by_record(page: Browser, site: Path) -> None:
    for index in (0, 1):
        page.run(f"document.querySelectorAll('input.choose')[{index}].click()")
    page.run("document.getElementById('compare').click()")
    page.wait("document.querySelector('h2').textContent.includes(' against ')")
    assert "6 common records" in page.run("document.body.textContent")
    first = json.loads((site / "runs" / f"{page.run('location.hash').split('/')[2]}.js").read_text()[13:-3])
    text = next(case[3] for case in first["cases"] if len(case) > 3)
    assert page.run(f"document.body.textContent.includes({json.dumps(text)})")
    assert page.said == []
    page.run("location.hash = '#/'; state.chosen = []")


def test_differences_are_those_that_the_command_prints(page: Browser) -> None:
    shipped = {name: read_submission(data_folder() / "board" / "smollm2-embedded" / name) for name in ("rome", "ft")}
    blocks = [blocks_of(one.cases, "post") for one in shipped.values()]
    expected = paired_differences(blocks[0], blocks[1], shipped["rome"].benchmark)
    go(page, "#/compare/" + "/".join(run_id(one.run) for one in shipped.values()), "100 common records")
    cells = {row[0]: row for row in page.run(DIFFERENCES)}
    assert {"S", *shipped["rome"].benchmark.shown} <= set(cells)
    for name, shown in cells.items():
        wanted = expected[name].estimate
        found = [float(number) for number in shown[1:]]
        assert found[0] == pytest.approx(wanted.value, abs=0.06), name
        # Where a composite is resampled, the ends depend on the draws.
        assert found[1:] == pytest.approx([wanted.low, wanted.high], abs=1.0 if name == "S" else 0.06), name


@pytest.mark.parametrize("where", ["#/editor/fake", "#/model/tiny"])
def test_pages_of_an_editor_and_a_model(page: Browser, where: str) -> None:
    if "model" in where:
        where = page.run("document.querySelector('a[href^=\"#/model/\"]').hash")
    go(page, where, "Settings and provenance")
    assert "By relation" in page.run("document.body.textContent")
    assert page.said == []


def test_trade_offs_stand_in_front_and_stay_where_the_table_is_sorted(page: Browser) -> None:
    page.wait("document.querySelectorAll('svg circle.ours').length >= 2")
    page.run("document.querySelector('[data-sort=NS]').click()")
    page.wait("document.querySelectorAll('svg circle.ours').length >= 2")
    assert page.run("document.querySelectorAll('svg circle.controls').length") > 0, "controls are drawn, as rings"
    assert page.said == []


def test_the_papers_rows_are_marked_and_sourced(page: Browser) -> None:
    found = page.run("[...document.querySelectorAll('tr.published a')].map((a) => a.textContent + ' ' + a.href)")
    assert {one.split(" https")[0] for one in found} >= {f"published: Table {n}" for n in (1, 4, 5)}
    assert all("arxiv.org" in one for one in found)


def test_the_theme_is_remembered(page: Browser, site: Path) -> None:
    before = page.run("document.documentElement.dataset.theme")
    page.run("document.getElementById('theme').click()")
    page.open(site / "index.html")
    assert page.run("document.documentElement.dataset.theme") != before
    page.run("document.getElementById('theme').click()")


def test_a_run_that_is_not_there_is_said(page: Browser) -> None:
    go(page, "#/run/0000000000000000", "file is missing")
    go(page, "#/run/..%2f..%2fx", "There is no such run")


PLACES = ("#/", "#/run/{0}", "#/compare/{0}/{1}", "#/editor/fake")


@pytest.mark.parametrize("place", PLACES)
def test_a_phone(page: Browser, place: str) -> None:
    there = {"run": "By relation", "compare": "common records", "editor": "Settings"}.get(
        place[2:].split("/")[0], "n ="
    )
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    try:
        go(page, place.format(*ids(page)), there)
        assert page.run("document.documentElement.scrollWidth") <= 360
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("place", PLACES)
def test_axe_finds_nothing_serious(page: Browser, place: str, theme: str) -> None:
    found = [importlib.util.find_spec(name) for name in ("axe_playwright_python", "axe_core_python")]
    scripts = [Path(spec.origin).parent / "axe.min.js" for spec in found if spec is not None and spec.origin]
    if not scripts:
        pytest.skip("needs axe: pip install axe-core-python")
    there = {"run": "By relation", "compare": "common records", "editor": "Settings"}.get(
        place[2:].split("/")[0], "n ="
    )
    page.run(f"setTheme('{theme}')")
    go(page, place.format(*ids(page)), there)
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.run(scripts[0].read_text())
    faults = page.run(
        "axe.run({preload: false}).then((r) => r.violations.map((v) => [v.id, v.impact, v.nodes[0].html]))"
    )
    assert [one for one in faults if one[1] in {"serious", "critical"}] == []
