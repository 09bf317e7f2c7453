"""Continuations are greedy, end where they are told to, and do not depend on what else is asked."""

import pytest
import torch
from torch import Tensor

from counterfact.lm.continuation import continuations
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.generation import Ending, Generation, generate
from counterfact.lm.model.hooks import Site, hooked
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.queries import Continuation, OpenQuery, Unscored
from tests.lm.test_apply import some_edits
from tests.lm.test_generation import OWNERS, PROMPTS
from tests.support.models import END, tiny_lm


def plain(lm: LM, query: OpenQuery) -> tuple[int, ...]:
    """One token after the other, the whole text read anew each time."""
    ids = lm.prompt_tokens(query.prompt)
    made: list[int] = []
    while len(made) < query.new_tokens and len(ids) < lm.max_length:
        token = int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())
        ids, made = [*ids, token], [*made, token]
        if token == lm.tokenizer.eos_token_id or any(each in lm.decode([token]) for each in query.stops):
            break
    return tuple(made)


def asked(stops: str = "aeiou", new_tokens: int = 12) -> list[OpenQuery]:
    return [OpenQuery(prompt, new_tokens, stops) for prompt in PROMPTS]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("stops", ["", "aeiou", ".n"])
def test_they_are_those_of_one_row_without_a_cache(family: str, stops: str) -> None:
    lm = tiny_lm(family)
    edits = some_edits(lm)
    found = continuations(lm, asked(stops), OWNERS, edits, plan=Plan(generation_rows=3))
    for query, owner, each in zip(asked(stops), OWNERS, found, strict=True):
        with merged(lm, [edits[owner]] if owner >= 0 else []):
            ids = plain(lm, query)
        assert each == Continuation(ids, lm.decode(ids), END if ids[-1] == lm.tokenizer.eos_token_id else "")
    lengths = {len(each.ids) for each in found if isinstance(each, Continuation)}
    assert stops != "aeiou" or min(lengths) < 12


def test_each_query_has_its_own_length_and_stops() -> None:
    lm = tiny_lm()
    mixed = [OpenQuery(PROMPTS[0], 3, ""), OpenQuery(PROMPTS[0], 9, ""), OpenQuery(PROMPTS[0], 9, "aeiou")]
    found = [each.ids for each in continuations(lm, mixed, [-1] * 3, []) if isinstance(each, Continuation)]
    assert found == [plain(lm, query) for query in mixed]
    assert found[0] == found[1][:3]


def test_the_unedited_model_is_asked_where_that_is_wanted() -> None:
    lm = tiny_lm()
    edits = some_edits(lm)
    queries = [OpenQuery(PROMPTS[0], 9, ""), OpenQuery(PROMPTS[0], 9, "", unedited=True)]
    edited, unedited = continuations(lm, queries, [0, 0], edits)
    assert [unedited] == continuations(lm, queries[:1], [-1], [])
    assert edited != unedited


def test_a_text_ends_at_an_end_token_and_says_so() -> None:
    lm = tiny_lm()

    def only_ends(logits: Tensor) -> Tensor:
        return torch.zeros_like(logits).index_fill(-1, torch.tensor([lm.tokenizer.eos_token_id]), 99.0)

    with hooked(lm.model, (Site(lm.layout.head), only_ends)):
        assert continuations(lm, asked(""), [-1] * 5, []) == [Continuation((0,), END, END)] * 5


def test_a_batch_is_done_when_all_its_texts_have_ended() -> None:
    lm, calls = tiny_lm(), []

    def only_ends(logits: Tensor) -> Tensor:
        calls.append(1)
        return torch.zeros_like(logits).index_fill(-1, torch.tensor([7]), 99.0)

    with hooked(lm.model, (Site(lm.layout.head), only_ends)):
        (found,) = generate(lm, [PROMPTS[0]], [0], length=60, top_k=1, ending=Ending(50, frozenset([7])))
    assert isinstance(found, Generation) and found.ids[found.given :] == (7,)
    assert len(calls) <= 5


def test_what_cannot_be_said() -> None:
    lm = tiny_lm()
    spoilt = Edit((LowRank(lm.layout.fc_out(1), torch.full((1, 64), torch.nan), torch.ones(1, 32)),), (0,))
    queries = [OpenQuery(prompt, 4, ".") for prompt in ("Anna", "", "a " * lm.max_length, "Anna")]
    broken, empty, long, fine = continuations(lm, queries, [0, -1, -1, -1], [spoilt])
    assert broken == Continuation((), None)
    assert empty == Unscored("the prompt has no tokens")
    assert isinstance(long, Unscored) and str(lm.max_length) in long.reason
    assert isinstance(fine, Continuation) and fine.text


def test_a_prompt_that_nearly_fills_the_model_is_continued_to_its_last_position() -> None:
    lm = tiny_lm()
    prompt = " a" * lm.max_length
    while len(lm.prompt_tokens(prompt)) > lm.max_length - 2:
        prompt = prompt[:-1]
    (found,) = continuations(lm, [OpenQuery(prompt, 9, "")], [-1], [])
    assert isinstance(found, Continuation) and len(found.ids) == lm.max_length - len(lm.prompt_tokens(prompt))
