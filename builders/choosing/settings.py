"""Options of a CounterFact build, with their defaults."""

from typing import Literal

from pydantic import Field

from counterfact.core.settings import Settings


class BuildSettings(Settings):
    """Options of a build."""

    name: str = "counterfact-embedded"
    """Name of the data set."""
    version: str = "1"
    """Version of the data set."""
    language: str = "en"
    """Language of labels, templates and prompts, by its code."""
    relations: list[str] | None = None
    """Relations to build; by default all that have tuples."""

    seed: int = 0
    """Seed of every choice."""
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
