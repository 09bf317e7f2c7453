"""MEND, KE: factors, transforms and updates against autograd, the reference's numbers and their own identities."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from counterfact.core.files import read_json
from counterfact.editors.ke import Conditioner, Ke, KeSettings
from counterfact.editors.mend import GradientTransform, Mend, MendSettings
from counterfact.lm.edits.apply import low_rank_pairs
from counterfact.lm.edits.gradient_factors import Factors, LabelledRows, gradient_factors, label_losses, run_below
from counterfact.lm.forward.blocks import run_blocks
from counterfact.lm.model.hooks import hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from tests.support.models import rounding, tiny_lm

FAMILIES = ("gpt2", "gptj", "gpt_neox", "llama", "qwen3")


def rows_of(lm: LM, texts: list[tuple[str, str]]) -> LabelledRows:
    pairs = [(lm.prompt_tokens(prompt), lm.target_tokens(target)) for prompt, target in texts]
    return LabelledRows.of([a + b for a, b in pairs], [len(b) for _, b in pairs], lm.device)


TEXTS = [
    ("Anna Ferrand was born in", "Oslo"),
    ("The mother tongue of Pavel Dvořák is", "French"),
    ("In the evening, Harlan Reed works in the city of", "the northern harbour"),
]


def factors_of(lm: LM, rows: LabelledRows, network: Any) -> Factors:
    return gradient_factors(lm, run_below(lm, rows.ids, network.start), network.start, rows, network.edited)


def small_mend(lm: LM, **changes: Any) -> Mend:
    return Mend(lm, MendSettings(**{"rank": 8, "blocks": 2, **changes}))


def small_ke(lm: LM, **changes: Any) -> Ke:
    return Ke(lm, KeSettings(**{"lstm": 10, "condition": 6, "hidden": 10, "blocks": 2, **changes}))


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_are_the_gradient_of_the_whole_weight(family: str) -> None:
    lm = tiny_lm(family, "float64")
    rows = rows_of(lm, TEXTS)
    network = small_mend(lm)
    factors = factors_of(lm, rows, network)
    modules = [lm.model.get_submodule(name) for name in network.edited]
    tolerance = rounding(family)
    for module in modules:
        module.weight.requires_grad_(True)
    try:
        log_p = lm.model(rows.ids).logits.log_softmax(-1)[:, :-1].gather(2, rows.ids[:, 1:, None])[..., 0]
        losses = [-mine[labelled].mean() for mine, labelled in zip(log_p, rows.labelled[:, :-1], strict=True)]
        wholes = [torch.autograd.grad(loss, [m.weight for m in modules], retain_graph=True) for loss in losses]
    finally:
        for module in modules:
            module.weight.requires_grad_(False)
    assert torch.allclose(factors.losses, torch.stack(losses).detach(), rtol=tolerance)
    for row, gradients in enumerate(wholes):
        for module, gradient, x, g in zip(modules, gradients, factors.inputs, factors.gradients, strict=True):
            oriented = gradient if isinstance(module, Conv1D) else gradient.T
            assert (x[row].T @ g[row] - oriented).norm() <= tolerance * oriented.norm()


def test_padding_and_other_rows_do_not_touch_a_rows_factors() -> None:
    lm = tiny_lm("gpt2", "float64")
    together = factors_of(lm, rows_of(lm, TEXTS), small_mend(lm))
    for i, text in enumerate(TEXTS):
        alone = factors_of(lm, rows_of(lm, [text]), small_mend(lm))
        for one, other in zip(together.gradients, alone.gradients, strict=True):
            length = other.shape[1]
            assert torch.allclose(one[i, :length], other[0], atol=1e-14)
            assert not one[i, length:].any()


def test_statistics_in_batches_are_those_of_all_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    transform = GradientTransform(5, 3, 1, 4, 1.0, generator).double()
    x, g = torch.randn(40, 5, generator=generator).double() + 3, torch.randn(40, 3, generator=generator).double()
    for first, last in ((0, 1), (1, 1), (1, 13), (13, 40)):
        transform.observe(x[first:last], g[first:last])
    rows = torch.cat([x, g], 1)
    assert torch.allclose(transform.mean, rows.mean(0))
    assert torch.allclose((transform.squares / (transform.count - 1)).sqrt(), rows.std(0))


def test_an_untrained_transform_is_the_identity_on_normalised_factors() -> None:
    generator = torch.Generator().manual_seed(0)
    transform = GradientTransform(5, 3, 2, 4, 1.0, generator)
    x, g = torch.randn(40, 5, generator=generator), torch.randn(40, 3, generator=generator)
    with pytest.raises(ValueError, match="two rows"):
        transform(x, g, 0)
    transform.observe(x, g)
    for mode in (0, 1):
        left, right = transform(x, g, mode)
        assert torch.allclose(left, (x - x.mean(0)) / (x.std(0) + 1e-7), atol=1e-6)
        assert torch.allclose(right, (g - g.mean(0)) / (g.std(0) + 1e-7), atol=1e-6)
    left.sum().backward()
    assert all(u.grad is not None and bool(u.grad.any()) for u in transform.u[1:]), "clamp, not relu: U must learn"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_untrained_mend_descends_with_a_negative_rate(family: str) -> None:
    lm = tiny_lm(family, "float64")
    rows = rows_of(lm, TEXTS)
    for rate, sign in ((-1e-4, -1), (1e-4, 1)):
        network = small_mend(lm, edit_rate=rate)
        factors = factors_of(lm, rows, network)
        network.observe(factors)
        change = edited_losses(lm, rows, network, network(factors, rows)) - factors.losses
        assert bool((change * sign > 0).all())


def edited_losses(lm: LM, rows: LabelledRows, network: Any, changes: list[tuple[Tensor, Tensor]]) -> Tensor:
    pairs = [
        pair
        for name, (left, right) in zip(network.edited, changes, strict=True)
        for pair in low_rank_pairs(name, left, right)
    ]
    with torch.no_grad(), hooked(lm.model, *pairs):
        hidden = run_blocks(lm, run_below(lm, rows.ids, network.start), network.start, lm.n_layers)
        return label_losses(lm, hidden, rows)


def arrays(real_data: Path, name: str) -> Any:
    with np.load(real_data / f"golden/{name}.npz") as file:
        found = {key: torch.from_numpy(np.array(file[key])) for key in file}
    return SimpleNamespace(get=found.__getitem__, all=found, info=read_json(real_data / f"golden/{name}.json"))


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).detach().abs().max()) <= tolerance * float(wanted.abs().max())


def fill_transform(transform: GradientTransform, get: Any, prefix: str) -> None:
    with torch.no_grad():
        for block in range(2):
            for mine, theirs in (("u", "U"), ("v", "V"), ("bias", "b"), ("scale", "scale"), ("shift", "shift")):
                getattr(transform, mine)[block].copy_(get(f"{prefix}{theirs}{block}"))


def test_golden_mend_transform(real_data: Path) -> None:
    golden = arrays(real_data, "mend")
    get = golden.get
    transform = GradientTransform(12, 7, 2, 5, 1.0, torch.Generator())
    fill_transform(transform, get, "")
    for part in ("train", "train2"):
        x, g = get(f"{part}_x"), get(f"{part}_g")
        kept = x.any(1) & g.any(1)
        transform.observe(x[kept], g[kept])
    assert int(transform.count) == int(get("k"))
    close(transform.mean, torch.cat([get("mean_x"), get("mean_g")]))
    close(transform.squares, torch.cat([get("s_x"), get("s_g")]))
    x, g = get("x"), get("g")
    kept = x.any(1) & g.any(1)
    for mode in (0, 1):
        left, right = transform(x[kept], g[kept], mode)
        close(left, get(f"x_hat_mode{mode}"))
        close(right, get(f"g_hat_mode{mode}"))
        close(left.T @ right, get(f"pseudo_gradient_mode{mode}"))
        close(get("alpha")[mode] * left.T @ right, get(f"update_mode{mode}"))


def test_golden_mend_edit(real_data: Path) -> None:
    golden = arrays(real_data, "mend")
    get, info = golden.get, golden.info["edit"]
    lm = load_lm(real_data / "golden/model", device="cpu")
    network = small_mend(lm, rank=3)
    assert [f"{name}.weight" for name in network.edited] == info["inner_parameters_in_order"]
    for transform, shape in zip(network.transforms, ("128x32", "32x128"), strict=True):
        fill_transform(transform, get, f"edit_{shape}_")  # type: ignore[arg-type]
        count = get(f"edit_{shape}_k").reshape(())
        deviation = torch.cat([get(f"edit_{shape}_std_x"), get(f"edit_{shape}_std_g")])
        transform.count.copy_(count)  # type: ignore[operator, union-attr]
        transform.mean.copy_(torch.cat([get(f"edit_{shape}_mean_x"), get(f"edit_{shape}_mean_g")]))  # type: ignore[operator, union-attr]
        transform.squares.copy_(deviation.square() * (count - 1))  # type: ignore[operator, union-attr]
    with torch.no_grad():
        network.rates.copy_(get("edit_alpha"))
    ids, labels = get("edit_input_ids").long(), get("edit_labels")
    rows = LabelledRows.of([ids.tolist()], [int((labels != -100).sum())], lm.device)
    factors = factors_of(lm, rows, network)
    assert float(factors.losses[0]) == pytest.approx(float(get("edit_loss")), rel=1e-5)
    changes = network(factors, rows)
    for j, (left, right) in enumerate(changes):
        close(factors.inputs[j][0], get(f"edit_p{j}_x"))
        close(factors.gradients[j][0], get(f"edit_p{j}_g"))
        close(left[0].T @ right[0], get(f"edit_p{j}_update"))
    after = edited_losses(lm, rows, network, changes)
    assert float(after[0]) == pytest.approx(float(get("edit_post_loss")), rel=1e-4)


def test_golden_ke_update(real_data: Path) -> None:
    golden = arrays(real_data, "ke")
    get = golden.get
    lm = load_lm(real_data / "golden/model", device="cpu")
    network = small_ke(lm, blocks=2)
    with torch.no_grad():
        for name, parameter in network.lstm.named_parameters():
            parameter.copy_(get(f"lstm_{name}"))
        network.code.weight.copy_(get("condition_linear_weight"))
        network.code.bias.copy_(get("condition_linear_bias"))
        for j, head in enumerate(list(network.heads)[:2]):
            assert isinstance(head, Conditioner)
            for mine, theirs in ((head.first, "hidden"), (head.second, "output")):
                mine.parametrizations.weight.original0.copy_(get(f"p{j}_{theirs}_g"))  # type: ignore[union-attr]
                mine.parametrizations.weight.original1.copy_(get(f"p{j}_{theirs}_v"))  # type: ignore[union-attr]
                mine.bias.copy_(get(f"p{j}_{theirs}_bias"))
    ids, labels = get("input_ids").long(), get("labels")
    rows = LabelledRows.of([ids.tolist()], [int((labels != -100).sum())], lm.device)
    close(network.encode(rows)[0], get("condition_vector"))
    factors = factors_of(lm, rows, network)
    for j, (left, right) in enumerate(network(factors, rows)[:2]):
        close(factors.inputs[j][0].T @ factors.gradients[j][0], get(f"p{j}_gradient"))
        close(left[0].T @ right[0], get(f"p{j}_update"))


@pytest.mark.parametrize("make", [small_mend, small_ke])
def test_a_batch_is_its_edits_one_by_one(make: Any) -> None:
    lm = tiny_lm("gpt2")
    network = make(lm)
    whole = rows_of(lm, TEXTS)
    factors = factors_of(lm, whole, network)
    network.observe(factors)
    together = network(factors, whole)
    for i, text in enumerate(TEXTS):
        rows = rows_of(lm, [text])
        for (left, right), (one, other) in zip(together, network(factors_of(lm, rows, network), rows), strict=True):
            wanted = one[0].T @ other[0]
            assert float((left[i].T @ right[i] - wanted).detach().norm()) <= 1e-5 * float(wanted.detach().norm())
