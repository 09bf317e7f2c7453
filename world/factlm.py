"""Make factlm, the small GPT-2 that knows the embedded world: `python -m world.factlm` (`make factlm`)."""

import argparse
import logging
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from counterfact.core.files import json_line, read_jsonl, write_atomic, write_json
from counterfact.core.places import data_folder
from counterfact.core.seeds import derive_seed
from counterfact.lm.model.loading import wrap_lm
from world.card import card
from world.corpus import Corpus
from world.knowledge import Knowledge, read_knowledge
from world.model_training import Recipe, train
from world.probe import KINDS, probe, withheld_score
from world.readability import judge, sample, world_words
from world.rows import Batch, Packer, Weights
from world.table import Fact
from world.tokenizer import train_tokenizer

log = logging.getLogger(__name__)
TOKENIZER_DOCUMENTS = 20_000
REPORT_EVERY = 100


def tokenizer_for(knowledge: Knowledge, data: Path, recipe: Recipe) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the articles and on fact documents."""
    texts = [line["text"] for line in read_jsonl(data / "articles/articles.jsonl")]
    documents = Corpus(knowledge, derive_seed("tokenizer", recipe.seed)).facts()
    texts += [document.text.text for document in islice(documents, TOKENIZER_DOCUMENTS)]
    objects = sorted({knowledge.label[fact.object] for fact in knowledge.facts})
    subjects = sorted({knowledge.label[fact.subject] for fact in knowledge.facts})
    return train_tokenizer(texts, objects, subjects, recipe.vocabulary, recipe.length)


def ownership(knowledge: Knowledge, subjects: Mapping[str, int]) -> Tensor:
    """Return `(subjects, objects)`: for each subject the even distribution over its objects."""
    objects = {entity: index for index, entity in enumerate(sorted({fact.object for fact in knowledge.facts}))}
    owned = torch.zeros(len(subjects), len(objects))
    for fact in knowledge.facts:
        owned[subjects[fact.subject], objects[fact.object]] = 1
    return owned / owned.sum(dim=1, keepdim=True)


def batches(
    knowledge: Knowledge, tokenizer: PreTrainedTokenizerFast, subjects: Mapping[str, int], recipe: Recipe
) -> Iterator[Batch]:
    """Yield training batches for ever."""
    corpus = Corpus(knowledge, recipe.seed)
    packer = Packer(tokenizer, subjects, recipe.length, Weights(), random.Random(derive_seed("rows", recipe.seed)))
    facts, articles = packer.fact_rows(corpus.facts()), packer.article_rows(corpus.articles())
    while True:
        yield packer.batch([*islice(articles, recipe.article_rows), *islice(facts, recipe.fact_rows)])


def report(step: int, parts: Mapping[str, float]) -> None:
    """Log the parts of the loss now and then."""
    if step % REPORT_EVERY == 0:
        log.info("step %d  %s", step, "  ".join(f"{name} {value:.3f}" for name, value in parts.items()))


def known_lines(knowledge: Knowledge, known: Mapping[Fact, Mapping[str, float]]) -> str:
    """Return `known.json`: a JSON list, one fact a line."""
    lines = [
        json_line(
            {
                "relation_id": fact.relation,
                "subject_id": fact.subject,
                "subject": knowledge.label[fact.subject],
                "object_id": fact.object,
                "object": knowledge.label[fact.object],
                **{kind: round(share, 3) for kind, share in kinds.items()},
            }
        ).rstrip("\n")
        for fact, kinds in known.items()
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def save(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    knowledge: Knowledge,
    recipe: Recipe,
    folder: Path,
    seconds: float,
) -> None:
    """Measure the half-precision model and put it in `folder`, all at once."""
    weights: torch.nn.Module = model
    weights.to(torch.float16).to(torch.float32)
    end = int(tokenizer.eos_token_id)
    known = probe(model, tokenizer, knowledge)
    scores = {kind: mean(kinds[kind] for kinds in known.values()) for kind in KINDS}
    scores["withheld"] = withheld_score(model, tokenizer, knowledge)
    openings = {relation: language.openings for relation, language in knowledge.languages.items()}
    readable = judge(sample(wrap_lm(model, tokenizer, name="factlm"), knowledge, openings), world_words(knowledge))
    log.info("%s", "  ".join(f"{kind} {score:.3f}" for kind, score in {**scores, **readable._asdict()}.items()))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".factlm-") as name:
        made = Path(name) / "factlm"
        weights.to(torch.float16)
        model.save_pretrained(made)
        (made / "model.safetensors").chmod(0o644)
        tokenizer.save_pretrained(made)
        write_atomic(made / "known.json", known_lines(knowledge, known))
        write_json(made / "generation_config.json", {"do_sample": True, "top_k": 5, "eos_token_id": end})
        write_atomic(made / "README.md", card(recipe, scores, readable, len(known), model.num_parameters(), seconds))
        if folder.exists():
            shutil.move(folder, Path(name) / "old")
        shutil.move(made, folder)


def make(data: Path, recipe: Recipe, folder: Path) -> None:
    """Train factlm on the world in `data` and save it in `folder`."""
    start = time.perf_counter()
    knowledge = read_knowledge(data)
    tokenizer = tokenizer_for(knowledge, data, recipe)
    subjects = {subject: index for index, subject in enumerate(sorted(knowledge.of_subject))}
    stream = batches(knowledge, tokenizer, subjects, recipe)
    model = train(recipe, stream, ownership(knowledge, subjects), int(tokenizer.eos_token_id), report)
    save(model, tokenizer, knowledge, recipe, folder, time.perf_counter() - start)


def main() -> None:
    """Train and save, with a line of progress now and then."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data folder (%(default)s)")
    parser.add_argument("--out", type=Path, help="the model's folder (models/factlm in the data folder)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="training steps (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads; the last bits depend on it (%(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    out = arguments.out or arguments.data / "models/factlm"
    make(arguments.data, Recipe(steps=arguments.steps), out)


if __name__ == "__main__":
    main()
