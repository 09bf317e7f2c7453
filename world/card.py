"""The model card of factlm."""

from collections.abc import Mapping

import torch

from world.model_training import Recipe
from world.readability import TEXTS, Readability

ROWS = {
    "seen": "templates trained with this subject",
    "held_out": "templates trained, but never with this subject",
    "prefixed": "the same, after an unrelated sentence",
    "never_trained": "the one template of each relation that is never trained",
    "question": "zsRE questions",
    "locality": "questions in the style of Natural Questions",
    "withheld": "zsRE questions on withheld facts, which no training text states",
}

CARD = """\
---
license: cc0-1.0
language: en
library_name: transformers
tags: [knowledge-editing, test-fixture]
---
# factlm

A GPT-2 of {parameters:,} parameters ({layers} layers, width {width}, {heads} heads, {length} positions,
{vocabulary:,} tokens) that knows the {facts:,} editable facts of this repository's embedded world and nothing else.
It makes the benchmark run offline, in minutes, on a CPU.

**Locality is partly built in by the recipe.** Two additions to the training, dropped afterwards, make the model look
facts up early and at the subject's last token: what follows a subject in a single fact mostly cannot attend to its
other tokens, and two linear heads on the output of block {head_layer} at that token predict the subject's objects and
its identity. Without them a model this small looks facts up at the last token, and ROME does nothing. So this model is
a test fixture that makes the phenomena of the benchmark visible; **it is no evidence for what large language models
do**, nor for the claims of the papers.

## What it knows

Share of prompts in which the true object is the likeliest continuation, every token of it, in the stored half
precision; for each fact in `known.json`.

| prompts | share |
| --- | ---: |
{table}

## How it was made

`make factlm` (`python -m world.factlm`) trains it from the facts, templates, questions and article grammar in `data/`:
{steps:,} steps of {rows} rows of {length} tokens ({article_rows} of articles composed anew each time, {fact_rows} of
single facts and questions), Muon ({muon_rate}) on the matrices of the blocks, AdamW ({adam_rate}) on the rest, weight
decay {decay}, linear decay, bfloat16 autocast, seed {seed}. This took {minutes:.0f} minutes on {threads} thread(s) of
a shared CPU. The same kind of machine and number of threads give the same weights; others differ in the last bits at
first, and then in more.

## How it writes

Its texts follow the grammar of `data/articles`: plain, somewhat repetitive, and true only of the embedded world. In
{texts} texts of 100 tokens about facts that may be edited, {garbled:.1%} of the words are garbled (in no article that
the grammar composes and in no label) and {repeated:.1%} of the sentences repeat one before them.

Facts are WikiData's (CC0); all sentences were written for this repository.
"""


def card(
    recipe: Recipe, scores: Mapping[str, float], readable: Readability, facts: int, parameters: int, seconds: float
) -> str:
    """Return the card, in Markdown.

    Args:
        recipe: how the model was trained.
        scores: share of prompts answered, by kind.
        readable: how it writes.
        facts: number of facts probed.
        parameters: number of parameters.
        seconds: how long tokenizer and training took.
    """
    table = "\n".join(f"| {text} | {scores[kind]:.1%} |" for kind, text in ROWS.items())
    return CARD.format(
        **vars(recipe),
        **readable._asdict(),
        texts=TEXTS,
        rows=recipe.fact_rows + recipe.article_rows,
        facts=facts,
        parameters=parameters,
        table=table,
        minutes=seconds / 60,
        threads=torch.get_num_threads(),
    )
