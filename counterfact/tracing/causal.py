"""Causal traces: how much of a fact comes back when single states of a corrupted run are restored.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, section 2, appendix B.
https://arxiv.org/abs/2202.05262. A trace shows where information passes; it does not tell which layer is best to edit:
Hase, Bansal, Kim, Ghandeharioun. Does Localization Inform Editing? NeurIPS 2023. https://arxiv.org/abs/2301.04213
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterfact.core.errors import BadInput
from counterfact.lm.forward.products import fused_activations
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import FEWEST, Plan, Shape, in_halves, plan_for
from counterfact.lm.planning.memory import needs, say
from counterfact.tracing._base import Base, costs_a_fact, run_base, run_beside
from counterfact.tracing._patch_sites import PatchSite, Restoration, batches, patch_sites_of
from counterfact.tracing._sweep import sweep
from counterfact.tracing.cells import HELD, KINDS, SEVERED, Kind, Scan
from counterfact.tracing.corruption import Corruption
from counterfact.tracing.facts import BadFact, Fact, Prompt, encode, is_known

CAVEAT = "A trace does not tell which layer is best to edit (Hase et al. 2023, https://arxiv.org/abs/2301.04213)."


STATES_AT_ONCE = 2**21
"""On a processor, numbers in the states of one walk: of wide models, what stays near its caches (measured)."""


@dataclass(frozen=True, eq=False)
class Trace:
    """One kind of trace of one fact."""

    kind: Kind
    tokens: tuple[int, ...]
    """The positions traced, one for each row of `scores`."""
    scores: NDArray[np.float64]
    """Probability of the answer with the cell restored, mean over the samples: (tokens, layers); one column more, the
    first, with `Scan.embedding`."""
    spread: NDArray[np.float64]
    """Its standard deviation over the samples, of the same shape."""


@dataclass(frozen=True, eq=False)
class Traced:
    """All traces of one fact."""

    fact: Fact
    prompt: Prompt
    answer: int
    answer_text: str
    correct: bool
    """Whether the model says the whole attribute: `facts.is_known`."""
    high: float
    """Probability of the answer in the clean run."""
    low: float
    """Mean over the corrupted runs."""
    traces: dict[Kind, Trace]


@torch.no_grad()
def trace(
    lm: LM,
    facts: Sequence[Fact],
    corruption: Corruption,
    scan: Scan | None = None,
    *,
    extra_token: bool = False,
    plan: Plan | None = None,
) -> list[Traced | BadFact]:
    r"""Trace some facts.

    A fact's prompt runs once as it is and `corruption.samples` times with noise on the embeddings of its subject; o is
    the clean run's likeliest next token. The score of a cell is the mean over the corrupted runs of $p(o)$ when the
    cell's states are put back to the clean run's. Its indirect effect is `score - low`, the total effect `high - low`.

    Args:
        lm: the model, of any family that `lm.model.sites` knows.
        facts: what to trace; their cells share batches.
        corruption: the noise.
        scan: which cells.
        extra_token: corrupt the token after the subject too (figures 12 and 15).
        plan: sizes of batches.

    Returns:
        In order; `BadFact` where a fact cannot be traced.

    Raises:
        BadInput: a window of no layer, an unknown kind.
    """
    scan, plan = scan or Scan(), plan or trace_plan(lm)
    _check(scan)
    with fused_activations(lm):
        bases, bad = _bases(lm, facts, corruption, scan, extra_token=extra_token)
        traces = _trace_all(lm, bases, scan, plan)
    for place in bases.keys() - traces.keys():
        bad[place] = BadFact(facts[place].known_id, "out of memory with one token's cells")
    return [
        bad[place] if place in bad else finish(lm, fact, bases[place], traces[place])
        for place, fact in enumerate(facts)
    ]


def _bases(
    lm: LM, facts: Sequence[Fact], corruption: Corruption, scan: Scan, *, extra_token: bool
) -> tuple[dict[int, Base], dict[int, BadFact]]:
    """Return the base of each fact that can be traced, and why the others cannot, by place."""
    bases: dict[int, Base] = {}
    bad: dict[int, BadFact] = {}
    for place, fact in enumerate(facts):
        try:
            base = base_of(lm, fact, corruption, extra_token=extra_token)
            _check_tokens(scan, base.prompt)
        except (ValueError, RuntimeError, MemoryError) as error:
            if not costs_a_fact(error):
                raise
            bad[place] = BadFact(fact.known_id, str(error))
        else:
            bases[place] = base
    return bases, bad


def trace_plan(lm: LM, max_memory: float | None = None) -> Plan:
    """Return the plan of traces: on a processor, batches whose activations stay near its caches.

    Raises:
        BadInput: `max_memory`, in bytes, is not enough for the smallest batch.
    """
    shape = Shape.of(lm)
    plan = plan_for(shape)
    if shape.device == "cpu":
        positions = min(4 * plan.tokens_per_batch, STATES_AT_ONCE // shape.width)
        plan = replace(plan, tokens_per_batch=positions, logit_rows=min(plan.logit_rows, 128))
    else:
        plan = replace(plan, tokens_per_batch=8 * plan.tokens_per_batch)
    while max_memory is not None and (need := needs(shape, plan)).scoring > max_memory:
        if plan.tokens_per_batch <= FEWEST.tokens_per_batch:
            raise BadInput(f"one batch of a trace is estimated to need {say(need.scoring)}, got {say(max_memory)}")
        plan = replace(plan, tokens_per_batch=max(FEWEST.tokens_per_batch, plan.tokens_per_batch // 2))
    return plan


def base_of(lm: LM, fact: Fact, corruption: Corruption, *, extra_token: bool = False) -> Base:
    """Run a fact's prompt clean and corrupted.

    Raises:
        ValueError: as `facts.encode`; NaN.
    """
    prompt = encode(lm, fact, extra_token=extra_token)
    noise = corruption.noise(fact.known_id, prompt.corrupted_end - prompt.begin, lm.width)
    return run_base(lm, prompt, noise, replace=corruption.replace)


def finish(lm: LM, fact: Fact, base: Base, traces: dict[Kind, Trace]) -> Traced:
    """Put a fact's result together."""
    return Traced(
        fact=fact,
        prompt=base.prompt,
        answer=base.answer,
        answer_text=lm.decode([base.answer]),
        correct=is_known(lm, fact),
        high=base.high,
        low=float(base.low.mean()),
        traces=traces,
    )


def _check(scan: Scan) -> None:
    if scan.window < 1:
        raise BadInput(f"expected a window of at least one layer, got {scan.window}")
    unknown = [kind for kind in scan.kinds if kind not in (*KINDS, *SEVERED)]
    if unknown:
        raise BadInput(f"expected kinds among {', '.join((*KINDS, *SEVERED))}, got {unknown[0]!r}")


def _check_tokens(scan: Scan, prompt: Prompt) -> None:
    for token in scan.tokens(prompt):
        if not 0 <= token < len(prompt.ids):
            raise ValueError(f"expected positions from 0 to {len(prompt.ids) - 1}, got {token}")


def _trace_all(lm: LM, bases: dict[int, Base], scan: Scan, plan: Plan) -> dict[int, dict[Kind, Trace]]:
    """Trace all kinds of all facts, by place; without those for which memory did not suffice."""
    cells = {kind: scan.cells(kind, lm.n_layers) for kind in scan.kinds}
    every = sorted({cell for own in cells.values() for cell in own})
    columns = {kind: [every.index(cell) for cell in own] for kind, own in cells.items()}
    scores: dict[int, Tensor] = {}
    sites: list[PatchSite] = []
    place_of = {id(base): place for place, base in bases.items()}
    for place, base in bases.items():
        tokens = scan.tokens(base.prompt)
        scores[place] = base.low[:, None, None].repeat(1, len(tokens), len(every))
        restorations = {kind: _restoration(lm, base, kind) for kind in scan.kinds}
        # Before the subject nothing was corrupted: restoring changes nothing there.
        sites += patch_sites_of(base, restorations, every, [token for token in tokens if token >= base.prompt.begin])

    def run(batch: Sequence[PatchSite]) -> None:
        for site, found in zip(batch, sweep(lm, batch, plan), strict=True):
            row = scan.tokens(site.base.prompt).index(site.token)
            scores[place_of[id(site.base)]][site.samples, row, [every.index(cell) for cell in site.cells]] = found

    lost = [site for batch in batches(sites, plan) for site in in_halves("trace", batch, run, plan)]
    for site in lost:
        scores.pop(place_of[id(site.base)], None)
    return {
        place: {
            kind: _summarise(kind, scan.tokens(bases[place].prompt), found[:, :, own]) for kind, own in columns.items()
        }
        for place, found in scores.items()
    }


def _summarise(kind: Kind, tokens: Iterable[int], scores: Tensor) -> Trace:
    wide = scores.double().cpu()
    return Trace(kind, tuple(tokens), wide.mean(0).numpy(), wide.std(0, correction=0).numpy())


def _restoration(lm: LM, base: Base, kind: Kind) -> Restoration:
    samples = len(base.low)
    if kind == "state":
        return Restoration(_clean(base.states, samples))
    outputs = base.outputs[HELD[kind]]
    if kind in SEVERED:
        return Restoration(_clean(base.states, samples), outputs[:, 1:])
    if kind == "attn":
        return Restoration(_after_clean_attention(lm, base), _clean(outputs, samples))
    return Restoration(base.states[:, 1:] - outputs[:, 1:] + outputs[:, :1], _clean(outputs, samples))


def _clean(table: Tensor, samples: int) -> Tensor:
    """Return the clean row of (layers, rows, tokens, width), once for each sample."""
    return table[:, :1].expand(-1, samples, -1, -1)


def _after_clean_attention(lm: LM, base: Base) -> Tensor:
    """Return each block's output in the corrupted runs when its attention's output is the clean one, at any token.

    A block's MLP works on each position alone, so one run of all positions holds the answer for every token.
    """
    results = []
    for layer in range(lm.n_layers):
        before = base.embedded if layer == 0 else base.states[layer - 1]
        clean = base.outputs["attn"][layer, :1].expand_as(before[1:])
        results.append(run_beside(lm, before[1:], layer, clean))
    return torch.stack(results)
