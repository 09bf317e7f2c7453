"""What an editor is: it turns groups of requests into edits, and leaves the model as it was."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar, runtime_checkable

from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.core.places import cache_folder
from counterfact.core.records import Request
from counterfact.core.registry import Registry
from counterfact.core.settings import Choices, Resolved, Settings, resolve_settings, settings_beside, share_settings
from counterfact.core.texts import TextSource
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM
from counterfact.lm.moments.corpus_pass import plan_passes, usual_limit
from counterfact.lm.moments.given import given_moment
from counterfact.lm.moments.second_moment import SecondMoment, absent_layers, second_moments
from counterfact.lm.planning.batch_plan import Plan, default_plan

S = TypeVar("S", bound=Settings)

Progress = Callable[[str, int, int | None], None]
"""Told what is being done, how much of it is done, and of how much if that is known."""


@dataclass(frozen=True)
class Failure:
    """A request that could not be edited, and why. It is counted, and costs nothing else."""

    id: int
    reason: str


Group = Sequence[Request]
"""Requests that share one edit; a single-fact editor has groups of one."""
Engine = Literal["batched", "plain"]
"""How an editor computes: many records at once, or one at a time by whole forward passes, to be read and compared."""
State = Mapping[str, Tensor]
"""What an editor that accumulates keeps beside the weights, such as the keys of earlier requests; saved with a run."""


@dataclass(frozen=True)
class Edited:
    """What became of one group of requests."""

    edit: Edit | None
    """The edit, made for those of its `request_ids`; `None` where no request of the group could be edited."""
    failures: tuple[Failure, ...] = ()
    """One for each request of the group that is not in the edit."""
    state: State | None = None
    """What the next step starts from, of an editor that accumulates."""

    @classmethod
    def of(cls, made: "Edit | Failure") -> Self:
        """Return what became of a group of one."""
        return cls(None, (made,)) if isinstance(made, Failure) else cls(made)


class Editor(Protocol):
    """A prepared editor: groups of requests and a seed -> what became of each group, in order.

    Groups are independent of each other and of what they are computed beside. The model is the same before and after;
    randomness follows from the seed and the requests' ids alone. A request that cannot be edited is a `Failure` and
    costs its group only that request.
    """

    def __call__(self, groups: Sequence[Group], seed: int, /) -> list[Edited]:
        """Edit."""


@runtime_checkable
class Accumulating(Editor, Protocol):
    """An editor whose next edit depends on those before it, beyond the weights they changed."""

    def step(self, group: Group, seed: int, state: State | None, /) -> Edited:
        """Edit one group on the model as it was edited so far; what it returns holds the next state.

        Args:
            group: the requests of this step.
            seed: of the run.
            state: of the step before; `None` at the first.
        """


@runtime_checkable
class Finishing(Editor, Protocol):
    """An editor with a last step, taken after the last group."""

    def finish(self, edits: Sequence[Edit], /) -> Edit:
        """Return the edit that takes the place of all the edits made.

        Args:
            edits: what was made, in order; or several of them added up to one, whose changes may be of low or of full
                rank.
        """


def edit_singly(editor: Editor, requests: Sequence[Request], seed: int) -> list[Edit | Failure]:
    """Edit requests one to an edit; return the edit or failure of each, in order."""
    done = editor([[request] for request in requests], seed)
    return [each.failures[0] if each.edit is None else each.edit for each in done]


def edit_together(editor: Editor, group: Group, seed: int, state: State | None = None) -> Edited:
    """Make one edit of a group on the model as it is, after `state` where the editor accumulates."""
    if isinstance(editor, Accumulating):
        return editor.step(group, seed, state)
    [done] = editor([group], seed)
    return done


@dataclass(frozen=True)
class Resources:
    """What an editor may draw on when it is prepared, beside the model and its settings."""

    second_moment_texts: TextSource | None = None
    """The texts that second moments of keys are taken over, or files of these in place of texts."""
    second_moment_max_texts: int | None = None
    second_moments: Mapping[int, SecondMoment] = field(default_factory=dict)
    """Second moments that are given, by layer; these are used unchanged."""
    context_templates: tuple[str, ...] | None = None
    """Preset context templates, the bare `{}` first; None: they are generated from `seed`."""
    networks: Mapping[str, Path] = field(default_factory=dict)
    """Folders of trained networks, by the editor's name; others are looked for in the cache."""
    cache: Path = field(default_factory=cache_folder)
    seed: int = 0
    plan: Plan | None = None
    """How work is cut into batches; None: the plan of the model on its kind of device."""
    engine: Engine = "batched"
    """How edits are computed, by editors that have both engines; the edits agree within float tolerance."""
    progress: Progress | None = None
    """Told how far what takes long has come: a second moment, in texts; the search for one edit of many, in facts; the
    training of one, in rounds."""

    def plan_for(self, lm: LM) -> Plan:
        """The plan in force."""
        return self.plan or default_plan(lm)

    def network_folder(self, lm: LM, name: str) -> Path:
        """The folder of the trained network of the editor `name`: the given one, else where training leaves it."""
        trained = self.cache / "hypernetworks" / f"{Path(lm.name).name}-{lm.weights_hash[:8]}" / name
        return self.networks.get(name, trained)

    def second_moment(self, lm: LM, layer: int) -> SecondMoment:
        """The second moment of one layer's keys: the given one, else computed over the texts, or read from the cache.

        Raises:
            BadInput: there are neither texts nor a second moment, or the files given are of no use.
        """
        if layer in self.second_moments:
            return self.second_moments[layer]
        if self.second_moment_texts is None:
            raise BadInput(
                "the second moment of keys needs texts: give a source of texts; or set covariance=false, another method"
            )
        if self.second_moment_texts.moments:
            return given_moment(self.second_moment_texts.moments, lm, layer)
        return self._computed(lm, [layer], self.second_moment_texts)[layer]

    def make_second_moments(self, lm: LM, layers: Sequence[int]) -> None:
        """Compute the second moments that are neither given nor in the cache, in as few passes as memory allows.

        They are left in the cache, where `second_moment` reads one at a time.
        """
        texts = self.second_moment_texts
        if texts is None or texts.moments:
            return
        wanted = [layer for layer in layers if layer not in self.second_moments]
        absent = absent_layers(lm, wanted, texts, max_texts=self.second_moment_max_texts, folder=self._moments_folder)
        for of_one_pass in plan_passes(lm, absent, usual_limit(lm.device)) if absent else []:
            self._computed(lm, of_one_pass, texts)

    @property
    def _moments_folder(self) -> Path:
        return self.cache / "second_moments"

    def _computed(self, lm: LM, layers: Sequence[int], texts: TextSource) -> dict[int, SecondMoment]:
        told = self.progress
        which = f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
        stage = f"second moment of {which} of {lm.name}, over texts of {texts.name}"
        return second_moments(
            lm,
            layers,
            texts,
            max_texts=self.second_moment_max_texts,
            tokens_per_batch=self.plan_for(lm).tokens_per_batch,
            folder=self._moments_folder,
            progress=None if told is None else lambda now: told(stage, now.texts, now.total),
        )


@dataclass(frozen=True)
class EditorSpec:
    """An editor as the registry knows it."""

    name: str
    settings: type[Settings]
    prepare: Callable[[LM, Any, Resources], Editor]
    """Model, settings of the class above, resources -> editor. Whatever takes long once happens here."""
    paper: str
    """URL of the paper that describes it."""
    summary: str
    """One line for tables."""
    settings_folder: Path
    """Holds its published settings, one file a model; methods may share one."""
    trained_for: str | None = None
    """The task its network must have been trained for; `None`: it needs no training."""
    most_at_once: int | None = 1
    """How many requests may share one edit; `None`: any number."""
    second_moments: Callable[[Any], bool] = lambda _: False
    """Whether it takes second moments of keys, by its settings; else no texts are opened for it."""
    title: str = ""
    """What papers call it; without one its name is shown."""
    control: bool = False
    """Whether it is what editors are compared with, and no editor itself: it changes no weight."""

    def resources(self, given: Resources, settings: Settings, open_texts: Callable[[], TextSource]) -> Resources:
        """Return what the editor may draw on: `given`, and texts for second moments only where it takes these."""
        if self.second_moments(settings):
            return replace(given, second_moment_texts=open_texts())
        return replace(given, second_moment_texts=None, second_moment_max_texts=None)

    def check_group_size(self, edits_at_once: int) -> None:
        """Raise `BadInput` unless so many requests may share one edit."""
        if self.most_at_once is not None and edits_at_once > self.most_at_once:
            most = "one fact" if self.most_at_once == 1 else f"at most {self.most_at_once} facts"
            raise BadInput(
                f"{self.name} writes {most} with one edit, got groups of {edits_at_once}: make the edits one after "
                "another (--sequential), or choose an editor of many facts, as memit"
            )

    def resolve(self, model_name: str, n_layers: int, overrides: Choices = ()) -> Resolved[Settings]:
        """Combine defaults, the published values for a model and a run's choices.

        Raises:
            BadInput: an unknown key or a wrong type.
        """
        return resolve_settings(self.settings, self.settings_folder, model_name, n_layers, overrides)


EDITORS: Registry[EditorSpec] = Registry("editor", "editors")


def settings_of(names: Sequence[str], choices: Choices = ()) -> dict[str, dict[str, Any]]:
    """Return what is chosen of the settings of each editor, by its name.

    Args:
        names: of editors.
        choices: settings by name, with an editor's name and a dot before those that are meant for it alone.

    Raises:
        BadInput: there is no such editor, or none of them has such a setting.

    >>> settings_of(["rome", "ft"], ["layer=1", "ft.steps=5"])
    {'rome': {'layer': 1}, 'ft': {'layer': 1, 'steps': 5}}
    """
    return share_settings(choices, {name: tuple(EDITORS.get(name).settings.model_fields) for name in names})


def editor(
    name: str,
    settings: type[S],
    *,
    summary: str,
    paper: str = "",
    settings_folder: str | Path | None = None,
    trained_for: str | None = None,
    most_at_once: int | None = 1,
    engines: tuple[Engine, ...] = ("batched",),
    second_moments: Callable[[S], bool] = lambda _: False,
    title: str = "",
    control: bool = False,
) -> Callable[[Callable[[LM, S, Resources], Editor]], Callable[[LM, S, Resources], Editor]]:
    """Register the function below as the one that prepares the editor `name`.

    Args:
        name: of the editor, on the command line and in results.
        settings: their class.
        summary: one line for tables.
        paper: URL of the paper that describes the method, where there is one.
        settings_folder: of published settings: a name in `settings/` beside the function's file, or a path; by default
            the editor's name.
        trained_for: the task that its network must have been trained for, where it has one.
        most_at_once: how many requests may share one edit; `None`: any number.
        engines: the engines that it has; preparing it for another raises `BadInput`.
        second_moments: whether it takes second moments of keys from its resources, by its settings.
        title: what papers call it.
        control: whether it is a control, which boards show apart and never rank.
    """

    def register(prepare: Callable[[LM, S, Resources], Editor]) -> Callable[[LM, S, Resources], Editor]:
        @wraps(prepare)
        def checked(lm: LM, chosen: S, resources: Resources) -> Editor:
            if resources.engine not in engines:
                raise BadInput(f"{name} has no {resources.engine} engine, only {', '.join(engines)}")
            return prepare(lm, chosen, resources)

        where = settings_folder or name
        folder = where if isinstance(where, Path) else settings_beside(prepare, where)
        what = (paper, summary, folder, trained_for, most_at_once, second_moments, title, control)
        EDITORS.add(name, EditorSpec(name, settings, checked, *what))
        return prepare

    return register


def provenance(prepared: Editor) -> dict[str, Any]:
    """What a prepared editor rests on and a run records: context templates, hashes of second moments and networks."""
    return dict(getattr(prepared, "provenance", {}))


def seen_in_training(prepared: Editor, requests: Sequence[Request]) -> list[int]:
    """Return the ids of those requests that a prepared editor's network was trained on."""
    find: Callable[[Sequence[Request]], list[int]] = getattr(prepared, "seen_in_training", lambda _: [])
    return find(requests)


def edited_at_first_token(lm: LM, settings: Settings, requests: Sequence[Request]) -> list[int]:
    """Return the ids of those requests that an editor with a token position would edit at a prompt's very first token.

    There models keep an attention sink: a state several times as large as those of other tokens. A tokenizer that puts
    a start token first keeps subjects away from it.

    Args:
        lm: the model.
        settings: of the editor; without a `position` it reads no single token.
        requests: whose prompts are looked at.
    """
    rule = getattr(settings, "position", None)
    if rule is None or lm.encoding.start:
        return []
    found = []
    for request in requests:
        try:
            [(_, position)] = lm.locate([request.prompt], [request.subject], rule)
        except ValueError:
            continue  # it cannot be edited at all
        found += [request.id] if position == 0 else []
    return found


def check_layer(layer: int, lm: LM) -> None:
    """Raise `BadInput` unless the model has that layer."""
    if not 0 <= layer < lm.n_layers:
        raise BadInput(
            f"layer: {lm.name} has layers 0 to {lm.n_layers - 1}, got {layer}; choose one with --set layer=…"
        )
