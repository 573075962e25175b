"""`scalectl sweep`: what there is to do, and doing it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalectl.commands.changes import changes
from scalectl.commands.shipped import is_recorded, sweep_file, unknown_sweep
from scalectl.commands.speed import Here, here, measured, shapes, worth_measuring
from scalectl.commands.target import results_store
from scalectl.core import units
from scalectl.core.errors import BudgetRefused, NothingMatched
from scalectl.core.job import AnyJob, CommandJob, Job, Placement, State, Ticket
from scalectl.core.run import CommandRun, RunConfig, record
from scalectl.core.source import code_digest
from scalectl.core.units import counted
from scalectl.executors.drive import Halted, Policy, drive
from scalectl.executors.executor import Beat, Event, JobOver, RunEnded, SlotClosed
from scalectl.executors.local import LocalExecutor
from scalectl.optim.trunks import Trunk, occupancy, split_step, trunks
from scalectl.report.cells import short_names
from scalectl.report.progress import Expected, Progress
from scalectl.store.index import Index, damaged_runs, refresh, source_notes
from scalectl.store.keepers import keeping
from scalectl.store.layout import Store
from scalectl.store.live import Holder, Standing, host_identity, live, state_of, states, tidy
from scalectl.store.sweeps import damaged_sweeps, list_sweeps, repaired, save_sweep
from scalectl.sweep.command import Durations, Finished
from scalectl.sweep.overrides import with_overrides_recorded
from scalectl.sweep.pack import makespan, pack
from scalectl.sweep.plan import Plan, PlannedCommand, PlannedRun, expand
from scalectl.sweep.spec import MAX_RUNS, load
from scalectl.sweep.sweep import Sweep

if TYPE_CHECKING:
    from rich.console import Console

    from scalectl.report.look import Look

ROW_BYTES = 12  # of one measurement on disk, compressed; measured on the demo sweep
FILE_BYTES = 9_000  # of a run file beside its rows: config, provenance, Parquet footer; measured likewise
LIVE_ROW_BYTES = 200  # of one measurement while its run trains, a line of JSON
NUMBER_BYTES = 4  # of a parameter or of optimiser state in a checkpoint, fp32
WIDE = 512  # of a model, from where a second thread pays on a core left over; engine notes, not measured anew
DISK_MARGIN = 1.2  # a disk that would be filled beyond this is refused; ours


@dataclass(frozen=True)
class Prepared:
    """A sweep against a store: what it asks for, what is there, what is left.

    standings: the truth about every run of the plan, by id; todo: runs to train, packed into jobs; commands: the
    same where they are those of a script; elsewhere: runs that another process is training; orphans: workers on this
    host that outlived their orchestrator, with what they train; waiting: failed runs that wait for `--retry failed`;
    damaged: one sentence for each run whose file was set aside; at: the machine, with what is known of its speed;
    edited: what to say of code that changed since runs were trained; changes: why runs of trained cells are new.
    """

    sweep: Sweep
    plan: Plan
    store: Store
    standings: Mapping[str, Standing]
    todo: tuple[PlannedRun, ...]
    commands: tuple[PlannedCommand, ...]
    jobs: tuple[AnyJob, ...]
    at: Here
    elsewhere: tuple[str, ...]
    waiting: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    orphans: tuple[tuple[Holder, AnyJob], ...] = ()
    edited: str = ""
    changes: tuple[str, ...] = ()

    @property
    def settled(self) -> int:
        """Runs that are done or diverged."""
        return sum(held.state.final for held in self.standings.values())

    @property
    def diverged(self) -> int:
        """Of the settled ones, those that diverged."""
        return sum(held.state is State.DIVERGED for held in self.standings.values())

    @property
    def seconds(self) -> float:
        """Expected wall time of what is left."""
        return makespan(self.device_seconds, self.places) if self.jobs else 0.0

    @property
    def device_seconds(self) -> list[float]:
        """Expected time of what is left of each job, 0 for scripts of which nobody knows it."""
        return [job.seconds * self.left(job) for job in self.jobs]

    @property
    def timed(self) -> bool:
        """Whether the time of every job is known."""
        return all(job.seconds for job in self.jobs)

    def left(self, job: AnyJob) -> float:
        """The share of a job's steps that its runs have still to take: they go on from checkpoints."""
        steps = sum(run.steps or 0 for run in job.runs)
        taken = sum(min(self.standings[run.run_id].step, run.steps or 0) for run in job.runs)
        return 1 - taken / steps if steps else 1.0

    @property
    def places(self) -> int:
        """Jobs at once."""
        return self.at.jobs

    @property
    def flops(self) -> float:
        """Exact training FLOPs of what is left, those of a trunk once; of scripts as far as their sweep says it."""
        per_step = {planned.run: planned.flops / planned.run.steps for planned in self.todo}
        models = sum(
            per_step[job.runs[0]] * sum(k * steps for k, steps in job_rows(job)) * self.left(job) for job in self.packs
        )
        whole = {planned.run_id: planned.flops or 0.0 for planned in self.commands}
        return models + sum(whole[job.run.run_id] * self.left(job) for job in self.jobs if isinstance(job, CommandJob))

    @property
    def packs(self) -> tuple[Job, ...]:
        """The jobs that are no scripts."""
        return tuple(job for job in self.jobs if isinstance(job, Job))

    @property
    def disk(self) -> int:
        """Expected growth of the store at its largest [bytes]; what scripts keep in their folders is not known."""
        rows = {p.run_id: 4 * (-(-p.run.steps // p.run.evaluation.every)) for p in self.todo}
        numbers = {p.run_id: 2 * (p.n["total"] + p.state) for p in self.todo}  # the new checkpoint beside the old
        live = {run_id: LIVE_ROW_BYTES * rows[run_id] + NUMBER_BYTES * numbers[run_id] for run_id in rows}
        flying = sorted((sum(live[run.run_id] for run in job.runs) for job in self.packs), reverse=True)
        files = FILE_BYTES * (len(rows) + len(self.commands))
        parameters = NUMBER_BYTES * sum(p.n["total"] for p in self.todo) if self.sweep.runtime.keep else 0
        return ROW_BYTES * sum(rows.values()) + files + parameters + sum(flying[: self.places])


def prepare(
    path: str,
    results: str | None,
    overrides: Sequence[str] = (),
    *,
    max_runs: int | None = None,
    retry_failed: bool = False,
) -> Prepared:
    """Read a sweep file and compare it with the store; starts and writes nothing.

    Raises: SweepFileError with every problem of the file; NothingMatched if its constraints leave no run.
    """
    store = results_store(results)
    file = sweep_file(path, store)
    if not os.path.exists(file) or os.path.isdir(file):
        raise unknown_sweep(path, list_sweeps(store))
    sweep = load(file, overrides, max_runs=max_runs or MAX_RUNS, recorded=is_recorded(file, store))
    plan = expand(sweep)
    if not plan.runs:
        raise NothingMatched(
            "the constraints drop every run", where=sweep.path, remedy="loosen [constraints] drop, or widen the grids"
        )
    index = refresh(store)
    standings = states(store, plan.run_ids, index)
    found = {run_id: held.state for run_id, held in standings.items()}
    wanted = {run_id for run_id, state in found.items() if state.resumes or (retry_failed and state is State.FAILED)}
    left = tuple(planned for planned in plan.runs if planned.run_id in wanted)
    todo = tuple(planned for planned in left if isinstance(planned, PlannedRun))
    commands = tuple(planned for planned in left if isinstance(planned, PlannedCommand))
    runtime = sweep.runtime
    placement = Placement(
        micro_batch=runtime.micro_batch,
        checkpoint_seconds=runtime.checkpoint_seconds,
        search=sweep.search,
        branch=runtime.branch,
        recompute=runtime.recompute,
        compile=runtime.compile,
        graph=runtime.graph,
        keep=runtime.keep,
    )
    at = here(todo, sweep.runtime, placement)
    elsewhere = tuple(run_id for run_id, state in found.items() if state is State.RUNNING)
    return Prepared(
        sweep=sweep,
        plan=plan,
        store=store,
        standings=standings,
        todo=todo,
        commands=commands,
        jobs=(
            *pack(todo, slots=at.jobs, placement=at.cache.placement, speed=at.speed),
            *command_jobs(commands, at.cache.placement, finished_commands(plan, index)),
        ),
        at=at,
        elsewhere=elsewhere,
        orphans=orphaned(store, plan, elsewhere, placement),
        edited=edited(index, plan) if todo else "",
        changes=changes(store, plan, index),
        waiting=tuple(run_id for run_id, state in found.items() if state is State.FAILED and run_id not in wanted),
        damaged=tuple(map(str, damaged_runs(store, index, plan.run_ids))),
    )


def narrowed(prepared: Prepared, run_ids: Collection[str], slots: int) -> Prepared:
    """The sweep with these of its runs as what there is to do, packed for so many jobs at once."""
    left = [planned for planned in prepared.plan.runs if planned.run_id in run_ids]
    todo = tuple(planned for planned in left if isinstance(planned, PlannedRun))
    commands = tuple(planned for planned in left if isinstance(planned, PlannedCommand))
    at, finished = prepared.at, finished_commands(prepared.plan, refresh(prepared.store)) if commands else ()
    packs = pack(todo, slots=slots, placement=at.cache.placement, speed=at.speed)
    jobs: tuple[AnyJob, ...] = (*packs, *command_jobs(commands, at.cache.placement, finished))
    return replace(prepared, todo=todo, commands=commands, jobs=jobs)


def finished_commands(plan: Plan, index: Index) -> tuple[Finished, ...]:
    """Runs of the plan's script that are done, as far as the plan still asks for them."""
    planned = {held.run_id: held for held in plan.runs if isinstance(held, PlannedCommand)}
    if not planned:
        return ()
    rows = index.of(planned).table.select(["run_id", "state", "seconds"]).to_pylist()
    done = [row for row in rows if row["state"] == State.DONE and row["seconds"]]
    return tuple(
        Finished(dict(held.run.params), held.flops, row["seconds"])
        for row, held in ((row, planned[row["run_id"]]) for row in done)
    )


def command_jobs(
    commands: Sequence[PlannedCommand], placement: Placement, finished: Sequence[Finished]
) -> tuple[CommandJob, ...]:
    """A job for each run of a script, those that are expected to take longest first; else those of most FLOPs."""
    durations = Durations(finished)
    jobs = [
        (CommandJob(held.run, placement, durations.expected(dict(held.run.params), held.flops) or 0.0), held)
        for held in commands
    ]
    return tuple(job for job, held in sorted(jobs, key=lambda pair: (-pair[0].seconds, -(pair[1].flops or 0.0))))


def edited(index: Index, plan: Plan) -> str:
    """Whether finished runs of the plan were trained by other code than would train the rest now."""
    of = dict(zip(index.table["run_id"].to_pylist(), index.table["source"].to_pylist(), strict=True))
    now = code_digest()
    other = sum(of.get(run_id) not in (None, now) for run_id in plan.run_ids)
    return f"the code was edited since {other} of {counted(len(plan), 'run')} were trained" if other else ""


def orphaned(
    store: Store, plan: Plan, run_ids: Sequence[str], placement: Placement
) -> tuple[tuple[Holder, AnyJob], ...]:
    """Workers on this host that outlived the orchestrator that started them, each with those of these runs it holds."""
    host, now = host_identity(), time.time()
    found: dict[Holder, list[RunConfig | CommandRun]] = {}
    of = {planned.run_id: planned.run for planned in plan.runs}
    for run_id in run_ids:
        holder = live(store, run_id).holder()
        if holder is not None and holder.orphaned(host, now):
            same = next((held for held in found if (held.pid, held.started) == (holder.pid, holder.started)), holder)
            found.setdefault(same, []).append(of[run_id])
    jobs: list[tuple[Holder, AnyJob]] = []
    for holder, held in found.items():
        models = tuple(run for run in held if isinstance(run, RunConfig))
        scripts = [run for run in held if isinstance(run, CommandRun)]
        jobs += [(holder, Job(models, placement))] if models else []
        jobs += [(holder, CommandJob(run, placement)) for run in scripts]
    return tuple(jobs)


def probed(prepared: Prepared, say: Callable[[str], None], *, asked: bool = False) -> Prepared:
    """Measure the shapes that are to be trained, and pack anew by what was found.

    Args: say: told what is being done; asked: measure every shape now, each beside its other precision; else only what
    is not known and worth it, as `[runtime] probe` says.
    """
    at = prepared.at
    if prepared.commands:  # what a script will do, its runs show
        return prepared
    if asked:
        wanted = [held[0] for held in shapes(prepared.todo).values()]
    else:
        wanted = worth_measuring(prepared.todo, at, prepared.sweep.runtime.probe)
    if not wanted:
        return prepared
    found = measured(wanted, at, say, compare=asked)
    at = replace(at, speed=replace(at.speed, measured={**at.speed.measured, **found}))
    jobs = pack(prepared.todo, slots=at.jobs, placement=at.cache.placement, speed=at.speed)
    return replace(prepared, at=at, jobs=jobs)


def check_budget(prepared: Prepared, *, hours: bool = True) -> None:
    """Refuse before the first second of training what the budget or the disk does not allow.

    Hours are those of what is left, as far as its time is known: `unchecked` says where it is not.

    Args: hours: whether the speeds known here are those of the devices that train.
    Raises: BudgetRefused.
    """
    budget = prepared.sweep.budget
    needed = sum(prepared.device_seconds) / 3600
    # seconds from shapes are those of a CPU core
    known = prepared.at.on_cpu or shapes(prepared.todo).keys() <= prepared.at.speed.measured.keys()
    if budget.device_hours is not None and hours and known and needed > budget.device_hours:
        raise BudgetRefused(
            f"what is left needs about {needed:.3g} device-hours, and the budget is {budget.device_hours:g}",
            where=f"{prepared.sweep.path} [budget] device_hours",
            remedy="raise the budget, shorten the runs, or drop some in [constraints]",
        )
    if budget.disk is not None and prepared.disk > budget.disk:
        raise BudgetRefused(
            f"the sweep needs about {units.size(prepared.disk)}, and its budget is {units.size(budget.disk)}",
            where=f"{prepared.sweep.path} [budget] disk",
            remedy="raise the budget, or evaluate less often",
        )
    free = shutil.disk_usage(_existing(prepared.store.root)).free
    if prepared.disk * DISK_MARGIN > free:
        raise BudgetRefused(
            f"the sweep needs about {units.size(prepared.disk)}, and {units.size(free)} are free",
            where=str(prepared.store.root),
            remedy="free some space, or name another folder with --results",
        )


def unchecked(prepared: Prepared) -> str:
    """What to say of a budget that holds nobody, "" if it does."""
    if prepared.sweep.budget.device_hours is None or prepared.timed:
        return ""
    return "[budget] device_hours holds nothing back yet: what these scripts take is known once some are done"


def execute(
    prepared: Prepared, stopping: Callable[[], int], *, record: bool = True, detached: bool = False
) -> Iterator[Event | Halted]:
    """Record the plan, then train what is missing, yielding what happens.

    Workers that outlived their orchestrator are taken over, and runs that another process held are trained once it has
    left them.

    Args: stopping: 0 to go on, 1 to checkpoint and leave, 2 to kill; record: False where whoever asked did so already;
    detached: workers go on if this process is killed.
    Raises: BudgetRefused, before anything starts.
    """
    check_budget(prepared)
    prepared.store.prepare()
    root, scripts = prepared.store.root.absolute(), bool(prepared.commands)
    executor = LocalExecutor(root, prepared.at.places, commands=scripts, detached=detached)
    rules = prepared.sweep.on_error
    policy = Policy(rules.retries, rules.stop_after_identical, rules.timeout or None)
    if prepared.at.on_cpu and prepared.sweep.runtime.threads is None:
        policy = replace(policy, threads=most_threads)
    placement = prepared.at.cache.placement
    jobs, orphans, others = prepared.jobs, prepared.orphans, set(prepared.elsewhere)
    try:
        executor.warm(len(jobs))
        if record:
            record_plan(prepared)
        with keeping(prepared.store, prepared.sweep.name):
            while jobs or orphans:
                for holder, job in orphans:
                    executor.adopt(job, holder)
                    others -= {run.run_id for run in job.runs}
                halted = False
                under_way = [job for _, job in orphans]
                for event in drive(jobs, executor, prepared.store, policy, stopping, under_way):
                    others |= set(event.busy) if isinstance(event, JobOver) else set()
                    halted |= isinstance(event, Halted)
                    yield event
                if halted or stopping():
                    return
                found = {run_id: state_of(prepared.store, run_id).state for run_id in sorted(others)}
                freed = {run_id for run_id, state in found.items() if state.resumes}
                others -= freed
                jobs = narrowed(prepared, freed, prepared.at.jobs).jobs
                orphans = orphaned(prepared.store, prepared.plan, sorted(others), placement)
    finally:
        executor.close()
        refresh(prepared.store)


@dataclass(frozen=True)
class Outcome:
    """How a sweep stands after training.

    exit_code: 0 where every run has ended for good, 75 where what is missing is held by another process, else 1;
    complete: every run has ended for good; any_done: at least one of them without diverging; notes: on the code that
    trained them.
    """

    counts: Mapping[State, int]
    exit_code: int
    complete: bool
    any_done: bool
    sentence: str
    notes: tuple[str, ...] = ()


def outcome(prepared: Prepared) -> Outcome:
    """Read from the store how every run of the plan ended."""
    index = refresh(prepared.store)
    counts = Counter(held.state for held in states(prepared.store, prepared.plan.run_ids, index).values())
    said = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    finished = counts[State.DONE] + counts[State.DIVERGED]
    complete = counts.total() == finished
    whole = "Finished" if complete else "Stopped"
    broken = counts[State.FAILED] + counts[State.LOST] + counts[State.OOM] + counts[State.TIMEOUT]
    elsewhere = counts[State.RUNNING] and counts.total() == finished + counts[State.RUNNING]
    rest = "" if complete or broken else " The same command resumes."
    if elsewhere:
        rest = " Another process trains what is left."
    code = 0 if complete else 75 if elsewhere else 1
    notes = source_notes(index, prepared.plan.run_ids)
    return Outcome(counts, code, complete, counts[State.DONE] > 0, f"{whole}: {said}.{rest}", notes)


def progress(prepared: Prepared, console: Console, look: Look) -> Progress:
    """The display of a sweep about to run."""
    names = short_names(prepared.plan.axes)
    seconds = {run_id: held for job in prepared.packs for run_id, held in slot_seconds(job).items()}
    splits = {run_id: step for job in prepared.packs for run_id, step in _splits(job).items()}
    jobs = {run.run_id: job for job in prepared.jobs for run in job.runs}
    expected = {
        planned.run_id: Expected(
            cell={names[key]: held for key, held in planned.cell.items()},
            steps=planned.run.steps,
            seconds=seconds[planned.run_id],
            flops=planned.flops,
            split=splits.get(planned.run_id, 0),
        )
        for planned in prepared.todo
    }
    usual = [job.seconds for job in prepared.jobs if job.seconds]
    expected |= {
        planned.run_id: Expected(
            cell={names[key]: held for key, held in planned.cell.items()},
            steps=planned.run.steps or 0,
            seconds=job.seconds or (sum(usual) / len(usual) if usual else 1.0),
            flops=planned.flops or 0.0,
        )
        for planned, job in ((planned, jobs[planned.run_id]) for planned in prepared.commands)
    }
    for planned in prepared.plan.runs:  # others train these; they are no work of ours, unless we come to adopt them
        if planned.run_id in prepared.elsewhere:
            cell = {names[key]: held for key, held in planned.cell.items()}
            expected[planned.run_id] = Expected(cell=cell, steps=planned.run.steps or 0, seconds=0.0, flops=0.0)
    device = "cpu" if prepared.at.on_cpu else "gpu"
    return Progress(console, look, prepared.sweep.name, prepared.settled, expected, device)


def tell(display: Progress, event: Event | Halted) -> Halted | None:
    """Pass an event on to the display. Returns: the event, if it says that the sweep stops."""
    if isinstance(event, Beat):
        display.beat(event.slot, event.ticket, event.runs, event.tokens_per_second, event.memory)
    elif isinstance(event, RunEnded):
        display.end(event.run_id, event.state, event.loss, event.seconds, event.message)
    elif isinstance(event, JobOver):
        display.over(event.ticket)
        for run_id in event.busy:
            display.say(f"  {run_id[:6]} is being trained by another process")
        if event.died:
            display.say(
                f"  the worker of {_named(event.ticket)}: {event.message}; its runs go on from their checkpoints", "red"
            )
        elif event.full:
            display.say(f"  {event.message}; it waits")
    elif isinstance(event, SlotClosed):
        display.say(f"  {event.device} gets no more runs: {event.message}", "red")
    else:
        return event
    return None


def _named(ticket: Ticket) -> str:
    """The runs of a job, for a line on the screen."""
    run_ids = [run_id[:6] for run_id in ticket.split("+")]
    more = f" and {len(run_ids) - 3} more" if len(run_ids) > 3 else ""
    return f"{', '.join(run_ids[:3])}{more}"


def resumed(prepared: Prepared) -> str:
    """What to say of runs that go on from where they were, "" for none."""
    runs = [run.run_id for job in prepared.jobs for run in job.runs]
    steps = sorted(step for run_id in runs if (step := prepared.standings[run_id].step))
    if not steps:
        return ""
    span = f"{steps[0]}" if steps[0] == steps[-1] else f"{steps[0]} to {steps[-1]}"
    return f"{counted(len(steps), 'run')} {'goes' if len(steps) == 1 else 'go'} on, last seen at step {span}"


def most_threads(job: Job) -> int:
    """Threads from which a job still gains: as many as there are for matrices of WIDE and more, else one."""
    width = getattr(job.runs[0].model.options, "d_model", 0)
    return sys.maxsize if width >= WIDE else 1


def record_plan(prepared: Prepared) -> None:
    """Write the sweep file and its plan into the store, so that every reading command knows them.

    What a killed process left in flight of runs that are settled goes.
    """
    tidy(prepared.store, (run_id for run_id, held in prepared.standings.items() if held.state.final))
    rows: list[dict[str, Any]] = [
        {"run_id": planned.run_id, "config": record(planned.run), **planned.cell} for planned in prepared.plan.runs
    ]
    folder = next(iter(prepared.sweep.search), "")
    text = with_overrides_recorded(prepared.sweep.text, prepared.sweep.overrides, folder)
    save_sweep(prepared.store, prepared.sweep.name, text, rows)


def plan_warnings(prepared: Prepared) -> list[str]:
    """What `record_plan` will find damaged and put right, in a sentence."""
    return [repaired(error) for error in damaged_sweeps(prepared.store, [prepared.sweep.name]).values()]


def job_trunks(job: Job) -> tuple[Trunk, ...]:
    """What a job trains as one row each until its runs split."""
    return trunks(job.runs, branch=job.placement.branch)


def _splits(job: Job) -> dict[str, int]:
    """The step where each follower of a trunk leaves it, by run id."""
    return {run.run_id: split_step(run) for trunk in job_trunks(job) for run in trunk.followers}


def slot_seconds(job: Job) -> dict[str, float]:
    """The job's seconds, shared out by the steps that each run trains itself: those of a trunk are its carrier's."""
    splits = _splits(job)
    own = {run.run_id: run.steps - splits.get(run.run_id, 0) for run in job.runs}
    return {run_id: job.seconds * steps / sum(own.values()) for run_id, steps in own.items()}


def job_rows(job: Job) -> tuple[tuple[int, int], ...]:
    """How many models a job trains in one step, as (models, steps) one after the other."""
    return occupancy(job_trunks(job), job.placement.rows)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.absolute().parent
    return path
