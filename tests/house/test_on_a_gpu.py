"""On a device that is not the processor: the same numbers, every tensor where it belongs, the host seldom waiting.

There need not be a GPU: `tests.support.pretend_gpu` keeps a GPU's rules on the processor.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from counterfact.contracts.editors import EDITORS
from tests.support import ROOT

STEPS = 6
"""Of the search, in the editors' tests."""


def test_all_that_uses_a_model_is_the_same_there_and_the_host_seldom_waits(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.on_pretended_gpu", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert {f"edits by {name}" for name in EDITORS} < found.keys()
    failed = [f"{name}\n{one['failed']}" for name, one in found.items() if "failed" in one]
    assert not failed, "\n".join(failed)
    # KE's own network is in single precision.
    bounds = {name: 1e-6 if name.startswith("edits by ke") else 1e-9 for name in found}
    assert not {name: one["difference"] for name, one in found.items() if not one["difference"] <= bounds[name]}
    assert_the_search_waits_for_its_flags_alone(found)
    assert_editors_wait_once_a_request_at_most(found)


def assert_the_search_waits_for_its_flags_alone(found: dict[str, Any]) -> None:
    six, twelve = (found[f"edits by rome{more}"]["waits"] for more in ("", ", 12 steps"))
    assert {name: twelve[name] - six[name] for name in twelve} == {"copied to the host": 12 - STEPS}
    assert six.keys() == {"copied to the host"}


def assert_editors_wait_once_a_request_at_most(found: dict[str, Any]) -> None:
    waits = {name: sum(found[f"edits by {name}"]["waits"].values()) for name in ("rome", "ft", "ke", "mend")}
    assert waits["rome"] <= 14  # ten requests, six steps
    assert waits["ft"] <= 5 + 10  # one a request, for its size
    assert waits["ke"] <= 10
    assert waits["mend"] <= 20
