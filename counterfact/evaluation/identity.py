"""What a run is: everything that its numbers depend on, and the folder it lives in."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from counterfact.contracts.datasets import Dataset
from counterfact.contracts.editors import EditorSpec, Resources
from counterfact.core.errors import BadInput
from counterfact.core.files import differences, hash_json
from counterfact.core.records import BadRecord, Record
from counterfact.editing.networks import read_info
from counterfact.evaluation.schedule import Schedule
from counterfact.lm.model.language_model import LM

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """A model on a data set under a protocol: all that a run depends on but the editor."""

    dataset: dict[str, Any]
    model: dict[str, Any]
    protocol: dict[str, Any]
    schedule: Schedule
    """Which records share an edit; the unedited model's values do not depend on it."""
    seeds: dict[str, int]
    untouched: str | None = None
    """Hash of the records that a sequential run never edits and asks about; `None` where there are none."""

    @property
    def unedited_identity(self) -> dict[str, Any]:
        """Sections of the file of the unedited model's values."""
        return {"dataset": self.dataset, "model": self.model, "protocol": self.protocol, "seeds": self.seeds}

    @property
    def identity(self) -> dict[str, Any]:
        """Sections of a run file."""
        protocol = {**self.protocol, "schedule": dict(self.schedule.identity)}
        if self.untouched is not None:
            protocol["untouched"] = self.untouched
        return {**self.unedited_identity, "protocol": protocol}

    @property
    def folder(self) -> Path:
        """`<dataset>@<version>/<model>@<revision>`, what all editors share."""
        dataset = f"{self.dataset['name']}@{self.dataset['version']}"
        return Path(_folder_name(dataset)) / _folder_name(f"{self.model['name']}@{self.model['revision'][:8]}")

    @property
    def unedited_folder(self) -> Path:
        """Where the unedited model's values lie."""
        return self.folder / f"pre-{hash_json(self.unedited_identity)[:8]}"

    def edited_folder(self, editor: Mapping[str, Any]) -> Path:
        """Where an editor's values lie; `editor` is of `editor_identity`."""
        return self.folder / f"{editor['name']}-{hash_json({**self.identity, 'editor': editor})[:8]}"


def trial_of(
    lm: LM,
    dataset: Dataset,
    *,
    seed: int,
    generation: Mapping[str, int] | None,
    schedule: Schedule,
    chat_template: bool = False,
    untouched: Sequence[Record | BadRecord] = (),
    judge: Mapping[str, Any] | None = None,
) -> Trial:
    """Return what a run depends on but the editor.

    Args:
        lm: the model.
        dataset: the records; its reference texts count too.
        seed: of editing and of generation.
        generation: length, top_k, and whether texts end at an end token; `None` where nothing is generated.
        schedule: which records share an edit.
        chat_template: whether prompts are put by the model's chat template. What it makes of a prompt today is part of
            the identity: some templates name the date.
        untouched: records that a sequential run asks about and never edits.
        judge: identity of the judge, where there is one.

    Raises:
        BadInput: the model has no chat template.
    """
    chat = {"chat_template": hash_json(lm.encoding.in_chat("{}"))[:8]} if chat_template else {}
    asked = [asdict(record.request) for record in untouched if not isinstance(record, BadRecord)]
    return Trial(
        dataset={
            "name": dataset.name,
            "version": dataset.version,
            "kind": dataset.kind,
            "content_hash": dataset.content_hash,
            "reference_texts_hash": hash_references(dataset),
            "record_ids": compress_ids([record.case_id for record in dataset.records]),
            **({} if dataset.known_of is None else {"known_of": dataset.known_of}),
        },
        model=dict(lm.identity),
        protocol={
            "name": dataset.kind,
            "version": dataset.benchmark.version,
            "generation": None if generation is None else dict(generation),
            **chat,
            **({} if judge is None else {"judge": dict(judge)}),
        },
        schedule=schedule,
        seeds={"run": seed},
        untouched=hash_json(asked) if asked else None,
    )


def editor_identity(lm: LM, spec: EditorSpec, settings: Mapping[str, Any], resources: Resources) -> dict[str, Any]:
    """Return what an edit depends on: the method, its settings in force, and the resources it may draw on.

    Raises:
        BadInput: the method needs a trained network, and there is none.
    """
    texts = resources.second_moment_texts
    network = {}
    if spec.trained_for is not None:
        network = {"network": read_info(resources.network_folder(lm, spec.name))["weights_sha256"]}
    return {
        "name": spec.name,
        "settings": dict(settings),
        "resources": {
            "second_moment_texts": None if texts is None else {"name": texts.name, "hash": texts.content_hash},
            "second_moment_max_texts": resources.second_moment_max_texts,
            "second_moments": {str(layer): moment.hash for layer, moment in resources.second_moments.items()},
            "context_templates": None
            if resources.context_templates is None
            else hash_json(list(resources.context_templates)),
            "seed": resources.seed,
            **({} if resources.engine == "batched" else {"engine": resources.engine}),
            **network,
        },
    }


def hash_references(dataset: Dataset) -> str | None:
    """Return a hash of the reference texts of all records, in order; `None` where the data set has none."""
    references = dataset.reference_texts
    if references is None:
        return None
    good = [record for record in dataset.records if not isinstance(record, BadRecord)]
    keys = [key for record in good if (key := dataset.benchmark.reference_key(record)) != (None, None)]
    mine = [[key, [[s.name, s.text] for s in references.get(*key)]] for key in dict.fromkeys(keys)]
    return hash_json([mine, hash_json(list(references.documents()))])


def check_unmoved(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], *, code: bool) -> None:
    """Raise unless a folder would be resumed with what it was begun with.

    Args:
        folder: named in messages.
        before: sections that its file holds.
        now: the same sections, of this call.
        code: whether a change of the code counts; for a finished run it is only said.

    Raises:
        BadInput: something moved; the message names it.
    """
    for section, value in now.items():
        moved = differences(section, before.get(section), value)
        if section == "code":
            moved = [name for name in moved if name != "code.dirty"]
            if moved and not code:
                logger.info("%s was finished by other code (%s); its results are taken as they are", folder, moved[0])
                continue
        if moved:
            raise BadInput(
                f"{folder} was begun with another {moved[0]}; to begin it again with what is given now, remove that "
                "folder or ask for a restart"
            )


def compress_ids(ids: list[int]) -> str:
    """Write case ids in their order as ranges.

    >>> compress_ids([0, 1, 2, 7, 5, 6])
    '0-2,7,5-6'
    """
    ranges: list[list[int]] = []
    for case_id in ids:
        if ranges and case_id == ranges[-1][1] + 1:
            ranges[-1][1] = case_id
        else:
            ranges.append([case_id, case_id])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def expand_ids(text: str) -> list[int]:
    """Return the case ids that `compress_ids` wrote.

    >>> expand_ids("0-2,7,5-6")
    [0, 1, 2, 7, 5, 6]
    """
    ids: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        ids += range(int(first), int(last or first) + 1)
    return ids


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.@+-]+", "__", name)
