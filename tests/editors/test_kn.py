"""Knowledge neurons: attributions against a plain loop, and what an edit does to the chosen neurons."""

from functools import partial

import pytest
import torch
from torch import Tensor

from counterfact.contracts.editors import Resources
from counterfact.core.records import Request
from counterfact.editors.kn import attributions, clean_pass
from counterfact.lm.model.hooks import Site, hooked
from counterfact.lm.model.language_model import LM
from tests.support.editing import REQUESTS, edits_of, prepared
from tests.support.models import tiny_lm

STEPS = 5


def replaced(new: Tensor, output: Tensor) -> Tensor:
    """The output of a projection, at the last token another."""
    return torch.cat([output[:, :-1], new[None, None]], 1)


def plain(lm: LM, prompt: str, token: int | None) -> Tensor:
    """Attributions of one prompt by whole forward passes, (layers, inner)."""
    ids = torch.tensor([lm.prompt_tokens(prompt)])
    found = []
    for layer in range(lm.n_layers):
        kept: list[Tensor] = []
        with hooked(lm.model, (Site(lm.layout.fc_in(layer)), kept.append)), torch.no_grad():
            clean = lm.model(ids).logits[0, -1]
        answer = int(clean.argmax()) if token is None else token
        activation, total = kept[0][0, -1], torch.zeros_like(kept[0][0, -1])
        for k in range(STEPS):
            scaled = (activation * k / (STEPS - 1)).requires_grad_()
            with torch.enable_grad(), hooked(lm.model, (Site(lm.layout.fc_in(layer)), partial(replaced, scaled))):
                p = lm.model(ids).logits[0, -1].softmax(-1)[answer]
                total += torch.autograd.grad(p, scaled)[0]
        found.append(activation * total / STEPS)
    return torch.stack(found)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_attributions_are_those_of_whole_forward_passes(family: str) -> None:
    lm = tiny_lm(family, "float64")
    prompts = [request.filled for request in REQUESTS[:4]]
    clean = clean_pass(lm, [lm.prompt_tokens(prompt) for prompt in prompts])
    token = lm.target_tokens("Oslo")[0]
    tokens = torch.tensor([token, int(clean.answers[1]), token, int(clean.answers[3])])
    together = attributions(lm, clean, tokens, STEPS)
    for row, prompt in enumerate(prompts):
        wanted = plain(lm, prompt, None if row % 2 else token)
        assert (together[row] - wanted).norm() <= 1e-9 * wanted.norm()


def test_a_neurons_output_loses_the_old_word_and_gains_the_new_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    lm = tiny_lm("gpt2", "float64")
    request = Request(0, "{} was born in", "Anna Ferrand", "Oslo", "Lisbon")
    (edit,) = edits_of(
        prepared("kn", lm, Resources(cache=tmp_path_factory.mktemp("kn")), "threshold=0.5")([request], 0)
    )
    clean = clean_pass(lm, [lm.prompt_tokens(request.filled)])
    words = lm.model.get_input_embeddings().weight
    new = words[lm.target_tokens("Oslo")].sum(0) - 2 * words[int(clean.answers[0])]
    values = attributions(lm, clean, torch.tensor(lm.target_tokens("Lisbon")[:1]), 20)[0]
    chosen = {(layer, int(n)) for layer in range(lm.n_layers) for n in (values[layer] > 0.5 * values.max()).nonzero()}
    changed = set()
    for layer in range(lm.n_layers):
        for delta in edit.deltas:
            if delta.module == lm.layout.fc_out(layer):
                change = delta.weight_change  # type: ignore[union-attr]
                for neuron in change.any(1).nonzero()[:, 0].tolist():
                    assert torch.allclose(change[neuron], new)
                    changed.add((layer, neuron))
    assert changed == chosen and edit.diagnostics["neurons"] == len(chosen)
    (true_known,) = edits_of(prepared("kn", lm, Resources(cache=tmp_path_factory.mktemp("kn")))([REQUESTS[0]], 0))
    assert true_known.deltas, "without a true object the model's own answer is attributed"
