"""Measure a board of thousands of runs: how long it takes to build, how much it weighs, how it feels in a browser.

    python -m speed.leaderboard --runs 5000 --records 50

A build is measured in a process of its own, from the command line on; in Chromium, from the click to the next painted
frame.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from counterfact.core.files import write_json
from counterfact.leaderboard.page import ASSETS
from speed.browser import Browser, find_browser
from speed.machine import device_name
from speed.many_runs import make_many

RESULTS = Path(__file__).parent / "results"
TURNS = 5
PAINTED = "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))"
STEPS = {
    "sort": "document.querySelectorAll('[data-sort]')[{turn} % 4 + 2].click()",
    "filter": "const field{turn} = document.getElementById('filter-editor'); field{turn}.value = "
    "['rome', 'mend', 'ft', 'layer=7', ''][{turn}]; field{turn}.dispatchEvent(new Event('input'))",
    "next_page": "document.querySelector('button[data-key$=\" more\"]')?.click()",
}
"""What a reader does, and what is run for it."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--records", type=int, default=50, help="records of each run")
    parser.add_argument("--models", type=int, default=5, help="every model has a table")
    parser.add_argument("--folder", type=Path, help="keep the submissions here, and take those that are there")
    parser.add_argument("--name", default="cpu", help="of the machine, in the name of the result's file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        results = given.folder or work / "results"
        if not results.exists():
            make_many(results, given.runs, given.records, given.models)
        found = {
            "what": "a leaderboard of many submissions; seconds, bytes",
            "made_by": f"python -m speed.leaderboard --runs {given.runs} --records {given.records} "
            f"--models {given.models}",
            "machine": _machine(),
            "submissions": _weight(results),
            "build": _build(results, work),
            "site": _site(work / "site"),
            "browser": _browse(work / "site"),
        }
    print(json.dumps(found, indent=1))
    write_json(RESULTS / f"leaderboard-{given.name}.json", found)


def _build(results: Path, work: Path) -> dict[str, Any]:
    given = ["leaderboard", "build", str(results), "--out", str(work / "site")]
    command = [sys.executable, "-m", "counterfact.cli.main", *given]
    environment = {**os.environ, "COUNTERFACT_CACHE": str(work / "cache")}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {status}")
    seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 2), "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
            "peak_bytes": used.ru_maxrss * 1024}  # fmt: skip


def _site(site: Path) -> dict[str, Any]:
    runs = sorted(path.stat().st_size for path in (site / "runs").iterdir())
    assets = sum(path.stat().st_size for path in ASSETS.iterdir())
    return {"page_before_data": assets, "data": (site / "data.js").stat().st_size, "a_run": median(runs),
            "records": _weight(site / "records"), "all": _weight(site)}  # fmt: skip


def _browse(site: Path) -> dict[str, Any] | None:
    program = find_browser()
    if program is None:
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, Path(profile))
        try:
            return _walk(browser, site)
        finally:
            browser.close()


def _walk(browser: Browser, site: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"load": []}
    for _ in range(TURNS):
        start = time.perf_counter()
        browser.open(site / "index.html")
        found["load"].append(time.perf_counter() - start)
    for name, script in STEPS.items():
        found[name] = [_timed(browser, script.format(turn=turn), "true") for turn in range(TURNS)]
    ids = [path.stem for path in sorted((site / "runs").iterdir())[: 4 * TURNS]]
    there = "document.body.textContent.includes('By relation')"
    found["open_a_run"] = []
    for one in ids[:TURNS]:
        found["open_a_run"].append(_timed(browser, f"location.hash = '#/run/{one}'", there))
        browser.run("location.hash = '#/'")
        browser.wait("document.getElementById('filter-editor') !== null")
    there = "document.body.textContent.includes('common records')"
    found["compare_two"] = []
    for first, second in zip(ids[TURNS : 2 * TURNS], ids[2 * TURNS :], strict=False):
        found["compare_two"].append(_timed(browser, f"location.hash = '#/compare/{first}/{second}'", there))
        browser.run("location.hash = '#/'")
        browser.wait("document.getElementById('filter-editor') !== null")
    found = {name: {"median": round(median(times), 4), "most": round(max(times), 4)} for name, times in found.items()}
    heap = browser.run("performance.memory.usedJSHeapSize")
    nodes = browser.run("document.querySelectorAll('*').length")
    version = browser.call("Browser.getVersion")["product"]
    return {"version": version, **found, "heap_bytes": heap, "elements": nodes, "said": browser.said}


def _timed(browser: Browser, script: str, there: str) -> float:
    """Return seconds from an action to the frame that shows what it leads to, as the page's own clock has it."""
    act = f"(async () => {{ const began = performance.now(); {script}; " \
          f"do {{ await {PAINTED}; }} while (!({there})); return performance.now() - began; }})()"  # fmt: skip
    return float(browser.run(act)) / 1000


def _weight(folder: Path) -> dict[str, int]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {"files": len(sizes), "bytes": sum(sizes)}


def _machine() -> dict[str, Any]:
    import torch  # noqa: PLC0415

    return {
        "device": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
