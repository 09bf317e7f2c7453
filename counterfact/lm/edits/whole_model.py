"""An edited model as a folder of its own, which the `transformers` library loads as any other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from counterfact.core.errors import BadInput
from counterfact.core.files import whole_folder, write_json
from counterfact.lm.edits.apply import edited_weights, merged
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_view

EDITED = "edited.json"
"""File of a saved model that says which model was edited, by what, and what rounding took of it."""


def save_model(folder: Path, lm: LM, edits: Sequence[Edit], about: Mapping[str, Any] | None = None) -> float | None:
    """Write the model with edits in its weights: config.json, safetensors in the model's dtype, and the tokenizer.

    `AutoModelForCausalLM.from_pretrained` loads the folder, and so does `load_lm`. It appears whole or not at all; the
    model in memory is afterwards as it was.

    Args:
        folder: the folder to make.
        lm: the model.
        edits: all of them are written into its weights.
        about: JSON values that `edited.json` is to say beside, such as the requests.

    Returns:
        What rounding takes of the edits, as `lost_in_rounding`; `None` for weights of float32 and above.

    Raises:
        BadInput: the folder holds something, or an edit is a text before the prompt, which no weight holds.
        LookupError, ValueError: an edit was made for another model.
    """
    check_in_weights(edits)
    with whole_folder(folder, "an edited model") as unfinished:
        lost = None if lm.dtype == lm.working_dtype else lost_in_rounding(lm, edits)
        with merged(lm, edits):
            lm.model.save_pretrained(unfinished)
        lm.tokenizer.save_pretrained(unfinished)
        write_json(unfinished / EDITED, said_of(lm, edits, {**(about or {}), "lost_in_rounding": lost}))
    return lost


def said_of(lm: LM, edits: Sequence[Edit], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a folder of an edited model, or of an adapter, says of itself."""
    listed = [{"request_ids": edit.request_ids, "diagnostics": dict(edit.diagnostics)} for edit in edits]
    return {"model": lm.identity, "edits": listed, **about}


def lost_in_rounding(lm: LM, edits: Sequence[Edit]) -> float:
    r"""Return the share of edits that is lost where weights are rounded to the model's dtype.

    $$\frac{\lVert \operatorname{round}(W + \Delta) - (W + \Delta) \rVert_F}{\lVert \Delta \rVert_F}$$

    over all changed weights W together; 0 where nothing is changed.
    """
    error = change = torch.zeros((), dtype=torch.float64, device=lm.device)
    for name, total in edited_weights(lm, edits):
        error = error + (total.to(lm.dtype) - total).double().square().sum()
        change = change + (total - weight_view(lm.model, name)).double().square().sum()
    return float((error / change).sqrt()) if change else 0.0


def check_in_weights(edits: Sequence[Edit]) -> None:
    """Raise `BadInput` where an edit is, or has, a text before every prompt: there is no edited model to write."""
    if any(edit.context for edit in edits):
        raise BadInput(
            "an in-context edit is a text before every prompt and changes no weight, so that there is no edited model; "
            "`edit --save` keeps the edit itself"
        )
