"""Edit facts: an editor by name, its settings, and what it may draw on, behind one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from counterfact.contracts.editors import EDITORS, Editor, Engine, Failure, Resources, edit_singly
from counterfact.core.errors import Failed
from counterfact.core.records import Request
from counterfact.core.settings import Choices, Resolved
from counterfact.core.texts import load_texts
from counterfact.lm.edits.edit import Edit
from counterfact.lm.forward.packed_products import packed_products
from counterfact.lm.model.loading import LM


@dataclass(frozen=True)
class LoadedEditor:
    """An editor that is prepared for a model: call it with a request, or with several."""

    lm: LM
    name: str
    resolved: Resolved[Any]
    """Its settings in force, and where they came from."""
    editor: Editor
    seed: int = 0

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


def load_editor(
    lm: LM,
    name: str = "rome",
    settings: Choices = (),
    *,
    texts: str | Path = "embedded",
    seed: int = 0,
    engine: Engine = "batched",
) -> LoadedEditor:
    """Prepare an editor for a model, once for any number of requests.

    Args:
        lm: the model.
        name: name of the editor; `counterfact editors` lists them.
        settings: settings that differ from the published ones: values by name, or words `name=value`.
        texts: texts for second moments of keys, as `load_texts` takes them; opened only for an editor that needs them.
        seed: seed of everything random.
        engine: `batched`, or `plain`: one record at a time, by whole forward passes.

    Raises:
        BadInput: no such editor, a setting is wrong, or something that the editor needs is missing.
    """
    spec = EDITORS.get(name)
    resolved = spec.resolve(lm.name, lm.n_layers, settings)
    given = Resources(seed=seed, engine=engine)
    resources = spec.resources(given, resolved.settings, lambda: load_texts(texts))
    return LoadedEditor(lm, name, resolved, spec.prepare(lm, resolved.settings, resources), seed)


@overload
def edit(
    lm: LM,
    requests: Request,
    editor: str = "rome",
    *,
    texts: str | Path = "embedded",
    seed: int = 0,
    engine: Engine = "batched",
    **settings: Any,
) -> Edit: ...
@overload
def edit(
    lm: LM,
    requests: Sequence[Request],
    editor: str = "rome",
    *,
    texts: str | Path = "embedded",
    seed: int = 0,
    engine: Engine = "batched",
    **settings: Any,
) -> list[Edit | Failure]: ...
def edit(
    lm: LM,
    requests: Request | Sequence[Request],
    editor: str = "rome",
    *,
    texts: str | Path = "embedded",
    seed: int = 0,
    engine: Engine = "batched",
    **settings: Any,
) -> Edit | list[Edit | Failure]:
    """Make the edit of one request, or one edit for each of several; the model stays as it is.

    Args:
        lm: the model.
        requests: a request, or a sequence of them.
        editor: name of the editor.
        texts: texts for second moments of keys, for editors that need them.
        seed: seed of everything random.
        engine: `batched`, or `plain`: one record at a time, by whole forward passes.
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
    return load_editor(lm, editor, settings, texts=texts, seed=seed, engine=engine)(requests)
