"""The one scheduling loop: jobs to slots, longest first, until every run has ended or there is a reason to stop."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from scalectl.core.job import Job, State, Ticket
from scalectl.executors.executor import Event, Executor, JobOver, RunEnded
from scalectl.store.layout import Store
from scalectl.store.live import live, state_of

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Policy:
    """When to give up.

    retries: attempts in a row without a new checkpoint, for runs whose process died; identical: stop the sweep after so
    many failures with the same message, 0 for never.
    """

    retries: int = 2
    identical: int = 3


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
    retries = _Retries(store, policy.retries)
    failures: Counter[str] = Counter()
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
        while waiting and executor.free():
            job = waiting.popleft()
            running[executor.submit(job)] = job
        for event in executor.poll(POLL_SECONDS):
            yield event
            if isinstance(event, RunEnded) and event.state is State.FAILED:
                failures[event.message] += 1
                if policy.identical and failures[event.message] == policy.identical:
                    yield Halted(f"{policy.identical} runs failed alike: {event.message}", 1)
                    waiting.clear()
            if isinstance(event, JobOver):
                job = running.pop(event.ticket)
                if event.exit_code:
                    yield Halted(event.message, event.exit_code)
                    waiting.clear()
                elif event.died and not asked:
                    again = retries.left(job)
                    if again.runs:
                        waiting.appendleft(again)


class _Retries:
    """Counts attempts in a row that ended without a new checkpoint, run by run."""

    def __init__(self, store: Store, most: int) -> None:
        self.store = store
        self.most = most
        self.attempts: Counter[str] = Counter()
        self.checkpoints: dict[str, int] = {}

    def left(self, job: Job) -> Job:
        """The job with the runs that may be tried again; the others stay lost."""
        return replace(job, runs=tuple(run for run in job.runs if self._again(run.run_id)))

    def _again(self, run_id: str) -> bool:
        if not state_of(self.store, run_id).state.resumes:
            return False
        path = live(self.store, run_id).checkpoint
        stamp = path.stat().st_mtime_ns if path.exists() else 0
        if stamp != self.checkpoints.get(run_id, 0):
            self.checkpoints[run_id] = stamp
            self.attempts[run_id] = 0
        self.attempts[run_id] += 1
        return self.attempts[run_id] <= self.most
