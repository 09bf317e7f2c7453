"""Records whose fact a model knows: only there does an edit change what the model says."""

from collections.abc import Sequence

from counterfact.core.records import BadRecord, Record
from counterfact.lm.model.loading import LM
from counterfact.lm.model.precision import float32_products
from counterfact.lm.planning.batch_plan import Plan
from counterfact.lm.queries import Query, Unscored
from counterfact.lm.scoring import score


def known_records(lm: LM, records: Sequence[Record | BadRecord], *, plan: Plan | None = None) -> list[Record]:
    """Return the records whose rewrite prompt the unedited model continues greedily with the true object.

    That is so where every token of the true object is the likeliest one, given the prompt and the tokens before it.

    Args:
        lm: the model.
        records: records of any benchmark, in any number.
        plan: sizes of batches, by default those for the model on its device.

    Returns:
        Those that are known, in order; records without a true object, or that cannot be scored, are not among them.
    """
    asked: list[tuple[Record, Query]] = []
    for record in records:
        if not isinstance(record, BadRecord) and record.request.target_true is not None:
            asked.append((record, Query(record.request.filled, (record.request.target_true,))))
    with float32_products(lm.precision):
        scores = score(lm, [query for _, query in asked], plan=plan)
    return [
        record
        for (record, _), found in zip(asked, scores, strict=True)
        if not isinstance(found, Unscored) and all(found[0].correct)
    ]
