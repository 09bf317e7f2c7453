"""Judges of free generation: what they are asked, what their verdicts count as, and that they are part of a run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from counterfact.contracts.datasets import Dataset, load_dataset
from counterfact.contracts.judges import JUDGES, Ask, Exchange, judge, prepare_judge
from counterfact.core.errors import BadInput
from counterfact.core.files import read_jsonl
from counterfact.core.records import Request
from counterfact.evaluation.benchmarks._answers import is_answer
from counterfact.evaluation.benchmarks.wild_judged import JudgedBlock
from counterfact.evaluation.judges.letters import NEW_TOKENS, PROMPT, STOPS, is_yes
from counterfact.evaluation.task import JudgeSource
from counterfact.lm.continuation import continuations
from counterfact.lm.edits.edit import Edit
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.loading import load_lm
from counterfact.lm.queries import Continuation, OpenQuery
from tests.support.evaluating import contents, counterfact, fake_spec, low_rank_edit, run_fake
from tests.support.models import tiny_folder, tiny_lm

ASKED: list[Exchange] = []
"""What the judge below was asked."""


@pytest.fixture
def by_exact_match() -> Iterator[JudgeSource]:
    """A judge whose verdicts are those of exact match, as a plug-in registers one."""
    JUDGES.discover()

    @judge("by_exact_match", version=3)
    def prepare(_lm: LM | None) -> Ask:
        def ask(exchanges: Sequence[Exchange]) -> list[bool]:
            ASKED.extend(exchanges)
            return [is_answer(each.answer, each.target) for each in exchanges]

        return ask

    ASKED.clear()
    yield JudgeSource.of("by_exact_match")
    del JUDGES._things["by_exact_match"]


def judged(folder: Path) -> Dataset:
    return load_dataset(counterfact(folder / "data").path, benchmark="wild_judged")


def test_a_judge_is_asked_about_each_answer(tmp_path: Path, by_exact_match: JudgeSource) -> None:
    run = run_fake(judged(tmp_path), tmp_path / "results", judge=by_exact_match)
    assert run.data["protocol"]["judge"] == {"name": "by_exact_match", "version": 3, "prompt": "", "model": None}
    for side in ("metrics", "pre"):
        scores = {name: entry["value"] for name, entry in run.data[side].items()}
        assert (scores["judged"], scores["judged_para"]) == (scores["exact"], scores["exact_para"])
    lines = [line for line in run.cases if "post" in line]
    for line in lines:
        JudgedBlock.model_validate(line["post"])
        assert len(line["post"]["verdicts"]) == 3
    mine = ASKED[-3 * len(lines) :]
    first = lines[0]["requested_rewrite"]
    assert [each.target for each in mine[:3]] == [first["target_new"]["str"]] * 3
    assert mine[0].question == "Anna Ferrand was born in" and mine[0].true == first["target_true"]["str"]
    said = lines[0]["post"]["rewrite_prompts_said"] + lines[0]["post"]["paraphrase_prompts_said"]
    assert [each.answer for each in mine[:3]] == [(each["text"] or "").strip() for each in said]


def test_a_model_as_the_judge(tmp_path: Path) -> None:
    """A model that follows no instruction says anything but A: what is asked, read and kept is what is tested."""
    source, dataset = JudgeSource.of("letters", "factlm", "cpu"), judged(tmp_path)
    lm = load_lm("factlm", device="cpu")
    assert source.identity == {"name": "letters", "version": 1, "prompt": PROMPT, "model": lm.identity}
    run = run_fake(dataset, tmp_path / "results", judge=source)
    line = run.cases[0]
    rewrite, said = line["requested_rewrite"], line["post"]["rewrite_prompts_said"][0]["text"] or ""
    prompt = PROMPT.format(
        question=rewrite["prompt"].replace("{}", rewrite["subject"]),
        target=rewrite["target_new"]["str"],
        answer=said.strip(),
    )
    [reply] = continuations(lm, [OpenQuery(prompt, NEW_TOKENS, STOPS)], [-1], [])
    assert isinstance(reply, Continuation)
    assert line["post"]["verdicts"][0] is is_yes(reply.text, reply.end) is False


def test_a_run_with_a_judge_goes_on(tmp_path: Path, by_exact_match: JudgeSource) -> None:
    dataset = judged(tmp_path)
    whole = run_fake(dataset, tmp_path / "whole", judge=by_exact_match)
    calls = {"left": 1}

    def interrupted(lm: LM, request: Request, seed: int, strength: float) -> Edit:
        if request.id == 5 and calls["left"]:
            raise KeyboardInterrupt
        return low_rank_edit(lm, request, seed, strength)

    with pytest.raises(KeyboardInterrupt):
        run_fake(dataset, tmp_path / "part", fake_spec(interrupted), judge=by_exact_match)
    assert len(list(read_jsonl(next((tmp_path / "part").rglob("cases.jsonl"))))) == 3
    calls["left"] = 0
    run_fake(dataset, tmp_path / "part", fake_spec(interrupted), judge=by_exact_match)
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")
    assert whole.folder.name == next((tmp_path / "part").rglob("cases.jsonl")).parent.name


def test_another_judge_is_another_run(tmp_path: Path, by_exact_match: JudgeSource) -> None:
    dataset = judged(tmp_path)
    one = run_fake(dataset, tmp_path / "results", judge=by_exact_match)
    other = run_fake(dataset, tmp_path / "results", judge=JudgeSource.of("letters", str(tiny_folder("gpt2")), "cpu"))
    assert one.folder != other.folder and one.unedited_folder != other.unedited_folder
    moved = JudgeSource(by_exact_match.name, identity={**by_exact_match.identity, "version": 4})
    with pytest.raises(BadInput, match="the judge by_exact_match is another one here"):
        moved.open()


def test_what_does_not_fit_is_refused(tmp_path: Path, by_exact_match: JudgeSource) -> None:
    with pytest.raises(BadInput, match="needs a judge: --judge-model MODEL for a local model, or --judge NAME"):
        run_fake(judged(tmp_path), tmp_path / "results")
    with pytest.raises(BadInput, match="CounterFact has nothing for a judge; choose --benchmark wild_judged"):
        run_fake(load_dataset(tmp_path / "data"), tmp_path / "results", judge=by_exact_match)
    with pytest.raises(BadInput, match="'letters' needs a model: name one with --judge-model"):
        prepare_judge("letters")
    with pytest.raises(BadInput, match="'by_exact_match' asks no model"):
        prepare_judge("by_exact_match", tiny_lm("gpt2", "float32"))


def test_a_judge_that_fails_costs_its_record(tmp_path: Path, by_exact_match: JudgeSource) -> None:
    JUDGES.discover()

    @judge("faulty")
    def prepare(_lm: LM | None) -> Ask:
        def ask(exchanges: Sequence[Exchange]) -> list[None]:
            if any(each.question.startswith("Harlan Reed") for each in exchanges):
                raise ValueError("no opinion on Harlan")
            return [None] * len(exchanges)

        return ask

    try:
        run = run_fake(judged(tmp_path), tmp_path / "results", judge=JudgeSource.of("faulty"))
    finally:
        del JUDGES._things["faulty"]
    errors = {line["case_id"]: line["error"] for line in run.cases if "error" in line}
    assert errors[2] == {"stage": "judge", "reason": "ValueError: no opinion on Harlan"} and set(errors) == {2, 4}
    assert run.data["metrics"]["judged"] | {"interval": 0, "definition": 0} == {
        "value": None, "n": 0, "low": None, "high": None, "unit": "% of records", "interval": 0, "definition": 0,
    }  # fmt: skip
