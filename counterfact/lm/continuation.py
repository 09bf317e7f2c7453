"""Let a model answer by itself: greedy continuations, each up to its own stop."""

from collections.abc import Sequence

from counterfact.lm.edits.edit import Edit
from counterfact.lm.generation import NO_NUMBER, Ending, Generation, end_tokens, generate
from counterfact.lm.model.language_model import LM
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.queries import Continuation, OpenQuery, Unscored

Key = tuple[OpenQuery, int]
"""A query and the index of its edit."""


def continuations(
    lm: LM, queries: Sequence[OpenQuery], edit_index: Sequence[int], edits: Sequence[Edit], *, plan: Plan | None = None
) -> list[Continuation | Unscored]:
    """Go on with each prompt by the likeliest token, up to the query's stop or number of tokens.

    A query that several records ask under one edit, or of the unedited model, is answered once.

    Args:
        lm: the model.
        queries: what is asked.
        edit_index: for each query, the index of its record's edit, or -1.
        edits: what `edit_index` points into.
        plan: sizes of batches, by default those for the model on its device.

    Returns:
        In order; `Unscored` where the prompt has no tokens or leaves no room, or memory does not suffice for one row.
    """
    keys = [
        (query._replace(unedited=False), -1 if query.unedited else index)
        for query, index in zip(queries, edit_index, strict=True)
    ]
    alike: dict[tuple[int, str], dict[Key, None]] = {}
    for query, index in keys:
        alike.setdefault((query.new_tokens, query.stops), {})[query, index] = None
    found: dict[Key, Continuation | Unscored] = {}
    for (new_tokens, stops), mine in alike.items():
        ending = Ending(new_tokens, lm.encoding.holding(stops) | end_tokens(lm))
        made = generate(
            lm,
            [query.prompt for query, _ in mine],
            [0] * len(mine),
            [index for _, index in mine],
            edits,
            length=lm.max_length,
            top_k=1,
            ending=ending,
            plan=plan,
        )
        found |= {key: _continuation(lm, each) for key, each in zip(mine, made, strict=True)}
    return [found[key] for key in keys]


def _continuation(lm: LM, made: Generation | Unscored) -> Continuation | Unscored:
    if isinstance(made, Unscored):
        return Continuation((), None) if made.reason == NO_NUMBER else made
    ids = made.ids[made.given :]
    if not ids:
        return Unscored(f"the prompt has {made.given} tokens, and the model takes {lm.max_length} with what follows")
    return Continuation(ids, lm.decode(ids), lm.decode(ids[-1:]) if ids[-1] in end_tokens(lm) else "")
