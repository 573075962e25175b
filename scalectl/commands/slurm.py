"""`--engine slurm`: how many jobs a sweep needs, and following them.

This process only submits and watches: it may end at any time, and the same command finds the jobs again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from scalectl.commands import pilots
from scalectl.commands.pilots import START_SECONDS, Board, Said
from scalectl.commands.sweep import Prepared, check_budget, narrowed, record_plan
from scalectl.core.errors import ScalectlError
from scalectl.core.job import AnyJob
from scalectl.core.units import counted
from scalectl.executors import slurm
from scalectl.executors.drive import Halted
from scalectl.executors.executor import Event
from scalectl.executors.slurm import SlurmError, Task
from scalectl.executors.submission import Submission, clear, forget, last_words, log_of, new_token, submissions
from scalectl.report.plan_screen import slurm_jobs
from scalectl.report.views import SlurmView
from scalectl.store.layout import Store
from scalectl.store.live import LEASE
from scalectl.sweep.pack import makespan

QUEUE_SECONDS = (1.0, 15.0)  # between questions to Slurm: after a change, and while nothing happens; ours


@dataclass(frozen=True)
class Fleet:
    """The Slurm jobs for what is left of a sweep.

    tasks: how many; slots: runs or packs at once in each; cpus: of each, None for what the cluster gives; seconds:
    until the last one ends once all have begun, None where the speed of its devices is not known; shares: the packs of
    each, () for pilots; packs: longest first.
    """

    tasks: int
    slots: int
    cpus: int | None
    seconds: float | None
    packs: tuple[AnyJob, ...]
    shares: tuple[tuple[AnyJob, ...], ...] = ()


def fleet(prepared: Prepared, run_ids: Collection[str]) -> Fleet:
    """How many jobs these runs need.

    Pilots are as few as their time limit allows: what is left, at the speeds known here, over the time that a job has
    between its start and the announcement of its end. A time limit or a speed that is not known asks for one pilot,
    which queues itself again until all is done.
    """
    asked, at = prepared.sweep.slurm, prepared.at
    threads = at.cache.placement.threads
    slots = asked.gpus or prepared.sweep.runtime.slots or max(1, (asked.cpus or 1) // threads)
    cpus = asked.cpus or (None if asked.gpus else slots * threads)

    def packed(jobs: int) -> tuple[AnyJob, ...]:
        return narrowed(prepared, run_ids, jobs * slots).jobs

    packs = packed(asked.jobs or 1 if asked.pilot else asked.max_array)
    known = bool(asked.gpus) != at.on_cpu and all(job.seconds for job in packs)
    if not asked.pilot:
        tasks = min(len(packs), asked.max_array)
        shares: list[list[AnyJob]] = [[] for _ in range(tasks)]
        for job in packs:
            min(shares, key=lambda held: (sum(other.seconds for other in held), len(held))).append(job)
        longest = max((makespan([job.seconds for job in held], slots) for held in shares), default=0.0)
        return Fleet(tasks, slots, cpus, START_SECONDS + longest if known else None, packs, tuple(map(tuple, shares)))
    tasks = asked.jobs or 1
    if asked.jobs is None and asked.seconds is not None and known:
        work = sum(job.seconds for job in packs)
        tasks = -int(-work // (slots * max(60.0, asked.seconds - asked.grace - START_SECONDS)))
        packs = packed(max(1, tasks))
    tasks = max(1, min(tasks, asked.max_array, -(-len(packs) // slots)))
    seconds = START_SECONDS + makespan([job.seconds for job in packs], tasks * slots)
    return Fleet(tasks, slots, cpus, seconds if known else None, packs)


def view(prepared: Prepared, held: Fleet) -> SlurmView:
    """The jobs of a sweep as facts to render."""
    asked = prepared.sweep.slurm
    return SlurmView(
        jobs=held.tasks if held.packs else 0,
        pilot=asked.pilot,
        walltime_seconds=asked.seconds,
        seconds=held.seconds,
        slots=held.slots,
        cpus=held.cpus,
        gpus=asked.gpus,
        partition=asked.partition,
    )


def _tasks(store: Store, name: str) -> list[Task]:
    """The jobs of a sweep. Raises: ScalectlError if Slurm does not answer."""
    try:
        return [task for tasks in slurm.look(submissions(store, name, "slurm")).values() for task in tasks]
    except SlurmError as error:
        raise _silent(error) from None


def cancel(store: Store, name: str) -> list[Task]:
    """Cancel the jobs of a sweep and wait until they have ended: those that train checkpoint first.

    Returns: the jobs. Raises: ScalectlError if Slurm does not answer.
    """
    asked = [task for task in _tasks(store, name) if not task.ended]
    try:
        slurm.cancel(asked)
    except SlurmError as error:
        raise _silent(error) from None
    while any(not task.ended for task in _tasks(store, name)):
        time.sleep(QUEUE_SECONDS[0])
    return asked


def _silent(error: SlurmError) -> ScalectlError:
    return ScalectlError(
        f"Slurm does not answer: {error.what}", where="squeue", remedy="repeat the command; jobs that run go on"
    )


def submit(prepared: Prepared, held: Fleet, *, retry: bool, max_runs: int | None) -> Submission:
    """Hand the jobs to Slurm. Raises: UsageError in the words of sbatch; StoreError or BudgetRefused of the store."""
    store, name = prepared.store, prepared.sweep.name
    clear(store, name, "slurm")
    shares = tuple(tuple(run.run_id for job in share for run in job.runs) for share in held.shares)
    submission = Submission(
        sweep=name, token=new_token(), tasks=held.tasks, retry=retry, max_runs=max_runs, shares=shares
    )
    return slurm.submit(
        store,
        submission,
        prepared.sweep.slurm,
        cpus=held.cpus,
        search=prepared.sweep.search,
        python=sys.executable,
        cwd=os.getcwd(),
    )


def watch(
    prepared: Prepared, stopping: Callable[[], int], *, retry: bool = False, max_runs: int | None = None
) -> Iterator[Event | Halted | Said]:
    """Submit what no job trains yet and follow it to its end; `prepared` is as `following` gives it.

    Jobs that were cancelled are not submitted again: somebody wanted them to end. Those that ended otherwise are, as
    often in a row as `[on_error] retries` allows without any progress.

    Args: stopping: above 0 to leave, the jobs go on; retry: also train runs that failed before; max_runs: as
    `scalectl sweep` was told.
    Raises: BudgetRefused before anything is submitted; UsageError in the words of sbatch; ScalectlError.
    """
    store, name = prepared.store, prepared.sweep.name
    check_budget(prepared, hours=not prepared.sweep.slurm.gpus)
    store.prepare()
    record_plan(prepared)
    known = _tasks(store, name)
    going = [task for task in known if not task.ended]
    past = frozenset(task.id for task in known if task.ended)  # what ended before is another command's story
    board = Board(prepared)
    attempts = 0
    while True:
        if going:
            yield Said(f"  {_jobs(going)} of an earlier command {'goes' if len(going) == 1 else 'go'} on")
        else:
            held = fleet(prepared, board.left())
            new = submit(prepared, held, retry=retry, max_runs=max_runs)
            yield Said(f"  submitted Slurm job {new.job}: {slurm_jobs(view(prepared, held))}")
        going, retry, before = [], False, board.progress()
        queue = _Queue(store, name, past)
        ended = None
        while ended is None or (board.running and time.monotonic() - ended < LEASE + QUEUE_SECONDS[1]):
            yield from board.look()
            if not board.left() and not board.running:
                queue.cancel_waiting()
                return
            yield from queue.look()
            if stopping():
                return
            if queue.ended and ended is None:
                ended = time.monotonic()
                yield from board.look()
                if board.running:
                    yield Said(f"  {counted(len(board.running), 'run')} held by what is gone, {LEASE:g} s at most")
            time.sleep(pilots.STORE_SECONDS if ended is None or board.running else 0.0)
        queue.forget()
        if not board.left():  # another process trains the rest
            return
        why = queue.story()
        if queue.cancelled:
            yield Halted(why, 1)
            return
        moved = board.progress() > before
        attempts = 0 if moved else attempts + 1
        if not moved and (queue.failed or attempts > prepared.sweep.on_error.retries):
            yield Halted(f"{why}, and nothing was trained", 1)
            return


class _Queue:
    """The jobs of a sweep as Slurm knows them, as lines of text."""

    def __init__(self, store: Store, name: str, past: frozenset[str]) -> None:
        self.store = store
        self.past = past
        self.held = submissions(store, name, "slurm")
        self.tasks: dict[str, tuple[Submission, Task]] = {}
        self.wait = QUEUE_SECONDS[0]
        self.due = 0.0
        self.silent = False

    @property
    def ended(self) -> bool:
        """Whether all jobs have ended for good."""
        return bool(self.tasks) and all(task.ended for _, task in self.tasks.values())

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled one."""
        return any(task.state == "CANCELLED" for _, task in self.tasks.values())

    @property
    def failed(self) -> bool:
        """Whether one failed by itself."""
        return any(task.state == "FAILED" for _, task in self.tasks.values())

    def story(self) -> str:
        """How the jobs ended that did not complete, or all of them."""
        held = [task for _, task in self.tasks.values() if task.state != "COMPLETED"]
        return self._said(held[0].state, held) if held else f"{_jobs([t for _, t in self.tasks.values()])} ended"

    def forget(self) -> None:
        """Drop the records of jobs that have ended."""
        for submission in self.held:
            forget(self.store, submission)

    def cancel_waiting(self) -> None:
        """Take back jobs that have not begun and have nothing left to do."""
        try:
            found = [task for tasks in slurm.look(self.held).values() for task in tasks]
            slurm.cancel(task for task in found if task.state == "PENDING")
        except SlurmError:  # they will begin, find nothing, and end
            return
        self.forget()

    def look(self) -> Iterator[Said]:
        """What has changed since Slurm was last asked, if it is time to ask again."""
        if time.monotonic() < self.due:
            return
        self.wait = min(self.wait * 1.5, QUEUE_SECONDS[1])
        self.due = time.monotonic() + self.wait
        try:
            found = slurm.look(self.held)
        except SlurmError as error:
            if not self.silent:
                yield Said(f"  Slurm does not answer ({error.what}); the store still tells what is trained", "red")
            self.silent = True
            return
        if self.silent:
            yield Said("  Slurm answers again")
            self.silent = False
        changed: dict[tuple[str, str], list[Task]] = {}
        for submission, tasks in found.items():
            for task in [task for task in tasks if task.id not in self.past]:
                before = self.tasks[task.id][1] if task.id in self.tasks else None
                self.tasks[task.id] = (submission, task)
                if before is None or before.state != task.state:
                    state = f"AGAIN {before.node}" if before and before.node and task.state == "PENDING" else task.state
                    changed.setdefault((state, task.reason if task.state == "PENDING" else task.node), []).append(task)
        for (state, _), tasks in changed.items():
            self.wait = QUEUE_SECONDS[0]
            said = self._said(state, tasks)
            if said:
                bad = tasks[0].ended and state not in ("COMPLETED", "CANCELLED")
                yield Said(f"  {said}", "red" if bad else "")

    def _said(self, state: str, tasks: Sequence[Task]) -> str:
        """A sentence for jobs that share a state; "" for states in passing."""
        jobs, one, first = _jobs(tasks), len(tasks) == 1, tasks[0]
        waits = f" ({first.reason})" if first.reason else ""
        if state.startswith("AGAIN"):
            node = state.partition(" ")[2]
            down = slurm.node_state(node)
            lost = f"lost {'its' if one else 'their'} node {node} ({down}) and " if down else ""
            return f"{jobs} {lost}{'is' if one else 'are'} queued again{waits}"
        if state == "FAILED":
            said = last_words(log_of(self.store, self.tasks[first.id][0], first.index))
            log = log_of(self.store, self.tasks[first.id][0], first.index)
            return f"{jobs} failed: {said}" if said else f"{jobs} failed, see {log}"
        words = {
            "PENDING": f"{'waits' if one else 'wait'}{waits}",
            "RUNNING": f"{'runs' if one else 'run'} on {first.node}",
            "SUSPENDED": f"{'is' if one else 'are'} suspended",
            "COMPLETED": f"{'has' if one else 'have'} ended",
            "CANCELLED": f"{'was' if one else 'were'} cancelled",
            "NODE_FAIL": f"lost {'its' if one else 'their'} node",
            "BOOT_FAIL": f"lost {'its' if one else 'their'} node",
            "TIMEOUT": "ran out of time",
            "DEADLINE": "ran out of time",
            "OUT_OF_MEMORY": "ran out of memory",
            "PREEMPTED": f"{'was' if one else 'were'} preempted",
            slurm.GONE: f"{'is' if one else 'are'} gone, and Slurm kept no account of how",
        }
        return f"{jobs} {words[state]}" if state in words else ""


def _jobs(tasks: Sequence[Task]) -> str:
    """Jobs by their ids, three at most."""
    ids = [task.id for task in tasks]
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return f"job{'s' * (len(ids) > 1)} {', '.join(ids[:3])}{more}"
