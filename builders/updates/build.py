"""Writes a data set of updates: what `counterfact updates OLD NEW` does."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from counterfact.core.errors import BadInput
from counterfact.core.files import hash_file, hash_json
from counterfact.core.places import data_folder
from counterfact.core.seeds import derive_seed

from ..audit.statistics import stats_json
from ..build_folder import BuildReport, finished_build, write_build
from ..code import code_behind
from ..ripples.relations import load_relations_in_words
from ..sources.pararel import language_folder, load_pararel
from ..sources.truthy_dump import check_dump
from ..texts.generation_prompts import load_generation_prompts
from .changes import Kind, Replaced
from .finding import Progress, find_updates
from .records import line_of, record_of, why_no_record

KINDS: tuple[Kind, ...] = ("change", "correction", "undated")
"""Kinds that become records unless others are chosen."""

CLASSES = ("P31", "P279")


def build(
    out: str | Path,
    old: str | Path,
    new: str | Path,
    *,
    relations: Sequence[str] | None = None,
    kinds: Sequence[str] = KINDS,
    most: int = 100_000,
    language: str = "en",
    pararel: str | Path | None = None,
    prompts: str | Path | None = None,
    paraphrases: int = 2,
    seed: int = 0,
    name: str = "updates",
    version: str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> BuildReport:
    """Build a data set of updates: `build("datasets/updates", "truthy-2024.nt.gz", "truthy-2025.nt.gz")`.

    Args:
        out: folder to be made; it gets `records.jsonl`, `updates.jsonl` (every replaced object with its kind),
            `stats.json` and `build.json` with all counts.
        old, new: dumps of WikiData, truthy or full; only a full one tells changes from corrections.
        relations: those that are looked at; by default all that have words in `data/relations`, but for what kind of
            thing something is.
        kinds: kinds of updates that become records.
        most: records, at most; of more they are drawn.
        language: of labels and prompts.
        pararel: folder whose templates are taken first; by default the embedded one.
        prompts: folder of generation prompts; by default the embedded one.
        paraphrases: paraphrase prompts in a record, at most.
        seed: of every draw.
        name, version: of the data set.
        workers: processes that filter the dumps.
        progress: function that is told how far it is.

    Raises:
        BadInput: a dump, a kind or a relation is wrong, or nothing became a record.
    """
    started = time.perf_counter()
    if unknown := set(kinds) - set(get_args(Kind)):
        raise BadInput(f"expected kinds among {', '.join(get_args(Kind))}, got {', '.join(sorted(unknown))}")
    templates = _templates(Path(pararel) if pararel else data_folder() / "pararel", language)
    chosen = [id for id in templates if id not in CLASSES] if relations is None else list(relations)
    if missing := [relation for relation in chosen if relation not in templates]:
        raise BadInput(f"no template in {language} for {', '.join(missing)}. Known: {', '.join(templates)}")
    dumps = {"old": Path(old), "new": Path(new)}
    for dump in dumps.values():
        check_dump(dump)
    sources = {key: {"file": dump.name, "sha256": hash_file(dump)} for key, dump in dumps.items()}
    settings = {
        "relations": chosen,
        "kinds": list(kinds),
        "most": most,
        "language": language,
        "paraphrases": paraphrases,
        "seed": seed,
    }
    fingerprint = hash_json([sources, settings, name, version, code_behind(__name__)])
    if (finished := finished_build(Path(out), fingerprint)) is not None:
        return finished
    found = find_updates(dumps["old"], dumps["new"], chosen, language, workers=workers, progress=progress)
    generation = load_generation_prompts(
        language_folder(Path(prompts) if prompts else data_folder() / "prompts" / "generation", language)
    )
    reasons: Counter[str] = Counter()
    fit: list[Replaced] = []
    for one in found.replaced:
        reason = f"kind: {one.kind}" if one.kind not in kinds else why_no_record(one, found, templates)
        if reason is None:
            fit.append(one)
        else:
            reasons[reason] += 1
    ordered = sorted(fit, key=lambda one: derive_seed(seed, "order", one.subject, one.relation))
    if len(ordered) > most:
        reasons["more than wanted"] = len(ordered) - most
    records = [
        record_of(
            one,
            found,
            case_id,
            templates[one.relation],
            generation.get(one.relation, ()),
            paraphrases=paraphrases,
            seed=seed,
        )
        for case_id, one in enumerate(ordered[:most])
    ]
    counts = {"records": len(records), "found": dict(sorted(found.counts.items())), "dropped": dict(reasons)}
    if not records:
        raise BadInput(f"no update gave a record; counts: {counts}")
    files = {
        "records.jsonl": [record.model_dump(by_alias=True) for record in records],
        "updates.jsonl": (line_of(one, found) for one in found.replaced),
        "stats.json": stats_json(records),
    }
    meta = {
        "name": name,
        "version": version,
        "kind": "counterfact",
        "seed": seed,
        "settings": settings,
        "sources": sources,
        "counts": counts,
    }
    places = {key: str(dump) for key, dump in dumps.items()}
    return write_build(Path(out), fingerprint, files, meta, started=started, places=places)


def _templates(pararel: Path, language: str) -> Mapping[str, Sequence[str]]:
    """Return the templates of all relations that have words: ParaRel's, else the one of our own."""
    own = {
        id: [words.ask] for id, words in load_relations_in_words(data_folder() / "relations", language).words.items()
    }
    collected = {one.id: list(one.templates) for one in load_pararel(language_folder(pararel, language), language)}
    return {id: collected.get(id) or asks for id, asks in own.items()}
