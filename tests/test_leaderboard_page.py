"""The page in a real browser: sort, filter, open a run, compare two, themes, a phone's width; a silent console."""

import importlib.util
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaderboard.board import load_entries
from leaderboard.page import ASSETS, write_site
from tests.evaluating import counterfact, run_fake, run_identity


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("board")
    data = counterfact(root / "data")
    run_fake(data, root / "r")
    run_identity(data, root / "r")
    entries, left_out = load_entries(root / "r")
    assert not left_out
    write_site(entries, root / "site")
    return root / "site"


class Browser:
    """Chromium, spoken to over its debugging pipe: JSON that ends in a zero byte, on descriptors 3 and 4."""

    def __init__(self, program: str, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        flags = f"--headless --no-sandbox --disable-gpu --remote-debugging-pipe --user-data-dir={profile} about:blank"
        shell = f'exec "$0" {flags} 3<&{theirs_in} 4>&{theirs_out} 2>/dev/null'
        self.process = subprocess.Popen(["bash", "-c", shell, program], pass_fds=(theirs_in, theirs_out))
        os.close(theirs_in), os.close(theirs_out)
        self.reader, self.writer, self.last, self.said = os.fdopen(ours_in, "rb", 0), ours_out, 0, list[str]()
        self.rest, self.session = b"", None
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        os.write(
            self.writer, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0"
        )
        while True:
            while b"\0" not in self.rest:
                self.rest += self.reader.read(1 << 16) or pytest.fail("the browser is gone")
            one, _, self.rest = self.rest.partition(b"\0")
            got = json.loads(one)
            if got.get("method") in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}:
                self.said.append(json.dumps(got["params"]))
            if got.get("id") == self.last:
                assert "error" not in got, got
                return got["result"]

    def run(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)["result"].get(
            "value"
        )

    def wait(self, condition: str) -> None:
        end = time.monotonic() + 15
        while not self.run(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.05)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium on the path")
    one = Browser(program, tmp_path_factory.mktemp("profile"))
    yield one
    one.process.terminate()
    one.process.wait(10)


@pytest.fixture
def page(browser: Browser, site: Path) -> Browser:
    browser.call("Page.navigate", url="about:blank")
    browser.call("Page.navigate", url=(site / "index.html").as_uri())
    browser.wait("document.querySelectorAll('tbody tr').length > 10")
    return browser


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 300_000


def test_a_walk_through_the_page(page: Browser) -> None:
    page.run("document.querySelector('[data-sort=ES]').click()")
    assert page.run("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"
    page.run(
        "let f = document.getElementById('filter-editor'); f.value = 'identity'; f.dispatchEvent(new Event('input'))"
    )
    assert page.run("document.querySelectorAll('tbody tr').length") == 1
    page.run("f.value = ''; f.dispatchEvent(new Event('input'))")
    before = page.run("document.documentElement.dataset.theme")
    page.run("document.getElementById('theme').click()")
    assert page.run("document.documentElement.dataset.theme") != before
    for index in (0, 1):
        page.run(f"document.querySelectorAll('input[type=checkbox]')[{index}].click()")
    page.run("document.getElementById('compare').click()")
    page.wait("document.querySelector('h2').textContent.includes(' | ')")
    page.run("location.hash = '#/'")
    page.wait("document.querySelector('a[href^=\"#/run/\"]') !== null")
    page.run("document.querySelector('a[href^=\"#/run/\"]').click()")
    page.wait("document.body.textContent.includes('By relation')")
    assert page.said == []


def test_a_phone(page: Browser) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.call("Emulation.clearDeviceMetricsOverride")


def test_axe_finds_nothing_serious(page: Browser) -> None:
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        pytest.skip("needs axe: pip install axe-playwright-python --no-deps")
    page.run((Path(spec.origin).parent / "axe.min.js").read_text())
    found = page.run("axe.run().then((r) => r.violations.map((v) => [v.id, v.impact, v.nodes[0].html]))")
    assert [one for one in found if one[1] in {"serious", "critical"}] == []
