"""`--engine slurm`: how many jobs a sweep needs, following them, and what one of them does.

The jobs schedule themselves over the claims in the store, so this process only submits and watches: it may end at any
time, and the same command finds the jobs again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scalectl.commands.sweep import Prepared, check_budget, narrowed, prepare, probed, record_plan
from scalectl.core.errors import ScalectlError
from scalectl.core.job import AnyJob, State
from scalectl.core.units import counted
from scalectl.executors import slurm
from scalectl.executors.drive import Halted
from scalectl.executors.executor import Beat, Event, JobOver, RunEnded
from scalectl.executors.slurm import AGAIN as AGAIN
from scalectl.executors.slurm import SlurmError, Submission, Task
from scalectl.report.plan_screen import slurm_jobs
from scalectl.report.views import SlurmView
from scalectl.store.layout import Store
from scalectl.store.live import LEASE, Standing, host_identity, live, states
from scalectl.store.reader import read_meta
from scalectl.store.sweeps import load_sweep
from scalectl.sweep.pack import makespan

STORE_SECONDS = 1.0  # between looks at the store
QUEUE_SECONDS = (1.0, 15.0)  # between questions to Slurm: after a change, and while nothing happens; ours
START_SECONDS = 30.0  # of a job before it trains: Python, torch, data from a network disk; ours


@dataclass(frozen=True)
class Said:
    """A line for the display."""

    text: str
    style: str = ""


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


def wanted(prepared: Prepared) -> frozenset[str]:
    """Runs that a sweep asks for and that are not settled, those that somebody trains included."""
    asked = [planned.run_id for planned in prepared.todo] + [planned.run_id for planned in prepared.commands]
    return frozenset((*asked, *prepared.elsewhere))


def following(prepared: Prepared) -> Prepared:
    """The sweep with all that jobs of a cluster train, running ones included, as what there is to do here."""
    held = fleet(prepared, wanted(prepared))
    return replace(narrowed(prepared, wanted(prepared), held.tasks * held.slots), elsewhere=())


def _tasks(store: Store, name: str) -> list[Task]:
    """The jobs of a sweep. Raises: ScalectlError if Slurm does not answer."""
    try:
        return [task for tasks in slurm.look(slurm.submissions(store, name)).values() for task in tasks]
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
    slurm.clear(store, name)
    shares = tuple(tuple(run.run_id for job in share for run in job.runs) for share in held.shares)
    submission = Submission(
        sweep=name, token=slurm.new_token(), tasks=held.tasks, retry=retry, max_runs=max_runs, shares=shares
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
    board = _Board(prepared)
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
            time.sleep(STORE_SECONDS if ended is None or board.running else 0.0)
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


class _Board:
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


class _Queue:
    """The jobs of a sweep as Slurm knows them, as lines of text."""

    def __init__(self, store: Store, name: str, past: frozenset[str]) -> None:
        self.store = store
        self.past = past
        self.held = slurm.submissions(store, name)
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
            slurm.forget(self.store, submission)

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
            said = slurm.last_words(slurm.log_of(self.store, self.tasks[first.id][0], first.index))
            log = slurm.log_of(self.store, self.tasks[first.id][0], first.index)
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


def duty(record: str, say: Callable[[str], None]) -> Prepared:
    """What a job of the cluster is to train on the machine that it was given: its own packs, then those of the others.

    Args: record: file of its submission; say: told what is being measured.
    Raises: StoreError for a record that cannot be read; ScalectlError if the sweep asks for other runs here than where
    it was planned.
    """
    path = Path(record)
    store, submission = slurm.read_submission(path)
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
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
