"""From planned runs to jobs: which runs train in one step, and in which order the jobs start.

Runs pack together if they differ only in what is free per row: seed, the optimiser's numbers, the schedule's numbers,
the length. The seconds are measured where a probe has run on this machine, and estimated from shapes elsewhere; they
group, order and balance jobs and never enter an identity.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from scalectl.core.job import Job, Placement
from scalectl.core.run import Foreign
from scalectl.sweep.plan import PlannedRun
from scalectl.sweep.speeds import Measured, shape_key


@dataclass(frozen=True)
class Speed:
    """What a slot can do: what a probe has measured there, and assumptions about everything else.

    overhead: seconds a step per tensor of the model, once for a whole pack; activation: seconds per number that the
    forward pass keeps (elementwise work and memory); flops: FLOP/s of the matrix products; pack_one, pack_all: kept
    numbers up to which packing pays, of one member and of the whole pack; max_pack: runs in a job. measured: by
    `shape_key`, in place of all of these; memory: that a job may take beside its bare process [bytes]; buckets: packs
    are powers of two, for devices where every size is captured and compiled anew.
    """

    overhead: float
    activation: float
    flops: float
    pack_one: float
    pack_all: float
    max_pack: int
    measured: Mapping[Hashable, Measured] = field(default_factory=dict)
    memory: float = inf
    buckets: bool = False


CPU_CORE = Speed(overhead=6e-5, activation=3.5e-9, flops=1.5e11, pack_one=1.2e6, pack_all=5e6, max_pack=16)
"""One thread of a server core in fp32. Ours: non-negative least squares on the relative error of 32 measured steps (5 k
to 4.9 M parameters, 192 to 2,304 tokens, packs of 1 to 16; within 0.6 to 1.3 of each). Packing paid 1.0 to 2.65 times
where a member keeps less than 1.2e6 numbers and the pack less than 5e6, and 0.76 to 1.1 beyond, where a pack leaves
the caches."""


ALIGNED = 32
"""Numbers, 64 bytes of bf16. Blocks of a pack that are multiples of it begin on the boundaries on which they begin
alone, and only then do kernels round alike. Ours: of 600 random shapes none of the 119 aligned packs differs from its
solo runs; of the others one in six does, by 1e-9 to 2e-8 after a few steps."""


def packable(run: PlannedRun) -> bool:
    """Whether a pack of such runs equals its solo runs bit for bit: matrices and activations are wholes of ALIGNED.

    Somebody's own model knows no pack.
    """
    if isinstance(run.run.model, Foreign):
        return False
    matrices = [tensor for tensor in run.ledger.tensors if tensor.role != "vector"]
    widths = {width for tensor in matrices for width in tensor.shape}
    tokens = run.run.batch_tokens
    return all(t.size % ALIGNED == 0 for t in matrices) and all(tokens * width % ALIGNED == 0 for width in widths)


def pack_key(run: PlannedRun) -> Hashable:
    """What runs must share to train in one step: all but the numbers that are free per row."""
    config = run.run
    if not packable(run):
        return run.run_id
    return (
        config.model,
        config.task,
        (config.optim.name, config.optim.version),
        (config.schedule.name, config.schedule.version),
        config.sequences,
        config.precision,
        config.evaluation,
    )


def estimate_seconds(run: PlannedRun, k: int = 1, speed: Speed = CPU_CORE) -> float:
    """Seconds that a run takes in a pack of k equal ones."""
    return run.run.steps * step_seconds(run, k, speed)


def pack_seconds(runs: Sequence[PlannedRun], speed: Speed = CPU_CORE) -> float:
    """Seconds of one job: rows that end early leave, and the rest goes on as a smaller pack."""
    lengths = sorted(run.run.steps for run in runs)
    seconds, taken = 0.0, 0
    for gone, steps in enumerate(lengths):
        if steps > taken:
            seconds += (steps - taken) * step_seconds(runs[0], len(runs) - gone, speed)
            taken = steps
    return seconds


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
    per_token = speed.activation * run.ledger.saved_activations + run.ledger.flops_per_token() / speed.flops
    return speed.overhead * len(run.ledger.tensors) + k * per_token * (config.batch_tokens + evaluated / 3)


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
    packing never costs expected time.

    Args: slots: jobs at once; placement: of every job, the executor fills in the device.
    """
    if not runs:
        return ()
    groups: dict[Hashable, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(pack_key(run), []).append(run)
    best: list[list[PlannedRun]] = []
    end = inf
    most = {key: most_packed(group[0], speed) for key, group in groups.items()}
    largest = 1 << (max(most.values()) - 1).bit_length()
    while largest >= 1:
        packs = [part for key, group in groups.items() for part in _chunks(group, min(largest, most[key]), speed)]
        expected = makespan([pack_seconds(p, speed) for p in packs], slots)
        if expected < end * (1 - 1e-9):
            best, end = packs, expected
        largest //= 2
    best = _split_last(best, end, slots, speed)
    where = placement or Placement()
    jobs = [Job(tuple(r.run for r in part), where, pack_seconds(part, speed)) for part in best]
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


def _chunks(group: list[PlannedRun], most: int, speed: Speed) -> list[list[PlannedRun]]:
    """Packs of one group: runs of similar length together, in parts of nearly equal number, or in powers of two.

    Parts that are slower than their members alone, as a small one may be where a large one pays, are taken apart.
    """
    ordered = sorted(group, key=lambda r: (-r.run.steps, r.run.seed))
    found = []
    for part in _parts(ordered, most, buckets=speed.buckets):
        k = len(part)
        pays = step_seconds(part[0], k, speed) <= k * step_seconds(part[0], 1, speed)
        found += [part] if pays else [[run] for run in part]
    return found


def _parts(runs: list[PlannedRun], most: int, *, buckets: bool) -> list[list[PlannedRun]]:
    count = -(-len(runs) // most)
    bounds = [len(runs) * i // count for i in range(count + 1)]
    if buckets:
        bounds = [0]
        while bounds[-1] < len(runs):
            bounds.append(bounds[-1] + 2 ** (min(most, len(runs) - bounds[-1]).bit_length() - 1))
    return [runs[a:b] for a, b in itertools.pairwise(bounds)]


def _split_last(packs: list[list[PlannedRun]], end: float, slots: int, speed: Speed) -> list[list[PlannedRun]]:
    """Halve the longest pack while the expected end comes earlier."""
    while True:
        candidates = [i for i, part in enumerate(packs) if len(part) > 1]
        if not candidates:
            return packs
        longest = max(candidates, key=lambda i: pack_seconds(packs[i], speed))
        part = packs[longest]
        halves = [part[: (len(part) + 1) // 2], part[(len(part) + 1) // 2 :]]
        tried = packs[:longest] + halves + packs[longest + 1 :]
        expected = makespan([pack_seconds(p, speed) for p in tried], slots)
        if expected >= end * (1 - 1e-9):
            return packs
        packs, end = tried, expected
