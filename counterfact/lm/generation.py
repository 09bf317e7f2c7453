"""Sample texts: many rows side by side, each with its own prompt, edit and seed."""

import unicodedata
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from counterfact.lm.edits.apply import EditStack
from counterfact.lm.edits.edit import Edit, in_context
from counterfact.lm.forward.blocks import call_blocks, decode_attention, embed, logits, pad_right, run_blocks
from counterfact.lm.forward.caches import DecodeCache
from counterfact.lm.forward.products import fused_activations
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan, default_plan, in_halves
from counterfact.lm.queries import Unscored

RUN = 64
"""Neighbours in the vocabulary of which only the largest logit is looked at first."""
NO_NUMBER = "the model gave NaN or infinite logits"
LOOK = 4
"""Columns between two looks at whether all texts have ended; on an accelerator each look waits for it."""


@dataclass(frozen=True)
class Generation:
    """A prompt and what the model went on with."""

    ids: tuple[int, ...]
    """All tokens: context, prompt and what follows."""
    text: str
    """Their text without the context: NFKD, blank lines replaced by a space, marks of beginning and end removed."""
    given: int
    """Number of tokens of context and prompt."""


class Ending(NamedTuple):
    """Where each text ends for itself, whatever is generated beside it."""

    new_tokens: int
    """Most tokens after a prompt."""
    stops: frozenset[int]
    """Tokens of which the first after a prompt ends a text."""
    kept: bool = True
    """Whether it is the text's last token; else the text ends before it."""


@dataclass(frozen=True)
class _TextRow:
    number: int
    ids: list[int]
    seed: int
    edit_index: int


def generate(
    lm: LM,
    prompts: Sequence[str | Sequence[int]],
    seeds: Sequence[int],
    edit_index: Sequence[int] | None = None,
    edits: Sequence[Edit] = (),
    *,
    length: int = 100,
    top_k: int = 5,
    ending: Ending | None = None,
    plan: Plan | None = None,
) -> list[Generation | Unscored]:
    """Go on with each prompt under its edit, by top-k sampling, up to `length` tokens in all.

    All rows stand at the same column: a prompt that is longer than the shortest keeps its own tokens until they are
    used up, so nothing is padded. An end token is a token like any other, unless `ending` says so. The draw for column
    t of a row is the t-th number of a generator of its own, and picks from the cumulative distribution over the `top_k`
    likeliest tokens, renormalised, in float64; so a text depends on its seed and not on what is generated beside it.

    Args:
        lm: the model.
        prompts: texts, each put after the context of its edit, or ids, used unchanged.
        seeds: one for each prompt.
        edit_index: for each prompt, the index of its edit, or -1 for the unedited model; by default all -1.
        edits: what `edit_index` points into.
        length: tokens in all, context and prompt included.
        top_k: 1 takes the likeliest token always.
        ending: where each text ends for itself, within `length`; a batch is done when all its texts have ended.
        plan: sizes of batches, by default those for the model on its device.

    Returns:
        In order; `Unscored` where a prompt has no tokens, the model gives NaN, or memory does not suffice for one row.
        A prompt of `length` tokens or more comes back as it is.

    Raises:
        ValueError: `length` is more than the model takes, `top_k` less than 1, or the sequences differ in length.
    """
    plan = plan or default_plan(lm)
    edit_index = [-1] * len(prompts) if edit_index is None else edit_index
    _check(lm, prompts, seeds, edit_index, length, top_k)
    ids, context, unread = _encode(lm, prompts, edit_index, edits)
    rows = [_TextRow(i, *parts) for i, parts in enumerate(zip(ids, seeds, edit_index, strict=True))]
    results: dict[int, list[int] | Unscored] = {}
    for row in rows:
        if not row.ids:
            results[row.number] = Unscored(unread.get(row.number, "the prompt has no tokens"))
        elif len(row.ids) >= length:
            results[row.number] = row.ids
    waiting = sorted((row for row in rows if row.number not in results), key=lambda row: len(row.ids))
    # Batches of one size: a small last one would read all weights for few rows.
    batches = -(-len(waiting) // plan.generation_rows)
    size = -(-len(waiting) // max(batches, 1))
    if ending is not None and waiting:
        length = min(length, len(waiting[-1].ids) + ending.new_tokens)
    cache = DecodeCache(size, length)
    with torch.inference_mode(), fused_activations(lm):
        stack = EditStack(lm, edits) if edits else None

        def run(batch: Sequence[_TextRow]) -> None:
            context = stack.rows([row.edit_index for row in batch]) if stack else nullcontext()
            with context:
                results.update(_sample(lm, batch, cache, length, top_k, ending))

        for start in range(0, len(waiting), max(size, 1)):
            for row in in_halves("generate", waiting[start : start + size], run, plan):
                results[row.number] = Unscored("out of memory with one row")
    if ending is not None:
        results |= {row.number: _ended(results[row.number], len(row.ids), ending) for row in rows}
    return [_finish(lm, results[row.number], context[row.number], len(row.ids)) for row in rows]


def end_tokens(lm: LM) -> frozenset[int]:
    """Return the tokens that end a text: those of the model's generation settings, else the tokenizer's own."""
    told = getattr(lm.model.generation_config, "eos_token_id", None)
    ends = lm.tokenizer.eos_token_id if told is None else told
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def before_end(lm: LM, length: int) -> Ending:
    """Return what ends texts of at most `length` tokens before the first end token after their prompts."""
    return Ending(length, end_tokens(lm), kept=False)


def _ended(result: list[int] | Unscored, prompt: int, ending: Ending) -> list[int] | Unscored:
    """Return a row up to its first stop after the prompt, or to its number of new tokens."""
    if isinstance(result, Unscored):
        return result
    most = min(len(result), prompt + ending.new_tokens)
    return result[: next((at + ending.kept for at in range(prompt, most) if result[at] in ending.stops), most)]


def _check(
    lm: LM, prompts: Sequence[object], seeds: Sequence[int], edit_index: Sequence[int], length: int, top_k: int
) -> None:
    if not len(prompts) == len(seeds) == len(edit_index):
        raise ValueError(
            f"expected as many seeds and edit indices as {len(prompts)} prompts, got {len(seeds)}, {len(edit_index)}"
        )
    if length > lm.max_length:
        raise ValueError(f"expected a length of at most {lm.max_length} tokens, which {lm.name} takes, got {length}")
    if top_k < 1:
        raise ValueError(f"expected top_k of 1 or more, got {top_k}")


def _encode(
    lm: LM, prompts: Sequence[str | Sequence[int]], edit_index: Sequence[int], edits: Sequence[Edit]
) -> tuple[list[list[int]], list[str], dict[int, str]]:
    """Return the ids of each row, the context in them that its text leaves out, and by row why it cannot be read."""
    places = [place for place, prompt in enumerate(prompts) if isinstance(prompt, str)]
    texts = in_context([str(prompts[place]) for place in places], [edit_index[place] for place in places], edits)
    encoded, flaws = lm.encoding.each_prompt(texts)
    given: dict[int, list[int]] = dict(zip(places, encoded, strict=True))
    ids = [given[place] if place in given else list(map(int, prompt)) for place, prompt in enumerate(prompts)]
    unread = {places[place]: flaw for place, flaw in flaws.items()}
    return ids, in_context([""] * len(prompts), edit_index, edits), unread


def _sample(
    lm: LM, batch: Sequence[_TextRow], cache: DecodeCache, length: int, top_k: int, ending: Ending | None
) -> dict[int, list[int] | Unscored]:
    """Fill one batch column by column; nothing is read from the device before the last, but whether all have ended."""
    device = lm.device
    lengths = [len(row.ids) for row in batch]
    shortest, longest = min(lengths), max(lengths)
    table, ends = pad_right([row.ids for row in batch], device, length)
    given = torch.arange(length, device=device) < ends[:, None]
    draws = _draws(batch, length).to(device) if top_k > 1 else None
    positions = torch.arange(length, device=device)
    broken = torch.zeros(len(batch), dtype=torch.bool, device=device)
    stops = torch.tensor(sorted(ending.stops) if ending else [], dtype=torch.long, device=device)
    ended = torch.zeros_like(broken)
    cache.begin(len(batch))

    def fill(start: int, column: int) -> None:
        """Feed columns `start` to `column - 1`, and choose what stands at `column`."""
        span = positions[start:column]
        hidden = embed(lm, table[:, start:column], span)
        if start:
            hidden = call_blocks(lm, hidden, range(lm.n_layers), span[None], cache)
        else:
            hidden = run_blocks(lm, hidden, 0, lm.n_layers, positions=span, cache=cache)
        token, fine = _pick(logits(lm, hidden[:, -1]), top_k, None if draws is None else draws[:, column])
        broken.logical_or_(~fine)
        table[:, column] = torch.where(given[:, column], table[:, column], token) if column < longest else token
        if ending is not None:
            ended.logical_or_(broken | (torch.isin(table[:, column], stops) & ~given[:, column]))

    fill(0, shortest)
    with decode_attention(lm, cache):
        for column in range(shortest + 1, length if ending is None else min(length, longest + ending.new_tokens)):
            if ending is not None and column % LOOK == 0 and bool(ended.all()):
                break
            fill(column - 1, column)
    return {
        row.number: Unscored(NO_NUMBER) if bad else ids
        for row, ids, bad in zip(batch, table.tolist(), broken.tolist(), strict=True)
    }


def _draws(batch: Sequence[_TextRow], length: int) -> Tensor:
    """(rows, length) uniform numbers, each row from a generator of its own."""
    generator = torch.Generator()
    return torch.stack(
        [torch.rand(length, generator=generator.manual_seed(row.seed), dtype=torch.float64) for row in batch]
    )


def _pick(scores: Tensor, top_k: int, draw: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return one token for each row of `scores` (rows, vocabulary), and whether its largest logit is a number."""
    if draw is None:
        best, token = scores.max(-1)
        return token, best.isfinite()
    best, tokens = _top(scores, min(top_k, scores.shape[-1]))
    bounds = best.double().softmax(-1).cumsum(-1)[:, :-1]
    choice = (draw[:, None] >= bounds).sum(-1, keepdim=True)
    return tokens.gather(1, choice)[:, 0], best[:, 0].isfinite()


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest of each row and where they are: `topk`, but faster over a vocabulary.

    A row's largest are among the runs whose own largest number is among the `count` largest of all runs.
    """
    rows, columns = scores.shape
    runs = columns // RUN
    if runs <= count:
        return scores.topk(count)
    firsts = scores[:, : runs * RUN].view(rows, runs, RUN).amax(-1).topk(count).indices * RUN
    inside = torch.arange(RUN, device=scores.device)
    rest = torch.arange(runs * RUN, columns, device=scores.device).expand(rows, -1)
    candidates = torch.cat([(firsts[:, :, None] + inside).flatten(1), rest], 1)
    best, places = scores.gather(1, candidates).topk(count)
    return best, candidates.gather(1, places)


def _finish(lm: LM, result: list[int] | Unscored, context: str, given: int) -> Generation | Unscored:
    if isinstance(result, Unscored):
        return result
    text = clean_text(lm, result).removeprefix(unicodedata.normalize("NFKD", context))
    return Generation(tuple(result), text, given)


def clean_text(lm: LM, ids: Sequence[int]) -> str:
    """Return the text of generated ids: NFKD, blank lines replaced by a space, marks of beginning and end removed."""
    start = lm.encoding.start
    text = lm.decode(ids[len(start) :] if start and tuple(ids[: len(start)]) == start else ids)
    text = unicodedata.normalize("NFKD", text).replace("\n\n", " ")
    for mark in (lm.tokenizer.eos_token, lm.tokenizer.bos_token):
        text = text.replace(mark, "") if mark else text
    return text
