"""Check a submission: its numbers follow from its records, its records are those of the split, and both are likely."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from counterfact.evaluation.store import results
from counterfact.leaderboard.reading import Refused
from counterfact.leaderboard.references import References, dataset_key, fingerprints, unedited_key, unedited_values
from counterfact.leaderboard.schema import ids_of
from counterfact.leaderboard.submission import Submission, find_candidates, read_submission

EQUAL = 1e-6
"""How far an aggregate may lie from the one computed here: the rounding of another machine."""
PRE_TOLERANCE = 0.5
"""How many points (x100) an unedited score may lie from the reference: another device, never another padding."""
IDENTITY_TOLERANCE = 1e-2
"""How many nats the identity editor may move a value: another batch in bfloat16."""
REPEATED = 0.5
"""Largest share of all texts that may be one and the same text."""


@dataclass(frozen=True)
class Verdict:
    """What a check found; a submission is taken if no reason stands against it."""

    reasons: tuple[Refused, ...]
    missing: int = 0
    """Records of the split that are not there; they count as failures."""

    @property
    def accepted(self) -> bool:
        """Whether it is taken."""
        return not self.reasons


def check(folder: Path, references: References | None) -> Verdict:
    """Check one submission against what is known; what it holds never raises anything.

    Without references all is checked but what only they tell: which data set it is, and what the unedited model scores.
    """
    try:
        submission = read_submission(folder)
    except Refused as refused:
        return Verdict((refused,))
    return check_read(submission, references)


def check_all(root: Path, references: References) -> dict[Path, Verdict]:
    """Check every submission below a folder; what lies there and is part of none is refused by its name."""
    found = find_candidates(root)
    loose = Refused("loose-file", "it lies in no submission: each is a folder of its own, with its two files")
    return {folder: check(folder, references) for folder in found.folders} | {
        path: Verdict((loose,)) for path in found.loose
    }


def check_read(submission: Submission, references: References | None) -> Verdict:
    """Check a submission that could be read: each check that fails gives one reason."""
    reasons = []
    for one in CHECKS if references is not None else [one for one in CHECKS if one is not check_dataset]:
        try:
            one(submission, references or References({}, {}))
        except Refused as refused:
            reasons.append(refused)
    there = {line["case_id"] for line in submission.lines}
    missing = 0 if reasons else len(set(ids_of(submission.run["dataset"]["record_ids"])) - there)
    return Verdict(tuple(reasons), missing)


def check_dataset(submission: Submission, references: References) -> None:
    """Raise unless the data set is known under its hash, and called what it is called."""
    mine = submission.run["dataset"]
    known = references.datasets.get(dataset_key(submission.run))
    if known is None:
        found = f"no data set with content hash {mine['content_hash'][:12]}… is known here"
        raise Refused("unknown-dataset", f"{found} under the protocol {mine['kind']!r:.60}")
    for name in ("name", "version", "kind", "record_ids"):
        if mine[name] != known[name]:
            raise Refused("dataset-misnamed", f"dataset.{name} is {mine[name]!r:.60}, expected {known[name]!r:.60}")


def check_records(submission: Submission, references: References) -> None:
    """Raise unless the lines are records of the split: each once, in order, with all its prompts."""
    ids = ids_of(submission.run["dataset"]["record_ids"])
    mine = [line["case_id"] for line in submission.lines]
    twice = [case_id for case_id, n in Counter(mine).items() if n > 1]
    if twice:
        raise Refused("record-twice", f"case {twice[0]} stands more than once")
    place = {case_id: position for position, case_id in enumerate(ids)}
    if foreign := [case_id for case_id in mine if case_id not in place]:
        raise Refused("foreign-record", f"case {foreign[0]} is not of the split")
    if sorted(mine, key=place.__getitem__) != mine:
        raise Refused("out-of-order", "the records are not in the order of the split")
    records = references.datasets.get(dataset_key(submission.run), {}).get("records", {})
    for line in submission.lines:
        for side in ("post", "pre"):
            found, known = fingerprints(line, side), records.get(str(line["case_id"]))
            if found and known and known not in found:
                raise Refused("other-record", f"case {line['case_id']}: `{side}` has another request or other prompts")


def check_aggregates(submission: Submission, _references: References) -> None:
    """Raise unless counts and scores are what the records give, of the metrics that both know."""
    run = submission.run
    computed = results(submission.benchmark, submission.cases, submission.unedited, run["seeds"]["run"])
    if _counted(run["n"]) != _counted(computed["n"]):
        raise Refused("counts-differ", "`n` is not what the per-record file gives")
    for section in ("metrics", "pre"):
        if missing := {"S", *submission.benchmark.score_parts} - set(run[section]):
            raise Refused("other-metrics", f"{section}: {min(missing)} is missing")
        for name in sorted(set(run[section]) & set(computed[section])):
            _check_metric(f"{section}.{name}", run[section][name], computed[section][name])


def _counted(n: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts that follow from the records; in words, versions may say differently what a text lacks."""
    unedited = n.get("unedited")
    if isinstance(unedited, Mapping):
        unedited = {name: value for name, value in unedited.items() if name != "texts_missing"}
    return {**n, "texts_missing": None, "unedited": unedited}


def _check_metric(where: str, entry: Mapping[str, Any], computed: Mapping[str, Any]) -> None:
    """Raise unless an entry is what the records give; one of an earlier definition cannot be computed here any more.

    An interval of another definition is compared with nothing: the board computes it anew.
    """
    if entry["definition"] < computed["definition"]:
        return
    other_interval = entry.get("interval", 1) != computed["interval"]
    for key, value in computed.items():
        if other_interval and key in {"low", "high", "interval"}:
            continue
        if not _equal(entry[key], value):
            code = "definition-differs" if key in {"definition", "unit"} else "aggregate-differs"
            raise Refused(code, f"{where}.{key} is {entry[key]!r:.40}, the records give {value!r}")


def check_unedited(submission: Submission, references: References) -> None:
    """Raise unless the unedited model scores what it is known to score on the same records.

    Records that are missing are compared by nobody and count as failures; a model that is not known passes.
    """
    known = references.unedited.get(unedited_key(submission.run), {})
    mine = unedited_values(submission.unedited, submission.benchmark)
    for name, values in known.items():
        both = [case for case in mine.get(name, {}) if case in values]
        if not both:
            continue
        score, wanted = (100 * fmean(side[name][case] for case in both) for side in (mine, known))
        if abs(score - wanted) > PRE_TOLERANCE:
            raise Refused(
                "pre-differs",
                f"the unedited model's {name} is {score:.2f} on {len(both)} records, known is {wanted:.2f} ± "
                f"{PRE_TOLERANCE}: look at padding, dtype and tokenizer",
            )


def check_identity(submission: Submission, _references: References) -> None:
    """Raise if the editor that changes nothing changed something."""
    if submission.run["editor"]["name"] != "identity":
        return
    for line in submission.lines:
        if "post" in line and "pre" in line:
            moved = _moved(line["post"], line["pre"])
            if moved > IDENTITY_TOLERANCE:
                raise Refused("identity-moved", f"case {line['case_id']}: identity moved a value by {moved:.3g}")


def check_texts(submission: Submission, _references: References) -> None:
    """Raise unless texts are there where they were generated, and are not one text over and over."""
    if submission.benchmark.generation_prompts is None or submission.run["protocol"].get("generation") is None:
        return
    texts: Counter[str] = Counter()
    for line in submission.lines:
        if "post" in line:
            mine = [text for text in line["post"]["text"] if text]
            if not mine and "text_missing" not in line["post"]:
                raise Refused("no-texts", f"case {line['case_id']} has no generated text")
            texts.update(mine)
    total = sum(texts.values())
    if total >= 4 and (most := texts.most_common(1)[0][1]) > REPEATED * total:
        raise Refused("same-text", f"{most} of {total} generated texts are one and the same")


def check_times(submission: Submission, _references: References) -> None:
    """Raise unless the run took time, and ended after it began."""
    environment = submission.run["environment"]
    seconds = environment.get("wall_seconds")
    if not isinstance(seconds, dict) or not seconds:
        raise Refused("no-times", "environment.wall_seconds is missing")
    values = [value for value in seconds.values() if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(values) < len(seconds) or min(values) < 0 or sum(values) <= 0:
        raise Refused("impossible-times", "environment.wall_seconds are not positive numbers")
    try:
        began, ended = (datetime.fromisoformat(environment[name]) for name in ("started", "finished"))
        backwards = ended < began
    except (KeyError, TypeError, ValueError) as error:
        raise Refused("no-times", "environment.started and environment.finished are not two dates") from error
    if backwards:
        raise Refused("impossible-times", "the run ended before it began")


CHECKS: tuple[Callable[[Submission, References], None], ...] = (
    check_dataset,
    check_records,
    check_aggregates,
    check_unedited,
    check_identity,
    check_texts,
    check_times,
)


def _equal(mine: Any, value: Any) -> bool:
    if isinstance(value, float) and isinstance(mine, int | float):
        return math.isclose(mine, value, rel_tol=EQUAL, abs_tol=EQUAL)
    return bool(mine == value)


def _moved(post: Mapping[str, Any], pre: Mapping[str, Any]) -> float:
    """Return by how much the two blocks of a record differ at most: in nats, or 1 where a boolean differs."""
    pairs = list(_values(post)), list(_values(pre))
    if len(pairs[0]) != len(pairs[1]):
        return math.inf
    return max(
        (abs(a - b) if a is not None and b is not None else float(a is not b) for a, b in zip(*pairs, strict=True)),
        default=0.0,
    )


def _values(block: Mapping[str, Any]) -> Iterator[float | None]:
    for name in sorted(block):
        if name.endswith("_probs"):
            for pair in block[name]:
                yield from (pair["target_new"], pair["target_true"])
        elif name.endswith("_correct"):
            yield from map(float, block[name])
