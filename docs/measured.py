"""Tables of what was measured, from the files that the benchmarks wrote: `speed/results/`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "speed" / "results"
MACHINE = "amd-epyc"
STAGES = ("edit", "score", "generate", "total")


def result(name: str) -> Any:
    """Return what a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write Markdown."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def say(value: float) -> str:
    """Write a number of seconds.

    >>> say(122.34), say(12.62), say(3.81), say(0.0793)
    ('122', '12.6', '3.81', '0.079')
    """
    digits = next((digits for digits, least in enumerate((100, 10, 1)) if value >= least), 3)
    return f"{value:.{digits}f}"


def percent(share: float) -> str:
    """Write a share."""
    return f"{share:.0%}".replace("%", " %")


def spread(turns: Sequence[float]) -> str:
    """Write the mean of some turns, and how far they lie apart.

    >>> spread([0.053, 0.052])
    '0.052 (0.052-0.053)'
    """
    return f"{sum(turns) / len(turns):.3f} ({min(turns):.3f}-{max(turns):.3f})"


def ratio(found: Mapping[str, Any], most: float | None = None) -> str:
    """Write seconds, how many times as fast we are, and the most that we could be."""
    return f"{say(found['seconds'])} ({found['ratio']:.1f}x{'' if most is None else f' of {most:.1f}x'})"


def tracing() -> str:
    """Return seconds of traces and gradients against the other ways, for two models and two numbers of threads."""
    models = {"gpt2-small-random": "GPT-2 small's shape, random weights", "factlm": "factlm"}
    rows = []
    for model, words in models.items():
        for suffix in ("", "-2-threads"):
            found = result(f"tracing-{model}-{MACHINE}{suffix}")
            threads = "one thread" if found["machine"]["threads"] == 1 else f"{found['machine']['threads']} threads"
            kind, plain, ours = found["kinds"][0], *(found["ceiling_gflops"][side] for side in ("plain", "ours"))
            about = f"clean {kind['high']:.3f}, corrupted {kind['low']:.3f}, windows of {found['window']}"
            rows.append([f"**{words}, {threads}** ({about}; ceilings: {plain:.0f} and {ours:.0f} GFLOP/s)", *[""] * 5])
            rows += _traces(found)
    head = ["seconds", "ours", "plain loop, MKL", "plain, packed oneDNN", "TransformerLens", "pyvene"]
    return table(head, rows)


KINDS = {"state": "states", "mlp": "MLPs", "attn": "attentions"}


def _traces(found: Mapping[str, Any]) -> Iterable[list[str]]:
    theirs = 0.0
    for row in found["kinds"]:
        share, against = row["gflops"] / found["ceiling_gflops"]["ours"], row["against"]
        theirs += against["TransformerLens"]["seconds"]
        cells = [
            ratio(against[name], against[name]["ratio"] / share if bounded else None)
            for name, bounded in (("plain", 1), ("plain, oneDNN packed", 1), ("TransformerLens", 1), ("pyvene", 0))
        ]
        yield [KINDS[row["what"]], f"{say(row['seconds'])}, {percent(share)} of the ceiling", *cells]
    for row in found["others"]:
        if row["what"].endswith("one by one"):
            continue
        one = row["what"] == "three kinds, one fact"
        lens = ratio({"seconds": theirs, "ratio": theirs / row["seconds"]}) if one else ""
        plain = ratio({"seconds": row["plain"], "ratio": row["ratio"]})
        yield [row["what"], say(row["seconds"]), plain, "", lens, ""]
    for row in found["gradients"]:
        captum = f"captum: {ratio({'seconds': row['captum'], 'ratio': row['ratio']})}"
        what = f"integrated gradients of {row['what']}, {row['nodes']} nodes"
        yield [what, say(row["seconds"]), "", "", captum, ""]


def runners() -> str:
    """Return what each runner costs to start and by record."""
    rows = []
    for row in result(f"runners-factlm-{MACHINE}")["rows"]:
        records = max(row["seconds"], key=int)
        rows.append(
            [
                row["side"],
                f"{row['seconds_to_start']:.1f} s",
                f"{row['seconds_a_record']:.3f} s",
                f"{row['seconds'][records]:.0f} s",
                f"{row['times_as_fast']:.2f}x",
                "yes" if row["same_bytes_as_one_thread"] else "no",
            ]
        )
    return table(["", "to start", "a record", f"{records} records", "", "the same bytes as one thread"], rows)


def job_small() -> str:
    """Return the main job on GPT-2 small's shape, by stage."""
    found = result(f"main_job-gpt2-small-float32-{MACHINE}")
    rows = []
    for row in found["stages"]:
        seconds = row["seconds"]
        rows.append(
            [
                row["stage"],
                f"{seconds['one_at_a_time']:.2f}",
                f"{seconds['one_at_a_time_packed']:.2f}",
                f"{seconds['ours_packed']:.3f}",
                f"{row['needed_gflop']:.0f}",
                f"{row['floor']:.3f}",
                percent(row["share_of_floor"]),
                *_at_most(row),
            ]
        )
    rows.append(_unedited(found, 2, ["", "", "", ""]))
    head = [
        "",
        "one at a time, MKL",
        "one at a time, oneDNN",
        "ours, oneDNN",
        "needed GFLOP",
        "floor",
        "ours, of the floor",
    ]
    return table([*head, "against MKL (at most)", "against oneDNN (at most)"], rows)


def job_factlm() -> str:
    """Return the main job on factlm with two settings of ROME, by stage and as a whole."""
    rows = []
    for name, words, stages in (
        ("float32", "its own settings (4 context texts, layer 2, up to 30 steps): edit", STAGES),
        ("20-contexts", "20 context texts, layer 1, 20 steps: total", STAGES[-1:]),
    ):
        found = result(f"main_job-factlm-{name}-{MACHINE}")
        chosen = [row for row in found["stages"] if row["stage"] in stages]
        for place, row in enumerate(chosen):
            turns = (spread(row["turns"][side]) for side in ("one_at_a_time", "one_at_a_time_packed", "ours_packed"))
            rows.append([row["stage"] if place else words, *turns, percent(row["share_of_floor"]), *_at_most(row)])
        rows.append(_unedited(found, 3, ["", ""]))
    head = ["", "one at a time, MKL", "one at a time, oneDNN", "ours, oneDNN", "ours, of the floor"]
    return table([*head, "against MKL (at most)", "against oneDNN (at most)"], rows)


def job_smollm2() -> str:
    """Return the main job on SmolLM2, by stage, in float32 products and in bf16."""
    rows = []
    for name, words in (("float32", "strict"), ("bf16", "bf16 products")):
        found = result(f"main_job-smollm2-135m-instruct-{name}-{MACHINE}")
        for row in found["stages"]:
            seconds = (
                f"{row['seconds'][side]:.2f}" for side in ("one_at_a_time", "one_at_a_time_packed", "ours_packed")
            )
            rows.append([f"{words}: {row['stage']}", *seconds, percent(row["share_of_floor"]), *_at_most(row)])
        rows.append(_unedited(found, 2, ["", ""]))
    head = ["", "one at a time, MKL", "one at a time, oneDNN", "ours, oneDNN", "ours, of the floor"]
    return table([*head, "against MKL (at most)", "against oneDNN (at most)"], rows)


def in_short() -> str:
    """Return seconds a record of the whole job, and how much faster that is than one record at a time."""
    measured = {
        "GPT-2 small's shape, random weights": "gpt2-small-float32",
        "SmolLM2-135M": "smollm2-135m-instruct-float32",
        "SmolLM2-135M, bf16 products": "smollm2-135m-instruct-bf16",
        "factlm": "factlm-float32",
    }
    rows = []
    for name, file in measured.items():
        found = result(f"main_job-{file}-{MACHINE}")
        total = next(row for row in found["stages"] if row["stage"] == "total")
        again = found["with_unedited"]["one_at_a_time"]
        sides = (say(total["seconds"][side]) for side in ("one_at_a_time", "ours_packed"))
        most = total["highest_ratios"]["one_at_a_time"]
        rows.append(
            [name, *sides, f"{total['ratios']['one_at_a_time']:.1f}x", f"{most:.1f}x", f"{again['ratio']:.1f}x"]
        )
    head = [
        "",
        "one at a time, s a record",
        "ours",
        "faster",
        "at most possible",
        "where the unedited model is measured again",
    ]
    return table(head, rows)


def many_facts() -> str:
    """Return seconds and memory of MEMIT by the number of facts, beside one request after another."""
    rows = []
    for point in result(f"many_facts-factlm-{MACHINE}")["points"]:
        ours, alone = point["seconds"], point["one_at_a_time"]
        rows.append(
            [
                f"{point['count']:,}",
                *(say(ours[stage]) for stage in ("z", "keys", "solve", "total")),
                say(alone["total"]),
                f"{point['ratio']:.1f}x",
                f"{point['added_gigabytes']:.2f}",
            ]
        )
    head = ["facts", "search for z", "keys", "closed form", "total", "one at a time", "ratio", "added memory, GB"]
    return table(head, rows)


def closed_form() -> str:
    """Return seconds of the closed form alone by the number of keys, at GPT-J's width."""
    rows = [
        [
            f"{point['count']:,}",
            point["system"],
            say(point["seconds"]),
            f"{point['gflop']:,.1f}",
            percent(point["of_product_ceiling"]),
            percent(point["of_least_time"]),
            f"{point['added_gigabytes']:.2f}",
            f"{say(point['elimination'])} ({point['ratio']:.0f}x)" if "elimination" in point else "",
        ]
        for point in result(f"closed_form-16384-{MACHINE}")["points"]
    ]
    head = ["keys", "system", "seconds", "GFLOP", "of the product ceiling", "of the least time", "added memory, GB"]
    return table([*head, "by elimination"], rows)


def _at_most(row: Mapping[str, Any]) -> list[str]:
    sides = ("one_at_a_time", "one_at_a_time_packed")
    return [f"{row['ratios'][side]:.1f}x ({row['highest_ratios'][side]:.1f}x)" for side in sides]


def _unedited(found: Mapping[str, Any], digits: int, between: Sequence[str]) -> list[str]:
    again = [found["with_unedited"][side] for side in ("one_at_a_time", "one_at_a_time_packed")]
    seconds = (f"{side['seconds']:.{digits}f}" for side in again)
    ratios = (f"{side['ratio']:.1f}x ({side['highest_ratio']:.1f}x)" for side in again)
    return ["with the unedited model measured again", *seconds, *between, *ratios]


def growth() -> str:
    """Return seconds a record and memory by records, by how many are computed together, and by layers."""
    words = {
        "records": "records in one call",
        "chunk": "computed together (64 records)",
        "depth": "layers (32 records)",
    }
    tables = []
    for of, first in words.items():
        rows = [
            [
                str(point[of]),
                *(f"{point['seconds'][stage]:.3f}" for stage in STAGES),
                f"{point['added_gigabytes']:.2f}",
            ]
            for point in result(f"growth-{of}-{MACHINE}")["points"]
        ]
        tables.append(table([first, *STAGES, "added memory, GB"], rows))
    return "\n\n".join(tables)


def moment_errors() -> str:
    """Return how far edits by a part of the texts are off, truly and as stated."""
    rows = [
        [
            f"{row['percent']} %",
            f"{row['tokens']:,}",
            f"{row['true_cosine']:.3f}",
            f"{row['stated_cosine']:.3f}",
            percent(row["true_update"]),
            percent(row["stated_update"]),
        ]
        for row in result(f"second_moments-factlm-embedded-{MACHINE}")["errors"]
        if "true_cosine" in row
    ]
    return table(["part", "tokens", "cosine, true", "stated", "update is off by, true", "stated"], rows)


def moment_speed() -> str:
    """Return tokens a second against a text and a layer at a time."""
    found = result(f"second_moments-factlm-embedded-{MACHINE}")
    rows = []
    for part, words in (("one_layer", "layer 2"), ("all_layers", "all six layers")):
        row = found[part]
        rates = (f"{row['tokens_per_second'][side]:,}" for side in ("ours", "plain"))
        rows.append([words, *rates, f"{row['ratio']:.1f}x", percent(row["achieved"])])
    head = ["factlm, tokens a second", "ours", "a text and a layer at a time", "ratio", "ours, of the ceiling"]
    return table(head, rows)
