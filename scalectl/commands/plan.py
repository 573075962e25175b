"""`scalectl plan`: what a sweep would train, as facts to render."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import nan
from typing import Any, NamedTuple

from scalectl.commands.speed import Here, precision_advice, shapes
from scalectl.commands.sweep import Prepared, check_budget, job_rows, job_trunks, slot_seconds, unchecked
from scalectl.commands.target import shared_facts
from scalectl.core import units
from scalectl.core.errors import BudgetRefused
from scalectl.core.job import CommandJob
from scalectl.core.machine import memory_total
from scalectl.core.run import SEED, RunConfig
from scalectl.report.views import PlanGroup, PlanView, RayView, SlurmView
from scalectl.store.sweeps import list_sweeps, load_sweep
from scalectl.sweep.block import HORIZONS
from scalectl.sweep.pack import makespan, pack, pack_memory
from scalectl.sweep.plan import Planned, PlannedCommand, PlannedRun


class _Share(NamedTuple):
    """The job that a run is in: its number, and the most models that it trains in one step."""

    number: int
    rows: int


def view(prepared: Prepared, slurm: SlurmView | None = None, ray: RayView | None = None) -> PlanView:
    """The plan as facts to render; slurm: the jobs that it takes on a cluster; ray: the pilots, likewise."""
    packs = prepared.packs
    seconds: dict[str, float] = {}
    shares: dict[str, float] = {}
    jobs: dict[str, _Share] = {}
    for number, job in enumerate(packs):
        spent = job_rows(job)
        shared = _Share(number, max(rows for rows, _ in spent))
        steps = sum(steps for _, steps in spent)
        shares |= slot_seconds(job)
        seconds |= {run.run_id: job.seconds * run.steps / steps for run in job.runs}
        jobs |= {run.run_id: shared for run in job.runs}
    scripts = {job.ticket: job.seconds for job in prepared.jobs if isinstance(job, CommandJob)}
    asked_shapes = shapes(prepared.todo).keys()
    groups: dict[tuple[tuple[str, Any], ...], list[Planned]] = {}
    for planned in prepared.plan.runs:
        cell = tuple((key, held) for key, held in planned.cell.items() if key != SEED)
        groups.setdefault(cell, []).append(planned)
    told = []
    for cell, held in groups.items():
        models = [planned for planned in held if isinstance(planned, PlannedRun)]
        commands = [planned for planned in held if isinstance(planned, PlannedCommand)]
        if models:
            told.append(_group(dict(cell), models, prepared, jobs, seconds, shares))
        else:
            told.append(_command_group(dict(cell), commands, prepared, scripts))
    earlier = 0
    if prepared.sweep.name in list_sweeps(prepared.store):
        asked = set(prepared.plan.run_ids)
        stored = load_sweep(prepared.store, prepared.sweep.name)
        earlier = sum(row["run_id"] not in asked for row in stored.rows)
    dropped: dict[str, int] = {}
    for _, constraint in prepared.plan.dropped:
        dropped[constraint] = dropped.get(constraint, 0) + 1
    branched = sum(len(trunk.runs) > 1 for job in packs for trunk in job_trunks(job))
    sized = {planned.run.convention for planned in prepared.plan.runs if isinstance(planned, PlannedCommand)}
    return PlanView(
        name=prepared.plan.name,
        question=prepared.plan.question,
        groups=tuple(told),
        todo=len(prepared.todo) + len(prepared.commands),
        flops=prepared.flops,
        seconds=prepared.seconds if prepared.timed else None,
        disk=float(prepared.disk),
        devices=_devices(prepared.at),
        jobs=len(prepared.jobs),
        shapes=len(asked_shapes),
        measured=len(asked_shapes & prepared.at.speed.measured.keys()),
        shared=shared_facts(planned.columns() for planned in _kinds(prepared.plan.runs)),
        dropped=tuple(dropped.items()),
        warnings=(*prepared.plan.notes, *_left_notes(prepared, here=slurm is None and ray is None)),
        older=earlier,
        alone=_alone(prepared) if branched else None,
        trunks=branched,
        advice=precision_advice(prepared.todo, prepared.at),
        lengths=HORIZONS,
        convention=next(iter(sized), "non_embedding"),
        script=bool(sized),
        slurm=slurm,
        ray=ray,
    )


def _kinds(runs: Sequence[Planned]) -> Iterable[Planned]:
    """One run of each kind, runs that differ in the seed alone being of one."""
    kinds: dict[Hashable, Planned] = {}
    for planned in runs:
        run = planned.run
        kind = (
            (run.model, run.task, run.optim, run.schedule, run.steps, run.sequences, run.precision)
            if isinstance(run, RunConfig)
            else run
        )
        kinds.setdefault(kind, planned)
    return kinds.values()


def _command_group(
    cell: dict[str, Any], held: Sequence[PlannedCommand], prepared: Prepared, seconds: Mapping[str, float]
) -> PlanGroup:
    """Runs of a script: what its sweep file says of them, and the time that its finished runs took."""
    first = held[0].run
    left = [seconds[planned.run_id] for planned in held if planned.run_id in seconds]
    known = [time for time in left if time]
    return PlanGroup(
        cell=cell,
        runs=len(held),
        done=sum(prepared.standings[planned.run_id].state.final for planned in held),
        pack=1 if left else 0,
        jobs=len(left),
        N=nan if first.N is None else round(first.N),
        D=nan if first.D is None else round(first.D),
        epochs=nan,
        flops=nan if held[0].flops is None else held[0].flops,
        memory=None,
        seconds=sum(known) / len(known) if known else None,
        slot_seconds=sum(known) if known else None,
    )


def _group(
    cell: dict[str, Any],
    held: Sequence[PlannedRun],
    prepared: Prepared,
    jobs: Mapping[str, _Share],
    seconds: Mapping[str, float],
    shares: Mapping[str, float],
) -> PlanGroup:
    first = held[0]
    mine = {jobs[p.run_id] for p in held if p.run_id in jobs}
    k = max((job.rows for job in mine), default=0)
    times = [seconds[planned.run_id] for planned in held if planned.run_id in seconds]
    return PlanGroup(
        cell=cell,
        runs=len(held),
        done=sum(prepared.standings[planned.run_id].state.final for planned in held),
        pack=k,
        jobs=len(mine),
        N=first.n["non_embedding"],
        D=first.tokens,
        epochs=first.epochs,
        flops=first.flops,
        memory=pack_memory(first, max(1, k), prepared.at.speed),
        seconds=sum(times) / len(times) if times else None,
        slot_seconds=sum(shares.get(planned.run_id, 0.0) for planned in held),
    )


def _left_notes(prepared: Prepared, *, here: bool) -> list[str]:
    notes = [*prepared.damaged, *prepared.changes]
    try:
        check_budget(prepared, hours=here)
    except BudgetRefused as error:
        notes.append(f"sweep refuses: {error.what}; {error.remedy}")
    notes += filter(None, [unchecked(prepared), _memory(prepared) if here else ""])
    if prepared.elsewhere:
        notes.append(f"{len(prepared.elsewhere)} runs are being trained by another process")
    if prepared.waiting:
        notes.append(f"{len(prepared.waiting)} runs failed before; sweep --retry failed tries them again")
    return notes


def _memory(prepared: Prepared) -> str:
    """A sentence where packs take more memory than the machine has; a GPU says by itself what fits."""
    if not prepared.at.on_cpu or not prepared.todo:
        return ""
    of = {planned.run: planned for planned in prepared.todo}
    packs = [
        pack_memory(of[job.runs[0]], max(k for k, _ in job_rows(job)), prepared.at.speed) for job in prepared.packs
    ]
    largest, there = sum(sorted(packs, reverse=True)[: prepared.places]), memory_total()
    if there is None or largest <= there:
        return ""
    return (
        f"what trains at once takes {units.size(largest)}, and this machine has {units.size(there)}:"
        " fewer [runtime] slots, a smaller micro_batch, or recompute = true"
    )


def _alone(prepared: Prepared) -> tuple[float, float]:
    """FLOPs and seconds of what is left if no run shared a trunk."""
    at = prepared.at
    apart = pack(prepared.todo, slots=at.jobs, placement=replace(at.cache.placement, branch=False), speed=at.speed)
    return sum(planned.flops for planned in prepared.todo), makespan([job.seconds for job in apart], at.jobs)


def _devices(at: Here) -> str:
    return units.counted(len(at.places), "CPU core" if at.on_cpu else "GPU")
