"""A worker that outlived its orchestrator: watched through the store, signalled only as the very process it was."""

from __future__ import annotations

import os
import signal
import time

from scalectl.core.family import end_family, mark_of
from scalectl.core.job import AnyJob, State
from scalectl.executors.executor import Beat, Event, JobOver, RunEnded
from scalectl.store.layout import Store
from scalectl.store.live import Holder, process_start, state_of
from scalectl.store.reader import read_meta

LOOK_SECONDS = 0.5  # between looks at the store, as between the messages of a worker


class Adopted:
    """A detached worker in the middle of a job, after the process that started it has gone.

    Args: job: of which it trains the runs; holder: the process, as its claims name it; slot: where it is shown.
    """

    def __init__(self, store: Store, job: AnyJob, holder: Holder, slot: int) -> None:
        self.store = store
        self.job = job
        self.pid, self.started = holder.pid, holder.started
        self.mark = mark_of(holder.pid)
        self.slot = slot
        self.ended: set[str] = set()
        self.looked = 0.0
        self.deadline: float | None = None

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return process_start(self.pid) == self.started

    @property
    def cores(self) -> set[int]:
        """Cores that it may use."""
        try:
            return os.sched_getaffinity(self.pid)
        except OSError:
            return set()

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still the same process."""
        signal_process(self.pid, self.started, number)

    def kill(self) -> None:
        """End it with all that descends from it."""
        self.signal(signal.SIGKILL)
        if self.mark:
            end_family(self.pid, self.mark)

    def events(self) -> list[Event]:
        """What happened since the last look; a JobOver is the last that there is."""
        alive, now = self.alive, time.monotonic()  # in this order: what it wrote before its end is seen below
        if alive and now - self.looked < LOOK_SECONDS:
            return []
        self.looked = now
        events: list[Event] = []
        steps: dict[str, tuple[int, float | None]] = {}
        for run in self.job.runs:
            if run.run_id in self.ended:
                continue
            held = state_of(self.store, run.run_id)
            if held.state is State.RUNNING:
                steps[run.run_id] = (held.step, None)
            elif held.state.final or held.state is State.FAILED or not alive:
                self.ended.add(run.run_id)
                loss, seconds = self._end(run.run_id) if held.state.final else (None, 0.0)
                events.append(RunEnded(run.run_id, held.state, held.step, loss, seconds, held.message))
        if steps:
            events.append(Beat(self.job.ticket, self.slot, steps, 0.0, 0))
        if not alive:
            died = any(isinstance(event, RunEnded) and event.state is State.LOST for event in events)
            events.append(JobOver(self.job.ticket, died=died, message="an adopted worker ended" if died else ""))
        return events

    def _end(self, run_id: str) -> tuple[float | None, float]:
        meta = read_meta(self.store.run_file(run_id))
        return meta.final.get("held-out/loss"), float(meta.columns.get("seconds") or 0.0)


def signal_process(pid: int, started: int, number: int) -> bool:
    """Send a signal to a process that is no child of this one, never to a stranger that has its number by now.

    Args: started: of the process, as `process_start` gives it.
    Returns: whether it was sent.
    """
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if process_start(pid) != started:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
