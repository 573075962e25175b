"""The one scheduling loop: jobs to slots, longest first, until every run has ended or there is a reason to stop."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from scalectl.core.job import Job, State, Ticket
from scalectl.executors.executor import Beat, Event, Executor, RunEnded
from scalectl.optim.trunks import trunk_key
from scalectl.store.layout import Store
from scalectl.store.live import live, state_of

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Policy:
    """When to give up, and who may have the cores that are left over.

    retries: attempts in a row without a new checkpoint, for runs whose process died; identical: stop the sweep after so
    many jobs that failed with the same message, 0 for never; threads: the most that a job may have, given cores that
    no other job waits for.
    """

    retries: int = 2
    identical: int = 3
    threads: Callable[[Job], int] = lambda job: job.placement.threads


@dataclass(frozen=True)
class Halted:
    """The sweep stops before its end: why, and the exit code that says so."""

    why: str
    exit_code: int


def drive(
    jobs: Sequence[Job], executor: Executor, store: Store, policy: Policy, stopping: Callable[[], int]
) -> Iterator[Event | Halted]:
    """Run jobs to their end, yielding everything that happens.

    A job whose process died is tried again with the runs that have not ended: they go on from their checkpoints. What a
    run's state is, the store says.

    Args: jobs: longest first; stopping: 0 to go on, 1 to checkpoint and leave, 2 to kill.
    """
    waiting = deque(jobs)
    running: dict[Ticket, Job] = {}
    began: set[Ticket] = set()
    retries = _Retries(store, policy.retries)
    failures = _Failures(policy.identical)
    asked = 0
    while waiting or running:
        if stopping() > asked:
            asked = stopping()
            waiting.clear()
            if asked > 1:
                executor.close(kill=True)
                return
            for ticket in running:
                executor.cancel(ticket)
        while waiting and executor.free() >= min(waiting[0].placement.threads, executor.size):
            job = _widened(waiting[0], -(-executor.free() // len(waiting)), policy)
            waiting.popleft()
            running[executor.submit(job)] = job
        for event in executor.poll(POLL_SECONDS):
            halted = None
            if isinstance(event, Beat):
                began.add(event.ticket)
            elif isinstance(event, RunEnded):
                if event.state is State.FAILED:
                    halted = failures.count(event.message, next((t for t in running if event.run_id in t), ""))
            else:
                job = running.pop(event.ticket)
                if event.died and asked:
                    event = replace(event, died=False)  # it was told to
                elif event.died:
                    if event.ticket not in began:  # it never got as far as its job: so will the next
                        halted = failures.count(event.message, f"{event.ticket} {len(failures.seen)}")
                    again = retries.left(job)
                    if again.runs:
                        waiting.appendleft(again)
                elif event.exit_code:
                    halted = Halted(event.message, event.exit_code)
            yield event
            if halted is not None:
                yield halted
                waiting.clear()
                for ticket in running:
                    executor.cancel(ticket)


def _widened(job: Job, cores: int, policy: Policy) -> Job:
    """The job with the threads that its share of the free cores allows; one that runs already is not touched."""
    threads = max(job.placement.threads, min(cores, policy.threads(job)))
    return replace(job, placement=replace(job.placement, threads=threads))


class _Failures:
    """Counts jobs that ended alike; a pack that fails as one counts once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: set[tuple[str, str]] = set()

    def count(self, message: str, job: str) -> Halted | None:
        """Count a failure. Returns: the reason to stop, once there are too many of its kind."""
        if (message, job) in self.seen:
            return None
        self.seen.add((message, job))
        alike = sum(said == message for said, _ in self.seen)
        return Halted(f"{alike} jobs failed alike: {message}", 1) if alike == self.most else None


class _Retries:
    """Counts attempts in a row that ended without a new checkpoint, run by run."""

    def __init__(self, store: Store, most: int) -> None:
        self.store = store
        self.most = most
        self.attempts: Counter[str] = Counter()
        self.checkpoints: dict[str, int] = {}

    def left(self, job: Job) -> Job:
        """The job with the runs that may be tried again; the others stay lost."""
        stamps: dict[Hashable, int] = {}  # of a trunk's newest checkpoint: a run that follows one has none of its own
        for run in job.runs:
            path = live(self.store, run.run_id).checkpoint
            stamp = path.stat().st_mtime_ns if path.exists() else 0
            stamps[trunk_key(run)] = max(stamp, stamps.get(trunk_key(run), 0))
        return replace(job, runs=tuple(run for run in job.runs if self._again(run.run_id, stamps[trunk_key(run)])))

    def _again(self, run_id: str, stamp: int) -> bool:
        if not state_of(self.store, run_id).state.resumes:
            return False
        if stamp != self.checkpoints.get(run_id, 0):
            self.checkpoints[run_id] = stamp
            self.attempts[run_id] = 0
        self.attempts[run_id] += 1
        return self.attempts[run_id] <= self.most
