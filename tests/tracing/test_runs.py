"""From facts to figures: which facts are known, runs that are stopped and gone on with, averages, pages."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import counterfact
from counterfact.core.errors import BadInput
from counterfact.core.files import write_json, write_jsonl
from counterfact.tracing.averages import CLASSES, average, classes_of, mean_of_tokens, summary
from counterfact.tracing.compare import draw_comparison, run_names
from counterfact.tracing.corruption import make_corruption
from counterfact.tracing.facts import BadFact, Fact, encode, read_facts
from counterfact.tracing.figures import choose_cases, draw_run
from counterfact.tracing.known import Question, known_facts, words_before
from counterfact.tracing.methods import causal_method, gradient_method, severed_method
from counterfact.tracing.store import Stored, TraceRun, array_path, find_runs, keep, load_run, run_identity
from tests.support import Command
from tests.support.models import tiny_folder, tiny_lm

SUBJECTS = ("Anna Ferrand", "Norway", "Harlan Reed", "Pavel Dvořák", "the ferry", "Oslo")
FACTS: list[Fact | BadFact] = [
    Fact(known_id=number, subject=subject, attribute="x", prompt=f"In Turin {subject} is a")
    for number, subject in enumerate(SUBJECTS)
]


def answered_rightly(run: TraceRun) -> TraceRun:
    """The run, as if the model had known all its facts."""
    write_jsonl(run.folder / "facts.jsonl", [{**line, "correct": True} for line in run.lines])
    return load_run(run.folder)


def runs(folder: Path, facts: Sequence[Fact | BadFact] = FACTS) -> dict[str, Any]:
    lm = tiny_lm()
    noise = make_corruption(lm, "s3", subjects=SUBJECTS, samples=3)
    methods = {"causal": causal_method(lm, noise, window=2), "severed": severed_method(lm, noise)}
    methods["ig"] = gradient_method(lm, nodes=3)
    return {
        name: keep(folder, run_identity(lm, name, settings, facts), facts, compute, chunk=2)
        for name, (settings, compute) in methods.items()
    }


def test_facts_are_read_and_bad_ones_told(tmp_path: Path) -> None:
    good = {"known_id": 4, "subject": "Oslo", "attribute": "Norway", "prompt": "Oslo is in", "more": 1}
    bad = [
        {**good, "known_id": 5, "prompt": "Bergen is in"},
        {**good, "known_id": 6, "attribute": None},
        3,
        {**good, "known_id": 7, "attribute": " "},
    ]
    write_json(tmp_path / "known.json", [good, *bad])
    found = read_facts(tmp_path / "known.json")
    assert [type(fact) for fact in found] == [Fact, BadFact, BadFact, BadFact, BadFact]
    assert "is not in 'Bergen" in found[1].reason  # type: ignore[union-attr]
    assert len(read_facts(tmp_path / "known.json", 1)) == 1
    write_json(tmp_path / "known.json", [good, good])
    with pytest.raises(BadInput, match="known_id 4 stands more than once"):
        read_facts(tmp_path / "known.json")
    write_json(tmp_path / "known.json", {})
    with pytest.raises(BadInput, match="expected a JSON list of facts"):
        read_facts(tmp_path / "known.json")


def test_all_facts_of_the_paper_are_found_in_their_tokens(real_data: Path) -> None:
    from counterfact.lm.model.loading import load_lm

    lm = load_lm(real_data / "golden/model", device="cpu")
    facts = read_facts(real_data / "known_1000/known_1000.json")
    assert len(facts) == 1209
    for fact in facts:
        assert isinstance(fact, Fact)
        prompt = encode(lm, fact)
        assert "".join(prompt.tokens) == fact.prompt
        assert fact.subject in "".join(prompt.tokens[prompt.begin : prompt.end])
        assert fact.subject not in "".join(prompt.tokens[prompt.begin + 1 : prompt.end])
        assert words_before(fact.prediction, fact.attribute) is not None or fact.attribute in fact.prediction


def test_what_a_model_names_first_is_known_and_the_prompt_leads_there() -> None:
    lm = tiny_lm()
    questions = [Question("{} is in", subject, "Oslo") for subject in SUBJECTS]
    said = known_facts(lm, [*questions, Question("{} and {}", "Oslo", "Oslo"), Question("{}", "Oslo " * 80, "x")])
    assert [type(one) for one in said] == [BadFact, BadFact]
    from counterfact.lm.generation import Generation, generate

    texts = []
    for subject in SUBJECTS:
        length = len(lm.prompt_tokens(f"{subject} is in"))
        [made] = generate(lm, [f"{subject} is in"], [0], length=length + 10, top_k=1)
        assert isinstance(made, Generation)
        texts.append(lm.decode(made.ids[length:]))
    words = [next(iter(re.findall(r"\w+", text)), "x") for text in texts]
    asked = [Question("{} is in", subject, word) for subject, word in zip(SUBJECTS, words, strict=True)]
    known = known_facts(lm, asked)
    assert known, "the first word of a text is always named first"
    for fact in known:
        assert isinstance(fact, Fact)
        assert (fact.prompt + " " + fact.prediction).startswith(f"{fact.subject} is in")
        assert fact.prediction == texts[fact.known_id]
        assert fact.attribute == words[fact.known_id]


def test_facts_of_a_file_are_asked_and_keep_their_ids(tmp_path: Path) -> None:
    lm, prompt = tiny_lm(), "Anna Ferrand is in"
    length = len(lm.prompt_tokens(prompt))
    from counterfact.lm.generation import Generation, generate

    [made] = generate(lm, [prompt], [0], length=length + 10, top_k=1)
    assert isinstance(made, Generation)
    first = next(iter(re.findall(r"\w+", lm.decode(made.ids[length:]))))
    other = {"prediction": " there, as another model says", "relation_id": "P131"}
    asked = [
        {"known_id": 7, "subject": "Anna Ferrand", "attribute": "Nowhere", "template": "{} is in", "prompt": prompt},
        {
            "known_id": 5,
            "subject": "Anna Ferrand",
            "attribute": first,
            "prompt": f"{prompt} the",
            "template": "{} is in",
        },
        {"known_id": 9, "subject": "Anna Ferrand", "attribute": first, "prompt": prompt},
        {"known_id": 4, "subject": "Norway", "attribute": first, "template": "{} is in", "prompt": "Oslo is in"},
    ]
    write_json(tmp_path / "known_1000.json", [{**fact, **other} for fact in asked])
    found = counterfact.known_facts(lm, facts=tmp_path / "known_1000.json", out=tmp_path / "known.json")
    assert [fact.known_id for fact in found.facts] == [5, 9]
    assert [fact.known_id for fact in found.failed] == [4] and found.asked == 4
    assert all(fact.relation_id == "P131" and fact.prediction != other["prediction"] for fact in found.facts)
    assert read_facts(tmp_path / "known.json") == found.facts
    assert counterfact.known_facts(lm, facts=tmp_path / "known_1000.json", limit=1).asked == 1
    with pytest.raises(BadInput, match="three sources"):
        counterfact.known_facts(lm, pararel=tmp_path, facts=tmp_path / "known_1000.json")


def test_the_facts_that_the_paper_traced_can_be_asked(real_data: Path) -> None:
    found = counterfact.known_facts(tiny_lm(), facts=real_data / "known_1000" / "known_1000.json", limit=40)
    assert (found.asked, found.failed) == (40, [])
    assert len(read_facts(real_data / "known_1000" / "known_1000.json")) == 1209


def test_damage_and_strange_folders_are_told(tmp_path: Path) -> None:
    run = runs(tmp_path)["causal"]
    array_path(run.folder, 0).write_bytes(b"no arrays")
    with pytest.raises(BadInput, match="cannot be read"):
        list(run.facts())
    write_json(run.folder / "run.json", {"kind": "trace", "schema": 99})
    with pytest.raises(BadInput, match="expected a trace of schema 1, got 99"):
        load_run(run.folder)
    with pytest.raises(BadInput, match=r"no folder .*nowhere"):
        find_runs([tmp_path / "nowhere"])


def stored(effects: Sequence[float], begin: int, end: int, *, correct: bool = True, low: float = 0.1) -> Stored:
    """A fact of one layer whose tokens have these effects."""
    tokens = list(range(len(effects)))
    line = {
        "known_id": 0,
        "tokens": [str(token) for token in tokens],
        "subject_range": [begin, end],
        "traced_tokens": {"state": tokens},
        "correct": correct,
        "high": 0.9,
        "low": low,
    }
    return Stored(line, {"state": low + np.array(effects)[:, None]})


def test_averages_by_class_worked_by_hand() -> None:
    facts = [
        stored([9, 1, 2, 3, 4, 5, 6, 7], 1, 5, low=0.1),
        stored([3, 8], 0, 1, low=0.3),
        stored([4, 6], 0, 2),
        stored([1e6] * 4, 0, 2, correct=False),
    ]
    found = average(facts, "state")
    means = {name: float(one.mean[0]) for name, one in found.by_class.items()}
    expected = dict(zip(CLASSES, [(1 + 3 + 4) / 3, 2.5, (4 + 3 + 6) / 3, (5 + 8) / 2, 6, (7 + 8) / 2], strict=True))
    assert means == pytest.approx(expected)
    first = found.by_class["first subject token"]
    assert first.half[0] == pytest.approx(1.96 * np.std([1, 3, 4]) / np.sqrt(3))
    middle = found.by_class["middle subject tokens"]
    assert (middle.facts, middle.tokens, middle.half[0]) == (1, 2, 0)
    assert found.facts == 3
    assert summary(found)["classes"]["last token"]["facts"] == 2
    with pytest.raises(BadInput, match="no fact is left"):
        average(facts[3:], "state")
    with pytest.raises(BadInput, match="has no trace of kind 'mlp'"):
        average(facts, "mlp")


def test_an_interval_takes_a_fact_as_the_unit() -> None:
    rows = [(2, np.array([2.0])), (1, np.array([4.0]))]
    one = mean_of_tokens(rows)
    assert one.mean[0] == pytest.approx(2.0)
    assert one.half[0] == pytest.approx(1.96 * np.sqrt((2 - 4) ** 2 + (4 - 2) ** 2) / 3)


def test_every_position_after_the_first_subject_token_has_a_class() -> None:
    for length in range(1, 8):
        for begin in range(length):
            for end in range(begin + 1, length + 1):
                places = [place for found in classes_of(begin, end, length).values() for place in found]
                assert set(places) == set(range(begin, length))


def test_figures_and_pages_of_every_method(tmp_path: Path) -> None:
    names = {
        "causal": {"fact-00000", "fact-00001", "average-maps", "average-lines"},
        "severed": {"fact-00000", "fact-00001", "average-bars", "cases"},
        "ig": {"fact-00000", "fact-00001", "cases"},
    }
    for method, run in runs(tmp_path).items():
        page = draw_run(answered_rightly(run), tmp_path / "figures" / method, each=2)
        for suffix, start in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
            drawn = {path.stem: path for path in page.parent.glob(f"*.{suffix}")}
            assert set(drawn) == names[method]
            assert all(path.read_bytes().startswith(start) for path in drawn.values())
        text = page.read_text()
        assert not re.search(r"(src|href)=|https?://(?!arxiv)", text), "it needs nothing from outside"
        data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1].replace("<\\/", "</"))  # type: ignore[index]
        averaged = [fact for fact in data["facts"] if "classes" in fact]
        assert len(averaged) == (method != "ig") and data["facts"][: len(averaged)] == averaged
        one_by_one = [fact["prompt"] for fact in data["facts"][len(averaged) :]]
        assert one_by_one == [fact.prompt for fact in FACTS]  # type: ignore[union-attr]


def test_a_browser_shows_a_cell_for_each_token_and_layer(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("needs a browser: install chromium")
    run = runs(tmp_path)["causal"]
    page = draw_run(run, tmp_path / "figures", each=0)
    # The page itself points at its last cell, so that the dump holds what a person would read there.
    hover = "<script>[...document.querySelectorAll('td')].at(-1).onmouseenter()</script></body>"
    page.write_text(page.read_text().replace("</body>", hover))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    first = next(run.facts())
    assert done.stdout.count("<td ") == first.arrays["state"].size
    value = first.arrays["state"][-1, -1]
    assert f"layer {tiny_lm().n_layers - 1}: p(o) {100 * value:.1f} %, effect on p(o) " in done.stdout
    assert done.stdout.count("<li>") == len(FACTS)


def test_a_run_that_knows_nothing_and_one_of_bad_facts_have_pages_too(tmp_path: Path) -> None:
    page = draw_run(runs(tmp_path)["causal"], tmp_path / "figures", each=1)
    assert {path.stem for path in page.parent.glob("*.png")} == {"fact-00000"}
    bad: list[Fact | BadFact] = [BadFact(0, "of no use")]
    empty = runs(tmp_path / "bad", bad)["causal"]
    assert empty.lines == ({"known_id": 0, "error": "of no use"},)
    assert "No fact could be traced" in draw_run(empty, tmp_path / "empty").read_text()


def test_runs_are_compared_by_what_tells_them_apart(tmp_path: Path) -> None:
    lm, found = tiny_lm(), []
    for code, extra_token in (("s3", False), ("u0.5", False), ("u0.5", True)):
        noise = make_corruption(lm, code, subjects=SUBJECTS, samples=2)
        settings, compute = causal_method(lm, noise, window=2, extra_token=extra_token)
        found.append(keep(tmp_path, run_identity(lm, "causal", settings, FACTS[:3]), FACTS[:3], compute))
    assert run_names(found[:2]) == ["noise s3", "noise u0.5"]
    assert run_names(found[1:]) == ["no extra token", "extra token"]
    with pytest.raises(BadInput, match="no fact is left"):
        draw_comparison(found, tmp_path / "figures")
    known = [answered_rightly(run) for run in found]
    drawn = draw_comparison(known, tmp_path / "figures")
    assert [path.read_bytes()[:4] for path in drawn] == [b"%PDF", b"\x89PNG"]
    with pytest.raises(BadInput, match="expected 2 to 6 runs of causal traces to compare, got 1"):
        draw_comparison(known[:1], tmp_path / "figures")


def test_cases_are_chosen_by_their_rule() -> None:
    strong = [stored([0.0, 5.0 + number], 0, 2) for number in range(5)]
    early = stored([4.0, 1.0], 0, 2)
    weak = [stored([0.1, 0.2], 0, 2), stored([0.3, 0.4], 0, 2)]
    chosen = choose_cases([*strong, early, *weak])
    assert [token for _, token in chosen[:5]] == [1] * 5
    assert chosen[5:7] == [(early, 0), (early, 1)]
    assert [fact for fact, _ in chosen[7:]] == weak


def test_the_way_from_a_model_to_pages(command: Command, tmp_path: Path) -> None:
    model = ["--model", tiny_folder("llama")]
    write_json(tmp_path / "facts.json", [fact.model_dump() for fact in FACTS if isinstance(fact, Fact)])
    traced = ["trace", "--facts", tmp_path / "facts.json", *model, "--out", tmp_path / "runs", "--limit", 3]
    code, out, err = command(*traced, "--method", "causal", "--method", "severed", "--method", "ig", "--nodes", 2)
    assert code == 0, err
    assert out.count("facts traced: 3, ") == 3
    code, out, err = command("figures", tmp_path / "runs", "--out", tmp_path / "figures", "--each", 1)
    assert code == 0, err
    assert len(list((tmp_path / "figures").rglob("index.html"))) == 3
    code, _, err = command(*traced, "--noise", "x")
    assert code == 2
    assert "expected a noise rule" in err
    code, _, err = command(*traced, "--method", "magic")
    assert code == 2
    assert "expected methods among" in err
    code, out, err = command("known", *model, "--limit", 5, "--out", tmp_path / "known.json")
    assert code == 0, err
    assert "of 5 facts are known" in out
