"""Texts are those of an uncached model, one row at a time, whatever they are generated beside."""

import json
import unicodedata
from pathlib import Path

import pytest
import torch
from torch import Tensor

from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.generation import Generation, _top, before_end, clean_text, end_tokens, generate
from counterfact.lm.model.hooks import Site, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.planning.batch_plan import Plan, Split
from counterfact.lm.queries import Unscored
from tests.lm.test_apply import some_edits
from tests.lm.test_hooks import hooks
from tests.support.models import END, FAMILIES, tiny_lm

PROMPTS = ("The capital of Norway is", "Anna", "She said that the bridge", "What is the language of", "Zürich and")
OWNERS = (0, 2, -1, 1, 3)
LENGTH = 24


def plain(lm: LM, prompt: str, seed: int | None, length: int = LENGTH, top_k: int = 5) -> tuple[int, ...]:
    """One row, no cache, the whole distribution; `seed` None takes the likeliest token."""
    ids = lm.prompt_tokens(prompt)
    draws = torch.rand(length, generator=torch.Generator().manual_seed(seed or 0), dtype=torch.float64)
    while len(ids) < length:
        probabilities = lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1)
        order = probabilities.argsort(descending=True)[: 1 if seed is None else top_k]
        below, chosen = 0.0, int(order[-1])
        for token in order.tolist():
            below += float(probabilities[token] / probabilities[order].sum())
            if draws[len(ids)] < below:
                chosen = token
                break
        ids.append(chosen)
    return tuple(ids)


def ids_of(results: list[Generation | Unscored]) -> list[tuple[int, ...]]:
    assert not any(isinstance(result, Unscored) for result in results)
    return [result.ids for result in results if not isinstance(result, Unscored)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_generation_is_uncached_generation(family: str, dtype: str) -> None:
    lm = tiny_lm(family, dtype)  # type: ignore[arg-type]
    assert ids_of(generate(lm, PROMPTS, range(5), top_k=1, length=LENGTH)) == [plain(lm, p, None) for p in PROMPTS]
    assert hooks(lm.model) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_is_generated_under_its_edit(family: str) -> None:
    lm = tiny_lm(family)
    edits = some_edits(lm)
    found = ids_of(generate(lm, PROMPTS, range(5), OWNERS, edits, top_k=1, length=LENGTH))
    for prompt, owner, ids in zip(PROMPTS, OWNERS, found, strict=True):
        with merged(lm, [edits[owner]] if owner >= 0 else []):
            assert ids == plain(lm, prompt, None)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sampling_is_the_inverse_of_the_cumulative_distribution(family: str) -> None:
    lm = tiny_lm(family)
    found = ids_of(generate(lm, PROMPTS, [7, 8, 9, 10, 11], length=LENGTH, top_k=3))
    assert found == [plain(lm, prompt, 7 + i, top_k=3) for i, prompt in enumerate(PROMPTS)]
    assert found != ids_of(generate(lm, PROMPTS, [8, 9, 10, 11, 12], length=LENGTH, top_k=3))


def test_a_text_does_not_depend_on_its_batch() -> None:
    lm = tiny_lm()
    edits = some_edits(lm)
    expected = generate(lm, PROMPTS, range(5), OWNERS, edits, length=LENGTH)
    for rows in (1, 2, 3):
        assert (
            generate(lm, PROMPTS, range(5), OWNERS, edits, length=LENGTH, plan=Plan(generation_rows=rows)) == expected
        )
    order = [3, 0, 4, 1, 2, 0]
    again = generate(lm, [PROMPTS[i] for i in order], order, [OWNERS[i] for i in order], edits, length=LENGTH)
    assert again == [expected[i] for i in order]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    lm, rows = tiny_lm(), 2000
    prompt = lm.prompt_tokens(PROMPTS[0])
    found = ids_of(generate(lm, [prompt] * rows, range(rows), length=len(prompt) + 1))
    best, tokens = lm.model(torch.tensor([prompt])).logits[0, -1].topk(5)
    for probability, token in zip(best.softmax(-1).tolist(), tokens.tolist(), strict=True):
        share = sum(ids[-1] == token for ids in found) / rows
        assert share == pytest.approx(probability, abs=4 * (probability * (1 - probability) / rows) ** 0.5)


def test_long_prompts_keep_their_own_tokens() -> None:
    lm = tiny_lm()
    long = "She said that the bridge, which was new, had been closed since Monday."
    prompt = tuple(lm.prompt_tokens(long))
    short, same, cut = ids_of(generate(lm, ["Anna", long, prompt], [0, 1, 2], length=len(prompt), top_k=1))
    assert len(short) == len(prompt)
    assert same == cut == prompt
    one, other = ids_of(generate(lm, ["Anna", prompt], [0, 1], length=len(prompt) + 3, top_k=1))
    assert (one, other) == (plain(lm, "Anna", None, len(prompt) + 3), plain(lm, long, None, len(prompt) + 3))
    assert ids_of(generate(lm, [prompt], [0], length=3)) == [prompt]


def test_the_model_may_be_filled_to_its_last_position_and_no_further() -> None:
    lm = tiny_lm("mistral")
    assert ids_of(generate(lm, ["Anna"], [3], length=48)) == [plain(lm, "Anna", 3, 48)]
    with pytest.raises(ValueError, match="at most 48 tokens, which tiny-mistral takes, got 49"):
        generate(lm, ["Anna"], [3], length=49)


def test_an_end_of_text_token_does_not_stop_a_row_and_is_not_in_its_text() -> None:
    lm = tiny_lm()

    def only_ends(logits: Tensor) -> Tensor:
        return torch.zeros_like(logits).index_fill(-1, torch.tensor([lm.tokenizer.eos_token_id]), 99.0)

    with hooked(lm.model, (Site(lm.layout.head), only_ends)):
        (found,) = generate(lm, ["Anna"], [0], length=12)
    assert isinstance(found, Generation)
    assert found.ids == (*lm.prompt_tokens("Anna"), *[0] * (12 - len(lm.prompt_tokens("Anna"))))
    assert found.text == "Anna"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_text_is_normalised(family: str) -> None:
    lm = tiny_lm(family)
    ids = lm.prompt_tokens(f"Zürich  is ﬁne{END}.\n\nYes\nno")
    assert clean_text(lm, ids) == unicodedata.normalize("NFD", "Zürich  is fine. Yes\nno")


@pytest.mark.parametrize("top_k", [1, 5])
def test_nan_stays_in_its_row(top_k: int) -> None:
    lm = tiny_lm()
    spoilt = Edit((LowRank(lm.layout.fc_out(1), torch.full((1, 64), torch.nan), torch.ones(1, 32)),), (0,))
    edits = [spoilt, *some_edits(lm)[1:]]
    expected = generate(lm, PROMPTS, range(5), [-1, *OWNERS[1:]], edits, length=LENGTH, top_k=top_k)
    found = generate(lm, PROMPTS, range(5), OWNERS, edits, length=LENGTH, top_k=top_k)
    assert found[0] == Unscored("the model gave NaN or infinite logits")
    assert found[1:] == expected[1:]


def test_what_cannot_be_generated_costs_nothing_else() -> None:
    lm = tiny_lm()
    found = generate(lm, ["", "Anna", []], [0, 1, 2], length=9)
    assert found[0] == found[2] == Unscored("the prompt has no tokens")
    assert found[1] == generate(lm, ["Anna"], [1], length=9)[0]
    assert generate(lm, [], []) == [] if lm.max_length >= 100 else generate(lm, [], [], length=9) == []
    with pytest.raises(ValueError, match="as many seeds"):
        generate(lm, ["Anna"], [], length=9)
    with pytest.raises(ValueError, match="top_k of 1 or more"):
        generate(lm, ["Anna"], [1], length=9, top_k=0)


def test_out_of_memory_halves_the_batch_and_is_noted() -> None:
    lm, plan = tiny_lm(), Plan()

    def small(hidden: Tensor) -> None:
        if hidden.shape[0] > 2:
            raise torch.OutOfMemoryError("no more")

    expected = generate(lm, PROMPTS, range(5), length=LENGTH)
    with hooked(lm.model, (Site(lm.layout.block(1)), small)):
        assert generate(lm, PROMPTS, range(5), length=LENGTH, plan=plan) == expected
    assert plan.splits[0] == Split("generate", 5)

    with hooked(lm.model, (Site(lm.layout.block(1)), lambda h: small(h.expand(3, -1, -1)))):
        assert set(generate(lm, PROMPTS[:1], [0], length=LENGTH)) == {Unscored("out of memory with one row")}


def test_generation_of_the_reference(real_data: Path) -> None:
    lm = load_lm(real_data / "golden" / "model", device="cpu")
    golden = json.loads((real_data / "golden" / "generation.json").read_text())
    batches = golden["batches"]
    prompts = [prompt for batch in batches for prompt in batch["prompts"]]
    found = generate(lm, prompts, [0] * len(prompts), top_k=1, length=golden["total_length"])
    assert [list(ids) for ids in ids_of(found)] == [ids for batch in batches for ids in batch["token_ids"]]
    texts = [result.text for result in found if isinstance(result, Generation)]
    assert texts == [text for batch in batches for text in batch["texts"]]


@pytest.mark.parametrize("columns", [5, 300, 4096, 50257])
def test_the_largest_of_runs_are_the_largest(columns: int) -> None:
    scores = torch.randn(7, columns, generator=torch.Generator().manual_seed(2))
    scores[2] = -torch.inf
    scores[2, -1] = 1.0
    scores[3, columns // 2] = torch.nan
    found, places = _top(scores, 5)
    torch.testing.assert_close(found, scores.topk(5).values, equal_nan=True)
    torch.testing.assert_close(scores.gather(1, places), found, equal_nan=True)
    assert all(len(set(row)) == 5 for row in places.tolist())


def test_a_text_ends_at_an_end_token_after_its_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    whole = ids_of(generate(lm, PROMPTS, range(5), top_k=1, length=LENGTH))
    starts = [len(lm.prompt_tokens(prompt)) for prompt in PROMPTS]
    ends = [whole[0][starts[0] + 3], whole[1][0], whole[2][starts[2]]]
    for told, expected in ((ends, set(ends)), (ends[0], {ends[0]}), (None, {lm.tokenizer.eos_token_id})):
        monkeypatch.setattr(lm.model.generation_config, "eos_token_id", told)
        assert end_tokens(lm) == expected
        found = generate(lm, PROMPTS, range(5), top_k=1, length=LENGTH, ending=before_end(lm, LENGTH))
        for ids, all_of_it, start in zip(ids_of(found), whole, starts, strict=True):
            stops = [place for place in range(start, LENGTH) if all_of_it[place] in expected]
            assert ids == all_of_it[: min(stops, default=LENGTH)]
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", ends)
    found = generate(lm, PROMPTS, range(5), top_k=1, length=LENGTH, ending=before_end(lm, LENGTH))
    assert len(ids_of(found)[2]) == starts[2], "an end token at once leaves the prompt"
    assert ids_of(generate(lm, PROMPTS, range(5), top_k=1, length=LENGTH)) == whole
