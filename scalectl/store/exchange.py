"""Results out, other people's tables and other machines' stores in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from scalectl.core.cost import Convention
from scalectl.core.errors import NothingMatched, ScalectlError, StoreBusy, StoreError, UsageError
from scalectl.core.job import State
from scalectl.core.rows import HELD_OUT, INDEX_COLUMNS, LOSS, Row
from scalectl.core.run import ID_DIGITS
from scalectl.store import schema
from scalectl.store.compact import load_rows
from scalectl.store.evaluations import JudgedOn, check_name, evaluated, evaluated_sets, judged_runs, take_name, what_is
from scalectl.store.files import atomic_write, sync_folder, temporary_name, writing
from scalectl.store.index import refresh
from scalectl.store.layout import Store, checked_name, open_store
from scalectl.store.live import begin, live, state_of
from scalectl.store.points import Mask, is_export, mapped_points, read_columns
from scalectl.store.reader import Damaged, DamagedRun, read_meta, read_run
from scalectl.store.sweeps import (
    damaged_sweeps,
    list_sweeps,
    load_sweep,
    plan_rows,
    repaired,
    save_sweep,
    sweep_text,
    write_sweep,
)
from scalectl.store.writer import measurements, write_file

if TYPE_CHECKING:
    import pandas as pd

_MOST = 2.0**63  # where the int64 of a count ends


@dataclass(frozen=True)
class Merge:
    """What importing a store did.

    copied, known, damaged: runs; judged: evaluations on further data that were added; sweeps: names that were added or
    grew; further: of those that were here, the runs that the sweep file here does not ask for, shown with --all;
    left: why a sweep was left out, one sentence each; flying: runs left out because they are in flight here; kept: runs
    whose final parameters, or what a script kept, came along.
    """

    copied: tuple[str, ...]
    known: tuple[str, ...]
    sweeps: tuple[str, ...]
    damaged: tuple[Damaged, ...]
    further: Mapping[str, int]
    judged: int = 0
    left: tuple[str, ...] = ()
    flying: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def export(store: Store, name: str, *, long: bool = False, everything: bool = False) -> pd.DataFrame:
    """Return the current runs of a sweep with their provenance, as one frame.

    Args: long: one row per measurement (the columns of RUN_COLUMNS, state, provenance), not one per run (the index);
    everything: also runs that only earlier versions of the sweep asked for.
    Returns: provenance in columns named `provenance.KEY`.
    Raises: NothingMatched if the sweep is unknown or none of its runs has ended.
    """
    sweep = load_sweep(store, name)
    wanted = set((sweep.whole if everything else sweep).current)
    frame = refresh(store).of(wanted).frame().dropna(axis="columns", how="all")
    if frame.empty:
        raise NothingMatched(f"no run of sweep {name} has ended", remedy=f"scalectl status {name}")
    if long:
        states = frame.set_index("run_id")["state"]
        frame, _ = load_rows(store, frame["run_id"], sweep=name)
        frame["state"] = frame["run_id"].map(states)
    origin = {run_id: read_meta(store.run_file(run_id)).provenance for run_id in frame["run_id"].unique()}
    for key in sorted({key for provenance in origin.values() for key in provenance}):
        cells = {run_id: schema.plain(provenance.get(key)) for run_id, provenance in origin.items()}
        frame[f"provenance.{key}"] = frame["run_id"].map(cells)
    return frame


def import_table(
    store: Store,
    source: str | Path,
    name: str,
    mapping: Mapping[str, str] | None = None,
    convention: Convention = "non_embedding",
    where: Mask | None = None,
) -> tuple[str, ...]:
    """Other people's runs as a sweep of the store: one run per row of a table.

    The id of a run is the digest of its row, of the source and of what its columns were taken for, so importing the
    same file in the same way again changes nothing, and with another mapping or convention makes other runs.
    C is stored where the source counts it, not where it is computed through C = 6 N D. An export of scalectl keeps its
    counts, final metrics, times and provenance. A cell of the sweep is the seed and the columns that look like
    settings: not taken for an axis, of several values, at least one of which is there twice. Every row is checked
    before the first run is written.

    Args: source: a CSV or Parquet file; name: of the sweep; mapping, where: as in `table_points`;
    convention: how the source counts parameters.
    Returns: the notes of `table_points`.
    Raises: UsageError if another sweep has the name: a table never takes the place of runs that were trained; as
    `table_points`, and as `write_run`.
    """
    toml = f'name = "{checked_name(name, "sweep name")}"\n'
    repairs = [repaired(error) for error in damaged_sweeps(store, [name]).values()]
    if name in list_sweeps(store) and not _is_import(store, name, toml):
        raise UsageError(
            f"{name} is a sweep of its own here, which a table does not replace",
            where=str(store.sweep_folder(name)),
            remedy="give what is imported another name: --name NAME",
        )
    columns, origin = read_columns(source)
    points, found = mapped_points(columns, mapping, where, origin, convention)
    export = is_export(columns)
    settings = _settings(points.columns, set(found.values()), export=export)
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    steps = next((held for key in ("step", "steps") if (held := points.columns.get(key)) is not None), np.zeros(0))
    counted = steps.dtype != object and len(steps) == len(points)  # otherwise the source does not say: step 0
    reserved = {column.name for column in INDEX_COLUMNS} | {"state", "message"}
    seen: Counter[str] = Counter()
    plan, runs = [], []
    for i in range(len(points)):
        row = {key: schema.plain(values[i]) for key, values in points.columns.items()}
        text = json.dumps(row, sort_keys=True)
        seen[text] += 1  # rows that are equal in every column are still several runs
        N, D, C = (None if axis is None else float(axis[i]) for axis in (points.N, points.D, points.C))
        step = int(steps[i]) if counted and np.isfinite(steps[i]) else 0
        for column, value in ((found.get("N", "N"), N), (found.get("D", "D"), D), ("step", step)):
            if value is not None and abs(value) >= _MOST:
                raise UsageError(
                    f"{column} is {value:g} in row {points.ids[i]}, and a count is below {_MOST:.2g}",
                    where=origin,
                    remedy="check its unit and --map, or leave such rows out with --where",
                )
        if export or points.derived == "C":
            C = None  # nobody counted it, or an export says it in a column of its own
        seed = None if points.seed is None else schema.plain(points.seed[i])
        meaning = json.dumps([convention, N, D, C, float(points.L[i]), seed, step])
        identity = f"scalectl-import-2\n{digest}\n{meaning}\n{seen[text]}\n{text}"
        run_id = hashlib.sha256(identity.encode()).hexdigest()[:ID_DIGITS]
        provenance = {"source": origin, "source_sha256": digest, "row": int(points.ids[i]), "derived": points.derived}
        known: dict[str, Any] = {"data.fingerprint": digest, "C_exact": C, "seconds": None}  # nobody timed it
        metrics: dict[str, float] = {}
        if export:
            kept, metrics, origins = _exported(row, origin)
            known |= kept
            provenance |= origins
        else:
            known |= {f"column.{key}" if key in reserved else key: value for key, value in row.items()}
        known |= {"D": None if D is None else round(D), "steps": step}
        if N is not None:
            known[f"N_{convention}"] = round(N)
        if N is not None and D is not None and convention == "non_embedding":
            known["C_6nd"] = 6 * N * D
        if points.seed is not None:
            known["train.seed"] = seed
        metrics[f"{HELD_OUT}/{LOSS}"] = float(points.L[i])
        flops, seconds = known["C_exact"] or 0.0, known["seconds"] or 0.0
        rows = []
        for key, value in metrics.items():
            split, _, metric = key.partition("/")
            rows.append(Row(run_id, step, round(D or 0), flops, split, metric, value, seconds))
        runs.append((run_id, rows, State.DONE, {"imported": row}, known, provenance))
        cell = {key: known[key] if key in known else row[key] for key in settings}
        if points.seed is not None:
            cell["train.seed"] = seed
        plan.append({**cell, "run_id": run_id, "config": {"imported": row}})
    if export and points.N is not None and points.D is not None:  # written by run id, which says nothing
        seeds = np.zeros(len(points)) if points.seed is None or points.seed.dtype == object else points.seed
        plan = [plan[i] for i in np.lexsort((seeds, points.D, points.N))]
    store.prepare()
    for run in runs:
        write_file(store, *run)
    save_sweep(store, name, toml, plan)
    return (*points.notes, *repairs)


def _is_import(store: Store, name: str, toml: str) -> bool:
    """Whether a sweep came out of a table, as its file says or, where that is gone, its runs."""
    if (store.sweep_folder(name) / "sweep.toml").exists():
        return sweep_text(store, name) == toml
    return all("imported" in json.loads(row["config"]) for row in plan_rows(store, name))


def _settings(columns: Mapping[str, npt.NDArray[Any]], mapped: set[str], *, export: bool) -> list[str]:
    """Columns of a table that look like settings of a sweep.

    What differs in every row is a name or a measurement, and so is any number of an export that is no config column.
    Source: ours.
    """
    taken = mapped | {"run_id", "current", "config", "train.seed"}
    found = []
    for name, values in columns.items():
        several = 1 < len({schema.plain(value) for value in values}) < len(values)
        if several and name not in taken and (not export or name.startswith(("model.", "data.", "train.", "eval."))):
            found.append(name)
    return found


def _exported(row: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, float], dict[str, Any]]:
    """Index columns, final metrics and provenance of a row that `export` wrote.

    Raises: UsageError for a cell that no run can have.
    """
    declared = {column.name: column for column in INDEX_COLUMNS if column.name not in ("run_id", "state", "message")}
    columns: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    provenance: dict[str, Any] = {}
    for name, value in row.items():
        if value is None or name in ("run_id", "state", "message"):
            continue
        if name in declared:
            try:
                columns[name] = schema.typed(declared[name], value)
            except ValueError as error:
                raise UsageError(f"{origin} is no export of scalectl any more: {error}") from error
        elif name.startswith("provenance."):
            provenance[name.removeprefix("provenance.")] = value
        elif "/" in name and isinstance(value, float):
            metrics[name] = value
        else:  # an integer beside empty cells comes as a float out of a CSV file
            columns[name] = int(value) if isinstance(value, float) and value.is_integer() else value
    return columns, metrics, provenance


def import_store(store: Store, source: str | Path) -> Merge:
    """Merge another store into this one: run files that are missing here, and sweeps.

    Every file is verified in full before it is copied, byte for byte. A run that is here with the same measurements is
    left alone (times may differ); a settled run takes the place of one that failed. What a living process trains here
    is left to it; a checkpoint that nobody holds gives way to the finished run.

    Raises: NothingMatched if there is no store; StoreError if a run is settled on both sides with other numbers: then
    nothing is copied at all.
    """
    other = open_store(source)
    if not other.runs.is_dir():
        raise NothingMatched(f"there is no store in {other.root}", remedy="give the folder that holds runs/")
    missing, known, conflicts, damaged = [], [], [], []
    for path in sorted(other.runs.glob("[!.]*.parquet")):
        other.inside("runs", path.name)
        try:
            theirs = read_run(path)
        except DamagedRun as error:
            damaged.append(Damaged(path, error.reason, None))  # another store is only read
            continue
        target = store.run_file(theirs.meta.run_id)
        try:
            ours = read_run(target)
        except (FileNotFoundError, DamagedRun):
            missing.append((path, target, theirs.meta.state))
            continue
        same = measurements(ours.table).equals(measurements(theirs.table)) and ours.meta.state is theirs.meta.state
        if same or not theirs.meta.state.final:
            known.append(theirs.meta.run_id)
        elif not ours.meta.state.final:
            missing.append((path, target, theirs.meta.state))
        else:
            conflicts.append(theirs.meta.run_id)
    if conflicts:
        raise StoreError(
            f"{len(conflicts)} runs are in both stores with different results: {', '.join(conflicts[:4])}",
            where=str(other.root),
            remedy="nothing was copied; find out which side is right and remove the other side's files",
        )
    sets, further_files = _further_evaluations(store, other)
    store.prepare()
    for name, on in sets.items():
        take_name(store, name, on)
    flying = {target.stem for path, target, state in missing if not _brought(store, path, target, state)}
    further_files = [(path, target) for path, target in further_files if target.stem not in flying]
    for path, target in further_files:
        _copy(path, target)
    names = list_sweeps(other)
    broken = {**damaged_sweeps(other, names), **damaged_sweeps(store, names)}
    merged = {name: _merge_sweep(store, other, name) for name in reversed(names) if name not in broken}
    grown = tuple(name for name, runs in merged.items() if runs != 0)
    further = {name: runs for name, runs in merged.items() if runs}
    copied = tuple(target.stem for _, target, _ in missing if target.stem not in flying)
    left = tuple(f"{error.what} ({error.where}); its list of runs is left out" for error in broken.values())
    kept = tuple(run_id for run_id in (*copied, *known) if _bring_kept(store, other, run_id))
    return Merge(
        copied, tuple(known), grown, tuple(damaged), further, len(further_files), left, tuple(sorted(flying)), kept
    )


def _bring_kept(store: Store, other: Store, run_id: str) -> bool:
    """Copy what another store kept of a run, but for links, where nothing is kept of it here. Returns: whether it did.

    Raises: BudgetRefused if the disk is full, StoreError if it cannot be written; nothing is left behind.
    """
    source, target = other.root / "kept" / run_id, store.kept_folder(run_id)
    if source.parent.is_symlink() or source.is_symlink() or not source.is_dir() or target.exists():
        return False

    def links(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if os.path.islink(os.path.join(folder, name))]

    temporary = temporary_name(target)
    with writing(target):
        target.parent.mkdir(exist_ok=True)
        try:
            shutil.copytree(source, temporary, ignore=links)
            os.rename(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(target.parent)
    return True


def _brought(store: Store, path: Path, target: Path, state: State) -> bool:
    """Copy the file of a run that ended in this state; False for a run in flight here that is left to itself."""
    run_id = target.stem
    if not live(store, run_id).folder.is_dir():
        _copy(path, target)
        return True
    stood = state_of(store, run_id)
    if not state.final or stood.state is State.RUNNING:
        return False
    try:
        begun = begin(store, run_id)
    except StoreBusy:  # somebody began it just now
        return False
    if begun is None:  # it ended just now
        return False
    folder, claim = begun
    try:
        _copy(path, target)
    except ScalectlError:
        with contextlib.suppress(ScalectlError):  # a full disk keeps the shorter story
            folder.mark(stood.state, stood.message, stood.step)
        claim.release()
        raise
    folder.clear()
    return True


def _copy(path: Path, target: Path) -> None:
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, path.read_bytes())


def _further_evaluations(store: Store, other: Store) -> tuple[dict[str, JudgedOn], list[tuple[Path, Path]]]:
    """Sets of another store, and their files that are missing here, each with its place.

    Raises: UsageError if a set has a name that stands for other data here.
    """
    sets = evaluated_sets(other)
    found: list[tuple[Path, Path]] = []
    for name, theirs in sets.items():
        check_name(store, name, theirs)
        ours = what_is(store, name) or theirs
        found += [
            (other.evaluation_file(name, run_id), store.evaluation_file(name, run_id))
            for run_id in judged_runs(other, name)
            if evaluated(other, name, run_id, theirs) is not None and evaluated(store, name, run_id, ours) is None
        ]
    return sets, found


def _merge_sweep(store: Store, other: Store, name: str) -> int | None:
    """Returns: runs added to a sweep that was here, None for one that was not."""
    theirs = load_sweep(other, name)
    if name not in list_sweeps(store):
        write_sweep(store, name, theirs.toml, theirs.rows)
        return None
    ours = load_sweep(store, name)
    here = {row["run_id"] for row in ours.rows}
    added = [row | {"current": False} for row in theirs.rows if row["run_id"] not in here]
    if added:  # our sweep file says what is current; their further runs are found with --all
        write_sweep(store, name, ours.toml, [*ours.rows, *added])
    return len(added)
