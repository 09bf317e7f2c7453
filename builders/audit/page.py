"""The audit as one HTML page: what was found, then a few records of every relation, for a person to read through."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from random import Random

from counterfact.core.page_style import STYLE
from counterfact.core.prompts import fill
from counterfact.core.relations import relation_name
from counterfact.core.seeds import derive_seed
from counterfact.evaluation.benchmarks.counterfact import CounterFactRecord

from .findings import KINDS, UNUSABLE, Audit

_EXAMPLES = 5
_STYLE = """
body { max-width: 66rem; margin: 1rem auto; padding: 0 1rem; }
h2 { border-top: 1px solid var(--line); padding-top: .8rem; }
h2 small { font-weight: 400; font-size: .75em; } th { text-align: left; } .number { text-align: right; }
tr.none { color: var(--faint); } nav a { display: inline-block; margin: 0 .8rem .2rem 0; }
article { background: var(--raised); border-left: 4px solid var(--line); padding: .6rem 1rem; margin: .8rem 0; }
article.marked { border-left-color: var(--new); }
.edit { font-size: 1.1em; margin: .1rem 0 .5rem; }
del { color: var(--gone); } ins { color: var(--new); text-decoration: none; }
dl { display: grid; grid-template-columns: 9rem 1fr; margin: 0; } dt { color: var(--faint); } dd { margin: 0 0 .4rem; }
dd div { padding-left: 1em; text-indent: -1em; } .context, .answer { color: var(--faint); } .note { color: var(--new); }
.id, details { color: var(--faint); font-size: .9em; } b { font-weight: 600; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } td, th { padding: .3rem .25rem; } }
"""


def audit_page(records: Sequence[CounterFactRecord], found: Audit, title: str, sample: int, seed: int) -> str:
    """Return the page, which needs no other file.

    Args:
        records: the data set.
        found: its audit.
        title: name of the data set.
        sample: records of every relation that are shown.
        seed: seed of their choice.
    """
    relations: defaultdict[str, list[CounterFactRecord]] = defaultdict(list)
    for record in records:
        relations[record.requested_rewrite.relation_id or "no relation"].append(record)
    names = sorted(relations, key=lambda name: (len(name), name))
    links = "".join(f'<a href="#{escape(name)}">{escape(relation_name(name))}</a>' for name in names)
    sections = [_relation(name, relations[name], found, sample, seed) for name in names]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}: audit</title><style>{STYLE}{_STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{len(records):,} records, {len(names)} relations. This page is for reading "
        "through: what was found are hints, and some of it the released CounterFact has too.</p>\n"
        f"{_findings(found)}\n{_unusable(found)}<nav>{links}</nav>\n{''.join(sections)}</body></html>\n"
    )


def _findings(found: Audit) -> str:
    rows = []
    for kind in KINDS:
        count, records = found.counts[kind.name]
        row_class = "" if count else ' class="none"'
        examples = list(dict.fromkeys(one.text for one in found.findings if one.kind == kind.name))[:_EXAMPLES]
        shown = f"<details><summary>examples</summary>{_lines(map(escape, examples))}</details>" if examples else ""
        rows.append(
            f"<tr{row_class}><td>{kind.name}<br><span class=id>{kind.meaning}</span>{shown}</td>"
            f"<td class=number>{count:,}</td><td class=number>{records:,}</td>"
            f"<td class=number>{_share(records, found.records)}</td></tr>"
        )
    head = "<tr><th>found</th><th class=number>times</th><th class=number>records</th><th class=number>share</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _unusable(found: Audit) -> str:
    """Return the records that cannot be used, each with its reason."""
    lines = [f"record {one.case_id}: {one.text}" for one in found.findings if one.kind == UNUSABLE]
    if not lines:
        return ""
    return f"<h2>Records that cannot be used <small>{len(lines):,}</small></h2>{_lines(map(escape, lines))}\n"


def _share(records: int, of: int) -> str:
    share = records / max(1, of)
    return "&lt; 0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _relation(name: str, records: Sequence[CounterFactRecord], found: Audit, sample: int, seed: int) -> str:
    chosen = Random(derive_seed(seed, "audit", name)).sample(range(len(records)), min(sample, len(records)))
    shown = "".join(_record(records[place], found) for place in sorted(chosen))
    marked = sum(bool(found.of(record.case_id)) for record in records)
    count = f"{len(records):,} records, {marked:,} with a finding, {len(chosen)} shown"
    usual = escape(Counter(record.requested_rewrite.prompt for record in records).most_common(1)[0][0])
    return f'<h2 id="{escape(name)}">{escape(relation_name(name))} <small>“{usual}” · {count}</small></h2>\n{shown}'


def _record(record: CounterFactRecord, found: Audit) -> str:
    rewrite = record.requested_rewrite
    subject, notes = rewrite.subject, found.of(record.case_id)
    true, new = (f"<span class=answer>{escape(text)}</span>" for text in (rewrite.true_text, rewrite.target_new.text))
    groups = {
        "paraphrases": [f"{_with_context(prompt, subject)} {new}" for prompt in record.paraphrase_prompts],
        "neighborhood": [f"{escape(prompt)} {true}" for prompt in record.neighborhood_prompts],
        "attribute": [f"{escape(prompt)} {new}" for prompt in record.attribute_prompts],
        "generation": [_marked(prompt, subject) for prompt in dict.fromkeys(record.generation_prompts)],
        "found": [f"<span class=note>{escape(note.kind)}</span>: {escape(note.text)}" for note in notes],
    }
    said = _marked(fill(rewrite.prompt, subject), subject)
    lists = "".join(f"<dt>{name}</dt><dd>{_lines(lines)}</dd>" for name, lines in groups.items() if lines)
    marked = ' class="marked"' if notes else ""
    return (
        f"<article{marked}><div class=id>case {record.case_id}</div><p class=edit>{said} "
        f"<del>{escape(rewrite.true_text)}</del> <ins>{escape(rewrite.target_new.text)}</ins></p>"
        f"<dl>{lists}</dl></article>\n"
    )


def _with_context(prompt: str, subject: str) -> str:
    # A context ends where a sentence does; a prompt that starts with other words than the subject continues from there.
    start = max(prompt.rfind(end, 0, max(0, prompt.rfind(subject)) + 1) for end in (". ", "! ", "? ", "\n")) + 1
    context = f"<span class=context>{escape(prompt[:start])}</span>" if start else ""
    return context + _marked(prompt[start:], subject)


def _marked(prompt: str, subject: str) -> str:
    return escape(prompt).replace(escape(subject), f"<b>{escape(subject)}</b>", 1)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"<div>{line}</div>" for line in lines)
