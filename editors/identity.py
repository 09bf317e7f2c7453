"""The editor that changes nothing: the unedited model, through the same machinery."""

from collections.abc import Sequence

from counterfact.contracts.editors import Edited, Editor, Group, Resources, editor
from counterfact.core.settings import Settings
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM


class IdentitySettings(Settings):
    """There is nothing to set."""


@editor(
    "identity",
    IdentitySettings,
    title="No edit",
    control=True,
    paper="",
    summary="no change; the floor that every editor is compared with",
    most_at_once=None,
)
def prepare(_lm: LM, _settings: IdentitySettings, _resources: Resources) -> Editor:
    """Return an editor whose edits hold no delta."""

    def edit(groups: Sequence[Group], _seed: int) -> list[Edited]:
        return [Edited(Edit((), tuple(request.id for request in group))) for group in groups]

    return edit
