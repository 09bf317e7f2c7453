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
from counterfact.editing.batches import edit_each
from counterfact.editing.rows import Encoded, Row, encode
from counterfact.lm.edits import Edit, LowRank
from counterfact.lm.hooks import Site, Tape, hooked
from counterfact.lm.loading import LM
from counterfact.lm.plan import Plan
from counterfact.lm.stack import ConstantPrefix, Recorder, causal_mask, embed, logits, run_blocks

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
    """A pass over a batch of prompts, padded on the right, with what an intervention at their last tokens needs."""

    before: tuple[Tensor, ...]
    """State before each block at the last token, (prompts, 1, width)."""
    activations: tuple[Tensor, ...]
    """Output of each MLP's first projection there, (prompts, 1, inner)."""
    recorder: Recorder
    lasts: Tensor
    """(prompts,)."""
    answers: Tensor
    """The model's own next token, (prompts,)."""


@torch.no_grad()
def clean_pass(lm: LM, prompts: Sequence[Sequence[int]]) -> Clean:
    """Run prompts once and keep what stands at their last tokens."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in prompts], device=lm.device)
    lasts = torch.tensor([len(ids) - 1 for ids in prompts], device=lm.device)
    tape, recorder, layers = Tape(), Recorder(), range(lm.n_layers)
    ins, ups = [Site(lm.layout.block(layer), "in") for layer in layers], [Site(lm.layout.up(layer)) for layer in layers]
    with hooked(lm.model, *(tape.read(site) for site in (*ins, *ups))):
        hidden = run_blocks(lm, embed(lm, ids), 0, lm.n_layers, cache=recorder)
    rows = torch.arange(len(prompts), device=lm.device)
    answers = logits(lm, hidden[rows, lasts]).argmax(-1)
    at_last = [tuple(tape[site][rows, lasts][:, None] for site in sites) for sites in (ins, ups)]
    return Clean(at_last[0], at_last[1], recorder, lasts, answers)


def attributions(lm: LM, clean: Clean, tokens: Tensor, steps: int) -> Tensor:
    r"""Return how much each neuron adds to p(token), one layer at a time, the others at work as they are.

    $a_i \frac{1}{m} \sum_{k=0}^{m-1} \partial p(\alpha_k a) / \partial a_i$ with $\alpha_k = k / (m - 1)$ and the
    layer's activations $a$ (before the nonlinearity) at the prompt's last token (paper, eq. 3; the sum is the
    reference's, both ends with full weight).

    Args:
        lm: the model.
        clean: of `clean_pass`; only the last token is run again, the earlier ones are kept as keys and values.
        tokens: whose probability, (prompts,).
        steps: m.

    Returns:
        (prompts, layers, inner), in the working dtype.
    """
    count, width = len(tokens), int(clean.lasts.max())
    owner = torch.arange(count, device=lm.device).repeat_interleave(steps)
    share = torch.linspace(0, 1, steps, dtype=lm.working_dtype, device=lm.device).repeat(count)[:, None, None]
    earlier = torch.arange(width, device=lm.device) < clean.lasts[owner][:, None]
    mask = causal_mask(lm, 1, width, earlier)
    prefix = _prefix(clean.recorder, owner, width) if width else None
    found = []
    for layer, (before, activation) in enumerate(zip(clean.before, clean.activations, strict=True)):
        with torch.enable_grad():
            scaled = (share * activation[owner]).to(activation.dtype).requires_grad_()
            with hooked(lm.model, (Site(lm.layout.up(layer)), partial(_replace, scaled))):
                hidden = run_blocks(
                    lm,
                    before[owner],
                    layer,
                    lm.n_layers,
                    positions=clean.lasts[owner][:, None],
                    mask=mask,
                    cache=prefix,
                )
            p = logits(lm, hidden[:, 0]).to(lm.working_dtype).softmax(-1).gather(1, tokens[owner][:, None])
            (gradient,) = torch.autograd.grad(p.sum(), scaled)
        mean = gradient.to(lm.working_dtype).view(count, steps, -1).mean(1)
        found.append(activation[:, 0].to(lm.working_dtype) * mean)
    return torch.stack(found, 1)


def _replace(new: Tensor, _old: Tensor) -> Tensor:
    return new


def _prefix(recorder: Recorder, owner: Tensor, width: int) -> ConstantPrefix:
    parts = [{layer: it[owner, :, :width] for layer, it in side.items()} for side in (recorder.keys, recorder.values)]
    return ConstantPrefix(*parts)


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
        encoded = encode(self.lm, request, ["{}"], "last", hold=False)
        (row,) = encoded.rows
        prompt = Row(row.ids[: row.lookup + 1], row.lookup)
        true = None if request.target_true is None else self.lm.target_tokens(request.target_true)[0]
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
        new = words[self.lm.target_tokens(request.target_new)].sum(0) - self.settings.erase * words[found.answer]
        deltas = []
        for layer in chosen.any(1).nonzero()[:, 0].tolist():
            neurons = chosen[layer].nonzero()[:, 0]
            left = torch.nn.functional.one_hot(neurons, chosen.shape[1]).to(attribution.dtype)
            deltas.append(LowRank(self.lm.layout.down(layer), left, new.expand(len(neurons), -1).clone()))
        return Edit(tuple(deltas), (request.id,), {"neurons": float(chosen.sum())})


@editor("kn", KnSettings, paper=PAPER, summary="rewrites the outputs of the neurons that the answer depends on most")
def prepare(lm: LM, settings: KnSettings, resources: Resources) -> Editor:
    """Knowledge neurons."""
    return KnowledgeNeurons(lm, settings, resources.plan_for(lm))
