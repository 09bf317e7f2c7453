"""Croissant 1.1 metadata of a data set repository: files with checksums, fields, provenance, responsible use.

Croissant format specification 1.1, MLCommons, 29 January 2026.
https://github.com/mlcommons/croissant/blob/main/docs/croissant-spec-1.1.md. Provenance in the words of PROV-O,
https://www.w3.org/TR/prov-o/.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .parts import Part
from .wording import Wording

if TYPE_CHECKING:
    from datasets import Features

CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""JSON-LD context that the specification prescribes."""

_TYPES = {
    "string": "sc:Text",
    "int64": "cr:Int64",
    "double": "cr:Float64",
    "float64": "cr:Float64",
    "bool": "sc:Boolean",
}
_SPDX = {"cc0-1.0": "CC0-1.0", "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-4.0": "CC-BY-SA-4.0"}
_SOURCES = {
    "pararel": "templates and tuples, in ParaRel's form",
    "facts": "facts of WikiData",
    "generation_prompts": "generation prompts",
    "articles": "articles",
    "zsre": "zsRE, in the form of MEND's files",
}


@dataclass(frozen=True)
class StagedFile:
    """One parquet file of the repository."""

    path: str
    part: Part
    features: "Features"
    sha256: str
    bytes: int
    """Size on disk."""
    table_bytes: int
    """Size of the table in memory, in bytes."""


def croissant(repo: str, version: str, files: Sequence[StagedFile], words: Wording, published: str) -> dict[str, Any]:
    """Return the metadata as JSON-LD.

    Args:
        repo: `org/name`.
        version: three numbers; the files are those of the tag `v` + version.
        files: the parquet files.
        words: the sentences of the card.
        published: the day on which this version was first published, as `2026-11-23`.
    """
    home = f"https://huggingface.co/datasets/{repo}"
    licences = dict.fromkeys(file.part.licence for file in files)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": repo.partition("/")[2],
        "description": words.description,
        "url": home,
        "version": version,
        "datePublished": published,
        "inLanguage": sorted({file.part.language for file in files}),
        "license": [f"https://spdx.org/licenses/{_SPDX[name]}" if name in _SPDX else name for name in licences],
        "citeAs": words.citation,
        "creator": {"@type": "sc:Organization", "name": repo.partition("/")[0]},
        "keywords": ["knowledge editing", "language models", "factual associations"],
        "prov:wasDerivedFrom": _sources(files),
        "prov:wasGeneratedBy": _activities(files),
        **dict(words.rai),
        "distribution": [_file_object(file, f"{home}/resolve/v{version}") for file in files],
        "recordSet": [_record_set(file) for file in files],
    }


def _file_object(file: StagedFile, base: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path,
        "description": f"{file.part.config}, split {file.part.split}: {file.part.licence}; {file.part.licence_note}.",
        "contentUrl": f"{base}/{file.path}",
        "contentSize": f"{file.bytes} B",
        "encodingFormat": "application/x-parquet",
        "sha256": file.sha256,
    }


def _record_set(file: StagedFile) -> dict[str, Any]:
    name = f"{file.part.config}/{file.part.split}"
    record_set: dict[str, Any] = {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"{len(file.part.rows):,} rows; sha256 of their canonical JSON: {file.part.content_hash}.",
        "field": [_field(name, key, feature, file.path, (key,)) for key, feature in file.features.items()],
    }
    if file.part.kind is not None:
        record_set["key"] = {"@id": f"{name}/case_id"}
    return record_set


def _field(parent: str, key: str, feature: Any, path: str, route: tuple[str, ...]) -> dict[str, Any]:
    """Describe one column; parts of a struct are taken out of its column by a path, one step each."""
    column, *steps = route
    source: dict[str, Any] = {"fileObject": {"@id": path}, "extract": {"column": column}}
    if steps:
        source["transform"] = [{"jsonPath": step} for step in steps]
    field: dict[str, Any] = {"@type": "cr:Field", "@id": f"{parent}/{key}", "name": f"{parent}/{key}", "source": source}
    if hasattr(feature, "feature"):
        field |= {"isArray": True, "arrayShape": "-1"}
        feature = feature.feature
    if isinstance(feature, dict):
        return field | {
            "subField": [_field(field["@id"], name, inner, path, (*route, name)) for name, inner in feature.items()]
        }
    return field | {"dataType": _TYPES.get(feature.dtype, "sc:Text")}


def _sources(files: Sequence[StagedFile]) -> list[dict[str, Any]]:
    """Every source of every build, with the checksums that its `build.json` holds."""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        for key, identity in (file.part.build.get("sources") or {}).items():
            if identity and key in _SOURCES:
                entry = {"@type": "prov:Entity", "prov:label": _SOURCES[key]}
                if isinstance(identity.get("url"), str):
                    entry["prov:atLocation"] = identity["url"]
                found.setdefault(key, entry | {"sc:sha256": sorted(_hashes(identity))})
    return list(found.values())


def _hashes(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return {found for inner in value.values() for found in _hashes(inner)}
    if isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef"):
        return {value}
    return set()


def _activities(files: Sequence[StagedFile]) -> list[dict[str, Any]]:
    activities = []
    for file in files:
        part = file.part
        if part.kind is not None:
            command = "zsre" if part.kind == "zsre" else "build"
            activities.append(
                {
                    "@type": "prov:Activity",
                    "prov:label": f"counterfact {command}: {part.config}/{part.split}",
                    "sc:description": f"{part.build.get('name')} {part.build.get('version')}, "
                    f"seed {part.build.get('seed', 'none')}, content {part.content_hash}",
                }
            )
    return activities
