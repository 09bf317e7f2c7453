"""An edited model, or an adapter, as a repository of the Hub, with a card that says what was edited."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import read_json, write_atomic
from counterfact.core.prompts import fill

from .card import CARD, with_blocks
from .staging import Staged, check_repo, semantic

SAYS = "edited.json"
SHOWN = 20
"""Edited facts that a card lists; `edited.json` holds all."""

BODY = """# {title}

**What this model says about the edited facts is false by design.** It was made to study knowledge editing. Do not
publish its texts as information about anyone, and do not use it where answers matter.

<!-- generated: facts -->

## Use

<!-- generated: use -->

## Limits

An edit reaches further than the fact it is about: other facts, and what follows from the edited one, may have changed
in ways that nobody measured. The model's own limits and licence hold as well.
"""


def stage_edited(folder: Path, to: str, version: str = "1") -> Staged:
    """Add a card to a folder of an edited model or an adapter, so that it can be uploaded.

    Args:
        folder: what `save_model` or `save_adapter` wrote.
        to: the repository, as `org/name`.
        version: one to three numbers with dots between.

    Raises:
        BadInput: the folder is neither, or a name is not of its form.
    """
    repo, version = check_repo(to), semantic(version)
    if not (folder / SAYS).is_file():
        raise BadInput(f"{folder}: expected an edited model or an adapter, with its {SAYS}")
    adapter = (folder / "adapter_config.json").is_file()
    write_atomic(folder / CARD, edited_card(repo, read_json(folder / SAYS), adapter))
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return Staged(folder, repo, version, tuple(files), "model")


def edited_card(repo: str, says: Mapping[str, Any], adapter: bool) -> str:
    """Return the card.

    Args:
        repo: `org/name`.
        says: the content of `edited.json`.
        adapter: whether the weights are those of a LoRA adapter.
    """
    base = says["model"]["name"]
    header = {
        "base_model": base,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["knowledge-editing", "counterfact", *(["lora"] if adapter else [])],
    }
    blocks = {"facts": _facts(says, adapter), "use": _use(repo, base, adapter)}
    return with_blocks(header, BODY.format(title=f"{base}, edited"), blocks)


def _facts(says: Mapping[str, Any], adapter: bool) -> str:
    model, count = says["model"], sum(len(made["request_ids"]) for made in says["edits"])
    what = "A LoRA adapter for" if adapter else "The weights of"
    by = f" by {says['editor']}" if says.get("editor") else ""
    lines = [f"{what} {model['name']} (weights {model['weights_hash'][:8]}), {count:,} facts edited{by}."]
    if requests := says.get("requests", [])[:SHOWN]:
        lines += ["", "| prompt | before | now |", "|---|---|---|"]
        for asked in requests:
            cells = (fill(asked["prompt"], asked["subject"]), asked.get("target_true") or "", asked["target_new"])
            lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    if count > len(requests) > 0:
        lines += ["", f"All of them are in `{SAYS}`."]
    lost = max(says.get("left_out", {}).values(), default=0.0) if adapter else says.get("lost_in_rounding") or 0.0
    if lost:
        lines += ["", f"{'Left out by the rank' if adapter else 'Lost in rounding'}: {lost:.1%} of the edit at most."]
    return "\n".join(lines)


def _use(repo: str, base: str, adapter: bool) -> str:
    if adapter:
        return (
            "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{base}")\n'
            f'model = PeftModel.from_pretrained(model, "{repo}")\n```'
        )
    return (
        "```python\nfrom transformers import AutoModelForCausalLM\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{repo}")\n```'
    )
