"""The sweeps of a store: each a name, the sweep file as it was last run, and a list of run ids with their cells."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalectl.core.errors import NothingMatched, StoreError
from scalectl.core.names import did_you_mean, is_name
from scalectl.store import schema
from scalectl.store.files import atomic_write, writing
from scalectl.store.layout import Store

_FIRST = (
    pa.field("run_id", pa.string(), metadata={"unit": "", "description": "Identity of the run."}),
    pa.field(
        "current",
        pa.bool_(),
        metadata={"unit": "", "description": "Whether the sweep file as it stands asks for the run."},
    ),
    pa.field("config", pa.string(), metadata={"unit": "", "description": "Record of the run's RunConfig as JSON."}),
)


@dataclass(frozen=True)
class StoredSweep:
    """A sweep as it was last run. rows: dicts of run_id, current, config (JSON text) and the cell's columns."""

    name: str
    toml: str
    rows: tuple[dict[str, Any], ...]

    @property
    def current(self) -> tuple[str, ...]:
        """Run ids that the sweep file asks for now, in the order of the plan."""
        return tuple(row["run_id"] for row in self.rows if row["current"])

    @property
    def earlier(self) -> tuple[str, ...]:
        """Run ids that only earlier versions of the sweep file asked for."""
        return tuple(row["run_id"] for row in self.rows if not row["current"])


def save_sweep(store: Store, name: str, toml_text: str, plan_rows: Iterable[Mapping[str, Any]]) -> None:
    """Record what a sweep asks for now, and keeps what it asked for before as not current.

    Args: plan_rows: `run_id`, `config` (the record of the RunConfig, as a dict or JSON text) and one key per column of
    the cell; a run that appears twice is kept once.
    Raises: UsageError for a bad name; StoreError or BudgetRefused if the store cannot be written.
    """
    rows = {str(row["run_id"]): dict(row) | {"current": True} for row in plan_rows}
    if (store.sweep_folder(name) / "plan.parquet").exists():
        for row in load_sweep(store, name).rows:
            rows.setdefault(row["run_id"], row | {"current": False})
    write_sweep(store, name, toml_text, list(rows.values()))


def write_sweep(store: Store, name: str, toml_text: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a sweep by exactly these rows, `current` included."""
    folder = store.sweep_folder(name)
    ready = []
    for row in rows:
        config = row["config"]
        text = config if isinstance(config, str) else json.dumps(config, sort_keys=True)
        ready.append({**row, "config": text})
    sink = pa.BufferOutputStream()
    pq.write_table(schema.table_of(ready, _FIRST), sink, compression="zstd", write_page_checksum=True)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # The plan last: a sweep is listed once its plan is there.
    atomic_write(folder / "sweep.toml", toml_text.encode())
    atomic_write(folder / "plan.parquet", bytes(sink.getvalue()))


def load_sweep(store: Store, name: str) -> StoredSweep:
    """Return a sweep by name.

    Raises: NothingMatched if there is none, with the names that are there; StoreError if its plan is damaged.
    """
    folder = store.sweep_folder(name)
    try:
        toml = (folder / "sweep.toml").read_text(encoding="utf-8")
        table = pq.ParquetFile(folder / "plan.parquet", page_checksum_verification=True).read()
        if table.schema.names[: len(_FIRST)] != [field.name for field in _FIRST]:
            raise ValueError("its columns are not those of a plan")
    except FileNotFoundError as error:
        there = list_sweeps(store)
        raise NothingMatched(
            f"no sweep named {name}",
            where=str(store.root),
            remedy=did_you_mean(name, there) or "scalectl status lists the sweeps that are there",
        ) from error
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StoreError(
            f"the plan of sweep {name} is damaged", where=str(folder), remedy="repeat the sweep to write it again"
        ) from error
    rows = [{key: value for key, value in row.items() if value is not None} for row in table.to_pylist()]
    return StoredSweep(name, toml, tuple(rows))


def sweep_text(store: Store, name: str) -> str:
    """The sweep file of a sweep that is listed, as it was last run; empty if it is gone or cannot be read."""
    try:
        return (store.sweep_folder(name) / "sweep.toml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def list_sweeps(store: Store) -> list[str]:
    """Names of the sweeps, the most recently run first."""
    try:
        entries = list(os.scandir(store.sweeps))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError("the store cannot be read", where=f"{store.sweeps}: {error.strerror}") from error
    found = []
    for entry in entries:
        if not is_name(entry.name):
            continue
        if entry.is_symlink():
            store.inside("sweeps", entry.name)
        try:
            found.append((-os.stat(os.path.join(entry.path, "plan.parquet")).st_mtime_ns, entry.name))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return [name for _, name in sorted(found)]


def latest_sweep(store: Store) -> str:
    """Return the sweep that was run last. Raises: NothingMatched if there is none."""
    names = list_sweeps(store)
    if not names:
        raise NothingMatched("the store has no sweep", where=str(store.root), remedy="run one: scalectl sweep FILE")
    return names[0]
