"""Make an edit of a finished run again: a run keeps what each edit did, and all that it follows from."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from counterfact.contracts.editors import EDITORS, Resources
from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import differences
from counterfact.core.records import BadRecord
from counterfact.core.texts import TextSource
from counterfact.evaluation.identity import editor_identity, expand_ids
from counterfact.evaluation.rescore import dataset_of
from counterfact.evaluation.schedule import Schedule
from counterfact.evaluation.store import Run
from counterfact.lm.edits.edit import Edit
from counterfact.lm.forward.products import packed_products
from counterfact.lm.model.language_model import LM


def remake_edit(
    lm: LM, run: Run, case_id: int, given: Resources | None = None, open_texts: Callable[[], TextSource] | None = None
) -> Edit:
    """Return the edit that a run made for a record, and for the others that shared it.

    It is computed without the other records of its chunk, so that it agrees with the run's within float tolerance.

    Args:
        lm: the model of the run.
        run: the run; its data set is read where the run read it.
        case_id: of the record.
        given: what the run's editor drew on that a run cannot keep: context templates, folders of networks.
        open_texts: opens the texts of the run's second moments, where it has them.

    Raises:
        BadInput: the model, the data set or what the editor draws on is not the run's; the run has no such record; or
            its edits stand on each other.
        Failed: the record cannot be read, or could not be edited.
    """
    schedule = run.data["protocol"]["schedule"]
    if schedule["sequential"]:
        kept = next((run.folder / "edits").glob("edits-*.safetensors"), run.folder / "edits")
        raise BadInput(f"the edits of {run.folder} stand on each other; all of them as one are kept in {kept}")
    if moved := differences("model", run.data["model"], lm.identity):
        raise BadInput(f"{run.folder} is of another model than {lm.name}: its {moved[0]} is not the same")
    by_id = {record.case_id: record for record in dataset_of(run).records}
    records = [by_id[i] for i in expand_ids(run.data["dataset"]["record_ids"])]
    group = next(
        (g for g in Schedule(schedule["edits_at_once"]).cut(records) if case_id in {r.case_id for r in g}), None
    )
    if group is None:
        raise BadInput(f"{run.folder} has no record {case_id}; it has {run.data['dataset']['record_ids']}")
    if isinstance(bad := by_id[case_id], BadRecord):
        raise Failed(f"record {case_id} cannot be read: {bad.reason}")
    requests = [record.request for record in group if not isinstance(record, BadRecord)]
    spec, kept = EDITORS.get(run.editor), run.data["editor"]
    settings = spec.settings.check(kept["settings"], run.editor)
    facts = kept["resources"]
    given = replace(
        given or Resources(),
        second_moment_max_texts=facts["second_moment_max_texts"],
        seed=facts["seed"],
        engine=facts.get("engine", "batched"),
    )
    resources = spec.resources(given, settings, open_texts or _no_texts)
    for name, value in editor_identity(lm, spec, settings.model_dump(mode="json"), resources).items():
        if moved := differences(name, kept[name], value):
            raise BadInput(f"{run.folder} was made with another {moved[0]}; give what it was made with")
    with packed_products(lm):
        [edited] = spec.prepare(lm, settings, resources)([requests], run.data["seeds"]["run"])
    if edited.edit is None or case_id not in edited.edit.request_ids:
        [reason] = [failure.reason for failure in edited.failures if failure.id == case_id]
        raise Failed(f"record {case_id} could not be edited: {reason}")
    return edited.edit


def requests_of(run: Run, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the requests of records of a run, as its data set has them; those that cannot be read are left out.

    Raises:
        BadInput: the data set is no longer where the run read it, or another one is.
    """
    by_id = {record.case_id: record for record in dataset_of(run).records}
    found = [record.request for i in ids if not isinstance(record := by_id[i], BadRecord)]
    return [
        {"prompt": one.prompt, "subject": one.subject, "target_new": one.target_new, "target_true": one.target_true}
        for one in found
    ]


def _no_texts() -> TextSource:
    raise BadInput("this run's editor takes second moments of keys; give the texts that they were taken over")
