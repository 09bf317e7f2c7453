"""The editor that changes nothing: the unedited model, through the same machinery."""

from collections.abc import Sequence

from counterfact.contracts.editors import Editor, Failure, Resources, editor
from counterfact.core.records import Request
from counterfact.core.settings import Settings
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.loading import LM


class IdentitySettings(Settings):
    """There is nothing to set."""


@editor("identity", IdentitySettings, paper="", summary="no change; the floor that every editor is compared with")
def prepare(_lm: LM, _settings: IdentitySettings, _resources: Resources) -> Editor:
    """Return an editor whose edits hold no delta."""

    def edit(requests: Sequence[Request], _seed: int) -> list[Edit | Failure]:
        return [Edit((), (request.id,)) for request in requests]

    return edit
