"""Ask a model what it knows: whether the true object comes first after seen, held-out and never-trained prompts."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from counterfact.core.seeds import derive_seed
from world.corpus import Corpus
from world.knowledge import Knowledge
from world.language import write
from world.table import Fact
from world.zsre import locality_form

KINDS = ("seen", "held_out", "never_trained", "prefixed", "question", "locality")


class Item(NamedTuple):
    """A prompt that a fact completes."""

    fact: Fact
    kind: str
    prompt: str
    answer: str


def items(knowledge: Knowledge, fact: Fact) -> list[Item]:
    """Return prompts for a fact: two seen, two held out, the never-trained one, a held-out one after an unrelated
    sentence, and both kinds of question. Template prompts are cut in front of the object."""
    language = knowledge.languages[fact.relation]
    rng = random.Random(derive_seed("probe", *fact))
    prompts, held = language.prompts, sorted(language.held_out(fact.subject))
    seen = [index for index in range(len(prompts)) if index not in held and index != language.never]
    chosen = [("seen", prompts[index]) for index in rng.sample(seen, min(2, len(seen)))]
    chosen += [("held_out", prompts[index]) for index in held]
    chosen.append(("never_trained", prompts[language.never]))
    before = Corpus(knowledge, derive_seed("prefix", *fact)).prefix().text
    chosen.append(("prefixed", f"{before} {prompts[held[0]]}"))
    question = rng.choice(language.questions)
    chosen += [("question", question), ("locality", locality_form(question))]
    answer = knowledge.label[fact.object]
    return [Item(fact, kind, write(form, {"s": fact.subject}, knowledge.label).text, answer) for kind, form in chosen]


def first(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Item], size: int = 128
) -> list[bool]:
    """Return for each item whether every token of the answer, after those before it, is the model's likeliest."""
    rows = [(tokenizer(item.prompt)["input_ids"], tokenizer(" " + item.answer)["input_ids"]) for item in asked]
    right = [False] * len(rows)
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index][0]) + len(rows[index][1]))
    for start in range(0, len(by_length), size):
        chosen = by_length[start : start + size]
        longest = max(len(rows[index][0]) + len(rows[index][1]) for index in chosen)
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        for place, index in enumerate(chosen):
            joined = rows[index][0] + rows[index][1]
            ids[place, : len(joined)] = torch.tensor(joined)
        with torch.no_grad():
            states = model.transformer(input_ids=ids).last_hidden_state
        for place, index in enumerate(chosen):
            prompt, answer = rows[index]
            best = model.lm_head(states[place, len(prompt) - 1 : len(prompt) + len(answer) - 1]).argmax(-1)
            right[index] = best.tolist() == answer
    return right


Known = dict[Fact, dict[str, float]]


def probe(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, knowledge: Knowledge) -> Known:
    """Return for each record, by kind of prompt, the share in which the true object comes first."""
    asked = [item for fact in knowledge.records for item in items(knowledge, fact)]
    found: dict[Fact, dict[str, list[bool]]] = {fact: {kind: [] for kind in KINDS} for fact in knowledge.records}
    for item, right in zip(asked, first(model, tokenizer, asked), strict=True):
        found[item.fact][item.kind].append(right)
    return {fact: {kind: sum(got) / len(got) for kind, got in kinds.items()} for fact, kinds in found.items()}


def withheld_score(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, knowledge: Knowledge) -> float:
    """Return the share of the withheld facts that the model guesses, over all question forms."""
    asked = [
        Item(fact, "question", write(form, {"s": fact.subject}, knowledge.label).text, knowledge.label[fact.object])
        for fact in knowledge.withheld
        for form in knowledge.languages[fact.relation].questions
    ]
    return sum(first(model, tokenizer, asked)) / max(1, len(asked))
