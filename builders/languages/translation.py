"""A data set in another language: the same tuples and edits, with that language's labels, templates and prompts.

Records keep their numbers, and each names its tuple by a `fact_id` that does not depend on the language. Beside them
`across.jsonl` has each edit in the first language, with the questions of the second: `evaluate` takes it, so that an
edit in English is tested in French.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_json, read_jsonl
from counterfact.core.places import data_folder
from counterfact.core.seeds import derive_seed
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord, Entity, RequestedRewrite

from ..audit.loading import load_counterfact
from ..audit.statistics import stats_json
from ..build_folder import BuildReport, finished_build, write_build
from ..code import code_behind
from ..fact_ids import fact_id
from ..ripples.facts import FactsAround
from ..sources.local_store import check_language
from ..sources.options import SourceOptions
from ..sources.pararel import cut_pattern, language_folder
from ..texts.generation_prompts import load_generation_prompts
from .grammar import Grammar, load_grammar

SORT = "Other_Language"
SORTS = ("neighborhood", "attribute")


@dataclass(frozen=True)
class Language:
    """What a language gives: words, names and how they join."""

    code: str
    templates: Mapping[str, Sequence[str]]
    generation: Mapping[str, Sequence[str]]
    grammar: Grammar
    names: FactsAround


def build(
    out: str | Path,
    source: str | Path,
    language: str,
    *,
    options: SourceOptions | None = None,
    name: str | None = None,
    version: str | None = None,
    seed: int = 0,
) -> BuildReport:
    """Write a data set in another language: `build("datasets/fr", "datasets/counterfact", "fr", options=...)`.

    Args:
        out: folder to be made; it gets `records.jsonl`, `across.jsonl`, `dropped.jsonl`, `stats.json`, `build.json`.
        source: a data set that was built here, whose records have the ids of their entities.
        language: code of the other language.
        options: where labels come from, and perhaps folders of templates and prompts.
        name: by default that of the source with the language's code after it.
        version: of the data set.
        seed: of the choice of templates.

    Raises:
        BadInput: the language has no templates, the facts have no labels in it, or no record could be made.
        SourceError: the source of facts could not answer.
    """
    started = time.perf_counter()
    options = options or SourceOptions()
    data = load_counterfact(str(source))
    records = [record for record in data.records if _ids(record) is not None]
    opened = options.open(articles=False, texts=False)
    check_language(opened.facts, language)
    pararel = Path(options.pararel) if options.pararel and not options.fetches_pararel else data_folder() / "pararel"
    templates = load_templates(language_folder(pararel, language), language)
    generation = load_generation_prompts(language_folder(options.generation, language))
    grammar = load_grammar(data_folder() / "languages", language)
    settings = {"language": language, "seed": seed, "name": name, "version": version}
    read = hash_json([record.model_dump(by_alias=True, mode="json") for record in data.records])
    words = [templates, generation, [rule.model_dump() for rule in grammar.rules]]
    fingerprint = hash_json([read, settings, opened.facts.identity(), words, code_behind(__name__)])
    if (finished := finished_build(Path(out), fingerprint)) is not None and opened.client is None:
        return finished
    names = FactsAround(opened.facts, [], language)
    names.learn_names({id for record in records for id in _all_ids(record)})
    translator = Translator(Language(language, templates, generation, grammar, names), seed)
    made, dropped = [], []
    for record in records:
        found = translator.record(record)
        if isinstance(found, str):
            dropped.append({"case_id": record.case_id, "reason": found})
        else:
            made.append((record, found))
    reasons = Counter(one["reason"] for one in dropped)
    if len(records) < len(data.records):
        reasons["no ids"] = len(data.records) - len(records)
    if not made:
        raise BadInput(f"no record of {data.label} could be put into {language}; the reasons: {dict(reasons)}")
    files = {
        "records.jsonl": [record.model_dump(by_alias=True) for _, record in made],
        "across.jsonl": [across(*pair, language) for pair in made],
        "dropped.jsonl": dropped,
        "stats.json": stats_json([record for _, record in made]),
    }
    meta = {
        "name": name or f"{data.label.split('@')[0]}-{language}",
        "version": version,
        "kind": "counterfact",
        "seed": seed,
        "settings": settings,
        "sources": {"records": {"data_set": data.label, "hash": read}, "facts": opened.facts.identity()},
        "counts": {"read": len(data.records), "records": len(made), "dropped": dict(sorted(reasons.items()))},
    }
    return write_build(Path(out), fingerprint, files, meta, started=started, places={"records": str(source)})


class Translator:
    """Puts records into a language.

    Args:
        language: its words, names and rules.
        seed: of the choice of templates.
    """

    def __init__(self, language: Language, seed: int) -> None:
        self._language = language
        self._seed = seed

    def record(self, record: CounterFactRecord) -> CounterFactRecord | str:
        """Return a record in the language, or why there is none."""
        ids, relation = _ids(record), record.requested_rewrite.relation_id
        if ids is None or relation is None:
            return "no ids"
        labels = [self._language.names.label(id) for id in ids]
        if None in labels:
            return "no label"
        subject, true, new = map(str, labels)
        if new.casefold() in {true.casefold(), subject.casefold()}:
            return "one label for two entities"
        templates = self._language.templates.get(relation)
        if not templates:
            return "no template"
        id = fact_id(ids[0], relation, ids[1])
        random = Random(derive_seed(self._seed, "language", id))
        join, fill = self._language.grammar.join, self._language.grammar.fill
        first, *others = random.sample(list(templates), len(templates))
        prompt, name = join(first, subject)
        provenance = record.provenance or {}
        near, far = (self._about(provenance.get(f"{sort}_ids", ()), templates, random) for sort in SORTS)
        generation = self._language.generation.get(relation, ())
        return CounterFactRecord(
            case_id=record.case_id,
            pararel_idx=record.pararel_idx,
            requested_rewrite=RequestedRewrite(
                prompt=prompt,
                relation_id=relation,
                target_new=Entity(str=new, id=ids[2]),
                target_true=Entity(str=true, id=ids[1]),
                subject=name,
            ),
            paraphrase_prompts=[fill(template, subject) for template in others[:2]],
            neighborhood_prompts=[prompt for _, prompt in near],
            attribute_prompts=[prompt for _, prompt in far],
            generation_prompts=[fill(template, subject) for template in generation],
            provenance={
                "fact_id": id,
                "subject_id": ids[0],
                "neighborhood_ids": [other for other, _ in near],
                "attribute_ids": [other for other, _ in far],
            },
        )

    def _about(self, ids: Sequence[str], templates: Sequence[str], random: Random) -> list[tuple[str, str]]:
        """Return as many distinct prompts about each subject as the record has, while there are templates."""
        left = {id: random.sample(list(templates), len(templates)) for id in dict.fromkeys(ids)}
        labels = {id: self._language.names.label(id) for id in left}
        fill = self._language.grammar.fill
        return [(id, fill(left[id].pop(), label)) for id in ids if (label := labels[id]) is not None and left[id]]


def across(record: CounterFactRecord, other: CounterFactRecord, language: str) -> dict[str, Any]:
    """Return an edit in the first language with the questions of the second, in KnowEdit's form.

    What must follow: the edited fact in the other language, where the unedited model knows it there. What must stay:
    other subjects with the true object, and with the new one.
    """
    rewrite, asked = record.requested_rewrite, other.requested_rewrite
    prompts = [other.request.filled, *other.paraphrase_prompts]
    needs = {prompt: [{"prompt": prompt, "ground_truth": [asked.true_text]}] for prompt in prompts}
    new, true = [asked.target_new.text], [asked.true_text]
    return {
        "case_id": record.case_id,
        "subject": rewrite.subject,
        "prompt": record.request.filled,
        "target_new": rewrite.target_new.text,
        "ground_truth": [rewrite.true_text],
        "rephrase": list(record.paraphrase_prompts),
        "ripples_of": [*map(str, _ids(record) or ())],
        "language": language,
        "portability": {SORT: [{"prompt": prompt, "ground_truth": new, "needs": needs[prompt]} for prompt in prompts]},
        "locality": {
            "Neighborhood": [{"prompt": prompt, "ground_truth": true} for prompt in other.neighborhood_prompts],
            "Attribute": [{"prompt": prompt, "ground_truth": new} for prompt in other.attribute_prompts],
        },
    }


def load_templates(folder: Path, language: str) -> dict[str, tuple[str, ...]]:
    """Read the templates of a folder in ParaRel's layout, whether it has tuples or not.

    Raises:
        BadInput: it has none.
    """
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted((folder / "pattern_data" / "graphs_json").glob("P*.jsonl")):
        cut = (cut_pattern(str(value["pattern"]), language).template for value in read_jsonl(path))
        if templates := tuple(dict.fromkeys(template for template in cut if template is not None)):
            found[path.stem] = templates
    if not found:
        raise BadInput(
            f"no templates at {folder}: expected pattern_data/graphs_json/P*.jsonl with patterns in {language}"
        )
    return found


def _ids(record: CounterFactRecord) -> tuple[str, str, str] | None:
    """Return the ids of subject, true and new object, or None."""
    rewrite, true = record.requested_rewrite, record.requested_rewrite.target_true
    subject = (record.provenance or {}).get("subject_id")
    if subject is None or true is None or true.id is None or rewrite.target_new.id is None:
        return None
    return str(subject), true.id, rewrite.target_new.id


def _all_ids(record: CounterFactRecord) -> list[str]:
    provenance = record.provenance or {}
    others = [id for sort in SORTS for id in provenance.get(f"{sort}_ids", ())]
    return [*(_ids(record) or ()), *others]
