"""An editor for tests of runners: it works, until a file says what is to go wrong at which record."""

import errno
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from counterfact.contracts.editors import Edited, Editor, EditorSpec, Group, Resources
from counterfact.core.records import Request
from counterfact.core.settings import Resolved
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM
from tests.support.evaluating import FakeSettings, low_rank_edit

FOLDER = "FAULTS_FOLDER"
"""Environment variable that names the folder of such files; each worker must see it."""
RESOLVED = Resolved(FakeSettings(), "tests", {})


def once(what: str, case_id: int) -> bool:
    """Whether this fault is due here; it is not due again."""
    path = Path(os.environ.get(FOLDER, "/nowhere")) / f"{what}-{case_id}"
    try:
        path.unlink()
    except FileNotFoundError:
        return (path.parent / f"always-{path.name}").exists()
    return True


def edit_one(lm: LM, request: Request, seed: int, strength: float) -> Edit:
    edit = low_rank_edit(lm, request, seed, strength)
    if once("kill", request.id):
        os.kill(os.getpid(), signal.SIGKILL)
    if once("full", request.id):
        raise OSError(errno.ENOSPC, "No space left on device")
    if once("slow", request.id):
        time.sleep(60)
    if once("break", request.id):
        # No stage looks at this note: the error leaves the unit.
        return Edit(edit.deltas, edit.request_ids, {"note": "no number"})  # type: ignore[dict-item]
    return edit


def prepare(lm: LM, settings: FakeSettings, _resources: Resources) -> Editor:
    def edit(groups: Sequence[Group], seed: int) -> list[Edited]:
        return [Edited.of(edit_one(lm, request, seed, settings.strength)) for [request] in groups]

    return edit


SPEC = EditorSpec("faulty", FakeSettings, prepare, "", "made for tests", Path("faulty"))


def write_plugin(folder: Path) -> Path:
    """Write a plug-in that registers this editor, for `--plugin`."""
    path = folder / "faulty_plugin.py"
    imports = "from counterfact.contracts.editors import EDITORS\nfrom tests.support.faulty import SPEC\n"
    path.write_text(f"{imports}\nEDITORS.add(SPEC.name, SPEC)\n")
    return path
