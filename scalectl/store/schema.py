"""The Arrow schemas of the store, made from the columns of `core.rows`, and digests of what the files hold."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from scalectl.core.rows import INDEX_COLUMNS, RUN_COLUMNS, Column, Row

_TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}

# Keys of a run file's metadata. The digest covers all the others, in every version of the format: a reader must be able
# to tell a damaged file from a newer one.
VERSION = b"scalectl.version"
RUN_ID = b"scalectl.run_id"
STATE = b"scalectl.state"
MESSAGE = b"scalectl.message"
CONFIG = b"scalectl.config"
COLUMNS = b"scalectl.columns"
PROVENANCE = b"scalectl.provenance"
FINAL = b"scalectl.final"
ROWS = b"scalectl.rows"
DIGEST = b"scalectl.digest"


def arrow_field(column: Column, *, nullable: bool) -> pa.Field:
    """Return a column as an Arrow field; its unit and sentence are the field's metadata."""
    return pa.field(
        column.name,
        _TYPES[column.type],
        nullable=nullable,
        metadata={"unit": column.unit, "description": column.sentence},
    )


RUN_SCHEMA = pa.schema([arrow_field(column, nullable=False) for column in RUN_COLUMNS])
FEW_ROWS = 100_000  # a list of so many takes less time than the import of pandas
INDEX_FIELDS = tuple(arrow_field(column, nullable=True) for column in INDEX_COLUMNS)


def exact(row: Row) -> Row:
    """Return a row in plain Python types, as numpy and torch scalars or integer FLOPs may come in."""
    return Row(
        row.run_id,
        int(row.step),
        int(row.tokens),
        float(row.flops),
        row.split,
        row.metric,
        float(row.value),
        float(row.seconds),
    )


def typed(column: Column, value: Any) -> Any:
    """Return a cell of a declared column in that column's type.

    Raises: ValueError if that would change it, so that no run file can spoil the index of all the others.
    """
    value = plain(value)
    if value is None:
        return None
    if column.type == "string" and isinstance(value, str):
        return value
    if column.type == "int64" and isinstance(value, int | float) and value == int(value) and abs(value) < 2**63:
        return int(value)
    if column.type == "float64" and isinstance(value, int | float):
        return float(value)  # 6 N D may be an integer beyond 2^53
    if column.type == "bool" and isinstance(value, bool):
        return value
    raise ValueError(f"{column.name} is {value!r}, which is no {column.type}")


def rows_digest(table: pa.Table) -> str:
    """SHA-256 of the rows of a run file, whatever their encoding.

    Page checksums do not cover the footer (offsets, counts, types); this covers what a reader gets in the end.
    """
    digest = hashlib.sha256()
    for field, column in zip(table.schema, table.columns, strict=True):
        digest.update(f"{field.name}:{field.type}:{len(column)}\n".encode())
        if pa.types.is_string(field.type):
            digest.update(json.dumps(column.to_pylist()).encode())
        else:
            digest.update(np.ascontiguousarray(_array(column)).tobytes())
    return digest.hexdigest()


def metadata_digest(metadata: Mapping[bytes, bytes]) -> bytes:
    """SHA-256 of every `scalectl.` key and value except the digest itself."""
    digest = hashlib.sha256()
    for key in sorted(metadata):
        if key.startswith(b"scalectl.") and key != DIGEST:
            digest.update(b"%d:%s%d:%s" % (len(key), key, len(metadata[key]), metadata[key]))
    return digest.hexdigest().encode()


def plain(value: Any) -> Any:
    """Return a value as one cell of a table: None, bool, int, float or str; anything nested becomes JSON text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return json.dumps(value, sort_keys=True, default=str)


def column_array(values: Sequence[Any]) -> pa.Array:
    """Return an Arrow array of cells whose types may differ between runs.

    All bool, int or str: that type. Numbers of both kinds: float64. Otherwise text. All None: text.
    """
    cells = [plain(value) for value in values]
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {int, float}:
        return pa.array([None if cell is None else float(cell) for cell in cells], pa.float64())
    for kind, arrow in ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64())):
        if kinds == {kind}:
            try:
                return pa.array(cells, arrow)
            except OverflowError:  # an integer beyond 64 bits keeps its digits as text
                break
    return pa.array([None if cell is None else str(cell) for cell in cells], pa.string())


def mixed(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> bool:
    """Return whether any of these columns holds cells of several types, which a table cannot give back as they were."""
    kinds = ({type(plain(row[name])) for row in rows if row.get(name) is not None} for name in names)
    return any(len(held - {type(None)}) > 1 for held in kinds)


def table_of(rows: Sequence[Mapping[str, Any]], first: Iterable[pa.Field] = ()) -> pa.Table:
    """Return a table of dict rows: the fields of `first` in order and type, then the other keys as they appear."""
    fields = list(first)
    if not rows:  # `pa.array` would import pandas, to see whether it is given one of its series
        return pa.Table.from_arrays([pa.nulls(0, field.type) for field in fields], schema=pa.schema(fields))
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in fields]
    known = {field.name for field in fields}
    for name in dict.fromkeys(key for row in rows for key in row if key not in known):
        array = column_array([row.get(name) for row in rows])
        fields.append(pa.field(name, array.type))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _array(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """A column that is not text; numbers without `to_numpy`, which imports pandas (.35 s of processor time)."""
    if pa.types.is_boolean(column.type):
        return np.array(column.to_pylist(), dtype=object if column.null_count else bool)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if column.null_count and len(column) <= FEW_ROWS:
        return np.array(column.to_pylist(), dtype=np.float64)  # None becomes NaN
    if column.null_count:
        column = column.cast(pa.float64()).fill_null(np.nan)  # pyarrow.compute imports pandas too
    if not len(column):
        return np.empty(0, dtype=np.int64 if pa.types.is_integer(column.type) else np.float64)
    return np.array(np.from_dlpack(pa.concat_arrays(column.chunks)))


def columns_of(table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    """Return the columns as numpy arrays of shape (rows,).

    Numbers without gaps keep their type; numbers with gaps are float64 with NaN; text and flags with gaps are objects
    with None.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            arrays[field.name] = np.array(column.to_pylist(), dtype=object)
        else:
            arrays[field.name] = _array(column)
    return arrays
