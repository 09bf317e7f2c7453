r"""PMET: MEMIT with values searched for inside a block, at the outputs of its attention and of its MLP.

Li, Li, Song, Yang, Ma, Yu. PMET: Precise Model Editing in a Transformer. AAAI 2024. https://arxiv.org/abs/2308.08742

Two vectors $\delta_a, \delta_m$ are added to the last projections of attention and MLP of the last edited layer, at the
subject, and found together:

$$\min\; f \cdot \mathrm{NLL} + \lambda\, D_{KL} + \gamma \left(\frac{\|\delta_a\|}{\|a_0\|^2}
  + \frac{\|\delta_m\|}{\|m_0\|^2}\right)$$

with f = 1, and 0.1 after a pass in which every token of the new object was the likeliest. Only $m_0 + \delta_m$ is
written, to the MLPs, by MEMIT's closed form with the residual

$$R = \frac{Z - M}{\sqrt{m - i}},$$

M what the last edited layer's MLP gives now: more than an equal share of what is missing, by the paper's design.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from counterfact.contracts.editors import Editor, Resources
from counterfact.editing import plain
from counterfact.editing.goals import Goal
from counterfact.editing.mass_edits import MassEditor, mass_editor
from counterfact.editing.requests import Encoded
from counterfact.editing.values import Searched, SearchSettings, Targets
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import Layout

from .memit import MemitSettings, memit_writer

PAPER = "https://arxiv.org/abs/2308.08742"
SAID = 0.1
"""f where the new object is said already."""
ENOUGH = 0.01
"""The search ends where the new object is said and the KL term is no larger, in nats."""


class PmetSettings(MemitSettings):
    """Settings of PMET; the defaults are those published for GPT-J."""

    steps: int = Field(30, ge=1)
    """The most forward passes of the search for z; the last one makes no update."""
    learning_rate: float = Field(0.2, gt=0)
    """Adam's step size on both δ."""
    kl_factor: float = Field(1.0, ge=0)
    """Factor of the KL term, read at the subject of `{} is a`."""


def find_projections(lm: LM, batch: Sequence[Encoded], layer: int, settings: SearchSettings) -> Targets:
    """Find what the MLP of a layer is wanted to give, one record after the other.

    Args:
        lm: the model.
        batch: records encoded with `kl_row=True`.
        layer: the last edited layer.
        settings: constants of the search.
    """
    found = []
    for record in batch:
        initial, delta, terms = search(lm, record, layer, settings)
        found.append(Targets(**vars(Searched.alone(delta[1], terms, settings.steps)), initial=initial[1]))
    return Targets.stack(found)


def search(lm: LM, record: Encoded, layer: int, settings: SearchSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Find δ of attention and MLP for one record.

    Returns:
        What both give at the subject of the bare prompt and by how much it is moved, each (2, width), the attention's
        first; the loss and its three terms at each forward pass, (passes, 4), in nats.
    """
    sites = Site(lm.layout.out_proj(layer)), Site(lm.layout.fc_out(layer))
    rows, lookups = [row.ids for row in record.rows], [row.lookup for row in record.rows]
    tape = Tape()
    with torch.no_grad(), hooked(lm.model, *map(tape.read, sites)):
        plain.forward(lm, rows[:1])
    initial = torch.stack([tape[site][0, lookups[0]] for site in sites]).to(lm.working_dtype)
    norms = initial.norm(dim=1)
    delta = torch.zeros_like(initial, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=settings.learning_rate)
    factor, original = 1.0, None
    trace: list[Tensor] = []
    while True:
        with torch.enable_grad():
            moves = [(site, partial(plain.move, lookups, part)) for site, part in zip(sites, delta, strict=True)]
            with hooked(lm.model, *moves):
                log_p = plain.forward(lm, rows).log_softmax(-1)
            here = log_p[-1, lookups[-1]]  # at the subject of `{} is a`
            original = here.detach() if original is None else original
            nll = factor * plain.target_nll(log_p, record.rows[:-1], record.target)
            kl = settings.kl_factor * (here.exp() * (here - original)).sum()
            decay = settings.weight_decay * (delta.norm(dim=1) / norms**2).sum()
            loss = nll + kl + decay
        trace.append(torch.stack([loss, nll, kl, decay]).detach())
        said = is_said(log_p.detach(), record)
        if len(trace) == settings.steps or not loss >= settings.stop_loss or (said and kl <= ENOUGH):  # NaN ends too
            return initial, delta.detach(), torch.stack(trace)
        factor = SAID if said else 1.0
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            delta *= (settings.clamp_norm_factor * norms / delta.norm(dim=1)).clamp(max=1)[:, None]


def is_said(log_p: Tensor, record: Encoded) -> bool:
    """Return whether every token of the new object is the likeliest, in every context, given those before it.

    Args:
        log_p: (rows, tokens, vocabulary).
        record: its sentences, the KL term's last.
    """
    target = torch.tensor(record.target, device=log_p.device)
    ends = [len(row.ids) for row in record.rows[:-1]]
    likeliest = [log_p[row, end - len(target) : end].argmax(-1) for row, end in enumerate(ends)]
    return bool((torch.stack(likeliest) == target).all())


@mass_editor(
    "pmet",
    PmetSettings,
    title="PMET",
    paper=PAPER,
    summary="MEMIT with values found at the outputs of one attention and one MLP together",
    engines=("batched",),
)
def prepare(lm: LM, settings: PmetSettings, resources: Resources) -> Editor:
    """PMET, MLPs only, as the authors' settings have it; its search takes one record at a time."""
    goal = Goal(find_projections, Layout.fc_out, math.sqrt)
    return MassEditor.of(lm, settings, resources, *memit_writer(lm, settings, resources), goal=goal)
