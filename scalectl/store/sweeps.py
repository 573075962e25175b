"""The sweeps of a store: each a name, the sweep file as it was last run, and a list of run ids with their cells."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalectl.core.errors import NothingMatched, StoreError
from scalectl.core.names import did_you_mean, is_name
from scalectl.store import schema
from scalectl.store.files import atomic_write, reading, sync_folder, temporary_name, writing
from scalectl.store.layout import Store
from scalectl.store.reader import move_aside

_FIRST = (
    pa.field("run_id", pa.string(), metadata={"unit": "", "description": "Identity of the run."}),
    pa.field(
        "current",
        pa.bool_(),
        metadata={"unit": "", "description": "Whether the sweep file as it stands asks for the run."},
    ),
    pa.field("config", pa.string(), metadata={"unit": "", "description": "Record of the run's RunConfig as JSON."}),
)

_FORGOTTEN = "runs of earlier versions of the sweep are listed no more"


class DamagedSweep(StoreError):
    """A sweep of which the plan or the sweep file is damaged or gone; saving it again mends it.

    mended: what saving it does, in words.
    """

    def __init__(self, name: str, folder: Path, reason: str, mended: str) -> None:
        super().__init__(
            f"the plan of sweep {name} is damaged: {reason}",
            where=str(folder),
            remedy="repeat the sweep with its file to write it again: scalectl sweep FILE, or import FILE",
        )
        self.mended = mended


def cell_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cell of a run in a stored sweep: its row without what every row has."""
    return {name: held for name, held in row.items() if name not in ("run_id", "current", "config")}


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

    @property
    def whole(self) -> StoredSweep:
        """The same with all runs that were ever asked for as those that are asked for now."""
        return replace(self, rows=tuple(row | {"current": True} for row in self.rows))


def save_sweep(store: Store, name: str, toml_text: str, asked: Iterable[Mapping[str, Any]]) -> None:
    """Record what a sweep asks for now, and keeps what it asked for before as not current.

    A damaged plan is moved to the quarantine, and what only it asked for is forgotten.

    Args: asked: `run_id`, `config` (the record of the RunConfig, as a dict or JSON text) and one key per column of
    the cell; a run that appears twice is kept once.
    Raises: UsageError for a bad name; StoreError or BudgetRefused if the store cannot be written.
    """
    rows = {str(row["run_id"]): dict(row) | {"current": True} for row in asked}
    folder = store.sweep_folder(name)
    try:
        for row in plan_rows(store, name):
            rows.setdefault(row["run_id"], row | {"current": False})
    except FileNotFoundError:
        pass
    except DamagedSweep:
        with writing(folder / "plan.parquet"), contextlib.suppress(FileNotFoundError):  # another process was faster
            move_aside(store, folder / "plan.parquet", name, ".plan")
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
    files = {"sweep.toml": toml_text.encode(), "plan.parquet": bytes(sink.getvalue())}
    if not folder.exists() and _appeared(folder, files):
        return
    for file, content in files.items():
        atomic_write(folder / file, content)


def _appeared(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Write a new folder, which nobody finds with a part of its files; False if another process was faster."""
    fresh = temporary_name(folder)
    with writing(folder):
        fresh.mkdir(parents=True)
    try:
        for file, content in files.items():
            atomic_write(fresh / file, content)
        with contextlib.suppress(OSError):
            os.rename(fresh, folder)
            sync_folder(folder.parent)
        return not fresh.exists()
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def load_sweep(store: Store, name: str) -> StoredSweep:
    """Return a sweep by name.

    Raises: NothingMatched if there is none, with the names that are there; DamagedSweep if its plan is damaged or one
    of its two files is gone; StoreError if they cannot be read.
    """
    folder = store.sweep_folder(name)
    toml = plan = None
    with contextlib.suppress(FileNotFoundError):
        toml = _content(folder / "sweep.toml")
    with contextlib.suppress(FileNotFoundError):
        plan = _plan(folder, name)
    if plan is None and toml is None:
        raise NothingMatched(
            f"no sweep named {name}",
            where=str(store.root),
            remedy=did_you_mean(name, list_sweeps(store)) or "scalectl status lists the sweeps that are there",
        )
    if plan is None:
        raise DamagedSweep(name, folder, "plan.parquet is gone", f"it is written anew; {_FORGOTTEN}")
    if toml is None:
        raise DamagedSweep(name, folder, "sweep.toml is gone", "it is written anew")
    try:
        return StoredSweep(name, toml.decode(), tuple(_rows(plan)))
    except UnicodeDecodeError as error:
        raise DamagedSweep(name, folder, "sweep.toml is no text", "it is written anew") from error


def damaged_sweeps(store: Store, names: Iterable[str]) -> dict[str, StoreError]:
    """Those of these sweeps that cannot be read, each with the error of `load_sweep`."""
    found = {}
    for name in names:
        try:
            load_sweep(store, name)
        except NothingMatched:
            continue
        except StoreError as error:
            found[name] = error
    return found


def repaired(error: StoreError) -> str:
    """What saving a sweep of `damaged_sweeps` does about it, in a sentence. Raises: the error, if it cannot be read."""
    if not isinstance(error, DamagedSweep):
        raise error
    return f"{error.what}; {error.mended}"


def plan_rows(store: Store, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a plan alone. Raises: FileNotFoundError; DamagedSweep; StoreError if it cannot be read."""
    return _rows(_plan(store.sweep_folder(name), name))


def _plan(folder: Path, name: str) -> pa.Table:
    """The plan in a sweep's folder. Raises: FileNotFoundError; DamagedSweep; StoreError if it cannot be read."""
    content = _content(folder / "plan.parquet")
    try:
        table = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
        if table.schema.names[: len(_FIRST)] != [field.name for field in _FIRST]:
            raise ValueError("its columns are not those of a plan")
    except (OSError, pa.ArrowException, ValueError, MemoryError, OverflowError) as error:
        said = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        mended = f"it is moved to quarantine/ and written anew; {_FORGOTTEN}"
        raise DamagedSweep(name, folder, said, mended) from error
    return table


def _rows(plan: pa.Table) -> Iterator[dict[str, Any]]:
    for row in plan.to_pylist():
        yield {key: value for key, value in row.items() if value is not None}


def _content(path: Path) -> bytes:
    with reading(f"sweep {path.parent.name}", path.parent):
        try:
            return path.read_bytes()
        except NotADirectoryError as error:  # a file among the sweeps
            raise FileNotFoundError(path) from error


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
        written = _written(entry.path)
        if written is not None:
            found.append((-written, entry.name))
    return [name for _, name in sorted(found)]


def _written(folder: str) -> int | None:
    """When a sweep was last run [Unix ns], 0 if that cannot be seen; None for a folder that is none."""
    for file in ("plan.parquet", "sweep.toml"):
        try:
            return os.stat(os.path.join(folder, file)).st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # listed, so that whoever wants it is told why it cannot be read
            return 0
    return None


def latest_sweep(store: Store) -> str:
    """Return the sweep that was run last. Raises: NothingMatched if there is none."""
    names = list_sweeps(store)
    if not names:
        raise NothingMatched("the store has no sweep", where=str(store.root), remedy="run one: scalectl sweep FILE")
    return names[0]
