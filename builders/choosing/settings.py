"""Options of a CounterFact build, with their defaults: those of the paper, or those of a stricter reading of it."""

from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, model_validator

from counterfact.core.settings import Settings

from ..sources.pararel import Cutting

STRICT = MappingProxyType(
    {
        "pool": 0,
        "prompts_drawn": "spread",
        "several_objects": "drop",
        "implied_objects": "allow",
        "subject_kinds": "any",
        "too_few_attributes": "drop",
        "fewest_neighbors": 1,
        "cutting": "natural",
        "longest_context": 0,
        "own_templates": False,
    }
)
"""What the preset `strict` has otherwise: facts with one object only, and prompts spread over all subjects."""


class BuildSettings(Settings):
    """Options of a build; `preset` gives those that are not given themselves."""

    name: str = "counterfact"
    """Name of the data set."""
    version: str | None = None
    """Version of the data set; by default 2, and unless a preset of the embedded world was built as it is, the start of
    the content's hash after it."""
    language: str = "en"
    """Language of labels, templates and prompts, by its code."""
    relations: list[str] | None = None
    """Relations to build; by default all that have tuples."""

    seed: int = 0
    """Seed of every choice."""
    preset: Literal["paper", "strict"] = "paper"
    """Where options that are not given come from: CounterFact as released, or a stricter reading of the paper."""
    paraphrase_prompts: int = Field(default=2, ge=0)
    """Number of paraphrase prompts in a record."""
    neighborhood_prompts: int = Field(default=10, ge=0)
    """Number of prompts in a record about other subjects that have the true object."""
    attribute_prompts: int = Field(default=10, ge=0)
    """Number of prompts in a record about subjects that have the new object."""
    generation_prompts: int = Field(default=10, ge=0)
    """Number of generation prompts in a record, drawn with replacement."""
    reference_texts: int = Field(default=25, ge=0)
    """Largest number of reference texts for an object."""
    objects_in_subjects: Literal["keep", "drop"] = "keep"
    """Whether a subject, or a neighbor, may name its object, as in the released data ("Porsche 911", by Porsche)."""
    paraphrase_context: Literal["articles", "texts", "none"] = "articles"
    """Text before a paraphrase prompt: a random unrelated sentence of the articles or of texts, or nothing."""
    fewest_sitelinks: int = Field(default=0, ge=0)
    """Smallest number of sitelinks of a subject; they are WikiData's own measure of how well known it is."""
    non_conflicting: bool = False
    """Whether to leave out records that contradict an earlier one, so that all edits can be made at once."""
    ripples: bool = False
    """Whether to write `ripples.jsonl`: what must follow from each edit, and what must stay."""
    ripple_prompts: int = Field(default=5, ge=1)
    """Most questions of one criterion around an edit."""

    pool: int = Field(default=20, ge=0)
    """Number of subjects of an object that prompts about others are drawn from, the first in order; 0 for all."""
    pool_order: Literal["id", "sitelinks"] = "id"
    """Order of subjects in a pool: by Q-id, lowest first, or by number of sitelinks, highest first."""
    prompts_drawn: Literal["uniform", "spread"] = "uniform"
    """Prompts about others: drawn uniformly from subjects x templates, or spread over as many subjects as there are."""
    fewest_neighbors: int = Field(default=3, ge=1)
    """Smallest number of subjects that the neighborhood prompts of a record are drawn from."""
    several_objects: Literal["keep", "drop"] = "keep"
    """Whether a subject may have other objects of the relation; the new object is then none of them."""
    implied_objects: Literal["exclude", "allow"] = "exclude"
    """Whether the new object may be a kind or a part of one that is true of the subject, or the reverse."""
    subject_kinds: Literal["check", "any"] = "check"
    """Whether subjects, and those of prompts about others, must be of a kind that the relation is about, by P31, P106
    and P279, of five relations (`data/relations/subject_kinds.jsonl`) and where the source has these."""
    too_few_attributes: Literal["keep", "drop"] = "keep"
    """What becomes of a new object that too few subjects have for all attribute prompts: fewer prompts, or another."""
    cutting: Cutting = "whole"
    """Which words after the object of a pattern may be cut off (see `sources.pararel.cut_pattern`)."""
    own_templates: bool = True
    """Whether templates that ship with the toolkit top up those of another ParaRel, in English."""
    longest_context: int = Field(default=8, ge=0)
    """Most words of a sentence before a paraphrase prompt; 0 for any number."""

    @property
    def pool_by_id(self) -> int:
        """Size of pools, where subjects stand in them by Q-id; 0 where any subject may be in one."""
        return self.pool if self.pool_order == "id" else 0

    @property
    def as_preset(self) -> bool:
        """Whether all options but the name are those of the preset."""
        own = {"name": self.name, "preset": self.preset, "non_conflicting": self.non_conflicting}
        return self == type(self).check(own, self.name)

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") == "strict":
            return {**STRICT, **values}
        return values
