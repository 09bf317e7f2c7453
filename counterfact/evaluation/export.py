"""Write a run as the reference implementation's own files, one `case_{id}.json` a record, for people with scripts.

kmeng01/rome, `experiments/evaluate.py`; the format is described in Meng et al. 2022's repository only.
"""

from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl, write_json
from counterfact.evaluation.folder import TIMINGS
from counterfact.evaluation.store import Run

FORMATS = ("rome",)
ZSRE_TRUE = "<|endoftext|>"
"""What the reference's zsRE records have in the place of a true object."""


def export(run: Run, out: Path, form: str = "rome") -> int:
    """Write one file for each record that was scored before and after the edit, and `params.json` beside them.

    A value that was not a number is `null`. Records that failed have no file, as in the reference.

    Args:
        run: a finished run.
        out: a folder; made if missing.
        form: `rome`, the only one.

    Returns:
        How many records were written.

    Raises:
        BadInput: another form.
    """
    if form not in FORMATS:
        raise BadInput(f"expected a format among {', '.join(FORMATS)}, got {form!r}")
    seconds = {line["case_id"]: line.get("edit", 0.0) for line in read_jsonl(run.folder / TIMINGS)}
    unedited = {line["case_id"]: line["pre"] for line in run.unedited if "pre" in line}
    written = 0
    for line in run.cases:
        if "post" in line and line["case_id"] in unedited:
            write_json(out / f"case_{line['case_id']}.json", _case(line, unedited[line["case_id"]], seconds))
            written += 1
    write_json(out / "params.json", run.data["editor"]["settings"])
    return written


def _case(line: dict[str, Any], pre: dict[str, Any], seconds: dict[int, float]) -> dict[str, Any]:
    rewrite = line["requested_rewrite"]
    return {
        "case_id": line["case_id"],
        "requested_rewrite": rewrite if "target_true" in rewrite else {**rewrite, "target_true": {"str": ZSRE_TRUE}},
        "time": seconds.get(line["case_id"], 0.0),
        "post": _block(line["post"]),
        "pre": _block(pre),
    }


def _block(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block without the keys that the reference leaves out where there is nothing to say."""
    optional = {"ngram_entropy", "reference_score", "essence_score", "text_missing"}
    kept = {name: value for name, value in block.items() if name not in optional or value is not None}
    kept.pop("text_missing", None)
    if "text" in kept:
        kept["text"] = [text for text in kept["text"] if text is not None]
        if not kept["text"]:
            del kept["text"]
    return kept
