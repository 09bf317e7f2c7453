"""Edit facts: an editor by name, its settings, and what it may draw on, behind one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from counterfact.contracts.editors import (
    EDITORS,
    Edited,
    Editor,
    Engine,
    Failure,
    Progress,
    Resources,
    State,
    edit_singly,
    edit_together,
    provenance,
    settings_of,
)
from counterfact.core.errors import Failed
from counterfact.core.records import Request
from counterfact.core.settings import Choices, Resolved
from counterfact.core.texts import load_texts
from counterfact.lm.edits.edit import Edit
from counterfact.lm.forward.products import packed_products
from counterfact.lm.model.language_model import LM


@dataclass(frozen=True)
class LoadedEditor:
    """An editor that is prepared for a model: called, it makes an edit of each request, and `together` one of all."""

    lm: LM
    name: str
    resolved: Resolved[Any]
    """Its settings in force, and where they came from."""
    editor: Editor
    seed: int = 0

    @property
    def provenance(self) -> dict[str, Any]:
        """What its edits rest on beside model and settings: context templates, the second moment, a trained network."""
        return provenance(self.editor)

    @overload
    def __call__(self, requests: Request, /) -> Edit: ...
    @overload
    def __call__(self, requests: Sequence[Request], /) -> list[Edit | Failure]: ...
    def __call__(self, requests: Request | Sequence[Request], /) -> Edit | list[Edit | Failure]:
        """Make an edit for each request, as `edit` does.

        Raises:
            Failed: a single request could not be edited.
        """
        asked = [requests] if isinstance(requests, Request) else requests
        with packed_products(self.lm):
            made = edit_singly(self.editor, asked, self.seed)
        if not isinstance(requests, Request):
            return made
        if isinstance(made[0], Failure):
            raise Failed(f"{self.name} could not make this edit: {made[0].reason}")
        return made[0]

    def together(self, requests: Sequence[Request], /, state: State | None = None) -> Edited:
        """Make one edit of all requests, on the model as it is.

        Args:
            requests: what to edit.
            state: of an editor that remembers earlier groups, what it returned for the last one, to go on from there;
                the edits of all of them should then be in the weights (`merged`).

        Returns:
            The edit, made for those of its `request_ids`; a failure for each of the others, with its reason; and the
            state, which is plain tensors and may be saved.

        Raises:
            BadInput: the editor writes fewer facts with one edit.
        """
        EDITORS.get(self.name).check_group_size(len(requests))
        with packed_products(self.lm):
            return edit_together(self.editor, requests, self.seed, state)


def load_editor(
    lm: LM,
    name: str = "rome",
    settings: Choices = (),
    *,
    texts: str | Path = "embedded",
    max_texts: int | None = None,
    contexts: Sequence[str] | None = None,
    seed: int = 0,
    engine: Engine = "batched",
    progress: Progress | None = None,
) -> LoadedEditor:
    """Prepare an editor for a model, once for any number of requests.

    Args:
        lm: the model.
        name: name of the editor; `counterfact editors` lists them.
        settings: settings that differ from the published ones: values by name, or words `name=value`.
        texts: texts for second moments of keys, as `load_texts` takes them; opened only for an editor that needs them.
        max_texts: how many of these texts.
        contexts: context templates, the bare `{}` first, for editors that take them; by default the model's own texts.
        seed: seed of everything random.
        engine: `batched`, or `plain`: one record at a time, by whole forward passes.
        progress: told how far a second moment has come that is not there yet.

    Raises:
        BadInput: no such editor, a setting is wrong, or something that the editor needs is missing.
    """
    spec = EDITORS.get(name)
    resolved = spec.resolve(lm.name, lm.n_layers, settings_of([name], settings)[name])
    given = Resources(
        second_moment_max_texts=max_texts,
        context_templates=None if contexts is None else tuple(contexts),
        seed=seed,
        engine=engine,
        progress=progress,
    )
    resources = spec.resources(given, resolved.settings, lambda: load_texts(texts))
    return LoadedEditor(lm, name, resolved, spec.prepare(lm, resolved.settings, resources), seed)


@overload
def edit(
    lm: LM,
    requests: Request,
    editor: str = "rome",
    *,
    texts: str | Path = "embedded",
    max_texts: int | None = None,
    contexts: Sequence[str] | None = None,
    seed: int = 0,
    engine: Engine = "batched",
    progress: Progress | None = None,
    **settings: Any,
) -> Edit: ...
@overload
def edit(
    lm: LM,
    requests: Sequence[Request],
    editor: str = "rome",
    *,
    texts: str | Path = "embedded",
    max_texts: int | None = None,
    contexts: Sequence[str] | None = None,
    seed: int = 0,
    engine: Engine = "batched",
    progress: Progress | None = None,
    **settings: Any,
) -> list[Edit | Failure]: ...
def edit(
    lm: LM,
    requests: Request | Sequence[Request],
    editor: str = "rome",
    *,
    texts: str | Path = "embedded",
    max_texts: int | None = None,
    contexts: Sequence[str] | None = None,
    seed: int = 0,
    engine: Engine = "batched",
    progress: Progress | None = None,
    **settings: Any,
) -> Edit | list[Edit | Failure]:
    """Make the edit of one request, or one edit for each of several; the model stays as it is.

    For one edit of many requests see `LoadedEditor.together`.

    Args:
        lm: the model.
        requests: a request, or a sequence of them.
        editor: name of the editor.
        texts: texts for second moments of keys, for editors that need them.
        max_texts: how many of these texts.
        contexts: context templates, the bare `{}` first, for editors that take them; by default the model's own texts.
        seed: seed of everything random.
        engine: `batched`, or `plain`: one record at a time, by whole forward passes.
        progress: told how far a second moment has come that is not there yet.
        settings: settings of the editor that differ from the published ones for this model.

    Returns:
        The edit; for a sequence, the edit or the failure of each request, in order.

    Raises:
        BadInput: no such editor, a setting is wrong, or something that the editor needs is missing.
        Failed: a single request could not be edited.

    Examples:
        >>> from counterfact import Request, edit, load_lm, say
        >>> lm = load_lm("factlm")
        >>> request = Request(0, "{} is headquartered in", "Paramount Pictures", "Oslo")
        >>> made = edit(lm, request, "ft", steps=5)
        >>> say(lm, request.filled, made).next_tokens[0][0]
        ' Oslo'
    """
    chosen = load_editor(
        lm,
        editor,
        settings,
        texts=texts,
        max_texts=max_texts,
        contexts=contexts,
        seed=seed,
        engine=engine,
        progress=progress,
    )
    return chosen(requests)
