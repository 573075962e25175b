"""From planned runs to jobs: which runs train in one step, and in which order the jobs start.

Runs pack together if they differ only in what is free per row: seed, the optimiser's numbers, the schedule's numbers,
the length. Runs that are equal up to their cooldown are one trunk there (`optim.trunks`). The seconds are measured
where a probe has run on this machine, and estimated from shapes elsewhere; they group, order and balance jobs and never
enter an identity.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from scalectl.core.job import Job, Placement
from scalectl.core.run import Foreign, RunConfig
from scalectl.optim import ALIGNED, OPTIMIZERS
from scalectl.optim.trunks import Trunk, occupancy, trunk_key, trunks
from scalectl.sweep.plan import PlannedRun
from scalectl.sweep.speeds import Measured, shape_key


@dataclass(frozen=True)
class Speed:
    """What a slot can do: what a probe has measured there, and assumptions about everything else.

    overhead: seconds a step per tensor of the model, once for a whole pack; activation: seconds per number that the
    forward pass keeps (elementwise work and memory); flops: FLOP/s of the matrix products; pack_one, pack_all: kept
    numbers up to which packing pays, of one member and of the whole pack; max_pack: runs in a job; fp16: how many times
    longer the work on a token takes in that precision. measured: by `shape_key`, in place of all of these; memory: that
    a job may take beside its bare process [bytes]; buckets: packs are powers of two, for devices where every size is
    captured and compiled anew.
    """

    overhead: float
    activation: float
    flops: float
    pack_one: float
    pack_all: float
    max_pack: int
    fp16: float = 1.0
    measured: Mapping[Hashable, Measured] = field(default_factory=dict)
    memory: float = inf
    buckets: bool = False


CPU_CORE = Speed(overhead=1.2e-4, activation=3.5e-9, flops=1.1e11, pack_one=1.2e6, pack_all=5e6, max_pack=16, fp16=8.6)
"""One thread of a server core in fp32. Ours: non-negative least squares on the relative error of 19 measured steps (3 k
to 4.8 M parameters, 64 to 2,304 tokens, packs of 1 to 16, Zen 4; within 0.7 to 1.2 of each). Packing paid up to 3.4
times where a member keeps less than 1.2e6 numbers and the pack less than 5e6; beyond, the engine takes the rows of a
pack in turns, which is as fast as one after the other. fp16: of the two shapes measured in LOG.md, L1 d16 at .34 of the
speed of fp32 and L2 d64 at .13, the factor gives .33 and .13; bf16 is within 1.4 of fp32 and counts as equal."""


TWICE = 0.1
"""Share of the whole time that must be gained for a trunk to be trained twice so that its runs fill two slots. Ours:
a branch costs a fifth of its run, a trunk of its own all of it, and below a tenth estimates cannot tell."""


def packable(run: PlannedRun) -> bool:
    """Whether a pack pays at all: whether the tokens of a batch and the numbers of each matrix are wholes of ALIGNED.

    So have to be the tokens of every part of a sequence that layers see by itself. Then whatever a step makes of a row
    begins in a pack on the boundaries on which it begins alone, and only then do kernels round alike; the engine takes
    other rows one by one. Ours: of 119 random packs of such shapes none differs from its solo runs; of 481 others one
    in six did, by 1e-9 to 2e-8 after a few steps. Somebody's own model knows no pack.
    """
    if isinstance(run.run.model, Foreign):
        return False
    matrices = [tensor for tensor in run.ledger.tensors if tensor.role != "vector"]
    tokens = (run.run.sequences * length for length in run.run.lengths)
    return all(held % ALIGNED == 0 for held in (*tokens, *(t.size for t in matrices)))


def pack_key(run: PlannedRun) -> Hashable:
    """What runs must share to train in one step: all but the numbers that are free per row."""
    config = run.run
    if not packable(run):
        return trunk_key(config)
    return (
        config.model,
        config.task,
        (config.optim.name, config.optim.version),
        tuple(getattr(config.optim.options, name) for name in OPTIMIZERS[config.optim.name].shared),
        (config.schedule.name, config.schedule.version),
        config.sequences,
        config.precision,
        config.evaluation,
    )


def pack_seconds(
    runs: Sequence[PlannedRun], speed: Speed = CPU_CORE, *, branch: bool = True, rows: int | None = None
) -> float:
    """Seconds of one job: trunks once, and rows that end early leave.

    Args: branch: whether runs share trunks; rows: the most models in one step.
    """
    spent = occupancy(trunks([run.run for run in runs], branch=branch), rows)
    return sum(steps * step_seconds(runs[0], k, speed) for k, steps in spent)


def step_seconds(run: PlannedRun, k: int, speed: Speed = CPU_CORE) -> float:
    """Seconds of one step of a pack of k such runs, evaluations spread over the steps.

    From shapes: an overhead for the pack, work for each member. A forward pass is a third of the FLOPs of a training
    step (`core.cost`), and taken as a third of its time.
    """
    config = run.run
    evaluated = _evaluated(run)
    measured = speed.measured.get(shape_key(config))
    if measured is not None:
        return measured.seconds(k, evaluated)
    slower = speed.fp16 if config.precision == "fp16" else 1.0
    per_token = speed.activation * run.ledger.saved_activations + run.ledger.flops_per_token() / speed.flops
    return speed.overhead * len(run.ledger.tensors) + k * slower * per_token * (config.batch_tokens + evaluated / 3)


def pack_memory(run: PlannedRun, k: int, speed: Speed = CPU_CORE) -> float:
    """Peak memory of a pack of k such runs beside its bare process [bytes]."""
    measured = speed.measured.get(shape_key(run.run))
    seen = None if measured is None else measured.memory(k)
    return float(k * run.bytes) if seen is None else seen


def most_packed(run: PlannedRun, speed: Speed = CPU_CORE) -> int:
    """The most runs like this one for which a pack pays and fits into memory; at least 1, whatever the memory."""
    measured = speed.measured.get(shape_key(run.run))
    if not packable(run):
        return 1
    if measured is not None:
        most = measured.best(_evaluated(run))
    else:
        kept = run.ledger.saved_activations * run.run.batch_tokens
        most = min(speed.max_pack, int(speed.pack_all / kept)) if kept <= speed.pack_one else 1
    while most > 1 and pack_memory(run, most, speed) > speed.memory:
        most -= 1
    return max(1, most)


def pack(
    runs: Sequence[PlannedRun],
    *,
    slots: int = 1,
    placement: Placement | None = None,
    speed: Speed = CPU_CORE,
) -> tuple[Job, ...]:
    """Group runs into jobs, longest first; every run is in exactly one.

    The largest packs that pay are tried, then halves of them and so on down to 1, and those with the earliest expected
    end on `slots` slots are taken, the larger packs on a tie; then the longest pack is split as long as that helps:
    packing never costs expected time. A trunk and its branches stay in one job, unless slots would stand idle.

    Args: slots: jobs at once; placement: of every job, the executor fills in the device.
    """
    if not runs:
        return ()
    where = placement or Placement()
    groups: dict[Hashable, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(pack_key(run), []).append(run)
    units = {key: _units(group, branch=where.branch) for key, group in groups.items()}
    most = {key: most_packed(group[0], speed) for key, group in groups.items()}
    best: list[_Pack] = []
    end = inf
    largest = 1 << (max(most.values()) - 1).bit_length()
    while largest >= 1:
        packs = [
            _pack_of(part, most[key], speed)
            for key, held in units.items()
            for part in _chunks(held, min(largest, most[key]), speed)
        ]
        expected = makespan([pack.seconds for pack in packs], slots)
        if expected < end * (1 - 1e-9):
            best, end = packs, expected
        largest //= 2
    best = _split_last(best, end, slots, speed)
    jobs = [Job(pack.runs, replace(where, rows=pack.rows), pack.seconds) for pack in best]
    return tuple(sorted(jobs, key=lambda job: -job.seconds))


def makespan(seconds: Sequence[float], slots: int) -> float:
    """When the last job ends if the longest start first and a free slot takes the next.

    Source: Graham 1969, the longest-processing-time rule; within 4/3 of the best order.
    """
    free = [0.0] * max(1, slots)
    for held in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + held)
    return max(free)


def _evaluated(run: PlannedRun) -> float:
    """Held-out tokens a step, evaluations spread over the steps."""
    config = run.run
    evaluations = -(-config.steps // config.evaluation.every)
    return evaluations * config.task.held_out_tokens / config.steps


_Unit = tuple[PlannedRun, ...]
"""Runs of one trunk, its carrier first, then the others by the step where they split: what a pack has a row for."""


@dataclass(frozen=True)
class _Pack:
    """Units of one job. most: models for which a pack pays; rows: the limit on its rows, None where it needs none."""

    units: tuple[_Unit, ...]
    most: int
    rows: int | None
    seconds: float

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        return tuple(planned.run for unit in self.units for planned in unit)


def _units(group: Sequence[PlannedRun], *, branch: bool) -> list[_Unit]:
    planned = {held.run: held for held in group}
    return [tuple(planned[run] for run in trunk.runs) for trunk in trunks(planned, branch=branch)]


def _pack_of(units: Sequence[_Unit], most: int, speed: Speed) -> _Pack:
    """A pack of these units, with branches beside their trunks or after one another, whichever is faster."""
    runs = [planned for unit in units for planned in unit]
    branched = len(runs) > len(units)
    held = [Trunk(unit[0].run, tuple(planned.run for planned in unit[1:]), unit[0].run) for unit in units]

    def seconds(rows: int | None) -> float:
        return sum(steps * step_seconds(runs[0], k, speed) for k, steps in occupancy(held, rows))

    rows = min((most, 1), key=seconds) if branched else None
    return _Pack(tuple(units), most, rows, seconds(rows))


def _chunks(units: list[_Unit], most: int, speed: Speed) -> list[list[_Unit]]:
    """Packs of one group: runs of similar length together, in parts of nearly equal number, or in powers of two.

    Parts that are slower than their members alone, as a small one may be where a large one pays, are taken apart.
    """
    ordered = sorted(units, key=lambda unit: (-unit[0].run.steps, unit[0].run.seed))
    found = []
    for part in _parts(ordered, most, buckets=speed.buckets):
        k, first = len(part), part[0][0]
        pays = step_seconds(first, k, speed) <= k * step_seconds(first, 1, speed)
        found += [part] if pays else [[unit] for unit in part]
    return found


def _parts(units: list[_Unit], most: int, *, buckets: bool) -> list[list[_Unit]]:
    count = -(-len(units) // most)
    bounds = [len(units) * i // count for i in range(count + 1)]
    if buckets:
        bounds = [0]
        while bounds[-1] < len(units):
            bounds.append(bounds[-1] + 2 ** (min(most, len(units) - bounds[-1]).bit_length() - 1))
    return [units[a:b] for a, b in itertools.pairwise(bounds)]


def _split_last(packs: list[_Pack], end: float, slots: int, speed: Speed) -> list[_Pack]:
    """Split the longest pack while the expected end comes earlier."""
    while True:
        candidates = [i for i, pack in enumerate(packs) if len(pack.runs) > 1]
        if not candidates:
            return packs
        longest = max(candidates, key=lambda i: packs[i].seconds)
        rest = packs[:longest] + packs[longest + 1 :]
        others = [pack.seconds for pack in rest]
        apart = len(packs[longest].units) > 1
        tried = [
            (makespan([*others, *(half.seconds for half in halves)], slots), halves)
            for halves in _halves(packs[longest], speed)
        ]
        expected, halves = min(tried, key=lambda held: held[0])
        if expected >= end * (1 - (1e-9 if apart else TWICE)):
            return packs
        packs, end = [*rest, *halves], expected


def _halves(pack: _Pack, speed: Speed) -> list[tuple[_Pack, _Pack]]:
    """Ways to make two packs of one: half of its units each, or the runs of its only unit, whose trunk trains twice."""
    if len(pack.units) > 1:
        middle = (len(pack.units) + 1) // 2
        parts = [(pack.units[:middle], pack.units[middle:])]
    else:
        (unit,) = pack.units
        carrier, followers = unit[0], unit[1:]
        parts = [
            (((carrier, *followers[i:]),), ((followers[i - 1], *followers[: i - 1]),))
            for i in range(1, len(followers) + 1)
        ]
    return [(_pack_of(one, pack.most, speed), _pack_of(two, pack.most, speed)) for one, two in parts]
