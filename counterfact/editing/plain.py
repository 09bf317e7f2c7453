r"""The plain engine: ROME's keys and the search of ROME, MEMIT and PMET, and the training of FT, written to be read.

One record at a time, its sentences padded into one batch; whole forward passes of the model as it is, hooks that read
and move a hidden state, and autograd. What editors compute for many records at once, without running anything twice,
must equal what is computed here; they take one or the other by `Resources.engine`.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, section 3.1.
https://arxiv.org/abs/2202.05262
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from counterfact.editing.requests import Encoded, Row
from counterfact.editing.values import (
    ENOUGH,
    SAID,
    DescentAtLayer,
    Projections,
    SearchAtLayer,
    Searched,
    SearchSettings,
    Targets,
    Values,
)
from counterfact.lm.forward.blocks import pad_right
from counterfact.lm.forward.products import wide_passes
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape


def find_values(lm: LM, batch: Sequence[Encoded], settings: SearchAtLayer) -> Values:
    """Find keys and values of some records, one after the other; see `value_search.find_values`."""
    with wide_passes(lm):
        return Values.stack([find_value(lm, record, settings) for record in batch])


def find_value(lm: LM, record: Encoded, settings: SearchAtLayer) -> Values:
    """Find the keys and the value of one record.

    Args:
        lm: the model.
        record: encoded with `kl_row=True`: a sentence for each context template, the bare prompt first, then `{} is a`.
        settings: constants of the search.
    """
    with torch.no_grad():
        keys, outputs = keys_and_outputs(lm, record, settings.layer)
    delta, terms = search(lm, record, [Site(lm.layout.fc_out(settings.layer))], outputs[:1], settings)
    return Values(
        **vars(Searched.alone(delta[0], terms, settings.steps)),
        bare_key=keys[0],
        mean_key=keys.mean(0),
        bare_output=outputs[0],
        mean_output=outputs.mean(0),
    )


def find_targets(lm: LM, batch: Sequence[Encoded], layer: int, settings: SearchSettings) -> Targets:
    """Find what the residual stream is wanted to be, one record after the other; see `value_search.find_targets`."""
    found, sites = [], [Site(lm.layout.block(layer))]
    with wide_passes(lm):
        for record in batch:
            initial = at_subject(lm, record, sites)
            delta, terms = search(lm, record, sites, initial, settings)
            found.append(Targets(**vars(Searched.alone(delta[0], terms, settings.steps)), initial=initial[0]))
    return Targets.stack(found)


def find_projections(lm: LM, batch: Sequence[Encoded], layer: int, settings: SearchSettings) -> Projections:
    """Find what attention and MLP are wanted to give, one record at a time; see `value_search.find_projections`."""
    found, sites = [], [Site(lm.layout.out_proj(layer)), Site(lm.layout.fc_out(layer))]
    with wide_passes(lm):
        for record in batch:
            initial = at_subject(lm, record, sites)
            delta, terms = search(lm, record, sites, initial, settings, until_said=True)
            found.append(Projections(**vars(Searched.alone(delta, terms, settings.steps)), initial=initial))
    return Projections.stack(found)


def at_subject(lm: LM, record: Encoded, sites: Sequence[Site]) -> Tensor:
    """Return what stands at some sites at the subject of the bare prompt, (sites, width)."""
    tape, bare = Tape(), record.rows[0]
    with torch.no_grad(), hooked(lm.model, *map(tape.read, sites)):
        forward(lm, [bare.ids])
    return torch.stack([tape[site][0, bare.lookup] for site in sites]).to(lm.working_dtype)


def keys_and_outputs(lm: LM, record: Encoded, layer: int) -> tuple[Tensor, Tensor]:
    """Return what enters and leaves the edited module at the subject, after each context.

    Returns:
        k, (contexts, d_in), and v, (contexts, width).
    """
    contexts = record.rows[:-1]
    module = lm.layout.fc_out(layer)
    key, output = Site(module, "in"), Site(module)
    tape = Tape()
    with hooked(lm.model, tape.read(key), tape.read(output)):
        forward(lm, [row.ids for row in contexts])
    at = range(len(contexts)), [row.lookup for row in contexts]
    return tape[key][at].to(lm.working_dtype), tape[output][at].to(lm.working_dtype)


def search(
    lm: LM,
    record: Encoded,
    sites: Sequence[Site],
    initial: Tensor,
    settings: SearchSettings,
    *,
    until_said: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Minimise the objective over δ by Adam (eq. 4).

    $$f \cdot \frac1N \sum_{j=1}^N -\log P_{m+\delta}\left(o^* \mid x_j + p\right)
      + \lambda\, D_{KL}\left(P_{m+\delta}(x \mid p') \,\|\, P(x \mid p')\right)
      + \gamma \sum_{\text{sites}} \frac{\|\delta\|}{\|v_0\|^2}$$

    with f = 1, and by PMET's rule 0.1 after a pass in which the new object was said.

    Args:
        lm: the model.
        record: its sentences.
        sites: what δ is added to, each its own.
        initial: v_0, what stands there at the subject of the bare prompt, (sites, width).
        settings: constants of the search.
        until_said: whether f and the end are by PMET's rule.

    Returns:
        δ, (sites, width), and the loss and its three terms at each forward pass, (passes, 4), in nats.
    """
    rows, lookups = [row.ids for row in record.rows], [row.lookup for row in record.rows]
    norms = initial.norm(dim=1)
    delta = torch.zeros_like(initial, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=settings.learning_rate)
    factor, original = 1.0, None
    trace: list[Tensor] = []
    while True:
        with torch.enable_grad():
            moves = [(site, partial(move, lookups, part)) for site, part in zip(sites, delta, strict=True)]
            with hooked(lm.model, *moves):
                log_p = forward(lm, rows).log_softmax(-1)
            here = log_p[-1, lookups[-1]]  # at the subject of `{} is a`
            original = here.detach() if original is None else original
            nll = factor * target_nll(log_p, record.rows[:-1], record.target)
            kl = settings.kl_factor * (here.exp() * (here - original)).sum()
            decay = (settings.weight_decay * delta.norm(dim=1) / norms**2).sum()
            loss = nll + kl + decay
        trace.append(torch.stack([loss, nll, kl, decay]).detach())
        said = until_said and is_said(log_p.detach(), record)
        ends = not loss >= settings.stop_loss or (said and bool(kl <= ENOUGH))  # NaN ends too
        if ends or len(trace) == settings.steps:
            return delta.detach(), torch.stack(trace)
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


def move(lookups: Sequence[int], delta: Tensor, output: Tensor) -> Tensor:
    """Add δ to an output (rows, tokens, width) at each row's lookup position."""
    moved = output.clone()
    moved[range(len(lookups)), lookups] += delta.to(moved.dtype)
    return moved


def target_nll(log_p: Tensor, contexts: Sequence[Row], target: Sequence[int]) -> Tensor:
    """Return -log p of the target's tokens, each given the ones before it: their mean over tokens and contexts."""
    nlls = []
    for place, row in enumerate(contexts):
        ends = range(len(row.ids) - len(target), len(row.ids))
        nlls.append(-log_p[place, ends, target].mean())
    return torch.stack(nlls).mean()


@dataclass(frozen=True)
class TrainedWeight:
    """One record's weight change, and how its training went."""

    change: Tensor
    """Change of the weight, (d_in, width)."""
    losses: tuple[float, ...]
    """Loss at each forward pass, in nats a token."""


def train_alone(lm: LM, record: Encoded, settings: DescentAtLayer, bound: float | None) -> TrainedWeight:
    """Train one MLP weight on one record by Adam: -log p of the target's tokens, each given the true ones before it.

    The change D of the weight is a tensor of its own that a hook multiplies by: y += x D.

    Args:
        lm: the model.
        record: the bare prompt, with the target but its last token.
        settings: constants of the training.
        bound: no entry of D becomes larger than this; `None`: any may.
    """
    module = lm.layout.fc_out(settings.layer)
    tape, key = Tape(), Site(module, "in")
    change = torch.zeros(weight_shape(lm.model, module), dtype=lm.working_dtype, device=lm.device, requires_grad=True)
    adam = torch.optim.Adam([change], lr=settings.learning_rate)

    def add(output: Tensor) -> Tensor:
        return output + (tape[key].to(change.dtype) @ change).to(output.dtype)

    losses: list[float] = []
    for _ in range(settings.steps):
        with torch.enable_grad(), hooked(lm.model, tape.read(key), (Site(module), add)):
            log_p = forward(lm, [row.ids for row in record.rows]).log_softmax(-1)
            loss = target_nll(log_p, record.rows, record.target)
        losses.append(loss.item())
        if not losses[-1] >= settings.stop_loss:  # NaN ends too
            break
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        if bound is not None:
            with torch.no_grad():
                change.clamp_(-bound, bound)
    return TrainedWeight(change.detach(), tuple(losses))


def forward(lm: LM, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the logits after every token of rows padded on the right, (rows, tokens, vocabulary), in float32 up."""
    ids, lengths = pad_right(rows, lm.device)
    mask = torch.arange(ids.shape[1], device=lm.device) < lengths[:, None]
    logits: Tensor = lm.model(ids, attention_mask=mask.long(), use_cache=False).logits
    return logits.to(lm.working_dtype)
