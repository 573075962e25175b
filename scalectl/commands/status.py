"""`scalectl status` and `scalectl logs`: the truth about runs, even after a crash."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalectl.commands.target import changed_note, find_target, results_store
from scalectl.core.errors import NothingMatched, StoreError, UsageError
from scalectl.core.job import State
from scalectl.report.cells import label, short_names, show
from scalectl.report.views import StatusRow, StatusView
from scalectl.store.files import no_link
from scalectl.store.index import damaged_runs, find_run, refresh, source_notes
from scalectl.store.keepers import keepers
from scalectl.store.layout import Store
from scalectl.store.live import Standing, host_identity, live, standing, states
from scalectl.store.reader import RunMeta, read_meta
from scalectl.store.sweeps import cell_of, list_sweeps, load_sweep

LOG_BYTES = 200_000  # of a log's end; ours: a traceback and the attempts before it


@dataclass(frozen=True)
class RunLog:
    """What is known about one run.

    meta: of its file, None while it has none; log: what its trainer wrote; sweep: that asks for it, "" where none does
    any more; cell: its place there.
    """

    run_id: str
    standing: Standing
    meta: RunMeta | None
    log: str
    sweep: str
    cell: Mapping[str, Any]


def run(named: str | None, results: str | None, *, failed: bool = False, everything: bool = False) -> StatusView:
    """How every run of a sweep stands.

    Args: failed: only runs that failed or diverged; everything: also those that only earlier versions asked for.
    Raises: NothingMatched if there is no such sweep; UsageError for a file.
    """
    target = find_target(named, results)
    if target.file is not None:
        raise UsageError(f"{target.name} is a file, and status is of a sweep", remedy="scalectl status NAME")
    sweep = load_sweep(target.store, target.name)
    sweep = sweep.whole if everything else sweep
    index = refresh(target.store)
    found = states(target.store, sweep.current, index)
    broken = (State.FAILED, State.DIVERGED, State.LOST, State.OOM, State.TIMEOUT)
    rows = [
        _row(target.store, row, found[row["run_id"]])
        for row in sweep.rows
        if row["current"]
        and (found[row["run_id"]].state in broken if failed else found[row["run_id"]].state is not State.DONE)
    ]
    return StatusView(
        name=target.name,
        counts=dict(Counter(held.state for held in found.values())),
        rows=tuple(rows),
        selection="runs that failed, diverged or were lost" if failed else "runs that are not done",
        notes=(
            *changed_note(target.store, target.name),
            *map(str, damaged_runs(target.store, index, sweep.current)),
            *source_notes(index, sweep.current),
        ),
    )


def going(view: StatusView, results: str | None) -> bool:
    """Whether any run of the sweep is being trained, or somebody is about to."""
    here, now = host_identity(), time.time()
    keeping = keepers(results_store(results), view.name).values()
    return view.counts.get(State.RUNNING, 0) > 0 or any(holder.alive(here, now) for holder in keeping)


def logs(prefix: str, results: str | None) -> RunLog:
    """The log and the end of one run.

    Raises: NothingMatched if no run begins with `prefix`, UsageError if several do; StoreError if its log is a link.
    """
    store = results_store(results)
    run_id = find_run(store, prefix)
    path = store.run_file(run_id)
    meta = read_meta(path) if path.exists() else None
    filed = None if meta is None else Standing(meta.state, meta.message, int(meta.columns.get("steps") or 0))
    log = live(store, run_id).log
    text = ""
    with contextlib.suppress(FileNotFoundError), open(log, "rb", opener=no_link) as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - LOG_BYTES))
        text = file.read().decode(errors="replace")
    return RunLog(run_id, standing(store, run_id, filed), meta, text, *_asked_by(store, run_id))


def log_lines(found: RunLog) -> list[tuple[str, str]]:
    """What stands above the log of a run: each line with its style."""
    told = [(f"{found.run_id}  {found.standing.state} at step {found.standing.step}", "bold")]
    names = short_names(tuple(found.cell))
    cell = label({names[key]: value for key, value in found.cell.items()})
    if found.sweep:
        told.append((f"{found.sweep}  {cell}".rstrip(), ""))
    if found.standing.message:
        told.append((found.standing.message, ""))
    if found.meta is not None:
        final = ", ".join(f"{name} {show(value)}" for name, value in found.meta.final.items())
        about = ((name, show(value)) for name, value in found.meta.provenance.items() if value is not None)
        told += [(final, "")] * bool(final)
        told.append((", ".join(f"{name} {text}" for name, text in about), "dim"))
    return told


def _asked_by(store: Store, run_id: str) -> tuple[str, Mapping[str, Any]]:
    """The sweep that asked for a run last, and the run's cell in it."""
    for name in list_sweeps(store):
        with contextlib.suppress(NothingMatched, StoreError):  # a damaged plan says nothing, here
            for row in load_sweep(store, name).rows:
                if row["run_id"] == run_id:
                    return name, cell_of(row)
    return "", {}


def _row(store: Store, row: Mapping[str, Any], held: Standing) -> StatusRow:
    rows_file = live(store, row["run_id"]).rows_file
    since = max(0.0, time.time() - rows_file.stat().st_mtime) if rows_file.exists() else None
    config = json.loads(row["config"])
    return StatusRow(
        run_id=row["run_id"],
        cell=cell_of(row),
        state=held.state,
        step=held.step,
        steps=int(config.get("steps") or 0),
        seconds_ago=since,
        message=held.message,
    )
