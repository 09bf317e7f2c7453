r"""Rank-One Model Editing, and two variants that cure its asymmetric key.

For y = x W, the weight of an MLP's second projection, the subject's last token reads a value with its key. A request is
edited in three steps:

1. *Keys.* k_0 is what enters the projection at the subject in the bare prompt, k_bar the mean over several contexts;
   $u \propto C^{-1} \bar k$ is the direction that other keys, of second moment C, share least (`key_direction`).
2. *The value.* $v^* = v_0 + \delta$ makes the model say the new object; δ is found by gradient descent through the
   layers above (`editing.plain`; for many records at once, `editing.value_search`).
3. *The rank-one solve.* $W + u r^\top$ maps the key to v* (`rank_one`).

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022.
https://arxiv.org/abs/2202.05262
Gupta, Baskaran, Anumanchipalli. Rebuilding ROME: Resolving Model Collapse during Sequential Model Editing. 2024.
https://arxiv.org/abs/2403.07175
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from counterfact.contracts.editors import Edited, Editor, Engine, Failure, Group, Resources, check_layer, editor
from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json
from counterfact.core.records import Request
from counterfact.core.settings import Settings
from counterfact.editing import plain
from counterfact.editing.contexts import context_templates
from counterfact.editing.requests import Encoded, edit_each, encode
from counterfact.editing.value_search import find_values
from counterfact.editing.values import SearchCache, Values
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.encoding import SubjectRule
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape
from counterfact.lm.moments.second_moment import SecondMoment
from counterfact.lm.planning.batch_plan import Plan

PAPER = "https://arxiv.org/abs/2202.05262"
REBUILDING = "https://arxiv.org/abs/2403.07175"
Variant = Literal["rome", "r_rome", "p_rome"]
ENGINES: tuple[Engine, ...] = ("batched", "plain")


class RomeSettings(Settings):
    """Settings of ROME and its variants; the defaults are those published for GPT-2 XL."""

    layer: int
    """l*, the layer whose MLP is rewritten, from 0."""
    position: SubjectRule = "subject_last"
    """The token at which the key is read and the value is written."""
    steps: int = Field(20, ge=1)
    """The most forward passes of the search for v*; the last one makes no update."""
    learning_rate: float = Field(0.5, gt=0)
    """Adam's step size on δ."""
    weight_decay: float = Field(0.5, ge=0)
    """γ, the factor of ||δ|| / ||v_0||^2."""
    kl_factor: float = Field(0.0625, ge=0)
    """λ, the factor of the KL term, read at the subject of `{} is a`."""
    clamp_norm_factor: float = Field(4.0, gt=0)
    """||δ|| is kept to this many times ||v_0||."""
    stop_loss: float = 0.05
    """The search for a record ends below this loss, in nats."""
    covariance: bool = True
    """Whether the direction is C^-1 k or, without second moments, k itself."""
    context_lengths: list[int] = Field([5, 10])
    """Tokens of generated context texts, the start token included."""
    contexts_per_length: int = Field(10, ge=0)
    """Texts of each length; the bare prompt comes on top."""

    @classmethod
    def scaled(cls, n_layers: int) -> Mapping[str, Any]:
        """The layer at 5 of 28, as published for GPT-J.

        SmolLM2, a model of Llama's kind, has its best layers there, and is worse at a third of its depth, where GPT-2's
        sizes, which have files of settings, are edited (docs/real-models.md).
        """
        return {"layer": 5 * n_layers // 28}


@dataclass(frozen=True)
class Rome:
    """A prepared editor."""

    lm: LM
    settings: RomeSettings
    variant: Variant
    templates: tuple[str, ...]
    second_moment: SecondMoment | None
    plan: Plan
    searches: SearchCache

    @property
    def provenance(self) -> dict[str, Any]:
        """What the edits rest on, beside model and settings."""
        facts: dict[str, Any] = {
            "context_templates": list(self.templates),
            "context_templates_hash": hash_json(list(self.templates)),
        }
        if (moment := self.second_moment) is not None:
            facts["second_moment"] = moment.provenance
        return facts

    def __call__(self, groups: Sequence[Group], _seed: int, /) -> list[Edited]:
        """Edit; see `contracts.editors.Editor`. Nothing here is random."""
        return edit_each(
            groups,
            self.encode,
            self.solve,
            self.edit,
            size=lambda record: record.suffixes,  # what a step of the search runs
            plan=self.plan,
            padded=False,
        )

    def encode(self, request: Request) -> Encoded:
        """Put the request into every context template, the bare prompt first, and add the sentence `{} is a`."""
        return encode(self.lm, request, self.templates, self.settings.position, kl_row=True)

    def solve(self, batch: Sequence[Encoded]) -> list[tuple[Values, Tensor]]:
        """Find keys, values and the direction u of each record's update, in float64."""
        values = self.values(batch)
        keys = values.bare_key if self.variant == "p_rome" else values.mean_key
        directions = key_direction(keys.double(), self.second_moment)
        return [(values.at(i), directions[i]) for i in range(len(batch))]

    def values(self, batch: Sequence[Encoded]) -> Values:
        """Search for v* for a batch of records; the values are read from the cache where they are, to the CPU."""
        lm, settings = self.lm, self.settings
        find = plain.find_values if self.searches.engine == "plain" else find_values
        return self.searches.get(Values, lm, batch, settings.layer, settings, lambda: find(lm, batch, settings))

    def edit(self, request: Request, solved: tuple[Values, Tensor]) -> Edit | Failure:
        """Make the edit of the outer product of u and r, or say why there is none."""
        values, direction = solved
        loss = float(values.loss)
        if not math.isfinite(loss):
            return Failure(request.id, f"the loss became {loss} at forward pass {int(values.passes)}")
        update, divisor = rank_one(values, direction, self.variant)
        if float(divisor) == 0 or not bool(update.isfinite().all()):
            return Failure(request.id, f"no rank-one solution: key and direction have the product {float(divisor)}")
        diagnostics = {
            "k0_dot_u": float(values.bare_key.double() @ direction),
            "kbar_dot_u": float(values.mean_key.double() @ direction),
            "update_frobenius": float(update.norm()),
            "steps": float(values.passes),
            "loss": loss,
        }
        left, right = (side[None].to(self.lm.device, values.delta.dtype) for side in (direction, update))
        delta = LowRank(self.lm.layout.fc_out(self.settings.layer), left, right)
        return Edit((delta,), (request.id,), diagnostics)


def key_direction(keys: Tensor, second_moment: SecondMoment | None) -> Tensor:
    r"""Return the direction of the update of the weight's input side, of length 1 (eq. 2).

    $$u = \frac{C^{-1} k}{\|C^{-1} k\|}$$

    Args:
        keys: k, (records, d_in), float64.
        second_moment: C; `None`: the identity.
    """
    directions = keys if second_moment is None else second_moment.solve(keys).to(keys)
    unit: Tensor = directions / directions.norm(dim=1, keepdim=True)
    return unit


def rank_one(values: Values, direction: Tensor, variant: Variant) -> tuple[Tensor, Tensor]:
    r"""Solve for the update $\Delta = u r^\top$ (eq. 2), for one record.

    $$r = \frac{v^* - m}{k \cdot u}, \quad v^* = v_0 + \delta$$

    rome: m = v_0 and k = k_0, of the bare prompt, though u comes from k_bar (the authors' code); r_rome: m and k are
    means over the context templates; p_rome: all three are of the bare prompt.

    Args:
        values: keys and values of one record.
        direction: u, (d_in,).
        variant: which of the three.

    Returns:
        r, (width,), and the divisor k · u, in the dtype of u.
    """
    key, output = values.bare_key, values.bare_output
    if variant == "r_rome":
        key, output = values.mean_key, values.mean_output
    divisor = key.to(direction) @ direction
    target = values.bare_output.to(direction) + values.delta.to(direction)
    return (target - output.to(direction)) / divisor, divisor


def _prepare(lm: LM, settings: RomeSettings, resources: Resources, variant: Variant) -> Rome:
    check_layer(settings.layer, lm)
    templates = context_templates(lm, resources, settings.context_lengths, settings.contexts_per_length)
    moment = resources.second_moment(lm, settings.layer) if settings.covariance else None
    if moment is not None:
        _check_moment(moment, lm, settings.layer)
    searches = SearchCache(resources.cache / "values", resources.engine)
    return Rome(lm, settings, variant, templates, moment, resources.plan_for(lm), searches)


def _check_moment(moment: SecondMoment, lm: LM, layer: int) -> None:
    size = weight_shape(lm.model, lm.layout.fc_out(layer))[0]
    if len(moment.matrix) != size:
        raise BadInput(f"second moment: expected one of {size} x {size} for {lm.name}, got {len(moment.matrix)}")
    try:
        _ = moment.ridge  # takes the Cholesky factor, before any request is worked on
    except ValueError as error:
        raise BadInput(f"{error}; take it over more texts") from error


def takes_second_moments(settings: RomeSettings) -> bool:
    """Whether the second moment of keys is in the closed form."""
    return settings.covariance


@editor(
    "rome",
    RomeSettings,
    title="ROME",
    paper=PAPER,
    summary="rank-one rewrite of one MLP, as the authors' code has it",
    engines=ENGINES,
    second_moments=takes_second_moments,
)
def prepare(lm: LM, settings: RomeSettings, resources: Resources) -> Editor:
    """ROME with the published asymmetry: direction from the mean key, divisor from the bare prompt's key."""
    return _prepare(lm, settings, resources, "rome")


@editor(
    "r_rome",
    RomeSettings,
    title="r-ROME",
    paper=REBUILDING,
    summary="ROME with the mean key throughout",
    settings_folder="rome",
    engines=ENGINES,
    second_moments=takes_second_moments,
)
def prepare_r_rome(lm: LM, settings: RomeSettings, resources: Resources) -> Editor:
    """ROME with mean keys and outputs on both sides of the equation."""
    return _prepare(lm, settings, resources, "r_rome")


@editor(
    "p_rome",
    RomeSettings,
    title="p-ROME",
    paper=REBUILDING,
    summary="ROME with the bare prompt's key throughout",
    settings_folder="rome",
    engines=ENGINES,
    second_moments=takes_second_moments,
)
def prepare_p_rome(lm: LM, settings: RomeSettings, resources: Resources) -> Editor:
    """ROME with the bare prompt's key on both sides of the equation."""
    return _prepare(lm, settings, resources, "p_rome")
