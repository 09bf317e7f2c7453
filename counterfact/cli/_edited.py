"""What is edited, as commands are told it: a run's folder, a file of `edit --save`, or an adapter's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterfact.cli._common import note, open_model
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, read_json
from counterfact.core.prompts import read_templates

if TYPE_CHECKING:
    from counterfact.lm.edits.edit import Edit
    from counterfact.lm.model.language_model import LM


@dataclass(frozen=True)
class EditedModel:
    """A model and edits of it, none of them applied."""

    lm: "LM"
    edits: "tuple[tuple[dict[str, Any], Edit], ...]"
    """Where each is from, and the edit."""
    folder: Path
    """Where what is found out about them is kept."""
    about: dict[str, Any]
    """The editor and the requests, as far as they are known."""


@dataclass(frozen=True)
class Sources:
    """What a run's edits are made again from."""

    model: str | None = None
    device: str | None = None
    texts: str = "embedded"
    contexts: Path | None = None
    network: Path | None = None


def open_edited(edited: Path, records: Sequence[int], given: Sources) -> EditedModel:
    """Open what a command was told to take, with its model.

    Args:
        edited: a run's folder, a file of edits, or the folder of an adapter.
        records: of a run, whose edits are meant; of one after another none, since they are one by then.
        given: what a run does not hold.

    Raises:
        BadInput: it is none of these, or a run, and which of its edits is meant is not clear.
    """
    from counterfact.lm.edits.adapter import CONFIG  # noqa: PLC0415

    if edited.is_dir() and not (edited / CONFIG).is_file():
        return _of_run(edited, records, given)
    if records:
        raise BadInput(f"--record is of a run, and {edited} is none")
    return _of_adapter(edited, given) if edited.is_dir() else _of_file(edited, {"file": edited.name}, given)


def _of_run(folder: Path, records: Sequence[int], given: Sources) -> EditedModel:
    from counterfact import edit_of_run  # noqa: PLC0415
    from counterfact.evaluation.remake import requests_of  # noqa: PLC0415
    from counterfact.evaluation.store import load_run  # noqa: PLC0415

    run = load_run(folder)
    if run.data["protocol"]["schedule"]["sequential"]:
        if records:
            raise BadInput(f"the edits of {folder} stand on each other, and are one: leave out --record")
        kept = sorted((run.folder / "edits").glob("edits-*.safetensors"))
        if not kept:
            raise BadInput(f"{folder} has no edits/edits-*.safetensors, where the sum of its edits is kept")
        found = _of_file(kept[-1], {"run": run.folder.name, "record": None}, given)
        asked = requests_of(run, found.edits[0][1].request_ids)
        return EditedModel(found.lm, found.edits, run.folder, {"editor": run.editor, "requests": asked})
    if not records:
        raise BadInput(f"{folder} has an edit for each record; say whose is meant: --record 0")
    lm = _model(run.data["model"], folder, given)
    templates = None if given.contexts is None else read_templates(given.contexts)
    networks = {} if given.network is None else {run.editor: given.network}
    made = []
    for case_id in records:
        note(f"making the edit of record {case_id} again")
        edit = edit_of_run(lm, run, case_id, texts=given.texts, contexts=templates, networks=networks)
        made.append(({"run": run.folder.name, "record": case_id}, edit))
    asked = requests_of(run, [i for _, edit in made for i in edit.request_ids])
    return EditedModel(lm, tuple(made), run.folder, {"editor": run.editor, "requests": asked})


def _of_file(path: Path, origin: dict[str, Any], given: Sources) -> EditedModel:
    from counterfact import load_edits  # noqa: PLC0415
    from counterfact.lm.edits.edit import read_meta  # noqa: PLC0415

    meta = read_meta(path)
    lm = _model(meta.get("model", {}), path, given)
    saved = {**origin, "sha256": hash_file(path)}
    edits = tuple(({**saved, "position": place}, edit) for place, edit in enumerate(load_edits(path, lm)))
    return EditedModel(lm, edits, path.parent, {key: meta[key] for key in ("editor", "requests") if key in meta})


def _of_adapter(folder: Path, given: Sources) -> EditedModel:
    from counterfact.lm.edits.adapter import CONFIG, load_adapter  # noqa: PLC0415
    from counterfact.lm.edits.whole_model import EDITED  # noqa: PLC0415

    facts = read_json(folder / EDITED) if (folder / EDITED).is_file() else {}
    named = {"name": read_json(folder / CONFIG).get("base_model_name_or_path")}
    lm = _model(facts.get("model", named), folder, given)
    about = {key: facts[key] for key in ("editor", "requests") if key in facts}
    return EditedModel(lm, (({"adapter": folder.name}, load_adapter(folder, lm)),), folder, about)


def _model(identity: dict[str, Any], edited: Path, given: Sources) -> "LM":
    from counterfact.lm.model.loading import parse_arithmetic  # noqa: PLC0415

    name = given.model or identity.get("name")
    if name is None:
        raise BadInput(f"{edited} does not say which model its edit was made for: name it with --model")
    dtype, precision = parse_arithmetic(identity.get("dtype", "float32"))
    return open_model(name, given.device, dtype, precision)
