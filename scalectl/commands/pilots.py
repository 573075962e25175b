"""Pilots: processes of a cluster that train what a sweep has left, and the store as whoever follows them sees it.

They schedule themselves over the claims in the store; what a cluster says of them is never needed to know how a run
stands.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from scalectl.commands.sweep import Prepared, narrowed, prepare, probed
from scalectl.core.errors import ScalectlError
from scalectl.core.job import State
from scalectl.executors.drive import Halted
from scalectl.executors.executor import Beat, Event, JobOver, RunEnded
from scalectl.executors.ray import PILOT
from scalectl.executors.submission import read_submission
from scalectl.store.layout import Store
from scalectl.store.live import Standing, host_identity, live, states
from scalectl.store.reader import read_meta
from scalectl.store.sweeps import load_sweep

STORE_SECONDS = 1.0  # between looks at the store
START_SECONDS = 30.0  # of a pilot before it trains: Python, torch, data from a network disk; ours
INDEX = {"slurm": "SLURM_ARRAY_TASK_ID", "ray": PILOT}  # the variable that tells a pilot its place


@dataclass(frozen=True)
class Said:
    """A line for the display."""

    text: str
    style: str = ""


def wanted(prepared: Prepared) -> frozenset[str]:
    """Runs that a sweep asks for and that are not settled, those that somebody trains included."""
    asked = [planned.run_id for planned in prepared.todo] + [planned.run_id for planned in prepared.commands]
    return frozenset((*asked, *prepared.elsewhere))


def following(prepared: Prepared, slots: int) -> Prepared:
    """The sweep with all that a cluster trains, running ones included, as what there is to do here.

    Args: slots: runs or packs at once on the cluster.
    """
    return replace(narrowed(prepared, wanted(prepared), slots), elsewhere=())


class Board:
    """The runs of a sweep as the store knows them, as events."""

    def __init__(self, prepared: Prepared) -> None:
        self.store = prepared.store
        self.standings: Mapping[str, Standing] = {run_id: prepared.standings[run_id] for run_id in wanted(prepared)}
        self.stamps = {run_id: self._stamp(run_id) for run_id in self.standings}
        self.failed = {run_id: self.stamps[run_id] for run_id, held in self.standings.items() if _failed(held)}
        self.slots: dict[str, int] = {}

    def _stamp(self, run_id: str) -> int:
        """When the file of a run was written, 0 if it has none."""
        path = self.store.run_file(run_id)
        return path.stat().st_mtime_ns if path.exists() else 0

    @property
    def running(self) -> list[str]:
        """Runs that a process holds."""
        return [run_id for run_id, held in self.standings.items() if held.state is State.RUNNING]

    def left(self) -> frozenset[str]:
        """Runs that nobody holds and that are still to be trained; of failed ones those that nobody tried since."""
        return frozenset(run_id for run_id, held in self.standings.items() if held.state.resumes or self._fails(run_id))

    def _fails(self, run_id: str) -> bool:
        """Whether a run failed before this command, and nobody has tried it since."""
        return _failed(self.standings[run_id]) and self.failed.get(run_id) == self.stamps[run_id]

    def progress(self) -> tuple[int, int]:
        """Runs that have ended and steps of the others, more wherever anything was trained."""
        ended = {
            run_id
            for run_id, held in self.standings.items()
            if held.state.final or (_failed(held) and not self._fails(run_id))
        }
        return len(ended), sum(held.step for run_id, held in self.standings.items() if run_id not in ended)

    def look(self) -> Iterator[Event]:
        """What has changed since the last look, and who trains what."""
        before, stamps = self.standings, self.stamps
        self.standings = states(self.store, list(before))
        self.stamps = {run_id: self._stamp(run_id) for run_id in before}
        teams: dict[str, dict[str, tuple[int, float | None]]] = {}
        for run_id, held in self.standings.items():
            if held.state is State.RUNNING:
                holder = live(self.store, run_id).holder()
                if holder is not None:
                    teams.setdefault(f"{holder.host} {holder.pid}", {})[run_id] = (held.step, None)
            elif held.state is State.PENDING:
                continue
            elif held.state is not before[run_id].state or self.stamps[run_id] != stamps[run_id]:
                yield self._ended(run_id, held)
        for team in [team for team in self.slots if team not in teams]:
            del self.slots[team]
            yield JobOver(team)
        for team, runs in teams.items():
            taken = set(self.slots.values())
            slot = self.slots.setdefault(team, next(i for i in range(len(taken) + 1) if i not in taken))
            yield Beat(team, slot, runs, 0.0, 0)

    def _ended(self, run_id: str, held: Standing) -> RunEnded:
        loss, seconds = None, 0.0
        if held.state.final:
            meta = read_meta(self.store.run_file(run_id))
            loss, seconds = meta.final.get("held-out/loss"), meta.columns.get("seconds") or 0.0
        return RunEnded(run_id, held.state, held.step, loss, seconds, held.message)


def _failed(held: Standing) -> bool:
    return held.state is State.FAILED


def duty(record: str, say: Callable[[str], None]) -> Prepared:
    """What a job of the cluster is to train on the machine that it was given: its own packs, then those of the others.

    Args: record: file of its submission; say: told what is being measured.
    Raises: StoreError for a record that cannot be read; ScalectlError if the sweep asks for other runs here than where
    it was planned.
    """
    path = Path(record)
    store, submission = read_submission(path)
    index = int(os.environ.get(INDEX[submission.engine], "0"))
    file = store.sweep_folder(submission.sweep) / "sweep.toml"
    prepared = prepare(str(file), str(store.root), max_runs=submission.max_runs, retry_failed=submission.retry)
    if set(prepared.plan.run_ids) != set(load_sweep(store, submission.sweep).current):
        raise ScalectlError(
            f"{submission.sweep} asks for other runs here than where it was planned",
            where=str(file),
            remedy="use one version of scalectl, and data that all machines see under one path",
        )
    share = set(submission.shares[index]) if submission.shares else set(prepared.plan.run_ids)
    tried = {run_id for run_id in share if _failed_since(prepared, run_id, path)}
    held = tuple(run_id for run_id in prepared.elsewhere if run_id in share)
    left = (share & wanted(prepared)) - tried - set(held)
    prepared = probed(replace(narrowed(prepared, left, 1), elsewhere=held), say)
    tasks = 1 if submission.shares else submission.tasks
    jobs = narrowed(prepared, left, prepared.at.jobs * tasks).jobs
    own = jobs[index % tasks :: tasks]
    return replace(prepared, jobs=(*own, *(job for job in jobs if job not in own)))


def _failed_since(prepared: Prepared, run_id: str, record: Path) -> bool:
    """Whether a run failed after the jobs were submitted, so that it was tried again already."""
    if prepared.standings[run_id].state is not State.FAILED:
        return False
    return prepared.store.run_file(run_id).stat().st_mtime_ns > record.stat().st_mtime_ns


def quiet(event: Event | Halted) -> Event | Halted:
    """An event without what goes without saying in a job: that others train what they hold."""
    return replace(event, busy=()) if isinstance(event, JobOver) else event


def unfinished(prepared: Prepared) -> bool:
    """Whether a job leaves runs that can go on."""
    found = states(prepared.store, wanted(prepared) - {*prepared.elsewhere})
    return any(held.state.resumes for held in found.values())


def freed(prepared: Prepared, stopping: Callable[[], int]) -> bool:
    """Whether a run that another machine held came free: that machine is given the time to show that it lives.

    It renews its claims every 20 seconds; without that they end with the lease.
    """
    first = states(prepared.store, wanted(prepared))
    held = [run_id for run_id, standing in first.items() if standing.state is State.RUNNING]
    beats = {run_id: _heartbeat(prepared.store, run_id) for run_id in held}
    waiting = [run_id for run_id, beat in beats.items() if beat is not None]
    while waiting and not stopping():
        found = states(prepared.store, waiting)
        if any(found[run_id].state.resumes for run_id in waiting):
            return True
        waiting = [
            run_id
            for run_id in waiting
            if found[run_id].state is State.RUNNING and _heartbeat(prepared.store, run_id) == beats[run_id]
        ]
        time.sleep(STORE_SECONDS)
    return False


def _heartbeat(store: Store, run_id: str) -> float | None:
    """When a holder on another machine last renewed its claim; None of one on this machine, whose process is seen."""
    holder = live(store, run_id).holder()
    return None if holder is None or holder.host == host_identity() else holder.heartbeat
