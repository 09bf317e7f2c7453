r"""Edits as a LoRA adapter, the form in which `peft` and what builds on it load small changes of a model.

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen. LoRA. ICLR 2022. https://arxiv.org/abs/2106.09685

An adapter adds $B A x$ to a module's output. A change of low rank is one, $A = L$ and $B = R^\top$, without loss; of a
change of full rank it takes the largest singular values, and what these leave out is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from counterfact.core.errors import BadInput
from counterfact.core.files import read_json, whole_folder, write_atomic, write_json
from counterfact.lm.edits.edit import Edit, LowRank, check_edits
from counterfact.lm.edits.totals import NOTHING, added
from counterfact.lm.edits.whole_model import EDITED, check_in_weights, said_of
from counterfact.lm.model.hooks import find_module
from counterfact.lm.model.language_model import LM

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, SUFFIX_A, SUFFIX_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Factored:
    """A module's change as two factors."""

    change: LowRank
    left_out: float
    """||Δ - BA|| / ||Δ||, Frobenius; 0 for a change of low rank."""


def save_adapter(
    folder: Path, lm: LM, edits: Sequence[Edit], rank: int | None = None, about: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Write edits, all together, as a LoRA adapter that `PeftModel.from_pretrained(model, folder)` loads.

    The folder appears whole or not at all. Factors are in float32 (float64 for a model of that dtype).

    Args:
        folder: the folder to make.
        lm: the model that they were made for.
        edits: all of them are part of the adapter.
        rank: of a change of full rank, the most singular values that are kept; by default all of them.
        about: JSON values that `edited.json` is to say beside, such as the requests.

    Returns:
        The share of each module's change that is left out, by Frobenius norm; 0 where the change is of low rank.

    Raises:
        BadInput: the folder holds something; an edit is a text before the prompt; there is no change at all.
        LookupError, ValueError: an edit was made for another model.
    """
    check_in_weights(edits)
    check_edits(lm, edits)
    total = NOTHING
    for edit in edits:
        total = added(total, edit)
    if not total.deltas:
        raise BadInput("there is no change of a weight to make an adapter of")
    found = {delta.module: factored(delta.weight_change, rank, delta) for delta in total.deltas}
    config = adapter_config(lm, {name: len(parts.change.left) for name, parts in found.items()})
    tensors: dict[str, Tensor] = {}
    for name, parts in found.items():
        tensors[f"{PREFIX}{name}{SUFFIX_A}"] = parts.change.left.detach().to(lm.working_dtype).cpu().contiguous()
        tensors[f"{PREFIX}{name}{SUFFIX_B}"] = parts.change.right.detach().to(lm.working_dtype).mT.cpu().contiguous()
    left_out = {name: parts.left_out for name, parts in found.items()}
    with whole_folder(folder, "an adapter") as unfinished:
        write_json(unfinished / CONFIG, config)
        write_atomic(unfinished / WEIGHTS, save(tensors, {"format": "pt"}))
        write_json(unfinished / EDITED, said_of(lm, edits, {**(about or {}), "left_out": left_out}))
    return left_out


def factored(change: Tensor, rank: int | None, delta: Any) -> Factored:
    """Return a change (d_in, d_out) as two factors: its own, or its largest singular values in equal parts.

    >>> found = factored(torch.diag(torch.tensor([4.0, 3.0])), 1, None).change
    >>> found.left.abs(), found.right.abs(), round(factored(torch.diag(torch.tensor([4.0, 3.0])), 1, None).left_out, 6)
    (tensor([[2., 0.]]), tensor([[2., 0.]]), 0.6)
    """
    if isinstance(delta, LowRank):
        return Factored(delta, 0.0)
    u, values, v = torch.linalg.svd(change.double(), full_matrices=False)
    kept = len(values) if rank is None else min(rank, len(values))
    root = values[:kept].sqrt()
    module = "" if delta is None else delta.module
    left, right = (root * u[:, :kept]).mT.to(change), (root[:, None] * v[:kept]).to(change)
    whole = float(values.square().sum())
    left_out = (float(values[kept:].square().sum()) / whole) ** 0.5 if whole else 0.0
    return Factored(LowRank(module, left, right), left_out)


def adapter_config(lm: LM, ranks: dict[str, int]) -> dict[str, Any]:
    """Return what `peft` has to know: which modules, of which rank, with a factor of 1 each."""
    most = max(ranks.values())
    other = {name: rank for name, rank in ranks.items() if rank != most}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": lm.name,
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": 0.0,
        "r": most,
        "lora_alpha": most,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted(ranks),
        "fan_in_fan_out": any(isinstance(find_module(lm.model, name), Conv1D) for name in ranks),
    }


def load_adapter(folder: Path, lm: LM) -> Edit:
    """Read a LoRA adapter as an edit, one of ours or of another program.

    Raises:
        BadInput: it is no LoRA adapter of factors alone, or does not fit the model.
    """
    config = read_json(folder / CONFIG)
    unread = [name for name in ("use_dora", "modules_to_save", "trainable_token_indices") if config.get(name)]
    if config.get("peft_type") != "LORA" or unread or config.get("bias", "none") != "none":
        kind = ", ".join(unread) or f"{config.get('peft_type')}, bias {config.get('bias')}"
        raise BadInput(f"{folder}: expected a LoRA adapter of two factors for each module, got {kind}")
    facts = read_json(folder / EDITED) if (folder / EDITED).is_file() else {}
    if (made_for := facts.get("model", lm.identity))["weights_hash"] != lm.weights_hash:
        raise BadInput(
            f"{folder}: this adapter was made for {made_for['name']} with weights {made_for['weights_hash'][:8]}, "
            f"not for {lm.name} with weights {lm.weights_hash[:8]}"
        )
    try:
        tensors = load_file(folder / WEIGHTS)
        names = [name.removeprefix(PREFIX).removesuffix(SUFFIX_A) for name in tensors if name.endswith(SUFFIX_A)]
        if 2 * len(names) != len(tensors):
            raise BadInput(f"{folder}: it holds tensors beside the two factors of each module")
        deltas = []
        for name in names:
            a, b = tensors[f"{PREFIX}{name}{SUFFIX_A}"], tensors[f"{PREFIX}{name}{SUFFIX_B}"]
            deltas.append(LowRank(name, a, scale_of(config, name, len(a)) * b.mT))
        edit = Edit(tuple(deltas), tuple(i for made in facts.get("edits", ()) for i in made["request_ids"]))
        check_edits(lm, [edit])
    except BadInput:
        raise
    except (OSError, LookupError, TypeError, ValueError, SafetensorError) as error:
        raise BadInput(f"{folder} does not fit {lm.name}: {error}") from error
    return edit


def scale_of(config: dict[str, Any], module: str, rank: int) -> float:
    r"""Return what an adapter's product is multiplied by: $\alpha / r$, or $\alpha / \sqrt r$ of rank-stabilised ones.

    >>> scale_of({"lora_alpha": 16}, "h.0", 8), scale_of({"lora_alpha": 16, "use_rslora": True}, "h.0", 4)
    (2.0, 8.0)
    """
    patterns = config.get("alpha_pattern") or {}
    ours = [value for name, value in patterns.items() if module == name or module.endswith(f".{name}")]
    alpha = float(ours[0] if ours else config.get("lora_alpha", 8))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
