"""A language model that can be looked into and changed: weights, tokenizer, and the map of its parts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import Any

import torch

from counterfact.lm.model.encoding import Encoding, Located, SubjectRule
from counterfact.lm.model.families import ScoreChange, score_changes
from counterfact.lm.model.hooks import find_module
from counterfact.lm.model.precision import Precision
from counterfact.lm.model.sites import Layout

LENGTH = 2048
"""Longest row in tokens of a model that does not say, as one with ALiBi may not."""


@dataclass(frozen=True, eq=False)
class LM:
    """A causal language model in evaluation mode, frozen, with its tokenizer and the map of its parts."""

    model: Any
    """A `PreTrainedModel`; its parameters need no gradient."""
    tokenizer: Any
    """A fast tokenizer of the `transformers` library."""
    layout: Layout
    name: str
    """The folder's name, or the Hub id."""
    revision: str
    """The start of the weights' hash for a folder, the commit for a Hub id."""
    weights_hash: str
    """sha256 over the weight files, in the order of their names."""
    dtype: torch.dtype
    precision: Precision = "strict"
    """Precision of float32 products, in force within a block of `packed_products`."""
    written: list[Any] = field(default_factory=list)
    """Edits that stand in the weights at present, put there by `merged`; `weights_hash` knows nothing of them.
    Copies of this object share the list."""

    @property
    def device(self) -> torch.device:
        """Where the model's inputs must be."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @cached_property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.config.num_hidden_layers)

    @cached_property
    def width(self) -> int:
        """Width H of the residual stream."""
        return int(self.config.hidden_size)

    @cached_property
    def vocabulary(self) -> int:
        """Number of logits."""
        return int(self.config.vocab_size)

    @cached_property
    def max_length(self) -> int:
        """Longest row in tokens: the model's positions, or the shortest attention window of its layers if that is less.

        So in every layer each token sees all tokens before it.
        """
        config = self.config
        window = getattr(config, "sliding_window", None)
        if getattr(config, "layer_types", None) and "sliding_attention" not in config.layer_types:
            window = None
        if "local" in (getattr(config, "attention_layers", None) or ()):
            window = config.window_size
        positions = getattr(config, "max_position_embeddings", None) or LENGTH
        return int(min(positions, window or positions))

    @cached_property
    def rotary_kinds(self) -> list[str | None]:
        """The kind of rotary table of each layer, where the family has several."""
        rotary = self.layout.rotary and find_module(self.model, self.layout.rotary)
        if not rotary or "layer_type" not in signature(rotary.forward).parameters:
            return [None] * self.n_layers
        return list(self.config.layer_types)

    @cached_property
    def attends_as_usual(self) -> bool:
        """Whether the library's own kernel computes its attention: softmax of scaled scores, and nothing else."""
        is_usual = self.layout.attention_call == "interface" and self.layout.attention_kernel == "sdpa"
        return is_usual and not any(self.score_changes)

    @cached_property
    def score_changes(self) -> list[ScoreChange | None]:
        """What each layer does to its attention scores; `None`: nothing."""
        return score_changes(self.model, self.layout, self.max_length)

    @property
    def working_dtype(self) -> torch.dtype:
        """The dtype of losses, steps and deltas: float64 for a float64 model, else float32."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def arithmetic(self) -> str:
        """The weights' dtype, and how their products are rounded where they are not as exact as the dtype allows."""
        dtype = str(self.dtype).removeprefix("torch.")
        return dtype if self.precision == "strict" else f"{dtype}, {self.precision} products"

    @property
    def identity(self) -> dict[str, str]:
        """What a result keeps about the model."""
        return {
            "name": self.name,
            "revision": self.revision,
            "weights_hash": self.weights_hash,
            "dtype": self.arithmetic,
        }

    @cached_property
    def encoding(self) -> Encoding:
        """The tokenizer as it is used here, for many texts at once."""
        return Encoding.of(self.tokenizer, len(self.model.get_input_embeddings().weight))

    @property
    def text_start(self) -> list[int]:
        """Ids that begin a text out of nothing: what the tokenizer puts first, else its bos, else its eos token."""
        marks = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return list(self.encoding.start) or [mark for mark in marks if mark is not None][:1]

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return self.encoding.texts([text])[0]

    def prompt_tokens(self, prompt: str) -> list[int]:
        """Return the ids of a prompt: a beginning-of-sequence token first if the tokenizer adds one, nothing after."""
        return self.encoding.prompts([prompt])[0]

    def target_tokens(self, target: str, joiner: str = " ") -> list[int]:
        """Return the ids of a target after its joiner; a row is `prompt_tokens(p) + target_tokens(t)`.

        Raises:
            ValueError: the target is empty, or the tokenizer cannot encode it.
        """
        return self.encoding.target(target, joiner)

    def locate(
        self, templates: Sequence[str], subjects: Sequence[str], rule: SubjectRule = "subject_last"
    ) -> list[Located]:
        """Return the ids of many filled templates and the position that `rule` names in each: `Encoding.locate`."""
        return self.encoding.locate(templates, subjects, rule)

    def subject_position(self, template: str, subject: str, rule: SubjectRule) -> int:
        """Return the index that `rule` names in `prompt_tokens(fill(template, subject))`, never negative."""
        return self.locate([template], [subject], rule)[0].position

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return self.encoding.decode(ids)
