"""`counterfact editors`: what there is, and what can be set."""

import json
from pathlib import Path

from tests.support import Command
from tests.support.models import tiny_folder


def test_all_editors_and_one(command: Command, tmp_path: Path) -> None:
    code, out, err = command("editors")
    assert code == 0, err
    assert "r_rome" in out and "rank-one rewrite" in out
    code, out, err = command("editors", "--json")
    found = {one["name"]: one for one in json.loads(out)}
    assert {"rome", "ft", "kn", "mend_cf"} <= set(found) and found["mend_cf"]["trained_for"] == "counterfact"
    for one in found.values():
        for setting in one["settings"]:
            assert setting["meaning"].endswith("."), f"{one['name']}: {setting['name']} has no meaning"
    code, out, err = command("editors", "rome", "--model", "factlm", "--json")
    assert code == 0, err
    settings = {one["name"]: one for one in json.loads(out)["settings"]}
    assert settings["steps"]["default"] == 20 and settings["steps"]["value"] == 30 and settings["layer"]["required"]
    code, out, err = command("editors", "rome", "--model", tiny_folder("gpt2"))
    assert code == 0 and "scaled to" in out and "required" in out, err
    code, out, err = command("editors", "mend", "--model", "./nothing")
    assert code == 2 and "cannot be read" in err
    code, out, err = command("editors", "rom")
    assert code == 2 and "Did you mean 'rome'?" in err
