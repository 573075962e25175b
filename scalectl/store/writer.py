"""One immutable Parquet file per ended run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalectl.core.errors import StoreError
from scalectl.core.job import State
from scalectl.core.rows import INDEX_COLUMNS, STORE_VERSION, Row
from scalectl.core.run import RunConfig, flat, record
from scalectl.store import schema
from scalectl.store.files import atomic_write, writing
from scalectl.store.layout import Store
from scalectl.store.reader import DamagedRun, read_run, set_aside


def write_run(
    store: Store,
    run: RunConfig,
    rows: Iterable[Row],
    state: State,
    provenance: Mapping[str, Any],
    columns: Mapping[str, Any],
    message: str = "",
) -> Path:
    """Store an ended run: its measurements, its state, its config, and where they come from.

    Writing the same measurements again changes nothing. A file of a run that is done or diverged is never replaced;
    one that failed, was lost or cancelled is.

    Args: rows: in the order of their steps, finite, each (step, split, metric) once; a diverged run gives only its
    finite rows; state: how it ended; provenance: code, machine and times as JSON data; columns: index columns beyond
    the config (N_total, unique_tokens, ...); steps, seconds, D and C_exact come from the last row where not given;
    message: why it ended, unless done.
    Returns: the file.
    Raises: StoreError if the run is already settled with other numbers, or the store is read-only; BudgetRefused if the
    disk is full; ValueError for rows that no run can have, or an index column of the wrong type.
    """
    return write_file(store, run.run_id, rows, state, record(run), {**flat(run), **columns}, provenance, message)


def write_file(
    store: Store,
    run_id: str,
    rows: Iterable[Row],
    state: State,
    config: Mapping[str, Any],
    columns: Mapping[str, Any],
    provenance: Mapping[str, Any],
    message: str = "",
) -> Path:
    """`write_run` for a run without a RunConfig, such as an imported one. config: JSON data that say what it was."""
    if state in (State.PENDING, State.RUNNING, State.PAUSED):
        raise ValueError(f"a run that is {state} has not ended")
    path = store.run_file(run_id)
    held = [schema.exact(row) for row in rows]
    table = _table(run_id, held)
    if _settled(store, path, state, table):
        return path
    content = _content(run_id, table, held, state, config, columns, provenance, message)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content)
    return path


def run_content(run_id: str, rows: Iterable[Row], config: Mapping[str, Any], provenance: Mapping[str, Any]) -> bytes:
    """The bytes of a file with these measurements of a run that is done. Raises: ValueError, as `write_run`."""
    held = [schema.exact(row) for row in rows]
    return _content(run_id, _table(run_id, held), held, State.DONE, config, {}, provenance, "")


def measurements(table: pa.Table) -> pa.Table:
    """Return the rows of a run without their times: what two trainings of one run must agree on."""
    return table.drop_columns(["seconds"])


def _settled(store: Store, path: Path, state: State, table: pa.Table) -> bool:
    """Whether the file already says this. Raises: StoreError if it says something else for good."""
    try:
        existing = read_run(path)
    except FileNotFoundError:
        return False
    except DamagedRun as error:
        set_aside(store, error)
        return False
    if not existing.meta.state.final:
        return False
    if existing.meta.state is state and measurements(existing.table).equals(measurements(table)):
        return True
    raise StoreError(
        f"run {path.stem} is already {existing.meta.state}, with other numbers than the ones to be written",
        where=str(path),
        remedy="a finished run is never replaced; move its file away if it is wrong, then repeat",
    )


def _table(run_id: str, rows: Sequence[Row]) -> pa.Table:
    seen = set()
    for row in rows:
        if row.run_id != run_id:
            raise ValueError(f"a row of run {row.run_id} among those of {run_id}")
        if not all(map(math.isfinite, (row.value, row.flops, row.seconds))):
            raise ValueError(f"run {run_id}: {row.split}/{row.metric} at step {row.step} is not finite")
        key = (row.step, row.split, row.metric)
        if key in seen:
            raise ValueError(f"run {run_id}: {row.split}/{row.metric} at step {row.step} appears twice")
        seen.add(key)
    cells = list(zip(*rows, strict=True)) or [()] * len(schema.RUN_SCHEMA)
    arrays = [pa.array(values, field.type) for values, field in zip(cells, schema.RUN_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema.RUN_SCHEMA)


def _content(
    run_id: str,
    table: pa.Table,
    rows: Sequence[Row],
    state: State,
    config: Mapping[str, Any],
    columns: Mapping[str, Any],
    provenance: Mapping[str, Any],
    message: str,
) -> bytes:
    reached = {
        "steps": max((row.step for row in rows), default=0),
        "seconds": max((row.seconds for row in rows), default=0.0),
        "D": max((row.tokens for row in rows), default=0),
        "C_exact": max((row.flops for row in rows), default=0.0),
    }
    final = {f"{row.split}/{row.metric}": row.value for row in sorted(rows, key=lambda row: row.step)}
    metadata = {
        schema.VERSION: str(STORE_VERSION).encode(),
        schema.RUN_ID: run_id.encode(),
        schema.STATE: str(state).encode(),
        schema.MESSAGE: message.encode(),
        schema.CONFIG: _json(config),
        schema.COLUMNS: _json(_index_cells(reached | dict(columns))),
        schema.PROVENANCE: _json(provenance),
        schema.FINAL: _json(final),
        schema.ROWS: schema.rows_digest(table).encode(),
    }
    metadata[schema.DIGEST] = schema.metadata_digest(metadata)
    sink = pa.BufferOutputStream()
    # One row group, values of a column beside each other: what a fit reads of a run is a few kilobytes.
    pq.write_table(
        table.replace_schema_metadata(metadata), sink, compression="zstd", write_page_checksum=True, store_schema=True
    )
    return bytes(sink.getvalue())


def _index_cells(columns: Mapping[str, Any]) -> dict[str, Any]:
    declared = {column.name: column for column in INDEX_COLUMNS}
    return {
        name: schema.typed(declared[name], value) if name in declared else schema.plain(value)
        for name, value in columns.items()
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False).encode()
