"""The one scheduling loop: jobs to slots, longest first, until every run has ended or there is a reason to stop."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scalectl.core import units
from scalectl.core.job import AnyJob, CommandJob, Job, State, Ticket
from scalectl.core.run import CommandRun, Run
from scalectl.executors.executor import Beat, Event, Executor, JobOver, RunEnded
from scalectl.optim.trunks import trunk_key
from scalectl.store.layout import Store
from scalectl.store.live import explain, live, state_of

POLL_SECONDS = 0.2
_MEMORY = re.compile(r"; last seen [^;]*")  # of a process that was killed: no two of them end with the same number


@dataclass(frozen=True)
class Policy:
    """When to give up, and who may have the cores that are left over.

    retries: attempts in a row without a new checkpoint, for runs that were lost, ran out of time or out of memory;
    identical: stop the sweep after so many jobs that failed with the same message, 0 for never; timeout: seconds
    without a sign of life after which a job is ended, None for never; threads: the most that a job may have, given
    cores that no other job waits for.
    """

    retries: int = 2
    identical: int = 3
    timeout: float | None = None
    threads: Callable[[Job], int] = lambda job: job.placement.threads


@dataclass(frozen=True)
class Halted:
    """The sweep stops before its end: why, and the exit code that says so."""

    why: str
    exit_code: int


def drive(
    jobs: Sequence[AnyJob],
    executor: Executor,
    store: Store,
    policy: Policy,
    stopping: Callable[[], int],
    under_way: Sequence[AnyJob] = (),
) -> Iterator[Event | Halted]:
    """Run jobs to their end, yielding everything that happens.

    A job whose process died is tried again with the runs that have not ended: they go on from their checkpoints. What a
    run's state is, the store says.

    Args: jobs: longest first; stopping: 0 to go on, 1 to checkpoint and leave, 2 to kill; under_way: jobs that the
    executor has already.
    """
    waiting = deque(jobs)
    running: dict[Ticket, AnyJob] = {job.ticket: job for job in under_way}
    began: set[Ticket] = set()
    clocks = _Clocks(policy.timeout)
    retries = _Retries(store, policy.retries)
    failures = _Failures(policy.identical)
    asked, leaving = 0, False
    while waiting or running:
        if stopping() > asked:
            asked, leaving = stopping(), True
            waiting.clear()
            if asked > 1:
                executor.close(kill=True)
                return
            for ticket in running:
                executor.cancel(ticket)
        while waiting and executor.free() >= min(waiting[0].placement.threads, max(1, executor.size)):
            job = _widened(waiting[0], -(-executor.free() // len(waiting)), policy)
            waiting.popleft()
            retries.begins(job)
            running[executor.submit(job)] = job
        for ticket in clocks.overdue():
            executor.cancel(ticket)
        for event in executor.poll(POLL_SECONDS):
            halted = None
            if isinstance(event, Beat):
                clocks.heard(event.ticket)
                if event.runs:
                    began.add(event.ticket)
            elif isinstance(event, RunEnded):
                ticket = next((t for t in running if event.run_id in t), "")
                why = clocks.late.get(ticket, "")
                if why and event.state is State.PAUSED:  # it was told to end, and did
                    explain(store, [event.run_id], State.TIMEOUT, why, of=State.PAUSED)
                    event = replace(event, state=State.TIMEOUT, message=why)
                if event.state is State.FAILED:
                    halted = failures.count(event.message, ticket)
            elif isinstance(event, JobOver):
                job = running.pop(event.ticket)
                late, died = clocks.over(event.ticket), event.died
                if died:
                    state, message = (State.TIMEOUT, late) if late else (State.LOST, event.message)
                    explain(store, [run.run_id for run in job.runs if run.run_id not in event.busy], state, message)
                    event = replace(event, died=not leaving, message=message)  # one that was told to leave did
                if event.died and event.ticket not in began and not late:  # nor will the next get as far as its job
                    halted = failures.count(event.message, f"{event.ticket} {len(failures.seen)}")
                if event.exit_code:
                    halted = Halted(event.message, event.exit_code)
                elif event.full:
                    waiting.append(job)
                elif not leaving:
                    dead, large = retries.left(job, all_runs=died or bool(late))
                    waiting.extendleft([] if dead is None else [dead])
                    waiting.extend([] if large is None else [large])
                began.discard(event.ticket)
            elif executor.size == 0:
                halted = Halted(f"no slot is left: {event.message}", 1)
            yield event
            if halted is not None:
                yield halted
                leaving = True
                for ticket in running:
                    executor.cancel(ticket)
        if leaving:
            waiting.clear()


def _widened(job: AnyJob, cores: int, policy: Policy) -> AnyJob:
    """The job with the threads that its share of the free cores allows; one that runs already is not touched."""
    if isinstance(job, CommandJob):
        return job
    threads = max(job.placement.threads, min(cores, policy.threads(job)))
    return replace(job, placement=replace(job.placement, threads=threads))


class _Failures:
    """Counts jobs that ended alike; a pack that fails as one counts once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: set[tuple[str, str]] = set()

    def count(self, message: str, job: str) -> Halted | None:
        """Count a failure. Returns: the reason to stop, once there are too many of its kind."""
        cause = _MEMORY.sub("", message)
        if (cause, job) in self.seen:
            return None
        self.seen.add((cause, job))
        alike = sum(said == cause for said, _ in self.seen)
        return Halted(f"{alike} jobs failed alike: {message}", 1) if alike == self.most else None


class _Clocks:
    """When each job was last heard of; a job that was never heard of has no clock: it may wait in a queue."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.last: dict[Ticket, float] = {}
        self.late: dict[Ticket, str] = {}

    def heard(self, ticket: Ticket) -> None:
        """Note a sign of life."""
        self.last[ticket] = time.monotonic()

    def overdue(self) -> list[Ticket]:
        """Jobs whose time has just run out."""
        if self.timeout is None:
            return []
        now = time.monotonic()
        found = [ticket for ticket, then in self.last.items() if now - then > self.timeout and ticket not in self.late]
        for ticket in found:
            self.late[ticket] = f"no sign of life for {units.duration(self.timeout)}"
        return found

    def over(self, ticket: Ticket) -> str:
        """Forget a job. Returns: why its time ran out, "" if it did not."""
        self.last.pop(ticket, None)
        return self.late.pop(ticket, "")


class _Retries:
    """Counts attempts in a row that ended without a new checkpoint, run by run."""

    def __init__(self, store: Store, most: int) -> None:
        self.store = store
        self.most = most
        self.attempts: Counter[str] = Counter()
        self.checkpoints: dict[str, int] = {}

    def begins(self, job: AnyJob) -> None:
        """Note how far the runs of a job are, before its first attempt here."""
        stamps = self._stamps(job)
        for run in job.runs:
            self.checkpoints.setdefault(run.run_id, stamps[_trunk(run)])

    def _stamps(self, job: AnyJob) -> dict[Hashable, int]:
        """How far each run is, by its trunk: of a script the last step, which shows its checkpoints.

        Of others the time of the newest checkpoint: a run that follows a trunk has none of its own.
        """
        stamps: dict[Hashable, int] = {}
        for run in job.runs:
            folder = live(self.store, run.run_id)
            stamp = folder.last_step() if isinstance(job, CommandJob) else _changed(folder.checkpoint)
            stamps[_trunk(run)] = max(stamp, stamps.get(_trunk(run), 0))
        return stamps

    def left(self, job: AnyJob, *, all_runs: bool) -> tuple[AnyJob | None, AnyJob | None]:
        """The job with the runs that may be tried again, as two; what is in neither stays as it is.

        Args: all_runs: that have not ended, as where their process died; else those that ran out of memory.
        Returns: the job without those that ran out of memory, and with them alone, to go through the model one by one;
        None for one without runs.
        """
        stamps = self._stamps(job)
        if isinstance(job, CommandJob):
            run_id = job.run.run_id
            furthest = max(stamps[_trunk(job.run)], self.checkpoints.get(run_id, 0))
            resumes = all_runs and state_of(self.store, run_id).state.resumes
            return job if resumes and self._again(run_id, furthest) else None, None
        states = {run.run_id: state_of(self.store, run.run_id).state for run in job.runs}
        again = [
            run
            for run in job.runs
            if (states[run.run_id].resumes if all_runs else states[run.run_id] is State.OOM)
            and self._again(run.run_id, stamps[_trunk(run)])
        ]
        dead = tuple(run for run in again if states[run.run_id] is not State.OOM)
        large = tuple(run for run in again if states[run.run_id] is State.OOM)
        alone = replace(job.placement, rows=1)
        return replace(job, runs=dead) if dead else None, replace(job, runs=large, placement=alone) if large else None

    def _again(self, run_id: str, stamp: int) -> bool:
        """Whether a run that ended so may be tried again."""
        self.attempts[run_id] += 1
        if stamp != self.checkpoints.get(run_id, 0):
            self.checkpoints[run_id] = stamp
            self.attempts[run_id] = 0
        return self.attempts[run_id] <= self.most


def _trunk(run: Run) -> Hashable:
    """What runs share that are one until they part; a script is alone."""
    return run.run_id if isinstance(run, CommandRun) else trunk_key(run)


def _changed(path: Path) -> int:
    """When a file was written [ns since 1970], 0 if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
