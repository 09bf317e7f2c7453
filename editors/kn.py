"""KN: find the neurons that the answer depends on, and write the new object's embedding into their outputs.

Dai et al. Knowledge Neurons in Pretrained Transformers. ACL 2022. https://arxiv.org/abs/2104.08696, as the comparison
of Meng et al. 2022 (appendix E) applies it to GPT: no refinement over several prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from counterfact.contracts.editors import Edited, Editor, Failure, Group, Resources, editor
from counterfact.core.records import Request
from counterfact.core.settings import Settings
from counterfact.editing.requests import Encoded, Row, edit_each, encode
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.forward.blocks import embed, logits, pad_right, run_blocks
from counterfact.lm.forward.caches import KV, KVRecorder, PrefixKV, padding_mask
from counterfact.lm.forward.ragged import RaggedLayout, RaggedRows
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.sites import weight_shape
from counterfact.lm.planning.batch_plan import Plan

PAPER = "https://arxiv.org/abs/2104.08696"


class KnSettings(Settings):
    """Settings of KN."""

    steps: int = Field(20, ge=2)
    """Points of the integral from no activation to the neuron's own, both ends included."""
    threshold: float = Field(0.2, gt=0)
    """Neurons with at least this share of the largest attribution are rewritten."""
    erase: float = 2.0
    """How often the embedding of the model's own answer is taken away."""


@dataclass(frozen=True)
class Fact(Encoded):
    """One prompt as tokens, and the token that its neurons are held to know."""

    true: int | None
    """First token of the true object; `None`: the model's own answer."""


@dataclass(frozen=True)
class Clean:
    """A pass over a batch of prompts, with what an intervention at their last tokens needs."""

    before: tuple[Tensor, ...]
    """State before each block at the last token, (prompts, width)."""
    activations: tuple[Tensor, ...]
    """Output of each MLP's first projection there, (prompts, inner)."""
    recorder: KVRecorder
    """Keys and values of all tokens, prompts padded on the right."""
    lasts: Tensor
    """Position of each prompt's last token, (prompts,)."""
    answers: Tensor
    """The model's own next token, (prompts,)."""


@torch.no_grad()
def clean_pass(lm: LM, prompts: Sequence[Sequence[int]]) -> Clean:
    """Run prompts once and keep what stands at their last tokens."""
    ids, lengths = pad_right(prompts, lm.device)
    lasts, rows, layers = lengths - 1, torch.arange(len(prompts), device=lm.device), range(lm.n_layers)
    tape, recorder = Tape(), KVRecorder()
    inputs = [Site(lm.layout.block(layer), "in") for layer in layers]
    first_products = [Site(lm.layout.fc_in(layer)) for layer in layers]
    with hooked(lm.model, *(tape.read(site) for site in (*inputs, *first_products))):
        hidden = run_blocks(lm, embed(lm, ids), 0, lm.n_layers, cache=recorder)
    answers = logits(lm, hidden[rows, lasts]).argmax(-1)
    before, activations = (tuple(tape[site][rows, lasts] for site in sites) for sites in (inputs, first_products))
    inner = weight_shape(lm.model, lm.layout.fc_out(0))[0]
    activations = tuple(activation[:, -inner:] for activation in activations)  # without a gate beside them
    return Clean(before, activations, recorder, lasts, answers)


def attributions(lm: LM, clean: Clean, tokens: Tensor, steps: int) -> Tensor:
    r"""Return how much each neuron adds to p(token), one layer at a time, the others at work as they are.

    $a_i \frac{1}{m} \sum_{k=0}^{m-1} \partial p(\alpha_k a) / \partial a_i$ with $\alpha_k = k / (m - 1)$ and the
    layer's activations $a$ (before the nonlinearity) at the prompt's last token (paper, eq. 3; the sum is the
    reference's, both ends with full weight).

    Args:
        lm: the model.
        clean: of `clean_pass`; only the last token is run again, after a prefix of the earlier ones.
        tokens: whose probability, (prompts,).
        steps: m.

    Returns:
        (prompts, layers, inner), in the working dtype.
    """
    count = len(tokens)
    prompt = torch.arange(count, device=lm.device).repeat_interleave(steps)  # of each row
    alpha = torch.linspace(0, 1, steps, dtype=lm.working_dtype, device=lm.device).repeat(count)[:, None]
    rows = RaggedRows(RaggedLayout.of([1] * len(prompt)), lm.device, _prefix(lm, clean))
    positions = clean.lasts[prompt][None]
    found = []
    for layer, (before, activation) in enumerate(zip(clean.before, clean.activations, strict=True)):
        with torch.enable_grad():
            scaled = (alpha * activation[prompt]).to(activation.dtype).requires_grad_()
            with hooked(lm.model, (Site(lm.layout.fc_in(layer)), partial(_replace, scaled[None]))):
                hidden = run_blocks(lm, before[prompt][None], layer, lm.n_layers, positions=positions, rows=rows)
            p = logits(lm, hidden[0]).to(lm.working_dtype).softmax(-1).gather(1, tokens[prompt][:, None])
            (gradient,) = torch.autograd.grad(p.sum(), scaled)
        mean = gradient.to(lm.working_dtype).view(count, steps, -1).mean(1)
        found.append(activation.to(lm.working_dtype) * mean)
    return torch.stack(found, 1)


def _replace(new: Tensor, old: Tensor) -> Tensor:
    """Put the neurons' activations in place; a gate that the same product gives stays as it is."""
    gate = old[..., : old.shape[-1] - new.shape[-1]]
    return torch.cat([gate, new], -1) if gate.shape[-1] else new


def _prefix(lm: LM, clean: Clean) -> PrefixKV | None:
    """Hold what stands before each prompt's last token, once for all of the prompt's rows."""
    lengths = clean.lasts.tolist()
    if not any(lengths):
        return None

    def of(layer: int, _group: int) -> KV:
        keys, values = (it[layer][:, :, : max(lengths)] for it in (clean.recorder.keys, clean.recorder.values))
        return keys, values

    mask = padding_mask(lengths, lm.device, lm.working_dtype)
    return PrefixKV(of, [mask], padded=True).hold(range(lm.n_layers))


@dataclass(frozen=True)
class Found:
    """What was found for one request."""

    attribution: Tensor
    """(layers, inner)."""
    answer: int
    """The model's own next token."""


@dataclass(frozen=True)
class KnowledgeNeurons:
    """A prepared editor."""

    lm: LM
    settings: KnSettings
    plan: Plan

    def __call__(self, groups: Sequence[Group], _seed: int, /) -> list[Edited]:
        """Edit; see `contracts.editors.Editor`. Nothing here is random."""
        return edit_each(
            groups,
            self._encode,
            self._run,
            self._edit,
            size=lambda item: item.length * self.settings.steps,
            plan=self.plan,
        )

    def _encode(self, request: Request) -> Fact:
        encoded = encode(self.lm, request, ["{}"], "last", kl_row=False)
        (row,) = encoded.rows
        prompt = Row(row.ids[: row.lookup + 1], row.lookup)
        true = None if request.target_true is None else self.lm.target_tokens(request.target_true, request.joiner)[0]
        return Fact((prompt,), encoded.target, true)

    def _run(self, items: list[Fact]) -> list[Found]:
        clean = clean_pass(self.lm, [item.rows[0].ids for item in items])
        answers = clean.answers.tolist()
        known = [answer if item.true is None else item.true for item, answer in zip(items, answers, strict=True)]
        values = attributions(self.lm, clean, torch.tensor(known, device=self.lm.device), self.settings.steps)
        return [Found(value, answer) for value, answer in zip(values, answers, strict=True)]

    def _edit(self, request: Request, found: Found) -> Edit | Failure:
        attribution = found.attribution
        if not bool(attribution.isfinite().all()):
            return Failure(request.id, "the attributions of its neurons are not finite")
        chosen = attribution > self.settings.threshold * attribution.max()
        if not bool(chosen.any()):
            return Failure(request.id, "no neuron has a positive attribution")
        words = self.lm.model.get_input_embeddings().weight.to(attribution.dtype)
        target = self.lm.target_tokens(request.target_new, request.joiner)
        new = words[target].sum(0) - self.settings.erase * words[found.answer]
        deltas = []
        for layer in chosen.any(1).nonzero()[:, 0].tolist():
            neurons = chosen[layer].nonzero()[:, 0]
            left = torch.nn.functional.one_hot(neurons, chosen.shape[1]).to(attribution.dtype)
            deltas.append(LowRank(self.lm.layout.fc_out(layer), left, new.expand(len(neurons), -1).clone()))
        return Edit(tuple(deltas), (request.id,), {"neurons": float(chosen.sum())})


@editor(
    "kn",
    KnSettings,
    title="KN",
    paper=PAPER,
    summary="rewrites the outputs of the neurons that the answer depends on most",
)
def prepare(lm: LM, settings: KnSettings, resources: Resources) -> Editor:
    """Knowledge neurons."""
    return KnowledgeNeurons(lm, settings, resources.plan_for(lm))
