"""The tables of what a build recovers of another data set, by relation, with the reasons for what is missing."""

from typing import TYPE_CHECKING

from counterfact.cli._common import note
from counterfact.cli._tables import print_table

if TYPE_CHECKING:
    from counterfact.builders.audit.recovery import Recovery
    from counterfact.statistics.intervals import Estimate


def print_recovery(found: "Recovery") -> None:
    """Print recovery by relation and in all, then why facts are missing."""
    rows = []
    for row in (*found.relations, found.total):
        name = "all" if row is found.total else row.relation or "not known"
        counts = [f"{count:,}" for count in (row.official, row.recovered)]
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in row.missing.most_common())
        rows.append([name, *counts, _share(row.recovery), _share(row.precision), reasons or "–"])
    print_table(
        ("relation", "facts", "recovered", "of these", "of ours", "missing, and why"),
        rows[:-1],
        title=f"\nfacts of {found.other} that {found.build} recovers",
    )
    total = found.total
    print_table(
        ("in all", "facts", "share", "95 % interval"),
        [
            (name, f"{count:,} of {of:,}", _share(share), _interval(share))
            for name, share, count, of in (
                ("recovered", total.recovery, total.recovered, total.official),
                ("of ours, that are theirs", total.precision, total.recovered, total.built),
            )
        ],
        note="the interval is one of a sample of facts; a share of ours is left out where theirs are only a part",
    )
    if total.missing:
        why = [(reason, f"{count:,}") for reason, count in total.missing.most_common()]
        print_table(("missing, since", "facts"), why)
    if found.assigned:
        note(f"records that name no relation, assigned by template and tuple: {found.assigned:,}")
    if found.unusable:
        note(f"records of {found.other} that cannot be used: {found.unusable:,}")


def _share(share: "Estimate") -> str:
    return "–" if share.value is None else f"{share.value:.1%}"


def _interval(share: "Estimate") -> str:
    return "–" if share.low is None or share.high is None else f"{share.low:.1%} to {share.high:.1%}"
