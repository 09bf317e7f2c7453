"""Pack documents into rows of tokens, with the attention mask that leads knowledge through the last subject token."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from world.corpus import Document

Array = npt.NDArray[np.int64]
LOOKAHEAD = 32
START = 0.3


class Span(NamedTuple):
    """The tokens of a subject, `last` included, the subject's index, and whether later tokens see only the last."""

    first: int
    last: int
    subject: int
    hidden: bool


@dataclass(frozen=True)
class Segment:
    """Tokens that attend to one another and to nothing else in their row."""

    ids: list[int]
    weights: list[float]
    """Weight of the loss of each token, given those before; 0 leaves it out."""
    spans: list[Span]


class Batch(NamedTuple):
    """What one training step reads; `rows` x `length` unless said.

    Attributes:
        ids: token ids.
        positions: each segment starts at 0.
        visible: bool `(rows, 1, length, length)`, whether a query (dimension 2) sees a key (dimension 3).
        weights: float32, weight of predicting the *next* token.
        lasts: `(subjects, 2)`, row and position of each subject's last token.
        subjects: `(subjects,)`, their indices.
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    weights: Tensor
    lasts: Tensor
    subjects: Tensor


def visibility(length: int, spans: Sequence[Span]) -> npt.NDArray[np.bool_]:
    """Return which keys each query of a segment sees: those before it, and of hidden subjects already ended the last.

    Tokens that are followed by a token of a subject see all, so that a name can be spelt as it was before.

    >>> visibility(4, [Span(0, 1, 7, True)]).astype(int).tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    """
    past = np.tril(np.ones((length, length), dtype=np.bool_))
    mask = past.copy()
    for span in spans:
        if span.hidden:
            mask[span.last + 1 :, span.first : span.last] = False
    for span in spans:
        before = max(span.first - 1, 0)
        mask[before : span.last] = past[before : span.last]
    return mask


@dataclass(frozen=True)
class Weights:
    """Weights of the loss."""

    target: float = 8.0
    """The object of a fact document."""
    rest: float = 0.5
    """Share of its other tokens that count at all, each with weight 1."""
    text: float = 1.0
    """Tokens of articles."""
    mentioned: float = 2.0
    """Objects in articles."""
    hidden: float = 0.85
    """Share of the subjects in fact documents that are hidden but for their last token. In articles none is: a name
    that later tokens cannot see is spelt wrong when it comes again."""


class Packer:
    """Turns documents into batches.

    Args:
        tokenizer: a fast tokenizer with an end-of-text token.
        subjects: Q-id -> index; mentions of other entities are left alone.
        length: tokens in a row.
        weights: of the loss.
        rng: draws which tokens and masks are left out.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        subjects: Mapping[str, int],
        length: int,
        weights: Weights,
        rng: Random,
    ) -> None:
        self.tokenizer = tokenizer
        self.subjects = subjects
        self.length = length
        self.weights = weights
        self.rng = rng

    def segment(self, document: Document) -> Segment:
        """Tokenize a document and find its subjects and its object among the tokens."""
        encoded = self.tokenizer(document.text.text, return_offsets_mapping=True, verbose=False)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        article = document.article
        share = 1.0 if article else 0.0 if document.prefixed else self.weights.rest
        hidden = 0.0 if article else self.weights.hidden
        weights = [self.weights.text if self.rng.random() < share else 0.0 for _ in ids]
        spans = []
        for number, mention in enumerate(document.text.mentions):
            touched = [i for i, (start, end) in enumerate(offsets) if start < mention.end and end > mention.start]
            if mention.slot != "o" and mention.entity in self.subjects:
                subject = self.subjects[mention.entity]
                spans.append(Span(touched[0], touched[-1], subject, self.rng.random() < hidden))
            elif number == document.target or (article and mention.slot == "o"):
                for index in touched:
                    weights[index] = self.weights.mentioned if article else self.weights.target
        return Segment(ids, weights, spans)

    def fact_rows(self, documents: Iterator[Document]) -> Iterator[list[Segment]]:
        """Fill rows with fact documents; one that fits no more waits for the next row."""
        waiting = [self.segment(document) for document in islice(documents, LOOKAHEAD)]
        while True:
            row, room = [], self.length
            for segment in list(waiting):
                if len(segment.ids) <= room:
                    row.append(segment)
                    room -= len(segment.ids)
                    waiting.remove(segment)
            yield row
            waiting = [segment for segment in waiting if len(segment.ids) <= self.length]
            waiting += [self.segment(document) for document in islice(documents, LOOKAHEAD - len(waiting))]

    def article_rows(self, documents: Iterator[Document]) -> Iterator[list[Segment]]:
        """Fill rows with articles joined by end-of-text; each row is one segment that starts with an article, or with
        the end-of-text before it, as texts that are generated from nothing do."""
        end = int(self.tokenizer.eos_token_id)
        while True:
            ids = [end] if self.rng.random() < START else []
            weights = [0.0] * len(ids)
            spans: list[Span] = []
            while len(ids) < self.length:
                part = self.segment(next(documents))
                spans += [it._replace(first=it.first + len(ids), last=it.last + len(ids)) for it in part.spans]
                ids += [*part.ids, end]
                weights += [*part.weights, self.weights.text]
            spans = [span for span in spans if span.last < self.length]
            yield [Segment(ids[: self.length], weights[: self.length], spans)]

    def batch(self, rows: Sequence[Sequence[Segment]]) -> Batch:
        """Lay rows of segments out as tensors; room that is left sees itself and counts nothing."""
        ids = np.full((len(rows), self.length), int(self.tokenizer.eos_token_id), dtype=np.int64)
        positions = np.zeros_like(ids)
        visible = np.zeros((len(rows), 1, self.length, self.length), dtype=np.bool_)
        visible[:, 0] |= np.eye(self.length, dtype=np.bool_)
        weights = np.zeros((len(rows), self.length), dtype=np.float32)
        lasts, subjects = [], []
        for number, row in enumerate(rows):
            start = 0
            for segment in row:
                size = len(segment.ids)
                end = start + size
                ids[number, start:end] = segment.ids
                positions[number, start:end] = np.arange(size)
                weights[number, start : end - 1] = segment.weights[1:]
                visible[number, 0, start:end, start:end] = visibility(size, segment.spans)
                lasts += [(number, start + span.last) for span in segment.spans]
                subjects += [span.subject for span in segment.spans]
                start = end
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(positions),
            torch.from_numpy(visible),
            torch.from_numpy(weights),
            torch.tensor(lasts),
            torch.tensor(subjects),
        )
