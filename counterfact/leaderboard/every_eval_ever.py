"""Runs in the form of every_eval_ever 0.3.0: a file for each, where the shared data set wants it.

Every Eval Ever, EvalEval Coalition, arXiv:2606.14516. https://github.com/evaleval/every_eval_ever, `eval.schema.json`;
`every_eval_ever validate` of the package every-eval-ever (Python 3.12) accepts what is written here.
"""

import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from counterfact.contracts.metrics import COMPOSITES, METRICS
from counterfact.core.files import canonical_json, indented_json, write_atomic
from counterfact.leaderboard.entries import Entry
from counterfact.statistics.intervals import RESAMPLES

VERSION = "0.3.0"
COLLECTION = "counterfact-toolkit"
UNKNOWN = "unknown"
LOCAL = "local"
"""Developer of a model that came from a folder."""
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


def write_every_eval_ever(entries: Iterable[Entry], path: Path) -> None:
    """Write a zip archive of `data/COLLECTION/DEVELOPER/MODEL/UUID.json`, equal runs as equal bytes."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for entry in entries:
            text = indented_json(every_eval_ever(entry.run, entry.id))
            packed.writestr(zipfile.ZipInfo(path_of(entry.run, entry.id)), text, zipfile.ZIP_DEFLATED)
    write_atomic(path, archive.getvalue())


def path_of(run: Mapping[str, Any], run_id: str) -> str:
    """Return where a run's file stands: its name is a version 4 UUID that the run's id gives.

    >>> path_of({"model": {"name": "org/m"}}, "0123456789abcdef")
    'data/counterfact-toolkit/org/m/01234567-89ab-4def-8123-456789abcdef.json'
    """
    developer, model = _named(run["model"]["name"])
    uuid = f"{run_id[:8]}-{run_id[8:12]}-4{run_id[13:16]}-8{run_id[1:4]}-{run_id[4:16]}"
    return f"data/{COLLECTION}/{developer}/{model}/{uuid}.json"


def every_eval_ever(run: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """Return a run as one aggregate file: the model is the unedited one, the editor is how it was treated."""
    developer, model = _named(run["model"]["name"])
    dataset = f"{run['dataset']['name']}@{run['dataset']['version']}"
    finished = str(run["environment"].get("finished"))
    scores = [(name, entry) for name, entry in run["metrics"].items() if entry["value"] is not None]
    return {
        "schema_version": VERSION,
        "evaluation_id": f"{COLLECTION}/{developer}_{model}/{run_id}",
        "evaluation_timestamp": finished,
        "retrieved_timestamp": _epoch(finished),
        "source_metadata": {
            "source_name": "Knowledge editing leaderboard",
            "source_type": "evaluation_run",
            "source_organization_name": UNKNOWN,
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "counterfact-toolkit", "version": str(run["code"].get("version") or UNKNOWN),
                         "additional_details": _texts(run["code"])},
        "model_info": {
            "name": model,
            "id": f"{developer}/{model}",
            "developer": developer,
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "open_weights",
                **_texts({key: run["model"][key] for key in ("revision", "weights_hash", "dtype")}),
                **_texts({f"editor_{key}": run["editor"][key] for key in ("name", "settings", "settings_source")}),
            },
        },
        "evaluation_results": [_result(run, dataset, run_id, name, entry) for name, entry in scores],
    }  # fmt: skip


def _result(run: Mapping[str, Any], dataset: str, run_id: str, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    least, most = _bounds(name)
    resampled = {"num_bootstrap_samples": RESAMPLES} if name in COMPOSITES else {}
    return {
        "evaluation_result_id": f"{run_id}.{name}",
        "evaluation_name": dataset,
        "source_data": {
            "dataset_name": dataset,
            "source_type": "other",
            "additional_details": _texts(
                {key: run["dataset"][key] for key in ("kind", "content_hash", "record_ids")} | {"n": run["n"]}
            ),
        },
        "metric_config": {
            "metric_id": f"counterfact.{name}",
            "metric_name": name,
            "metric_unit": entry["unit"],
            "metric_parameters": {"definition": entry["definition"]},
            "lower_is_better": _lower_is_better(name),
            "score_type": "continuous",
            "min_score": "-Infinity" if least == -math.inf else least,
            "max_score": "Infinity" if most == math.inf else most,
        },
        "score_details": {
            "score": entry["value"],
            "uncertainty": {
                "confidence_interval": {
                    "lower": entry["low"],
                    "upper": entry["high"],
                    "confidence_level": 0.95,
                    "method": "bootstrap" if resampled else "analytic",
                },
                "num_samples": entry["n"],
                **resampled,
            },
        },
        "generation_config": {"additional_details": _texts({"protocol": run["protocol"], "seeds": run["seeds"]})},
    }


def _bounds(name: str) -> tuple[float, float]:
    """Return the smallest and largest value of a score as it is printed; infinite where it has no bound."""
    if name in COMPOSITES:
        return (0.0, 100.0)
    if name not in METRICS:  # of a plug-in that is not here
        return (-math.inf, math.inf)
    metric = METRICS.get(name)
    low, high = metric.bounds
    return (-math.inf if low is None else low * metric.scale, math.inf if high is None else high * metric.scale)


def _lower_is_better(name: str) -> bool:
    registry = COMPOSITES if name in COMPOSITES else METRICS
    return name in registry and registry.get(name).better == "lower"


def _named(name: str) -> tuple[str, str]:
    """Return developer and model as parts of a path."""
    developer, _, model = name.strip("/").rpartition("/")
    return (_plain(developer.rpartition("/")[2]) if developer else LOCAL, _plain(model))


def _plain(part: str) -> str:
    return _PLAIN.sub("-", part).strip(". ") or UNKNOWN


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as the schema has details: all texts."""
    return {key: value if isinstance(value, str) else canonical_json(value) for key, value in values.items()}


def _epoch(moment: str) -> str:
    try:
        return str(datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return UNKNOWN
