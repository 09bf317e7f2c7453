"""Measure the ways of the main job in turns, and hold their times against each other and against the least time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from counterfact.editing.requests import encode
from counterfact.lm.forward.products import packs_products
from counterfact.lm.model.language_model import LM
from counterfact.lm.model.precision import float32_products
from speed.jobs import STAGES, UNEDITED, Outcome, Times, Way, deviations, many_at_once, one_by_one
from speed.machine import Ceiling, measure_ceiling, product_ceilings, product_library
from speed.one_at_a_time import OneAtATime
from speed.setting import Setting
from speed.work import Work, edit_work, generate_work, score_work

BOUNDS = {
    "float32": {"update_relative_largest": 1e-3, "nats_largest": 1e-2},
    "bf16": {"update_relative_largest": 0.3, "nats_largest": 2.0},
    "TF32": {"update_relative_largest": 0.1, "nats_largest": 0.3},
    "bfloat16": {"update_relative_largest": 0.3, "nats_largest": 2.0},
}
"""How far two sides may be apart before they count as different numbers. Rounded products move a search of twenty
steps, and one side writes its update into rounded weights."""
RECORDS = 21919
"""Records of CounterFact, to which a time is extrapolated."""


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    records: int
    """Done one at a time, a record a turn."""
    turns: int
    """Turns of our side, all records each time."""
    length: int = 100
    """Tokens of a generated text."""
    counted: int = 1
    """Records whose operations are counted, on both sides; 0: none."""
    without: bool = False
    """Whether our side is measured without packed products as well."""


def ways_of(lm: LM, without: bool) -> list[Way]:
    """Return the ways that exist on a device: with packed products too where those do, and in bf16 only so."""
    packs, without = packs_products(lm), without and lm.precision != "bf16"
    ways = [Way("one_at_a_time", packed) for packed in (False, True)[: 1 + packs]]
    ours = [Way("ours", packed) for packed in ((True, False)[: 1 + without] if packs else (False,))]
    return ways + ours


def measure(setting: Setting, extent: Extent) -> dict[str, Any]:
    """Run all ways in turns, compare what they came to, and set their times beside the least time."""
    lm = setting.lm
    kind, ceilings = _kind(lm), product_ceilings(lm)
    with float32_products(lm.precision):
        times, outcomes = _run(setting, extent, ways_of(lm, extent.without))
    counted = _count(replace(setting, lm=replace(lm, precision="strict")), extent)
    ceilings = {name: max(value, ceilings[name]) for name, value in product_ceilings(lm).items()}
    reached = {way: ceilings[_product(lm, way)] for way in times}
    ours = next(way for way in times if way.side == "ours")
    best = Ceiling(max(reached.values()), measure_ceiling(lm.width, lm.device).gigabytes)
    passes, few = outcomes[ours].passes, max(1, extent.counted)
    work = work_of(setting, passes, extent.length)
    counted_work = work_of(replace(setting, records=setting.records[:few]), passes[:few], extent.length)
    agreement = {way.name: deviations(outcomes[ours], found) for way, found in outcomes.items() if way != ours}
    agrees = all(found[name] <= bound for found in agreement.values() for name, bound in BOUNDS[kind].items())
    floors = {stage: part.seconds(best) for stage, part in work.items()}
    floors["total"] = sum(floors[stage] for stage in STAGES)  # the stages run one after the other
    return {
        "products": {way.name: _library(lm, way) for way in times},
        "ceilings_gflops": ceilings,
        "ceiling": {"gflops": best.gflops, "gigabytes": best.gigabytes},
        "agreement": agreement,
        "agreement_bounds": BOUNDS[kind],
        "agrees": agrees,
        "stages": [_stage(stage, times, work[stage], floors[stage], agrees) for stage in (*STAGES, "total")],
        "with_unedited": {
            way.name: _with_unedited(found, times[ours], floors["total"], agrees)
            for way, found in times.items()
            if way.side != "ours"
        },
        "counted": {
            "records": extent.counted,
            "gflop": {
                side: {stage: found.operations(stage) for stage in (*STAGES, "total")}
                for side, found in counted.items()
            },
            "needed_gflop": {stage: part.gflop for stage, part in counted_work.items()},
        },
        "peak_gigabytes": times[ours].peak,
        "extrapolated": {
            "records": RECORDS,
            "from": len(setting.records),
            "minutes": {stage: times[ours].mean(stage) * RECORDS / 60 for stage in (*STAGES, "total")},
            "minutes_floor": {stage: floors[stage] * RECORDS / 60 for stage in (*STAGES, "total")},
        },
    }


def _kind(lm: LM) -> str:
    """Name what the products of our side are rounded to."""
    if lm.dtype == torch.bfloat16:
        return "bfloat16"
    return {"strict": "float32", "tf32": "TF32", "bf16": "bf16"}[lm.precision]


def _product(lm: LM, way: Way) -> str:
    """Name the ceiling of a way's products."""
    if way.packed:
        return "packed, bf16" if lm.precision == "bf16" else "packed"
    return "float32" if lm.precision == "bf16" else _kind(lm)


def _library(lm: LM, way: Way) -> str:
    if way.packed:
        return "oneDNN, packed weights" + (", bf16" if lm.precision == "bf16" else "")
    return product_library(lm.device) + (", TF32" if lm.precision == "tf32" else "")


def _run(setting: Setting, extent: Extent, ways: Sequence[Way]) -> tuple[dict[Way, Times], dict[Way, Outcome]]:
    lm, records = setting.lm, setting.records
    baseline = _baseline(setting)
    times = {way: Times(lm.device) for way in ways}
    outcomes = {way: Outcome() for way in ways}
    for way in ways:
        if way.side == "ours":  # what is set up on first use is no part of it
            with way.products(lm):
                many_at_once(setting, records[:2], extent.length, Times(lm.device))
    for turn in range(max(extent.records, extent.turns)):
        for way in ways:
            with way.products(lm):
                if way.side == "ours" and turn < extent.turns:
                    outcomes[way] = many_at_once(setting, records, extent.length, times[way], compared=extent.records)
                elif way.side != "ours" and turn < extent.records:
                    done = one_by_one(baseline, [records[turn]], extent.length, times[way])
                    outcomes[way].nats.extend(done.nats)
                    outcomes[way].updates.extend(done.updates)
    return times, outcomes


def _baseline(setting: Setting) -> OneAtATime:
    return OneAtATime(setting.lm, setting.templates, setting.moment, setting.settings)


def _count(setting: Setting, extent: Extent) -> dict[str, Times]:
    """Count the operations that each side does; a rehearsal, of which nothing is timed."""
    counted = {side: Times(setting.lm.device, counting=True) for side in ("one_at_a_time", "ours")}
    records = setting.records[: extent.counted]
    if records:
        many_at_once(setting, records, extent.length, counted["ours"])
        one_by_one(_baseline(setting), records, extent.length, counted["one_at_a_time"])
    return counted


def work_of(setting: Setting, passes: Sequence[int], length: int) -> dict[str, Work]:
    """Return the least work of each stage and of all, given the forward passes of each record's search."""
    lm, settings = setting.lm, setting.settings
    rows = [encode(lm, record.request, setting.templates, settings.position, kl_row=True) for record in setting.records]
    parts = {
        "edit": edit_work(lm, rows, passes, settings.layer),
        "score": score_work(lm, setting.records),
        "generate": generate_work(lm, setting.records, length),
    }
    total = Work(sum(part.gflop for part in parts.values()), sum(part.gigabytes for part in parts.values()))
    return {**parts, "total": total}


def _with_unedited(theirs: Times, ours: Times, floor: float, agrees: bool) -> dict[str, float | None]:
    """The authors' code measures the unedited model for each record again; we keep that for all editors and runs."""
    seconds = theirs.mean(UNEDITED) + theirs.mean("total")
    ratio = seconds / ours.mean("total") if agrees else None
    return {"seconds": seconds, "ratio": ratio, "highest_ratio": seconds / floor}


def _stage(stage: str, times: dict[Way, Times], work: Work, floor: float, agrees: bool) -> dict[str, Any]:
    """One line of the table; ratios are only given of equal numbers."""
    ours = next(way for way in times if way.side == "ours")
    mine = times[ours].mean(stage)
    theirs = {way.name: times[way].mean(stage) for way in times if way.side != "ours"}
    return {
        "stage": stage,
        "seconds": {way.name: times[way].mean(stage) for way in times},
        "turns": {way.name: times[way].turns(stage) for way in times},
        "ratios": {name: value / mine if agrees else None for name, value in theirs.items()},
        "needed_gflop": work.gflop,
        "needed_gigabytes": work.gigabytes,
        "floor": floor,
        "share_of_floor": floor / mine,
        "highest_ratios": {name: value / floor for name, value in theirs.items()},
        "needed_gflops": work.gflop / mine,
    }
