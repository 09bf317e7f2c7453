"""What an edit changes at every token of a text, against the edited model itself, read whole."""

import pytest
import torch
from torch import Tensor

from counterfact.lm.drift import text_drifts
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit, LowRank
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.queries import Drift, Unscored
from tests.lm.test_apply import some_edits
from tests.support.models import FAMILIES, SENTENCES, tiny_lm

TEXTS = (SENTENCES[0], SENTENCES[1], "Anna Ferrand was")
INDEX = (0, -1, 2, 0)


def log_probabilities(lm: LM, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return lm.model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_that_of_whole_distributions(family: str) -> None:
    lm = tiny_lm(family)
    edits = some_edits(lm)
    found = text_drifts(lm, TEXTS, INDEX, edits, plan=Plan(tokens_per_batch=64, logit_rows=48))
    assert [len(mine) for mine in found] == [3] * 4
    skipped = len(lm.encoding.start)
    for index, mine in zip(INDEX, found, strict=True):
        for text, drift in zip(TEXTS, mine, strict=True):
            ids = lm.prompt_tokens(text)
            said = torch.tensor(ids[skipped + 1 :])[:, None]
            before = log_probabilities(lm, ids)[skipped:]
            with merged(lm, [edits[index]] if index >= 0 else []):
                after = log_probabilities(lm, ids)[skipped:]
            assert isinstance(drift, Drift)
            assert drift.unedited_nll == pytest.approx(-float(before.gather(-1, said).mean()), abs=1e-6)
            assert drift.nll == pytest.approx(-float(after.gather(-1, said).mean()), abs=1e-5)
            assert drift.kl == pytest.approx(float((before.exp() * (before - after)).sum(-1).mean()), abs=1e-5)


def test_a_context_is_read_before_the_text_and_not_counted() -> None:
    lm, context = tiny_lm("gpt2"), f"{SENTENCES[1]} "
    [[drift]] = text_drifts(lm, [SENTENCES[0]], [0], [Edit((), (0,), context=context)])
    head, ids = lm.tokens(context), lm.tokens(SENTENCES[0])
    after, before = log_probabilities(lm, head + ids)[len(head) :], log_probabilities(lm, ids)
    said = torch.tensor(ids[1:])[:, None]
    assert isinstance(drift, Drift)
    assert drift.nll == pytest.approx(-float(after.gather(-1, said).mean()), abs=1e-6)
    assert drift.kl == pytest.approx(float((before.exp() * (before - after)).sum(-1).mean()), abs=1e-6)


def test_what_cannot_be_compared() -> None:
    lm = tiny_lm("gpt2")
    spoilt = Edit((LowRank(lm.layout.fc_out(1), torch.full((1, 64), torch.nan), torch.ones(1, 32)),), (0,))
    [[broken, short], [fine, _]] = text_drifts(lm, [TEXTS[0], ""], [0, -1], [spoilt])
    assert isinstance(broken, Drift) and broken.nll is None and broken.kl is None and broken.unedited_nll is not None
    assert isinstance(fine, Drift) and fine.kl == 0.0 and fine.nll == fine.unedited_nll == broken.unedited_nll
    assert isinstance(short, Unscored) and "fewer than two tokens" in short.reason
    assert text_drifts(lm, [], [-1, -1], []) == [[], []] and text_drifts(lm, TEXTS, [], []) == []


def test_a_long_text_is_cut_to_what_the_model_takes() -> None:
    lm = tiny_lm("gpt2")
    long = " ".join(SENTENCES)
    ids = lm.tokens(long)[: lm.max_length]
    [[drift]] = text_drifts(lm, [long], [0], [Edit((), (0,))])
    said = torch.tensor(ids[1:])[:, None]
    assert isinstance(drift, Drift)
    assert drift.nll == pytest.approx(-float(log_probabilities(lm, ids).gather(-1, said).mean()), abs=1e-6)
