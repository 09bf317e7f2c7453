"""Train a hypernetwork: steps, validations, early stopping; stop it at any moment and run it again to go on.

Schedule: Mitchell et al. Fast Model Editing at Scale. ICLR 2022. https://arxiv.org/abs/2110.11309, appendix C.
"""

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import torch
from torch import nn

from counterfact.core.errors import BadInput, Failed
from counterfact.core.files import JsonLog, differences, one_writer, read_json, write_json, write_jsonl
from counterfact.core.settings import Resolved
from counterfact.editing.networks import INFO, NETWORKS, Hypernetwork, NetworkSettings, Task, read_info, save_network
from counterfact.lm.forward.products import packed_products
from counterfact.lm.model.language_model import LM
from counterfact.training.examples import Example, Sampler, Source, validation_examples
from counterfact.training.state import load_state, remove_states, save_state
from counterfact.training.steps import Losses, Step

CURVES, UNFINISHED = "curves.jsonl", "unfinished.json"
MOST_SKIPPED = 20
"""So many steps in a row without a finite gradient end a training."""
logger = logging.getLogger(__name__)
Watch = Callable[[Mapping[str, Any]], None]
"""Told every line of the curves as it is written."""


class TrainingFailed(Failed):
    """No network came out that is better than none; the message says what happened."""


@dataclass(frozen=True)
class Options:
    """What a training chooses beside model, data and settings."""

    seed: int = 0
    autocast: bool = False
    """Run the model's products in bfloat16."""
    restart: bool = False
    """Remove what an earlier training left in the folder, and begin again."""
    watch: Watch | None = None


@dataclass
class Progress:
    """How far a training is; all of it is saved."""

    step: int = 0
    skipped: int = 0
    """Updates left out because a gradient was not finite."""
    skipped_in_a_row: int = 0
    best_step: int = -1
    best: dict[str, float] = field(default_factory=dict)
    untrained: dict[str, float] = field(default_factory=dict)
    """The validation before the first step."""
    unedited: dict[str, float] = field(default_factory=dict)
    """The validation of making no edit at all."""


def train(
    lm: LM,
    name: str,
    task: Task,
    resolved: Resolved[NetworkSettings],
    source: Source,
    folder: Path,
    *,
    options: Options | None = None,
) -> dict[str, Any]:
    """Train a network for a model, or go on with an interrupted training; a finished one is read, not trained again.

    Args:
        lm: the model; it stays as it is.
        name: of the hypernetwork, `mend` or `ke`.
        task: what the examples are of.
        resolved: settings, of `NetworkSpec.resolve`.
        source: of the examples.
        folder: of the trained network.
        options: seed, precision.

    Returns:
        What the folder's `editor.json` says.

    Raises:
        BadInput: the folder was begun with something else; autocast is asked for beside a precision.
        TrainingFailed: no network came out whose validation loss and edit success are better than those of no edit.
    """
    options = options or Options()
    if options.autocast and lm.precision != "strict":
        raise BadInput(f"autocast and a precision of {lm.precision} say two things of the same products: give one")
    described = source.describe()
    trained_on = {key: described.pop(key) for key in ("record_ids", "requests")}
    identity = {
        "editor": name,
        "task": task,
        "settings": resolved.settings.model_dump(mode="json"),
        "model": lm.identity,
        "data": described,
        "seed": options.seed,
        "autocast": options.autocast,
    }
    with one_writer(folder, wait=False):
        if options.restart:
            for left in (INFO, CURVES, UNFINISHED):
                (folder / left).unlink(missing_ok=True)
            remove_states(folder)
        if (folder / INFO).exists():
            info = read_info(folder)
            _check_same(folder, info, identity)
            _forget_steps(folder)  # of a process that was killed right after the end
            return info
        if (folder / UNFINISHED).exists():
            _check_same(folder, read_json(folder / UNFINISHED), identity)
        write_json(folder / UNFINISHED, identity)
        training = Training(lm, NETWORKS.get(name).build(lm, resolved.settings), resolved.settings, source, options)
        # Autocast chooses the products of its own accord.
        with nullcontext() if options.autocast else packed_products(lm):
            training.run(folder)
        training.load_best()
        done = training.progress
        info = {
            **identity,
            "trained_on": trained_on,
            "settings_source": resolved.source,
            "settings_given": resolved.given,
            "step": done.best_step,
            "steps": done.step,
            "skipped": done.skipped,
            "unedited": done.unedited,
            "untrained": done.untrained,
            "validation": done.best,
            "curves": CURVES,
            "environment": training.environment(),
        }
        save_network(folder, training.network, info)
        _forget_steps(folder)
    return read_info(folder)


def _forget_steps(folder: Path) -> None:
    """Remove what a finished training no longer needs."""
    remove_states(folder)
    (folder / UNFINISHED).unlink(missing_ok=True)


class Training:
    """A training in memory."""

    def __init__(
        self, lm: LM, network: Hypernetwork, settings: NetworkSettings, source: Source, options: Options
    ) -> None:
        self.network = network.to(lm.device)
        self.settings, self.options = settings, options
        self.sampler = Sampler(source, options.seed)
        self.step = Step(lm, network, options.autocast)
        self.optimizer = torch.optim.Adam(network.groups())
        self.progress = Progress()
        self.begun = 0
        """The step at which this process began."""
        self.best_weights: dict[str, torch.Tensor] = {}
        self.held = validation_examples(source, settings.validation_edits, options.seed)
        self.seconds = 0.0
        """Time spent in updates by this process."""

    def run(self, folder: Path) -> None:
        """Train until the steps or the patience are spent.

        Raises:
            TrainingFailed: see `train`.
        """
        curves = JsonLog(folder / CURVES)
        if (state := load_state(folder)) is not None:
            self._restore(state)
        write_jsonl(curves.path, [line for line in curves.read() if line["step"] <= self.progress.step])
        if state is None:
            write_jsonl(curves.path, [])
            self._warm_up()
            self._validate(curves)
            save_state(folder, self._state())
        while not self._finished():
            line = self._update()
            self._tell(curves, line)
            if self.progress.step % self.settings.validate_every < self.settings.accumulate:
                self._validate(curves)
                save_state(folder, self._state())
        self._judge()

    def environment(self) -> dict[str, Any]:
        """Return all that may differ between equal trainings."""
        device = self.step.lm.device
        edits = (self.progress.step - self.begun) * self.settings.batch
        return {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "seconds": round(self.seconds, 3),
            "edits_per_second": round(edits / self.seconds, 2) if self.seconds else None,
            "peak_memory": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        }

    def load_best(self) -> None:
        """Go back to the network of the best validation."""
        self.network.load_state_dict(self.best_weights)

    def _finished(self) -> bool:
        done, settings = self.progress, self.settings
        if done.skipped_in_a_row >= MOST_SKIPPED:
            logger.warning("no finite gradient in %d updates in a row; training ends", MOST_SKIPPED)
            return True
        return done.step >= settings.steps or done.step - max(0, done.best_step) >= settings.patience

    def _batch(self, step: int) -> list[Example]:
        first = step * self.settings.batch
        return [self.sampler.example(first + place) for place in range(self.settings.batch)]

    def _warm_up(self) -> None:
        """Let running statistics see some batches; they are those of the first steps."""
        for step in range(getattr(self.settings, "statistics_steps", 0)):
            factors, _ = self.step.factors(self._batch(step))
            self.network.observe(factors)

    def _update(self) -> dict[str, Any]:
        """Take `accumulate` steps and move the weights once; return a line for the curves."""
        self.network.train()
        means = []
        start = perf_counter()
        for _ in range(self.settings.accumulate):
            examples = self._batch(self.progress.step)
            losses = self.step.losses(examples, observe=True)
            whole = losses.total(self.settings).mean() / self.settings.accumulate
            torch.autograd.backward(whole)
            means.append(losses.means(self.settings))
            self.progress.step += 1
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.settings.clip))
        if math.isfinite(norm):
            self.optimizer.step()
            self.progress.skipped_in_a_row = 0
        else:
            self.progress.skipped += 1
            self.progress.skipped_in_a_row += 1
        self.optimizer.zero_grad()
        values = {key: _finite(fmean(mean[key] for mean in means)) for key in means[0]}
        self.seconds += perf_counter() - start
        return {"step": self.progress.step, "kind": "train", **values, "gradient_norm": _finite(norm)}

    @torch.no_grad()
    def _validate(self, curves: JsonLog) -> None:
        self.network.eval()
        done, values = self.progress, self._mean(self.step.losses)
        self._tell(curves, {"step": done.step, "kind": "validation", **{k: _finite(v) for k, v in values.items()}})
        if not done.untrained:
            done.untrained, done.unedited = values, self._mean(self.step.unedited)
        if math.isfinite(values["total"]) and values["total"] < done.best.get("total", math.inf):
            done.best, done.best_step = values, done.step
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def _mean(self, measure: Callable[[list[Example]], Losses]) -> dict[str, float]:
        """Return the means of the losses over the validation examples."""
        means: list[dict[str, float]] = []
        for first in range(0, len(self.held), self.settings.batch):
            part = self.held[first : first + self.settings.batch]
            losses = measure(part)
            means += [_row(losses, self.settings, place) for place in range(len(part))]
        return {key: fmean(mean[key] for mean in means) for key in means[0]}

    def _judge(self) -> None:
        done = self.progress
        best = done.best if done.best_step > 0 else {}
        if best and best["total"] < done.unedited["total"] and best["success"] > done.unedited["success"]:
            return
        raise TrainingFailed(
            f"after {done.step} steps ({done.skipped} updates skipped for gradients that were not finite) no network "
            f"came out that is better than none: the least validation loss was {done.best.get('total', math.nan):.4g} "
            f"with {done.best.get('success', 0):.0%} of edits successful, at step {done.best_step}; with no edit at "
            f"all they are {done.unedited['total']:.4g} and {done.unedited['success']:.0%}. Nothing is saved; the "
            "learning rate is the first thing to lower"
        )

    def _tell(self, curves: JsonLog, line: dict[str, Any]) -> None:
        curves.append([line])
        if self.options.watch:
            edits = (self.progress.step - self.begun) * self.settings.batch
            rate = edits / self.seconds if self.seconds else None
            self.options.watch({**line, "skipped": self.progress.skipped, "edits_per_second": rate})

    def _state(self) -> dict[str, Any]:
        return {
            "progress": vars(self.progress) | {"best": dict(self.progress.best)},
            "network": self.network.state_dict(),
            "best": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.progress = Progress(**state["progress"])
        self.begun = self.progress.step
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_weights = {name: tensor.to(self.step.lm.device) for name, tensor in state["best"].items()}


def _row(losses: Losses, settings: NetworkSettings, place: int) -> dict[str, float]:
    values = {**vars(losses), "total": losses.total(settings)}
    return {name: float(value[place]) for name, value in values.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    moved = [name for key, value in now.items() for name in differences(key, before.get(key), value)]
    if moved:
        raise BadInput(
            f"{folder} was trained with another {moved[0]}; to train it again with what is given now, remove that "
            "folder, choose another, or ask for a restart"
        )
