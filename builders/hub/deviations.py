"""What a build does otherwise than appendix D of the paper says, as the rows of one table.

Meng, Bau, Andonian, Belinkov. Locating and Editing Factual Associations in GPT. NeurIPS 2022, appendix D.
https://arxiv.org/abs/2202.05262.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Deviation(NamedTuple):
    """One deviation."""

    what: str
    paper: str
    here: str


def deviations(build: Mapping[str, Any]) -> list[Deviation]:
    """Return the deviations that the content of a `build.json` tells of; none where it names no preset."""
    settings = build.get("settings") or {}
    return list(_deviations(settings, build)) if "preset" in settings else []


def _deviations(settings: Mapping[str, Any], build: Mapping[str, Any]) -> Iterator[Deviation]:
    sources = build.get("sources") or {}
    order = {"id": "lowest Q-ids", "sitelinks": "most sitelinks"}[settings["pool_order"]]
    if settings["pool"]:
        here = f"of the {settings['pool']} with the {order}, as the released data have it"
        yield Deviation("subjects of prompts about others", "of all that have the object", here)
    if settings["prompts_drawn"] == "spread":
        yield Deviation("which prompts about others", "a draw from subjects x templates", "spread over the subjects")
    told = {
        ("several_objects", "drop"): ("subjects with several objects", "kept", "left out"),
        ("implied_objects", "exclude"): (
            "new objects that imply a true one or follow from it",
            "not looked at",
            "left out, by P279, P131, P17, P361 and P30",
        ),
        ("subject_kinds", "check"): (
            "subjects of another kind than their relation is about (a newspaper's original language of film)",
            "not looked at",
            "left out of five relations, by P31, P106 and P279, where the source tells",
        ),
        ("too_few_attributes", "drop"): ("new objects of too few subjects for attribute prompts", "drawn", "left out"),
        ("objects_in_subjects", "drop"): ("names that hold their object", "kept", "left out"),
        ("cutting", "natural"): (
            "patterns with words after the object",
            "few are cut",
            "cut where one can go on",
        ),
        ("non_conflicting", True): ("records that contradict an earlier one", "kept", "left out"),
    }
    for (key, value), row in told.items():
        if settings.get(key) == value:
            yield Deviation(*row)
    if (fewest := settings.get("fewest_neighbors", 1)) > 1:
        here = f"{fewest}, as the released data have it; other tuples give no record"
        yield Deviation("fewest subjects of neighborhood prompts", "not said", here)
    if fewest := settings.get("fewest_sitelinks"):
        yield Deviation("fewest sitelinks of a subject", "none asked for", str(fewest))
    yield from _counts(settings)
    if sources.get("templates") or settings.get("own_templates"):
        yield Deviation("templates", "ParaRel's", "and the toolkit's, where those are too few or read falsely")
    yield from _texts(settings, sources)
    yield Deviation("labels", "as WikiData and ParaRel have them", "cleaned: no notes, quotes or hidden characters")
    if settings.get("language", "en") != "en":
        yield Deviation("language", "English", str(settings["language"]))


def _counts(settings: Mapping[str, Any]) -> Iterator[Deviation]:
    """Yield numbers of prompts that are not the paper's."""
    paper = {"paraphrase": 2, "neighborhood": 10, "attribute": 10, "generation": 10}
    for kind, count in paper.items():
        here = settings.get(f"{kind}_prompts", count)
        if here != count:
            yield Deviation(f"{kind} prompts in a record", str(count), str(here))


def _texts(settings: Mapping[str, Any], sources: Mapping[str, Any]) -> Iterator[Deviation]:
    context = settings.get("paraphrase_context")
    if context == "none":
        yield Deviation("text before a paraphrase", "a random unrelated text", "none")
    elif context:
        longest = settings.get("longest_context")
        words = f", of at most {longest} words" if longest else ""
        yield Deviation("text before a paraphrase", "a random unrelated text", f"a whole unrelated sentence{words}")
    yield Deviation("generation prompts", "written by the authors", "written for the toolkit, in their style")
    articles = sources.get("articles") or {}
    if not settings.get("reference_texts"):
        yield Deviation("reference texts", "articles about subjects that have the new object", "none")
    elif articles.get("kind") == "mediawiki" and not articles.get("whole"):
        yield Deviation("reference texts", "whole articles", "the openings of articles")
