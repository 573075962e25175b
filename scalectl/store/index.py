"""The index: one row per ended run, derived from the run files and never trusted over them."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalectl.core.errors import BudgetRefused, NothingMatched, StoreError, UsageError
from scalectl.core.names import shown
from scalectl.core.rows import INDEX_COLUMNS, STORE_VERSION
from scalectl.store import schema
from scalectl.store.evaluations import evaluated_sets, evaluations
from scalectl.store.files import atomic_write
from scalectl.store.layout import Store
from scalectl.store.reader import Damaged, DamagedRun, RunFile, RunMeta, quarantined, read_run, set_aside

if TYPE_CHECKING:
    import pandas as pd

_STAMPS = b"scalectl.stamps"
_LAYOUT = b"scalectl.layout"
_FIELDS = b"scalectl.fields"
_MIXED = b"scalectl.mixed"
# An index written with other columns or by another version is rebuilt, not converted.
_THIS_LAYOUT = json.dumps([STORE_VERSION, [(column.name, column.type) for column in INDEX_COLUMNS]]).encode()

Stamp = tuple[int, ...]  # mtime [ns] and size [bytes] of a run file, then of each of its evaluations


@dataclass(frozen=True)
class Index:
    """All ended runs.

    table: the columns of INDEX_COLUMNS, then config columns, then final metrics, sorted by run id;
    damaged: files that were left out while it was made.
    """

    table: pa.Table
    damaged: tuple[Damaged, ...] = ()

    def of(self, run_ids: Iterable[str]) -> Index:
        """Return these runs only, without the config columns and metrics that none of them has.

        The table of all runs is a union: a column of one sweep is empty in all the others.
        """
        wanted = set(run_ids)
        # A mask would do the same, and import pyarrow.compute and, to see whether it is one of its series, pandas.
        keep = [run_id in wanted for run_id in self.table["run_id"].to_pylist()]
        runs = [list(run) for kept, run in groupby(range(len(keep)), keep.__getitem__) if kept]
        pieces = [self.table.slice(run[0], len(run)) for run in runs] or [self.table.slice(0, 0)]
        table = pa.concat_tables(pieces).combine_chunks()
        declared = {column.name for column in INDEX_COLUMNS}
        kept = [name for name in table.column_names if name in declared or table[name].null_count < len(table)]
        return Index(table.select(kept), self.damaged)

    def frame(self) -> pd.DataFrame:
        """Return the table for pandas; integers with gaps stay integers, in pandas' nullable type."""
        import pandas as pd

        frame = self.table.to_pandas()
        for field, column in zip(self.table.schema, self.table.columns, strict=True):
            if pa.types.is_integer(field.type) and column.null_count:
                frame[field.name] = pd.array(column.to_pylist(), dtype="Int64")
        return frame

    def states(self) -> dict[str, tuple[str, str, int]]:
        """State, message and steps of every run, by id."""
        columns = (self.table[name].to_pylist() for name in ("run_id", "state", "message", "steps"))
        return {run_id: (state, message, steps or 0) for run_id, state, message, steps in zip(*columns, strict=True)}


def rebuild(store: Store) -> Index:
    """Return the index made again from every run file, each verified in full."""
    return _update(store, {}, [])


def refresh(store: Store) -> Index:
    """Return the index brought up to date: only files that are new or changed (by time and size) are read."""
    table = _stored(store)
    if table is None:
        return rebuild(store)
    known = {run_id: tuple(stamp) for run_id, stamp in json.loads(table.schema.metadata[_STAMPS]).items()}
    if known == stamps(store):
        return Index(table.replace_schema_metadata(None))
    if table.schema.metadata[_MIXED] == b"yes":
        return rebuild(store)  # a number that became text beside text is a number again once that run is gone
    return _update(store, known, table.to_pylist())


def damaged_runs(store: Store, index: Index, run_ids: Iterable[str] | None = None) -> tuple[Damaged, ...]:
    """Return every damaged file whose run has no good one, whether this reader found it or an earlier one.

    Args: index: from `refresh`, just now; run_ids: only these, all if None.
    Returns: those left where they are first, then those in the quarantine.
    """
    wanted = None if run_ids is None else set(run_ids)
    left = [held for held in index.damaged if held.moved_to is None and (wanted is None or held.path.stem in wanted)]
    return (*left, *quarantined(store, wanted))


def source_notes(index: Index, run_ids: Iterable[str]) -> tuple[str, ...]:
    """Say where code that moves numbers was edited between these runs, or while one of them was trained."""
    wanted = set(run_ids)
    cells = zip(*(index.table[name].to_pylist() for name in ("run_id", "source", "edited")), strict=True)
    held = [cell for cell in cells if cell[0] in wanted and cell[1]]
    notes = []
    found = Counter(source for _, source, _ in held)
    if len(found) > 1:
        each = ", ".join(f"{count} by {source[:6]}" for source, count in found.most_common(4))
        notes.append(f"the code was edited between these runs ({each}); column `source` tells them apart")
    if mixed := sorted(run_id[:6] for run_id, _, edited in held if edited):
        listed = ", ".join(mixed[:4]) + (", ..." if len(mixed) > 4 else "")
        notes.append(f"the code was edited while these runs trained: {listed}; column `edited` marks them")
    return tuple(notes)


def find_run(store: Store, prefix: str) -> str:
    """Return the one ended run or run in flight whose id begins with `prefix`.

    Raises: NothingMatched if there is none, UsageError if there are several.
    """
    known = {*stamps(store), *store.in_flight()}
    found = sorted(run_id for run_id in known if run_id.startswith(prefix))
    if prefix in known:
        return prefix
    if not found:
        raise NothingMatched(f"no run begins with {shown(prefix)}", where=str(store.root), remedy="scalectl status")
    if len(found) > 1:
        raise UsageError(f"{len(found)} runs begin with {shown(prefix)}", remedy=f"add digits: {', '.join(found[:4])}")
    return found[0]


def stamps(store: Store) -> dict[str, Stamp]:
    """Time and size of every run file and of its evaluations, by the name it claims."""
    found = dict(_stamped(store, "runs"))
    for name in evaluated_sets(store):
        for run_id, stamp in _stamped(store, "evals", name):
            if run_id in found:
                found[run_id] += stamp
    return found


def _stamped(store: Store, *folder: str) -> Iterator[tuple[str, Stamp]]:
    """The files of runs in a folder."""
    path = store.inside(*folder)
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError("the store cannot be read", where=f"{path}: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith(".") or not entry.name.endswith(".parquet"):
            continue
        if entry.is_symlink():
            store.inside(*folder, entry.name)
        try:
            status = entry.stat()
        except OSError:  # moved away by another process just now, or a link that leads nowhere
            continue
        yield entry.name.removesuffix(".parquet"), (status.st_mtime_ns, status.st_size)


def _stored(store: Store) -> pa.Table | None:
    """index.parquet, or None if it is missing, damaged or of another layout: it can always be made again."""
    try:
        table = pq.ParquetFile(store.index, page_checksum_verification=True).read()
    except (OSError, pa.ArrowException, ValueError):
        return None
    metadata = table.schema.metadata or {}
    if metadata.get(_LAYOUT) != _THIS_LAYOUT or metadata.get(schema.DIGEST) != schema.metadata_digest(metadata):
        return None
    return table if metadata.get(_FIELDS) == _fields(table) else None


def _update(store: Store, known: dict[str, Any], rows: list[dict[str, Any]]) -> Index:
    """Return the index: rows of a stored one for files whose stamp is `known`, all others from their files."""
    before = {row["run_id"]: row for row in rows}
    read, held, damaged = {}, [], []
    sets = evaluated_sets(store)
    for run_id, stamp in sorted(stamps(store).items()):
        if known.get(run_id) == stamp and run_id in before:
            held.append({name: value for name, value in before[run_id].items() if value is not None})
        else:
            try:
                held.append(_row(read_run(store.runs / f"{run_id}.parquet").meta, evaluations(store, run_id, sets)))
            except FileNotFoundError:
                continue
            except DamagedRun as error:
                damaged.append(set_aside(store, error))
                continue
        read[run_id] = stamp
    table = _ordered(schema.table_of(held, schema.INDEX_FIELDS))
    free = table.column_names[len(INDEX_COLUMNS) :]
    metadata = {
        _STAMPS: json.dumps(read, sort_keys=True).encode(),
        _LAYOUT: _THIS_LAYOUT,
        _FIELDS: _fields(table),
        _MIXED: b"yes" if schema.mixed(held, free) else b"no",
    }
    metadata[schema.DIGEST] = schema.metadata_digest(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd", write_page_checksum=True)
    if store.writable and store.root.is_dir():
        with contextlib.suppress(StoreError, BudgetRefused):  # read-only or full: the index in memory is as good
            atomic_write(store.index, bytes(sink.getvalue()), durable=False)
    return Index(table, tuple(damaged))


def _fields(table: pa.Table) -> bytes:
    """Names and types of the columns, which page checksums do not cover."""
    return json.dumps([(field.name, str(field.type)) for field in table.schema]).encode()


def _row(meta: RunMeta, judged: Iterable[RunFile]) -> dict[str, Any]:
    later = {metric: value for held in judged for metric, value in held.meta.final.items()}
    about = {"run_id": meta.run_id, "state": str(meta.state), "message": meta.message}
    return {**meta.columns, **about, **later, **meta.final}


def _ordered(table: pa.Table) -> pa.Table:
    """Config columns and final metrics in an order that does not depend on which file was read first."""
    first = [column.name for column in INDEX_COLUMNS]
    rest = [name for name in table.column_names if name not in first]
    table = table.select(first + sorted(rest, key=lambda name: ("/" in name, name)))
    import pyarrow.compute as pc  # .2 seconds, and workers that only write rows need it not

    return table.take(pc.sort_indices(table, [("run_id", "ascending")]))
