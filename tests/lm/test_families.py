"""Every family of models, one tiny model of each: what is computed for many rows at once equals plain whole passes.

The plain side is the library's own model, or the model with hooks on it, one row at a time. A norm between an MLP and
the residual stream, capped scores, several experts and in-place sums are what these families differ by.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from counterfact.contracts.editors import Failure
from counterfact.core.errors import BadInput
from counterfact.editing.plain import train_alone
from counterfact.editing.requests import encode
from counterfact.editors.finetune import FinetuneSettings, lay_out, train
from counterfact.editors.kn import attributions, clean_pass
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.gradient_factors import LabelledRows, gradient_factors, run_below
from counterfact.lm.forward.blocks import attend_by
from counterfact.lm.generation import generate
from counterfact.lm.model.hooks import Site, Tape, hooked
from counterfact.lm.model.sites import weight_shape
from counterfact.lm.queries import Query
from counterfact.lm.scoring import score
from counterfact.tracing.causal import Traced, trace
from counterfact.tracing.cells import KINDS, SEVERED, Scan
from counterfact.tracing.corruption import make_corruption
from counterfact.tracing.facts import Fact
from counterfact.tracing.gradients import PARTS, attribute
from tests.editors.test_rome import module_at_subject
from tests.lm.test_scoring import PROMPTS, TARGETS, agree, plain, scores
from tests.support import oracle_tracing as oracle
from tests.support.editing import REQUESTS, TEMPLATES, change, edits_of, prepared, resources
from tests.support.models import EDITABLE, EXPERTS, rounding, tiny_folder, tiny_lm
from tests.tracing.test_gradients import slow

KINDS_OF_MODELS = (*EDITABLE, *EXPERTS)
FACTS = (
    Fact(known_id=4, subject="Norway", attribute="Oslo", prompt="The capital of Norway is"),
    Fact(known_id=5, subject="Anna Ferrand", attribute="Lisbon", prompt="In Turin Anna Ferrand was born in"),
)


@cache
def published(kind: str) -> Any:
    """The library's model, in which nothing is replaced."""
    eager = {} if kind.startswith("falcon") else {"attn_implementation": "eager"}
    experts = {"experts_implementation": "eager"} if kind in EXPERTS else {}
    return AutoModelForCausalLM.from_pretrained(tiny_folder(kind), dtype=torch.float64, **eager, **experts).eval()


@pytest.mark.parametrize("kind", KINDS_OF_MODELS)
def test_the_loaded_model_is_the_librarys(kind: str) -> None:
    lm, ids = tiny_lm(kind), torch.arange(3, 36).view(3, 11)
    with torch.no_grad():
        found, expected = lm.model(ids, use_cache=False).logits, published(kind)(ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)  # eager attention takes its softmax in float32
    with torch.no_grad(), attend_by(lm, lambda site, query, key, value: torch.zeros_like(query.transpose(1, 2))):
        assert (lm.model(ids, use_cache=False).logits - expected).abs().max() > 0.1, "attention of ours is at work"


@pytest.mark.parametrize("kind", KINDS_OF_MODELS)
def test_scores_and_texts_are_those_of_whole_passes(kind: str) -> None:
    lm = tiny_lm(kind)
    queries = [Query(prompt, TARGETS) for prompt in PROMPTS]
    expected = [plain(lm, prompt, target) for prompt in PROMPTS for target in TARGETS]
    for value, other in zip(scores(score(lm, queries)), expected, strict=True):
        agree(value, other, rounding(kind))
    for prompt, text in zip(PROMPTS, generate(lm, PROMPTS, range(len(PROMPTS)), top_k=1, length=24), strict=True):
        ids = lm.prompt_tokens(prompt)
        while len(ids) < 24:
            ids.append(int(lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert getattr(text, "ids", None) == tuple(ids)


@pytest.mark.parametrize("kind", EDITABLE)
def test_rome_is_the_plain_search_and_the_edited_weight_gives_what_it_found(kind: str, tmp_path: Path) -> None:
    lm, choices = tiny_lm(kind), ("layer=1", "steps=6", "learning_rate=0.3")
    editors = [
        prepared("rome", lm, resources(lm, tmp_path, engine=engine), *choices) for engine in ("batched", "plain")
    ]
    batched, one_by_one = (edits_of(edit_all(REQUESTS[:3], 0)) for edit_all in editors)
    encoded = [encode(lm, request, TEMPLATES, "subject_last", kl_row=True) for request in REQUESTS[:3]]
    values = editors[0].values(encoded)
    for i, (edit, other, request) in enumerate(zip(batched, one_by_one, REQUESTS, strict=False)):
        assert (change(edit) - change(other)).norm() <= 1e3 * rounding(kind) * change(other).norm()
        nats = values.trace[i, :, 1]
        assert nats[-1] < nats[0] - 0.01, "what is moved reaches the residual stream"
        query = [Query(request.filled, (request.target_new,))]
        (after,) = scores(score(lm, query, [0], [edit]))
        with merged(lm, [edit]):
            agree(after, plain(lm, request.filled, request.target_new), rounding(kind))
            output = module_at_subject(lm, request.prompt, request.subject, 1)[1]
        torch.testing.assert_close(output, values.bare_output[i] + values.delta[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", EDITABLE)
def test_training_is_the_plain_training(kind: str) -> None:
    lm, settings = tiny_lm(kind), FinetuneSettings(layer=1, learning_rate=0.02, steps=4, stop_loss=-1.0)
    records = [encode(lm, request, ["{}"], "last", kl_row=False) for request in REQUESTS[:3]]
    for record, trained in zip(records, train(lm, lay_out(lm, records, 1), settings, None), strict=True):
        expected = train_alone(lm, record, settings, None)
        assert trained.losses == pytest.approx(expected.losses, rel=rounding(kind))
        assert trained.losses[-1] < trained.losses[0]


@pytest.mark.parametrize("kind", EDITABLE)
def test_factors_are_the_gradients_of_whole_weights(kind: str) -> None:
    lm = tiny_lm(kind)
    names = [name(layer) for layer in (1, 2) for name in (lm.layout.fc_out, lm.layout.fc_in)]
    rows = LabelledRows.of([lm.prompt_tokens(prompt) for prompt in PROMPTS[::2]], [3, 2, 2], lm.device)
    factors = gradient_factors(lm, run_below(lm, rows.ids, 1), 1, rows, names)
    changes = [torch.zeros(weight_shape(lm.model, name), dtype=torch.float64, requires_grad=True) for name in names]
    for row, prompt in enumerate(PROMPTS[::2]):
        ids, labels, tape = lm.prompt_tokens(prompt), int(rows.labelled[row].sum()), Tape()
        pairs: list[Any] = [tape.read(Site(name, "in")) for name in names]
        pairs += [(Site(name), partial(_add, tape, name, moved)) for name, moved in zip(names, changes, strict=True)]
        with torch.enable_grad(), hooked(lm.model, *pairs):
            log_p = lm.model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
            loss = -log_p[range(len(ids) - labels - 1, len(ids) - 1), ids[-labels:]].mean()
        gradients = torch.autograd.grad(loss, changes)
        assert float(factors.losses[row]) == pytest.approx(loss.item(), rel=rounding(kind))
        for gradient, x, g in zip(gradients, factors.inputs, factors.gradients, strict=True):
            assert (x[row].T @ g[row] - gradient).norm() <= 10 * rounding(kind) * gradient.norm()


def _add(tape: Tape, name: str, moved: Tensor, output: Tensor) -> Tensor:
    return output + tape[Site(name, "in")] @ moved


@pytest.mark.parametrize("kind", EDITABLE)
def test_knowledge_neurons_are_those_of_whole_passes(kind: str) -> None:
    lm, ids, steps = tiny_lm(kind), tiny_lm(kind).prompt_tokens(PROMPTS[0]), 3
    found = attributions(lm, clean_pass(lm, [ids]), torch.tensor([17]), steps)[0]
    inner = weight_shape(lm.model, lm.layout.fc_out(0))[0]
    for layer in range(lm.n_layers):
        total = torch.zeros(inner, dtype=torch.float64)
        for alpha in torch.linspace(0, 1, steps, dtype=torch.float64):
            kept: list[Tensor] = []

            def scale(output: Tensor, alpha: Tensor = alpha, kept: list[Tensor] = kept) -> Tensor:
                kept.extend([output[0, -1, -inner:], (alpha * output[0, -1, -inner:]).requires_grad_()])
                output = output.clone()
                output[0, -1, -inner:] = kept[1]
                return output

            with torch.enable_grad(), hooked(lm.model, (Site(lm.layout.fc_in(layer)), scale)):
                p = lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].softmax(-1)[17]
            total += kept[0] * torch.autograd.grad(p, kept[1])[0] / steps
        torch.testing.assert_close(found[layer], total, rtol=0, atol=rounding(kind))


@pytest.mark.parametrize("kind", KINDS_OF_MODELS)
def test_traces_and_gradients_are_those_of_whole_passes(kind: str) -> None:
    lm, scan = tiny_lm(kind), Scan((*KINDS, *SEVERED), window=2, at="subject")
    noise = make_corruption(lm, "s3", subjects=[fact.subject for fact in FACTS], samples=2)
    for one in trace(lm, FACTS, noise, scan):
        assert isinstance(one, Traced), one
        drawn = noise.noise(one.fact.known_id, one.prompt.corrupted_end - one.prompt.begin, lm.width)
        for cells in scan.kinds:
            for token, found in zip(one.traces[cells].tokens, one.traces[cells].scores, strict=True):
                for layer in range(lm.n_layers):
                    pairs = oracle.cell(lm, one.prompt, drawn, cells, token, layer, 2)
                    expected = oracle.score(lm, one.prompt, drawn, pairs)
                    assert found[layer] == pytest.approx(expected, abs=rounding(kind))
    one_fact: Any = attribute(lm, FACTS[:1], nodes=3)[0]
    for part in PARTS:
        for layer in range(lm.n_layers):
            norms = slow(lm, one_fact, part, layer, 3, None).norm(dim=1)
            np.testing.assert_allclose(one_fact.parts[part].norm[:, layer], norms, atol=rounding(kind))


@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.parametrize("name", ["rome", "ft", "ft_l", "kn", "mend"])
def test_models_of_several_experts_are_not_edited_and_the_reason_is_said(kind: str, name: str, tmp_path: Path) -> None:
    lm = tiny_lm(kind)
    with pytest.raises(BadInput, match="several experts in each MLP"):
        made = prepared(name, lm, resources(lm, tmp_path, second_moments={}, context_templates=TEMPLATES))
        assert not all(isinstance(edited, Failure) for edited in made(REQUESTS[:1], 0))
