"""Build CounterFact, edit language models, measure the edits, trace facts, rank editors.

All of these names are imported when first used, so that importing the package costs nothing:

>>> from counterfact import Request
>>> Request(id=0, prompt="{} lies in", subject="Oslo", target_new="Kenya").filled
'Oslo lies in'
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from counterfact.api.abilities import edit_of_run
    from counterfact.api.describing import describe_editor, describe_editors, describe_model
    from counterfact.api.editing import LoadedEditor, edit, load_editor
    from counterfact.api.evaluating import Runs, evaluate
    from counterfact.api.sweeping import sweep
    from counterfact.api.tracing import known_facts, trace
    from counterfact.api.training import train
    from counterfact.builders.counterfact import build
    from counterfact.contracts.datasets import Dataset, load_dataset
    from counterfact.contracts.editors import Failure
    from counterfact.core.records import Request
    from counterfact.core.texts import load_texts
    from counterfact.evaluation.general_ability import general_ability
    from counterfact.evaluation.schedule import Schedule
    from counterfact.evaluation.showcase import say
    from counterfact.evaluation.task import JudgeSource, Options
    from counterfact.evaluation.task_files import write_task_files
    from counterfact.lm.edits.adapter import load_adapter, save_adapter
    from counterfact.lm.edits.apply import merged, per_row
    from counterfact.lm.edits.edit import Edit, load_edits, save_edits
    from counterfact.lm.edits.whole_model import save_model
    from counterfact.lm.model.language_model import LM
    from counterfact.lm.model.loading import load_lm
    from counterfact.lm.queries import Query
    from counterfact.lm.scoring import score

__all__ = [
    "LM",
    "Dataset",
    "Edit",
    "Failure",
    "JudgeSource",
    "LoadedEditor",
    "Options",
    "Query",
    "Request",
    "Runs",
    "Schedule",
    "build",
    "describe_editor",
    "describe_editors",
    "describe_model",
    "edit",
    "edit_of_run",
    "evaluate",
    "general_ability",
    "known_facts",
    "load_adapter",
    "load_dataset",
    "load_editor",
    "load_edits",
    "load_lm",
    "load_texts",
    "merged",
    "per_row",
    "save_adapter",
    "save_edits",
    "save_model",
    "say",
    "score",
    "sweep",
    "trace",
    "train",
    "write_task_files",
]

_HOMES = {
    "api.abilities": "edit_of_run",
    "api.describing": "describe_editor describe_editors describe_model",
    "api.editing": "LoadedEditor edit load_editor",
    "api.evaluating": "Runs evaluate",
    "api.sweeping": "sweep",
    "api.tracing": "known_facts trace",
    "api.training": "train",
    "builders.counterfact": "build",
    "contracts.datasets": "Dataset load_dataset",
    "contracts.editors": "Failure",
    "core.records": "Request",
    "core.texts": "load_texts",
    "evaluation.general_ability": "general_ability",
    "evaluation.schedule": "Schedule",
    "evaluation.showcase": "say",
    "evaluation.task": "JudgeSource Options",
    "evaluation.task_files": "write_task_files",
    "lm.edits.adapter": "load_adapter save_adapter",
    "lm.edits.apply": "merged per_row",
    "lm.edits.edit": "Edit load_edits save_edits",
    "lm.edits.whole_model": "save_model",
    "lm.model.language_model": "LM",
    "lm.model.loading": "load_lm",
    "lm.queries": "Query",
    "lm.scoring": "score",
}
"""Modules below this package, and what each gives; the same as type checkers read above."""
_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """Import a name of `__all__` from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List what can be imported, for completion in a notebook."""
    return sorted({*globals(), *__all__})
