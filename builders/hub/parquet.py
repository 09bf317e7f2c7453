"""Rows of nested records as parquet, with the features that `datasets` reads them by, and back without a change."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterfact.core.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

_ROWS_A_GROUP = 1_000
"""Rows in a group: what a reader that shows a page of rows has to fetch."""


def features_of(rows: Sequence[dict[str, Any]]) -> "Features":
    """Return the features of rows, nested as they are: lists, structs, strings, integers.

    A key whose value is missing everywhere gets the type it has where it is known: `pararel_idx` is an integer, all
    others are strings.

    Raises:
        BadInput: values of one key are of different types.
    """
    import pyarrow as pa  # noqa: PLC0415
    from datasets import Features  # noqa: PLC0415

    try:
        kind = pa.array(rows).type
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise BadInput(f"values of one key are of different types, which parquet cannot hold: {error}") from error
    schema = pa.schema([pa.field(field.name, _typed(field.type, field.name)) for field in kind])
    return Features.from_arrow_schema(schema)


def write_table(path: Path, rows: Sequence[dict[str, Any]], features: "Features") -> int:
    """Write rows as parquet and read them back.

    Args:
        path: the file.
        rows: what is written.
        features: their types.

    Returns:
        The size of the table in memory, in bytes.

    Raises:
        BadInput: a row would not come back as it is, as where a key is missing in some rows only.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pa.Table.from_pylist(list(rows), schema=features.arrow_schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", row_group_size=_ROWS_A_GROUP)
    for number, (before, after) in enumerate(zip(rows, pq.read_table(path).to_pylist(), strict=True)):
        if before != after:
            keys = [key for key in {**before, **after} if before.get(key, ...) != after.get(key, ...)]
            raise BadInput(
                f"row {number} would not come back from parquet as it is, in {', '.join(keys)}: expected the same keys "
                "and types in every row"
            )
    return int(table.nbytes)


def _typed(kind: "pa.DataType", name: str) -> "pa.DataType":
    import pyarrow as pa  # noqa: PLC0415

    if pa.types.is_null(kind):
        return pa.int64() if name == "pararel_idx" else pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_typed(kind.value_type, name))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _typed(field.type, field.name)) for field in kind])
    return kind
