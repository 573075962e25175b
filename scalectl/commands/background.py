"""`scalectl sweep --detach` and `scalectl stop`: sweeps without a terminal, found by their keepers' files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalectl.commands.slurm import cancel
from scalectl.commands.sweep import Prepared, check_budget, record_plan
from scalectl.commands.target import find_target
from scalectl.core.errors import ScalectlError, StoreError, UsageError
from scalectl.core.job import State
from scalectl.executors.adopted import signal_process
from scalectl.executors.local import CHECKPOINT_SECONDS
from scalectl.executors.slurm import Task
from scalectl.executors.submission import forget, submissions
from scalectl.store.files import writing
from scalectl.store.keepers import forget_dead, keepers, kept
from scalectl.store.layout import Store
from scalectl.store.live import Holder, host_identity, live, process_start, states
from scalectl.store.sweeps import DamagedSweep, load_sweep

START_SECONDS = 120.0  # a background process that is neither at work nor at its end by then is left alone; ours
LOOK_SECONDS = 0.1
LOG = "log"  # of the background process, in the sweep's folder


@dataclass(frozen=True)
class Started:
    """A sweep in the background. pid: of its process; log: what it says."""

    pid: int
    log: Path


@dataclass(frozen=True)
class Stopped:
    """What came of `stop`.

    processes: those asked to end, jobs of a cluster included; killed: those that did not; counts: runs by state
    afterwards; elsewhere: hosts that train runs of the sweep and cannot be reached from here.
    """

    name: str
    processes: int
    killed: int
    counts: Mapping[State, int]
    elsewhere: tuple[str, ...]


def detach(prepared: Prepared, arguments: Sequence[str], *, hours: bool = True) -> Started:
    """Start the sweep in a process of its own that outlives the terminal, and wait until it is at work.

    Args: arguments: of `scalectl sweep` for it; hours: as in `check_budget`.
    Raises: ScalectlError, with its last line, if it ended without getting that far; BudgetRefused.
    """
    check_budget(prepared, hours=hours)
    prepared.store.prepare()
    record_plan(prepared)
    log = prepared.store.sweep_folder(prepared.sweep.name) / LOG
    with writing(log):
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "scalectl.cli", "sweep", *arguments, "--in-background"],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            start_new_session=True,
        )
    finally:
        os.close(handle)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if any(holder.pid == process.pid for holder in keepers(prepared.store, prepared.sweep.name).values()):
            break
        if process.poll():
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise ScalectlError(
                f"the sweep ended with code {process.returncode}", where=" ".join(said[-3:]), remedy=f"see {log}"
            )
        if process.returncode == 0:  # it was short
            break
        time.sleep(LOOK_SECONDS)
    process.returncode = 0  # it is nobody's child from here on
    return Started(process.pid, log)


def stop(named: str | None, results: str | None, say: Callable[[str], None]) -> Stopped:
    """End whatever trains runs of a sweep on this host: orchestrators and workers without one checkpoint first.

    Jobs of a cluster are cancelled, wherever they run; they checkpoint too. An orchestrator of Ray elsewhere sees that
    the record of its pilots is gone.

    Args: say: told what is waited for.
    Raises: NothingMatched if there is no such sweep; ScalectlError if its cluster does not answer, once all that trains
    here has ended.
    """
    target = find_target(named, results)
    if target.file is not None:
        raise UsageError(f"{target.name} is a file, and stop is of a sweep", remedy="scalectl stop NAME")
    store, name = target.store, target.name
    try:
        run_ids = load_sweep(store, name).current
    except DamagedSweep as error:
        say(f"warning: {error.what}; only what its orchestrators train is known")
        run_ids = _kept_runs(store, name)
    jobs: list[Task] = []
    silence = None
    try:  # first: a pilot that a job runs here is ended by its job, which would otherwise queue again
        jobs = cancel(store, name)
    except ScalectlError as error:
        silence = error
    here, now = host_identity(), time.time()
    forget_dead(store, name)
    own = [held for held in keepers(store, name).values() if held.alive(here, now)]
    holders = [held for held in _holders(store, run_ids) if held.alive(here, now)]
    orphans = [held for held in holders if held.orphaned(here, now)]
    asked = {(held.pid, held.started) for held in (*own, *orphans) if held.host == here}
    for pid, started in asked:
        signal_process(pid, started, signal.SIGTERM)
    near = {held.token for held in own if held.host == here}
    far = [held for held in submissions(store, name, "ray") if held.token not in near and kept(store, name, held.token)]
    for submission in far:
        forget(store, submission)
    if asked or far:
        say("Stopping: the runs checkpoint")
    deadline = time.monotonic() + CHECKPOINT_SECONDS
    while (silent := [held for held in far if kept(store, name, held.token)]) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    left = _wait(asked, CHECKPOINT_SECONDS)
    for pid, started in left:
        signal_process(pid, started, signal.SIGKILL)
    _wait(left, CHECKPOINT_SECONDS)
    if silence is not None:
        say(f"Ended here: {len(asked)} of its processes; jobs of its cluster may go on")
        raise silence
    found = states(store, run_ids)
    holders = [held for held in _holders(store, run_ids) if held.alive(here, time.time())]
    hosts = sorted({held.host.split("/")[0] for held in holders})
    counts = Counter(held.state for held in found.values())
    return Stopped(name, len(asked) + len(jobs) + len(far) - len(silent), len(left), dict(counts), tuple(hosts))


def _kept_runs(store: Store, name: str) -> tuple[str, ...]:
    """Runs in flight that orchestrators of a sweep have begun, those that were killed included."""
    own = {(held.pid, held.started) for held in keepers(store, name).values() if held.host == host_identity()}
    held = ((run_id, _holder(store, run_id)) for run_id in store.in_flight())
    return tuple(run_id for run_id, holder in held if holder and (holder.keeper, holder.keeper_started) in own)


def _holders(store: Store, run_ids: Sequence[str]) -> list[Holder]:
    flying = set(store.in_flight())
    found = (_holder(store, run_id) for run_id in run_ids if run_id in flying)
    return [holder for holder in found if holder is not None]


def _holder(store: Store, run_id: str) -> Holder | None:
    """Who holds a run; None for one that another user keeps to himself, and whose process is none of ours to stop."""
    try:
        return live(store, run_id).holder()
    except StoreError:
        return None


def _wait(processes: set[tuple[int, int]], seconds: float) -> set[tuple[int, int]]:
    """Wait for processes (pid, start) to end. Returns: those that did not."""
    deadline = time.monotonic() + seconds
    left = processes
    while left and time.monotonic() < deadline:
        left = {(pid, started) for pid, started in left if process_start(pid) == started}
        time.sleep(LOOK_SECONDS if left else 0.0)
    return left
