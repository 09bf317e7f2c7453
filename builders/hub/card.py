"""The card of a data set repository: made from the builds and a template, later brought up to date in place.

What a person wrote stays: outside of generated blocks nothing is ever changed, and a generated block that was edited
is left as it is. Each block's marker holds a hash of what was generated there, which tells the two apart.
"""

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import yaml

from .card_header import merge_header, split_card
from .croissant import StagedFile
from .deviations import Deviation, deviations
from .wording import Wording

CARD = "README.md"
_BLOCK = re.compile(r"<!-- generated: (\w+)(?: ([0-9a-f]{8}))? -->\n(.*?)\n?<!-- end -->", re.S)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


class Merged(NamedTuple):
    """A card brought up to date."""

    text: str
    kept: tuple[str, ...]
    """What was edited by hand and so left as it is: names of blocks, keys of the header."""


def card(repo: str, version: str, files: Sequence[StagedFile], words: Wording) -> str:
    """Return a fresh card.

    Args:
        repo: `org/name`.
        version: three numbers.
        files: the parquet files; the first one's configuration is the default.
        words: what is said about them.
    """
    blocks = {
        "summary": f"{words.description}\n\nVersion {version}, tag `v{version}`.",
        "use": _use(repo, version, files),
        "contents": _contents(files),
        "sample": _sample(files),
        "build": _build(files),
        "deviations": _deviations(files),
        "recovery": _recovery(files),
        "statistics": _statistics(files),
        "citation": f"```bibtex\n{words.citation}\n```",
    }
    template = (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    body = Template(template).substitute(
        title=words.title,
        collection=words.collection,
        limits=_list(words.limits),
        uses=_list(words.uses),
        datasheet=_datasheet(words),
    )
    return with_blocks(_header(files, words), body, blocks)


def with_blocks(header: Mapping[str, Any], body: str, blocks: Mapping[str, str]) -> str:
    """Return a card: a YAML header, and a body in which each block that is generated stands at its mark."""
    for name, content in blocks.items():
        body = body.replace(f"<!-- generated: {name} -->", _block(name, content))
    return f"---\n{yaml.safe_dump(dict(header), sort_keys=False, allow_unicode=True, width=1_000)}---\n\n{body}"


def merge_card(theirs: str, ours: str) -> Merged:
    """Bring a card that is already published up to date.

    Args:
        theirs: the card as it stands in the repository, edited by hand perhaps.
        ours: a fresh card.

    Returns:
        Their card with our generated blocks and the keys of the header that follow from the data. A block that they
        edited stays, one that they removed stays removed, and what they added is not touched. A card without any
        block of ours gets ours below its own text.
    """
    their_header, their_body = split_card(theirs)
    our_header, our_body = split_card(ours)
    header, kept = merge_header(their_header, our_header)
    fresh = {found[1]: found[3] for found in _BLOCK.finditer(our_body)}

    def renew(found: re.Match[str]) -> str:
        name, mark, content = found.groups()
        if name not in fresh:
            return found[0]
        if mark != _mark(content):
            kept.append(name)
            return found[0]
        return _block(name, fresh[name])

    if _BLOCK.search(their_body):
        body = _BLOCK.sub(renew, their_body)
    else:
        body = f"{their_body.rstrip()}\n\n{our_body}".lstrip("\n")
    return Merged(f"---\n{header}---\n\n{body}" if header else body, tuple(kept))


def _block(name: str, content: str) -> str:
    return f"<!-- generated: {name} {_mark(content)} -->\n{content}\n<!-- end -->"


def _mark(content: str) -> str:
    return sha256(content.strip().encode()).hexdigest()[:8]


def _header(files: Sequence[StagedFile], words: Wording) -> dict[str, Any]:
    """Return the YAML header; `configs` and `dataset_info` are what `datasets` reads the files by."""
    from datasets import DatasetInfo, SplitDict, SplitInfo  # noqa: PLC0415
    from datasets.info import DatasetInfosDict  # noqa: PLC0415
    from huggingface_hub import DatasetCardData  # noqa: PLC0415

    configs: dict[str, list[StagedFile]] = {}
    for file in files:
        configs.setdefault(file.part.config, []).append(file)
    infos = DatasetInfosDict()
    for config, mine in configs.items():
        splits = SplitDict()
        for file in mine:
            splits.add(SplitInfo(file.part.split, file.table_bytes, len(file.part.rows)))
        size, disk = sum(file.table_bytes for file in mine), sum(file.bytes for file in mine)
        infos[config] = DatasetInfo(
            config_name=config, features=mine[0].features, splits=splits, download_size=disk, dataset_size=size
        )
    data = DatasetCardData()
    infos.to_dataset_card_data(data)
    rows = sum(len(file.part.rows) for file in files)
    described = [
        {"config_name": config}
        | ({"default": True} if number == 0 else {})
        | {"data_files": [{"split": file.part.split, "path": file.path} for file in mine]}
        for number, (config, mine) in enumerate(configs.items())
    ]
    info = data.to_dict()["dataset_info"]  # type: ignore[no-untyped-call]
    return {
        "pretty_name": words.title,
        "license": sorted({file.part.licence for file in files}),
        "language": sorted({file.part.language for file in files}),
        "task_categories": ["text-generation"],
        "tags": ["knowledge-editing", "counterfact", "factual-associations"],
        "size_categories": [next((name for limit, name in _SIZES if rows < limit), "n>1M")],
        "configs": described,
        "dataset_info": info if isinstance(info, list) else [info],
    }


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _datasheet(words: Wording) -> str:
    """Return the fields of responsible AI that the Croissant metadata hold, with the names that people know."""
    rows = [
        (name.partition(":")[2], " ".join([value] if isinstance(value, str) else value)) for name, value in words.rai
    ]
    return "\n".join(["| field | |", "|---|---|", *(f"| {_words(name)} | {text} |" for name, text in rows)])


def _words(name: str) -> str:
    """Return a name in camel case as words."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _use(repo: str, version: str, files: Sequence[StagedFile]) -> str:
    calls = "\n".join(
        f'{file.part.config} = load_dataset("{repo}", "{file.part.config}", split="{file.part.split}", '
        f'revision="v{version}")'
        for file in files
    )
    config = files[0].part.config
    return (
        f"```python\nfrom datasets import load_dataset\n\n{calls}\n```\n\n"
        f"```sh\ncounterfact evaluate --dataset {repo}:{config}@v{version} --model gpt2-xl --editor rome\n```"
    )


def _contents(files: Sequence[StagedFile]) -> str:
    rows = [
        f"| `{file.part.config}` | `{file.part.split}` | {len(file.part.rows):,} | {file.bytes / 1e6:,.1f} MB | "
        f"{file.part.licence}: {file.part.licence_note} | `{file.part.content_hash[:12]}` |"
        for file in files
    ]
    head = ["| configuration | split | rows | parquet | licence | content hash |", "|---|---|---:|---:|---|---|"]
    return "\n".join([*head, *rows])


def _sample(files: Sequence[StagedFile]) -> str:
    record = json.dumps(files[0].part.rows[0], ensure_ascii=False, indent=1)
    return f"```json\n{record}\n```"


def _build(files: Sequence[StagedFile]) -> str:
    lines = []
    for file in files:
        build = file.part.build
        if file.part.kind is None:
            continue
        counts = build.get("counts") or {}
        told = ", ".join(
            f"{key.replace('_', ' ')} {value:,}" for key, value in counts.items() if isinstance(value, int)
        )
        dropped = ", ".join(f"{number:,} {reason}" for reason, number in (counts.get("dropped") or {}).items())
        sources = ", ".join(build.get("sources") or {})
        lines.append(
            f"- `{file.part.config}`/`{file.part.split}`: {build.get('name')} {build.get('version')}"
            f"{', seed ' + str(build['seed']) if 'seed' in build else ''}; from {sources or 'sources not named'} "
            f"(checksums in `{build_path(file)}`){_preset(build)}; {told or 'not counted'}; "
            f"dropped: {dropped or 'none'}."
        )
    return "\n".join(lines)


def _preset(build: Mapping[str, Any]) -> str:
    preset = (build.get("settings") or {}).get("preset")
    return f"; preset `{preset}`" if preset else ""


def _deviations(files: Sequence[StagedFile]) -> str:
    """Return one table of what the builds do otherwise than appendix D, the same rows of several said once."""
    found: dict[Deviation, list[str]] = {}
    for file in files:
        if file.part.kind is not None:
            for deviation in deviations(file.part.build):
                found.setdefault(deviation, []).append(f"`{file.part.config}`/`{file.part.split}`")
    if not found:
        return "None that the builds tell of."
    head = ["| what | appendix D | here | in |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} | {', '.join(where)} |" for row, where in found.items())])


def _recovery(files: Sequence[StagedFile]) -> str:
    lines = []
    for file in files:
        if (found := file.part.recovery) is None:
            continue
        total = found["total"]
        missing = ", ".join(f"{count:,} {reason}" for reason, count in total["missing"].items())
        ours = f"; {total['precision'][0]:.1%} of its own facts are in it" if total["precision"] else ""
        share = total["recovery"]
        interval = f" (95 % interval {share[1]:.1%} to {share[2]:.1%})" if len(share or ()) > 2 else ""
        lines.append(
            f"- `{file.part.config}`/`{file.part.split}` has {total['recovered']:,} of the {total['official']:,} "
            f"facts of {found['other']}{f', {share[0]:.1%}' if share else ''}{interval}{ours}; "
            f"missing: {missing or 'none'}."
        )
    return "\n".join(lines) or "Not measured: `counterfact audit FOLDER --official counterfact.json` does."


def build_path(file: StagedFile) -> str:
    """Return where the `build.json` of a file's build stands in the repository."""
    return f"builds/{file.part.config}-{file.part.split}.json"


def _statistics(files: Sequence[StagedFile]) -> str:
    tables = []
    for file in files:
        stats = file.part.stats
        name = f"`{file.part.config}`/`{file.part.split}`"
        if table := stats.get("table_2"):
            rows = [
                f"| {row['item']} | {row['total']:,} | {row['per_relation']:,.1f} | {row['per_record']:.2f} |"
                for row in table
            ]
            head = [f"| different, in {name} | total | per relation | per record |", "|---|---:|---:|---:|"]
            tables.append("\n".join([*head, *rows]))
        elif stats:
            rows = [
                f"| {key.replace('_', ' ')} | {value:,} |" for key, value in stats.items() if isinstance(value, int)
            ]
            tables.append("\n".join([f"| different, in {name} | total |", "|---|---:|", *rows]))
    return "\n\n".join(tables) or "Not counted."
