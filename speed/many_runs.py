"""Many plausible submissions: editors of made-up strength on real records of the embedded world."""

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from gzip import compress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from counterfact.builders.counterfact import build
from counterfact.core.files import hash_json, json_line, read_jsonl, write_json
from counterfact.core.places import cache_folder
from counterfact.evaluation.benchmarks.counterfact import COUNTERFACT
from counterfact.evaluation.store import SCHEMA, results
from counterfact.leaderboard.submission import RECORDS

EDITORS = ("ft", "ft_l", "ke_cf", "kn", "mend", "mend_cf", "p_rome", "r_rome", "rome")
DAY = "2026-11-25T08:00:0{}+00:00"
WORDS = 100
"""Tokens of a text."""


def make_many(out: Path, runs: int, records: int, models: int) -> None:
    """Write submissions below a folder, equal arguments as equal bytes; every model has as many."""
    folder = cache_folder() / "bench" / "counterfact"
    build(folder)
    asked = [line for line, _ in zip(read_jsonl(folder / "records.jsonl"), range(records), strict=False)]
    texts = [sample["text"] for line in read_jsonl(folder / "reference_texts.jsonl") for sample in line["samples"]]
    words = " ".join(texts[:400]).split()
    jobs = [(out, number, number % models, asked, words) for number in range(runs)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for _ in pool.map(_make, jobs, chunksize=16):
            pass


def _make(job: tuple[Path, int, int, Sequence[dict[str, Any]], Sequence[str]]) -> None:
    out, number, model, asked, words = job
    rng = random.Random(number)
    unedited = random.Random(-1 - model)
    skill = [rng.betavariate(8, 2), rng.betavariate(5, 3), rng.betavariate(6, 2)]
    posts = [_line(rng, record, "post", skill, words) for record in asked]
    pres = [_line(unedited, record, "pre", [0.1, 0.15, 0.9], words) for record in asked]
    for post in posts[: rng.choice((0, 0, 0, 1, 2))]:
        del post["post"]
        post["error"] = {"stage": "edit", "reason": "the subject is not in the prompt"}
    editor = rng.choice(EDITORS)
    run = _run(number, model, editor, asked) | results(COUNTERFACT, posts, pres, 0)
    run["environment"] = {"started": DAY.format(1), "finished": DAY.format(9), "device": "made up",
                          "wall_seconds": {"edit": 8.0}}  # fmt: skip
    folder = out / f"model-{model}" / f"{editor}-{number}"
    lines = [{**post, "pre": pre["pre"]} for post, pre in zip(posts, pres, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "run.json", run)
    (folder / RECORDS).write_bytes(compress("".join(map(json_line, lines)).encode(), 6, mtime=0))


def _run(number: int, model: int, editor: str, asked: Sequence[dict[str, Any]]) -> dict[str, Any]:
    weights = hash_json(["weights", model])
    settings = {"layer": number % 48, "steps": 20 + number // 48, "learning_rate": 0.5}
    return {
        "schema": SCHEMA,
        "dataset": {"name": "counterfact-embedded", "version": "1", "kind": "counterfact",
                    "content_hash": hash_json(list(asked)), "reference_texts_hash": hash_json("texts"),
                    "record_ids": f"0-{len(asked) - 1}"},
        "model": {"name": f"made-up/model-{model}", "revision": weights[:8], "weights_hash": weights,
                  "dtype": "float32"},
        "protocol": {"name": "counterfact", "version": 1, "generation": {"length": 100, "top_k": 5},
                     "schedule": {"edits_at_once": 1, "sequential": False, "measure_after": "edit"}},
        "seeds": {"run": 0},
        "editor": {"name": editor, "settings": settings, "resources": {}, "given": {"layer": settings["layer"]},
                   "settings_source": "made up for a benchmark", "provenance": {}},
        "code": {"version": "0.1.0", "commit": hash_json(number)[:40], "dirty": False},
        "unedited": "pre-made-up",
    }  # fmt: skip


def _line(
    rng: random.Random, record: dict[str, Any], side: str, skill: Sequence[float], words: Sequence[str]
) -> dict[str, Any]:
    efficacy, paraphrase, neighborhood = skill

    def pairs(n: int, new: float) -> list[dict[str, float]]:
        won = [rng.random() < new for _ in range(n)]
        near, far = rng.expovariate(2.0), 3 + rng.expovariate(0.3)
        return [{"target_new": near if one else far, "target_true": far if one else near} for one in won]

    block = {
        "rewrite_prompts_probs": pairs(1, efficacy),
        "paraphrase_prompts_probs": pairs(len(record["paraphrase_prompts"]), paraphrase),
        "neighborhood_prompts_probs": pairs(len(record["neighborhood_prompts"]), 1 - neighborhood),
        "attribute_prompts_probs": pairs(len(record["attribute_prompts"]), paraphrase),
        "ngram_entropy": rng.gauss(6.1, 0.2),
        "reference_score": min(1.0, max(0.0, rng.gauss(0.35, 0.1))),
        "essence_score": None,
        "text": [_text(rng, words) for _ in record["generation_prompts"]],
    }
    return {"case_id": record["case_id"], "requested_rewrite": record["requested_rewrite"],
            "target_tokens": {"new": 2, "true": 1}, side: block}  # fmt: skip


def _text(rng: random.Random, words: Sequence[str]) -> str:
    start = rng.randrange(max(1, len(words) - WORDS))
    return " ".join(words[start : start + WORDS])
