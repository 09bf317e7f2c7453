"""`counterfact lm-eval` and `lm-eval-tasks`: of runs, of files, and what is kept beside them."""

import json
from pathlib import Path

from counterfact.api.abilities import edit_of_run
from counterfact.api.evaluating import evaluate
from counterfact.core.files import read_json
from counterfact.lm.edits.edit import save_edits
from tests.evaluation.test_general_ability import needs_harness, offline  # noqa: F401
from tests.support import Command
from tests.support.evaluating import counterfact, options
from tests.support.models import tiny_folder, tiny_lm


@needs_harness
def test_the_commands(command: Command, tmp_path: Path) -> None:
    data, model = tmp_path / "data", ["--model", tiny_folder("gpt2")]
    lm, chosen = tiny_lm("gpt2", "float32"), options(generate=False)
    [run] = evaluate(lm, counterfact(data), "ft", tmp_path / "results", settings={"steps": 2}, options=chosen)
    code, out, err = command("lm-eval-tasks", data, "--out", tmp_path / "tasks", *model)
    assert code == 0, err
    assert "ours_es: 6 documents" in out and f"--include_path {tmp_path / 'tasks'} --tasks ours" in out.replace(
        "\n", ""
    )
    asked = ["--tasks", "ours_es,ours_ns", "--task-folder", tmp_path / "tasks", *model]
    code, _, err = command("lm-eval", run.folder, *asked)
    assert code == 2 and "say whose is meant: --record 0" in err
    code, out, err = command("lm-eval", run.folder, "--record", 0, "--record", 2, "--limit", 3, *asked)
    assert code == 0, err
    kept = [read_json(path) for path in run.folder.glob("lm_eval-*.json")]
    assert sorted(each["edit"]["record"] for each in kept) == [0, 2]
    assert kept[0]["limit"] == 3 and kept[0]["documents"] == {"ours_es": 3, "ours_ns": 3}
    assert set(kept[0]["results"]["ours_es"]["ES"]) == {"unedited", "edited"}
    save_edits(tmp_path / "edit.safetensors", [edit_of_run(lm, run, 0)], {"model": lm.identity})
    code, out, err = command("lm-eval", tmp_path / "edit.safetensors", "--limit", 3, "--json", *asked)
    assert code == 0, err
    [of_file] = json.loads(out[out.index("[{") :])
    [of_run] = [each for each in kept if each["edit"]["record"] == 0]
    assert of_file["results"] == of_run["results"] and list(tmp_path.glob("lm_eval-*.json"))
    code, _, err = command("lm-eval", tmp_path / "edit.safetensors", "--record", 1, *asked)
    assert code == 2 and "--record is of a run" in err
