"""`scalectl import` and `scalectl export`: other people's runs in, a sweep's runs out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scalectl.commands.fit import mapping_of, mask_of
from scalectl.commands.target import find_target, results_store
from scalectl.core.cost import Convention
from scalectl.core.errors import NothingMatched, StoreError, UsageError
from scalectl.core.names import escaped
from scalectl.core.units import counted
from scalectl.store.exchange import export, import_store, import_table
from scalectl.store.files import atomic_write
from scalectl.store.sweeps import load_sweep


@dataclass(frozen=True)
class Imported:
    """What came in. sweeps: by name; runs: new ones; known: runs that were here before; notes: one sentence each."""

    sweeps: tuple[str, ...]
    runs: int
    known: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Exported:
    """What went out."""

    path: Path
    rows: int


def bring(
    source: str,
    results: str | None,
    *,
    name: str | None = None,
    maps: Sequence[str] = (),
    where: str | None = None,
    convention: Convention = "non_embedding",
) -> Imported:
    """Import a CSV or Parquet table as a sweep, or merge another store.

    Args: name: of the sweep, the file's name if None.
    Raises: NothingMatched if there is nothing at `source`; UsageError for columns that cannot be used.
    """
    store = results_store(results)
    path = Path(source)
    if os.path.isdir(source):
        merged = import_store(store, path)
        notes = [
            f"{counted(runs, 'run')} of {held} are none of its sweep file here; --all shows them too"
            for held, runs in merged.further.items()
        ]
        notes += [f"{counted(merged.judged, 'evaluation')} on further data"] * (merged.judged > 0)
        notes += [f"what {counted(len(merged.kept), 'run')} kept"] * bool(merged.kept)
        if merged.flying:
            first = ", ".join(run_id[:6] for run_id in merged.flying[:6])
            what = counted(len(merged.flying), "run") + (" is" if len(merged.flying) == 1 else " are")
            notes.append(f"{what} in flight here and left out ({first}); import again once they have ended")
        notes += [*merged.left, *map(str, merged.damaged)]
        return Imported(merged.sweeps, len(merged.copied), len(merged.known), tuple(notes))
    if not os.path.isfile(source):
        raise NothingMatched(f"no file or folder {escaped(source)}")
    sweep = name or path.stem
    before = {held.stem for held in store.runs.glob("*.parquet")}
    said = import_table(store, path, sweep, mapping_of(maps), convention, mask_of(where))
    runs = set(load_sweep(store, sweep).current)
    return Imported((sweep,), len(runs - before), len(runs & before), said)


def take_out(
    named: str | None, results: str | None, output: str | None, *, long: bool = False, everything: bool = False
) -> Exported:
    """Write a sweep's runs with their provenance to a CSV or Parquet file.

    Args: output: the file, NAME.parquet if None; long: one row per measurement; everything: also runs that only earlier
    versions of the sweep asked for.
    Raises: UsageError for another ending or a file that cannot be written, NothingMatched if no run has ended.
    """
    target = find_target(named, results)
    if target.file is not None:
        raise UsageError(f"{target.name} is a file already")
    path = Path(output or f"{target.name}.parquet")
    if path.suffix not in (".csv", ".parquet"):
        raise UsageError(f"cannot write {path.name}", remedy="end the file's name in .parquet or .csv")
    frame = export(target.store, target.name, long=long, everything=everything)
    content = frame.to_csv(index=False).encode() if path.suffix == ".csv" else frame.to_parquet(None, index=False)
    try:
        atomic_write(path, content)
    except StoreError as error:  # the output is no part of the store, which is whole
        raise UsageError(
            f"{path} cannot be written", where=error.where, remedy="name a file in a writable folder: --output FILE"
        ) from error
    return Exported(path, len(frame))
