"""The rows of many runs as one table, and the file of a sweep that spares opening each run's.

    sweeps/NAME/rows.parquet   the rows of runs of the sweep, one run after another
    sweeps/NAME/rows.json      which rows are of which run, and the stamp of the file from which they were copied

Both are derived and never trusted over the run files: a run counts from here only while its own file has the time and
size that it had then, and only if every byte here is what was written. Whoever first reads many runs of a sweep writes
them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from scalectl.core.errors import BudgetRefused, StoreError
from scalectl.core.rows import STORE_VERSION
from scalectl.store import schema
from scalectl.store.evaluations import evaluated_sets, evaluations
from scalectl.store.files import atomic_write
from scalectl.store.index import Stamp, stamps
from scalectl.store.layout import Store
from scalectl.store.reader import Damaged, DamagedRun, read_run, set_aside

if TYPE_CHECKING:
    import pandas as pd

LEAST = 64  # run files read one by one for which a compacted file is written; ours: they take .1 s, as writing it does
ROW_GROUP = 1_000_000  # rows; ours: some MB a column, enough for two threads to share out a large file
_TEXTS = [field.name for field in schema.RUN_SCHEMA if pa.types.is_string(field.type)]
_TAIL = 8  # bytes at the end of a Parquet file: the length of its footer, and a mark


class _Span(NamedTuple):
    """Where the rows of a run lie, those of its evaluations last. stamp: of its files when they were copied."""

    start: int
    stop: int
    stamp: Stamp


@dataclass(frozen=True)
class _Compacted:
    """A compacted file, read and verified. table: of RUN_SCHEMA; spans: by run id."""

    table: pa.Table = field(default_factory=schema.RUN_SCHEMA.empty_table)
    spans: Mapping[str, _Span] = field(default_factory=dict)

    def of(self, run_id: str, now: Mapping[str, Stamp]) -> _Span | None:
        """Where the rows of a run lie, if they are those of its file as it is now."""
        span = self.spans.get(run_id)
        return span if span is not None and now.get(run_id) == span.stamp else None


def load_rows(
    store: Store,
    run_ids: Iterable[str],
    metric: str | None = None,
    split: str | None = None,
    *,
    sweep: str | None = None,
) -> tuple[pd.DataFrame, tuple[Damaged, ...]]:
    """Return the measurements of ended runs as one long frame with the columns of RUN_COLUMNS, runs in the given order.

    Args: metric, split: keep only these; sweep: of which these are runs: its compacted file is read where it has them,
    and written where many runs had to be read one by one.
    Returns: the frame, and the files that were damaged; runs without a file are passed over.
    """
    wanted = list(run_ids)
    now = stamps(store)
    held = _Compacted() if sweep is None else _read(store, sweep)
    tables: list[pa.Table] = [schema.RUN_SCHEMA.empty_table()]
    loose: dict[str, pa.Table] = {}
    damaged = []
    sets = evaluated_sets(store)
    start = stop = 0  # of what is taken from the compacted file in one piece
    for run_id in wanted:
        span = held.of(run_id, now)
        if span is not None and span.start == stop:
            stop = span.stop
            continue
        tables.append(held.table.slice(start, stop - start))
        start = stop = 0
        if span is not None:
            start, stop, _ = span
            continue
        try:
            judged = [held.table for held in evaluations(store, run_id, sets)]
            loose[run_id] = pa.concat_tables([read_run(store.run_file(run_id)).table, *judged])
        except FileNotFoundError:
            continue
        except DamagedRun as error:
            damaged.append(set_aside(store, error))
            continue
        tables.append(loose[run_id])
    tables.append(held.table.slice(start, stop - start))
    if sweep is not None and len(loose) >= LEAST and store.writable:
        _write(store, sweep, held, loose, now)
    import pyarrow.compute as pc  # as in the index: only readers of many runs need it

    table = pa.concat_tables(tables)
    for name, kept in (("metric", metric), ("split", split)):
        if kept is not None:
            mask = pc.equal(table[name], kept)
            table = table if pc.all(mask).as_py() else table.filter(mask)  # a copy of all that is there costs as much
    return table.to_pandas(), tuple(damaged)


def forget(store: Store, sweep: str) -> None:
    """Remove the compacted file of a sweep; whoever next reads many of its runs makes it again."""
    for path in _files(store, sweep):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _files(store: Store, sweep: str) -> tuple[Path, Path]:
    return store.inside("sweeps", sweep, "rows.parquet"), store.inside("sweeps", sweep, "rows.json")


def _write(store: Store, sweep: str, held: _Compacted, loose: Mapping[str, pa.Table], now: Mapping[str, Stamp]) -> None:
    """Write the compacted file anew: what it held and is still so, then the runs that were read one by one."""
    pieces = {
        run_id: held.table.slice(span.start, span.stop - span.start)
        for run_id, span in held.spans.items()
        if held.of(run_id, now)
    }
    pieces |= {run_id: table for run_id, table in loose.items() if run_id in now}
    ends = [0, *itertools.accumulate(len(table) for table in pieces.values())]
    spans = {run_id: _Span(ends[i], ends[i + 1], now[run_id]) for i, run_id in enumerate(pieces)}
    table = pa.concat_tables(pieces.values()).replace_schema_metadata(None)
    rows, spans_file = _files(store, sweep)
    with contextlib.suppress(StoreError, BudgetRefused):  # read-only or full: the run files are as good
        # Texts repeat, numbers do not: with a dictionary they read half as fast.
        atomic_write(
            rows,
            lambda file: pq.write_table(
                table,
                file,
                compression="lz4",
                use_dictionary=_TEXTS,
                row_group_size=ROW_GROUP,
                write_page_checksum=True,
            ),
            durable=False,
        )
        about = {"version": STORE_VERSION, "footer": _footer(rows), "spans": spans}
        atomic_write(spans_file, json.dumps({**about, "digest": _digest(about)}).encode(), durable=False)


def _read(store: Store, sweep: str) -> _Compacted:
    """Return the compacted file of a sweep; an empty one if it is missing, damaged or of another version.

    Page checksums cover its pages, and a digest its footer and what says which rows are whose.
    """
    rows, spans_file = _files(store, sweep)
    try:
        about = json.loads(spans_file.read_bytes())
        digest = about.pop("digest")
        if digest != _digest(about) or about["version"] != STORE_VERSION or about["footer"] != _footer(rows):
            return _Compacted()
        table = pq.ParquetFile(rows, page_checksum_verification=True, read_dictionary=_TEXTS).read()
        spans = {run_id: _Span(start, stop, tuple(stamp)) for run_id, (start, stop, stamp) in about["spans"].items()}
        return _Compacted(table.cast(schema.RUN_SCHEMA), spans)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError):
        return _Compacted()


def _digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _footer(path: Path) -> str:
    """SHA-256 of the footer of a Parquet file, which no page checksum covers."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - _TAIL - length))
        return hashlib.sha256(file.read()).hexdigest()
