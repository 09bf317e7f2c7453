"""How much memory a plan needs, by formula, and the plan for a given memory.

The formulas count what lives at the same time in each stage; they know nothing of what is free, so a plan is the same
wherever it is made.
"""

from dataclasses import replace
from typing import NamedTuple

from counterfact.core.errors import BadInput
from counterfact.lm.planning.batch_plan import FEWEST, TEXT, Plan, Shape, plan_for

PROCESS = {"cpu": 560e6, "cuda": 600e6}
"""Bytes that are taken before there is a model: of the machine by Python, torch and a data set of some thousands of
records (measured), or of the device for its context."""
SUFFIX, ROW, ROWS = 100, 15, 22
"""A record of ROME: tokens of its rows from the subject's last on, tokens of a row, rows."""
BEGINNING = 10
"""Tokens of a prompt that texts are generated from."""
UPPER = 2 / 3
"""The share of layers above the edited one, which lies at a third of the depth where nothing is known better."""
TRAINED = 6
"""Tensors that a matrix in training needs: change, gradient, two moments, a temporary, the result."""
SPARE = {"cpu": 0.5}
"""Layers' keys and values that a decode cache has room for besides: one table to move the others into."""
SEARCH_LOGITS = {"cpu": 2**23, "cuda": 2**28}
"""Logits that a search holds at once, by kind of device."""


class Needs(NamedTuple):
    """Bytes, by what they are for."""

    process: float
    """Interpreter and libraries."""
    weights: float
    """The model, and its packed copies."""
    moment: float
    """A second moment, its factor, and the sums they come from."""
    changes: float
    """Changed matrices of a chunk's edits, where the editor changes whole matrices."""
    search: float
    """ROME's search: states that gradients need, the prefix's keys and values, logits."""
    train: float
    """Fine-tuning: matrices and their optimizers."""
    score: float
    """States and logits of one batch."""
    generate: float
    """Keys and values of texts, states and logits."""

    @property
    def always(self) -> float:
        """What is there in every stage."""
        return self.process + self.weights + self.moment

    @property
    def total(self) -> float:
        """The most at any moment, whatever the editor."""
        return self.always + max(self.search, self.train, self.changes + max(self.score, self.generate))

    @property
    def scoring(self) -> float:
        """The most at any moment where prompts are run, and nothing else."""
        return self.always - self.moment + self.score


def needs(shape: Shape, plan: Plan, length: int = TEXT) -> Needs:
    """Return what a plan is estimated to need.

    With T tokens in a batch, H the width, L layers of which U are above the edited one, V the vocabulary, b bytes a
    number, and 2K numbers kept by attention for each token and layer:

    - weights: the model; with packed products a copy of all of them, and one of layers above and output layer.
    - search: b T U (products' outputs + H + attention's weights) that gradients need, b 2K U for each prefix token,
      b (2H + 2 inner) for each token of the whole rows, and logits; its b is 4 at least, and of narrower weights there
      is one wide projection at a time.
    - train: 6 matrices a record, of as many records as fit into `weight_memory`.
    - score: b T (4H + 2 inner), and logits.
    - generate: b 2K L for each token of each text, b (4H + 2 inner) for each token of the prompts, and logits.

    Args:
        shape: the model's.
        plan: sizes of batches.
        length: tokens of a generated text.
    """
    one = shape.item
    upper = UPPER * shape.layers
    return Needs(
        process=PROCESS.get(shape.device, PROCESS["cuda"]),
        weights=shape.weights + (_packed(shape, upper) if shape.packs else 0),
        moment=3 * 8 * shape.inner**2,
        changes=plan.chunk * shape.dense,
        search=_search(shape, plan, upper),
        train=min(plan.chunk, max(1, plan.weight_memory // (TRAINED * shape.dense))) * TRAINED * shape.dense,
        score=plan.tokens_per_batch * one * _passing(shape) + _logits(shape, plan.logit_rows),
        generate=plan.generation_rows
        * one
        * (length * shape.token * (shape.layers + SPARE.get(shape.device, 0)) + BEGINNING * _passing(shape))
        + _logits(shape, plan.generation_rows),
    )


def _packed(shape: Shape, upper: float) -> float:
    head = shape.vocabulary * shape.width
    return 4 * ((shape.layers + upper) * shape.products + 2 * head)


def _search(shape: Shape, plan: Plan, upper: float) -> float:
    tokens = min(plan.tokens_per_batch, plan.chunk * SUFFIX)
    records = max(1, tokens // SUFFIX)
    whole = records * ROWS * ROW
    kept = tokens * upper * (shape.outputs + shape.width + shape.heads * ROW)
    prefix = (whole - tokens) * upper * shape.token
    below = whole * (2 * shape.width + 2 * shape.inner)
    logits = min(records * ROWS * shape.vocabulary, SEARCH_LOGITS.get(shape.device, SEARCH_LOGITS["cpu"]))
    item = max(4, shape.item)
    wide = 0 if item == shape.item else item * shape.width * shape.vocabulary
    return item * (kept + prefix + below) + 4 * records * shape.vocabulary + logits * (item + 8) + wide


def _passing(shape: Shape) -> int:
    """Numbers of a token that live at once while a block runs."""
    return 4 * shape.width + 2 * shape.inner


def _logits(shape: Shape, rows: int) -> int:
    """Bytes of logits, once in the model's dtype and twice in float32."""
    return rows * shape.vocabulary * (shape.item + 2 * max(4, shape.item))


def plan_within(shape: Shape, memory: float, length: int = TEXT) -> Plan:
    """Return the plan for a given memory: the default one, its largest stage halved until the estimate fits.

    Args:
        shape: the model's.
        memory: bytes: on a processor of the whole process, else of the device.
        length: tokens of a generated text.

    Raises:
        BadInput: not even one record at a time is estimated to fit.
    """
    plan = plan_for(shape)
    while (need := needs(shape, plan, length)).total > memory:
        smaller = _smaller(shape, plan, need, length)
        if smaller is None:
            raise BadInput(
                f"one record at a time is estimated to need {say(need.total)}, of which {say(need.weights)} are the "
                f"model's, and --max-memory gives {say(memory)}: give more, or load a smaller model or --dtype bfloat16"
            )
        plan = smaller
    return plan


def _smaller(shape: Shape, plan: Plan, need: Needs, length: int) -> Plan | None:
    """Halve what the stage that needs most hangs on, if it can be halved and helps."""
    half = {
        "search": {"tokens_per_batch": min(plan.tokens_per_batch, plan.chunk * SUFFIX) // 2},
        "train": {"weight_memory": int(need.train) // 2},
        "score": {"tokens_per_batch": plan.tokens_per_batch // 2, "logit_rows": plan.logit_rows // 2},
        "generate": {"generation_rows": plan.generation_rows // 2},
        "changes": {"chunk": plan.chunk // 2},
    }
    fewest = {**vars(FEWEST), "weight_memory": TRAINED * shape.dense}
    for stage in sorted(half, key=lambda stage: -getattr(need, stage)):
        sizes = {name: max(fewest[name], size) for name, size in half[stage].items()}
        found = replace(plan, **sizes)
        if found != plan and getattr(needs(shape, found, length), stage) < getattr(need, stage):
            return found
    return None


def say(size: float) -> str:
    """Write bytes for people.

    >>> say(6.23e9), say(512e6)
    ('6.2 GB', '512 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
