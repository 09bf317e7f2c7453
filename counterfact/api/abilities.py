"""The edits of a finished run, as data: to be looked at, saved, or measured in another way."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from counterfact.contracts.editors import Resources
from counterfact.core.texts import load_texts
from counterfact.evaluation.remake import remake_edit
from counterfact.evaluation.store import Run, load_run
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM


def edit_of_run(
    lm: LM,
    run: Run | str | Path,
    case_id: int,
    *,
    texts: str | Path = "embedded",
    contexts: Sequence[str] | None = None,
    networks: Mapping[str, Path] | None = None,
) -> Edit:
    """Make the edit of one record of a finished run again; a run keeps what edits did, not the edits.

    Args:
        lm: the model of the run.
        run: the run, or its folder.
        case_id: of the record.
        texts: what the run's second moments were taken over, as `load_texts` takes them.
        contexts: the context templates that the run was given, where it was.
        networks: folders of trained networks, by the editor's name; others are looked for where `train` leaves them.

    Raises:
        BadInput: the model, the data set or what the editor draws on is not the run's, the run has no such record, or
            its edits stand on each other.
        Failed: the record cannot be read, or could not be edited.
    """
    given = Resources(context_templates=None if contexts is None else tuple(contexts), networks=networks or {})
    run = run if isinstance(run, Run) else load_run(Path(run))
    return remake_edit(lm, run, case_id, given, lambda: load_texts(texts))
