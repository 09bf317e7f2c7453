"""The table of a measurement of the main job."""

from typing import Any

NAMES = {
    "one_at_a_time": "one at a time",
    "one_at_a_time_packed": "one at a time, packed",
    "ours": "ours",
    "ours_packed": "ours, packed",
}


def show(result: dict[str, Any]) -> None:
    """Print where, what, times, work, and how far the sides agree."""
    _where(result)
    _times(result)
    _work(result)
    _end(result)


def _where(result: dict[str, Any]) -> None:
    machine, model, data = result["machine"], result["model"], result["dataset"]
    size = f"{model['layers']} layers, width {model['width']}, vocabulary {model['vocabulary']}, {model['dtype']}"
    print(f"{result['command']}\n{model['name']}: {size}")
    print(f"{machine['device']}, {machine['threads']} of {machine['cores']} threads, load {machine['load'][0]}")
    print(f"torch {machine['torch']}, transformers {machine['transformers']}")
    for side, library in result["products"].items():
        print(f"  products, {NAMES[side]}: {library}")
    repeated = f", {data['distinct']} different ones repeated" if data["distinct"] < result["chunk"] else ""
    print(f"{data['name']}; at once: {result['chunk']} records{repeated}; one at a time: {result['records']}\n")


def _times(result: dict[str, Any]) -> None:
    sides = list(result["products"])
    print(f"{'seconds a record':<17}" + "".join(f"{NAMES[side]:>28}" for side in sides) + f"{'floor':>10}{'of it':>7}")
    for row in result["stages"]:
        cells = (
            f"{row['seconds'][side]:.4f} ({min(row['turns'][side]):.3f}-{max(row['turns'][side]):.3f})"
            for side in sides
        )
        line = f"{row['stage']:<17}" + "".join(f"{cell:>28}" for cell in cells)
        print(f"{line}{row['floor']:>10.4f}{row['share_of_floor']:>7.0%}")
    if not result["agrees"]:
        print("\nthe sides came to different numbers: no ratio is given")
        return
    print()
    for side in result["stages"][0]["ratios"]:
        ratios = "  ".join(f"{row['stage']} {row['ratios'][side]:.1f}x" for row in result["stages"])
        most = "  ".join(f"{row['stage']} {row['highest_ratios'][side]:.1f}x" for row in result["stages"])
        print(f"against {NAMES[side]}:  {ratios}\n  the most that any method could reach here:  {most}")
        again = result["with_unedited"][side]
        print(
            f"  with the unedited model measured for each record again, as the authors' code does: "
            f"{again['seconds']:.3f} s, {again['ratio']:.1f}x, at most {again['highest_ratio']:.1f}x"
        )


def _work(result: dict[str, Any]) -> None:
    print(f"\n{'a record':<17}{'needed GFLOP':>15}{'GB':>8}{'needed GFLOP/s':>18}")
    for row in result["stages"]:
        needed = f"{row['needed_gflop']:>15.1f}{row['needed_gigabytes']:>8.2f}{row['needed_gflops']:>18.0f}"
        print(f"{row['stage']:<17}{needed}")
    if counted := result["counted"]["records"]:
        print(f"\nGFLOP a record in products, attention's included, counted while {counted} ran:")
        done, needed_of = result["counted"]["gflop"], result["counted"]["needed_gflop"]
        for stage, needed_work in needed_of.items():
            one, ours = (done[side][stage] for side in ("one_at_a_time", "ours"))
            print(f"{stage:<17} one at a time {one:.1f}, ours {ours:.1f}, needed without attention {needed_work:.1f}")


def _end(result: dict[str, Any]) -> None:
    ceilings = ", ".join(f"{name} {value:.0f}" for name, value in result["ceilings_gflops"].items())
    print(f"\nceilings measured here, GFLOP/s: {ceilings}; reading {result['ceiling']['gigabytes']:.0f} GB/s")
    print(f"floor: products at {result['ceiling']['gflops']:.0f} GFLOP/s, or reading, whichever takes longer")
    print("peak memory, GB: " + ", ".join(f"{stage} {peak:.2f}" for stage, peak in result["peak_gigabytes"].items()))
    found = result["extrapolated"]
    minutes = ", ".join(
        f"{stage} {value:.1f} (floor {found['minutes_floor'][stage]:.1f})" for stage, value in found["minutes"].items()
    )
    print(f"{found['records']:,} records, extrapolated from {found['from']}, minutes: {minutes}")
    for side, worst in result["agreement"].items():
        print(
            f"agreement with {NAMES[side]}: updates within {worst['update_relative_largest']:.1e} of their norm, "
            f"scores within {worst['nats_largest']:.1e} nats"
        )
