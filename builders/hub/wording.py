"""The sentences about a data set on the Hub, the same in its card and its Croissant metadata."""

from collections.abc import Sequence
from dataclasses import dataclass

from .parts import Part

PAPER = "https://arxiv.org/abs/2202.05262"
BIBTEX = """@inproceedings{meng2022locating,
  title = {Locating and Editing Factual Associations in {GPT}},
  author = {Kevin Meng and David Bau and Alex Andonian and Yonatan Belinkov},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {35},
  year = {2022}
}"""


@dataclass(frozen=True)
class Wording:
    """Sentences about one data set."""

    title: str
    description: str
    collection: str
    limits: tuple[str, ...]
    uses: tuple[str, ...]
    personal: str
    maintenance: str
    missing: str
    raw: str
    preprocessing: str
    impact: str
    biases: str
    citation: str = BIBTEX

    @property
    def rai(self) -> tuple[tuple[str, str | list[str]], ...]:
        """The datasheet: fields of the Croissant RAI vocabulary 1.0, in its order.

        https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html
        """
        return (
            ("rai:dataCollection", self.collection),
            ("rai:dataCollectionType", ["Software Collection", "Others"]),
            ("rai:dataCollectionMissingData", self.missing),
            ("rai:dataCollectionRawData", self.raw),
            ("rai:dataPreprocessingProtocol", self.preprocessing),
            ("rai:dataAnnotationProtocol", "None: nothing is annotated by people."),
            ("rai:dataReleaseMaintenancePlan", self.maintenance),
            ("rai:personalSensitiveInformation", self.personal),
            ("rai:dataSocialImpact", self.impact),
            ("rai:dataBiases", self.biases),
            ("rai:dataLimitations", list(self.limits)),
            ("rai:dataUseCases", list(self.uses)),
        )


def wording_for(parts: Sequence[Part]) -> Wording:
    """Return the sentences; figures come from the builds."""
    records = [part for part in parts if part.kind is not None]
    rows = sum(len(part.rows) for part in records)
    names = list(dict.fromkeys(str(part.build.get("name") or part.config) for part in records))
    kinds = {part.kind for part in records}
    languages = ", ".join(sorted({part.language for part in records}))
    limits = [
        "Facts are a sample of what their source held on the day it was read, and may be outdated or wrong.",
        f"Labels are in one language ({languages}); entities without a label in it are left out and counted.",
        "A score holds for the version of the data set that it names; versions are not to be ranked together.",
    ]
    if "counterfact" in kinds:
        limits += [
            "New objects are drawn within a relation, so that some of them are implausible for their subject.",
            "Prompts come from few templates for a relation, so that records of a relation are not independent.",
        ]
    collection = (
        "Records are a function of their sources and a seed, made by a program; nobody was asked or paid to annotate."
    )
    return Wording(
        title=", ".join(names),
        description=f"{rows:,} requests to edit facts in language models, with the prompts that measure an edit.",
        collection=collection,
        limits=tuple(limits),
        uses=(
            "Measuring editors of language models: whether an edit takes, generalises, and leaves other facts alone.",
            "Not a source of facts: the new objects of CounterFact are false by design. Not for training assistants.",
        ),
        personal="Records name people of public record, some of them living, and state things about them that are "
        "false by design. Do not publish edited models, or their texts, as information about anyone.",
        missing="Tuples that gave no record are counted by reason in the build's own file; nothing was imputed.",
        raw="Tuples and templates in ParaRel's form, facts and labels of WikiData, articles, or files of zsRE; their "
        "checksums are in the build's own file.",
        preprocessing="Labels are cleaned (notes in parentheses, quotes, hidden characters, Unicode form), tuples are "
        "resolved to entities by their labels and relation together, and patterns are cut at their object.",
        impact="Editing changes what a model states as fact; methods that do it well can correct models, and can plant "
        "falsehoods. Scores here say nothing about whether an edit ought to be made.",
        biases="Subjects are those of WikiData and Wikipedia, which know men, Europe, North America and people of our "
        "time best; neighbors are drawn from well-known subjects. English templates suit English names.",
        maintenance="A version is never changed once it is tagged; a correction is a new version with its own tag.",
    )
