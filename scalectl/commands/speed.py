"""What is known of the speed of this machine, measuring it, and what that says about precision."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from scalectl.core.job import Job, Placement
from scalectl.core.machine import device_name, memory_available
from scalectl.core.run import Foreign, RunConfig
from scalectl.core.units import counted
from scalectl.executors.local import Slot, slots
from scalectl.executors.measure import Request, measure
from scalectl.report.cells import show
from scalectl.sweep.pack import CPU_CORE, Speed, most_packed, pack_seconds, packable, step_seconds
from scalectl.sweep.plan import PlannedRun
from scalectl.sweep.speeds import Cache, Measured, shape_key
from scalectl.sweep.sweep import Runtime

WORTH = 50  # seconds of training for each second of probing, for a sweep to probe unasked; ours: it costs at most 2 %
PROBE_START = 3.0  # seconds until a probe has begun: torch and the data; measured
PROBE_SHAPE = 1.5  # seconds for a shape whose steps take no time; measured
PROBE_STEPS = 15  # steps of one model that a shape takes at least: warm-up and three rounds of K = 1 and 2
BARE_BYTES = 350 << 20  # of a worker before its job: Python, torch, data; measured
MEMORY_SHARE = 0.9  # of what is available; ours: other processes grow too
FASTER = 1.3  # of another precision, to be worth a word; ours: ratios near 1.2 come and go from one probe to the next
MOST_NAMED = 4  # shapes in a sentence
TWIN = {"fp32": "bf16", "tf32": "bf16", "bf16": "fp32", "fp16": "bf16"}  # a precision: what to compare it with


@dataclass(frozen=True)
class Here:
    """The machine as a place for the runs of a sweep: its slots, the cache of their speeds, what they can do."""

    places: tuple[Slot, ...]
    cache: Cache
    speed: Speed

    @property
    def on_cpu(self) -> bool:
        """Whether the slots are cores."""
        return self.places[0].device == "cpu"

    @property
    def jobs(self) -> int:
        """Jobs at once, each with the cores of its threads."""
        return len(self.places) // self.cache.placement.threads


def here(runs: Sequence[PlannedRun], runtime: Runtime, placement: Placement) -> Here:
    """What is known about these runs on this machine; measures nothing."""
    places = slots(count=runtime.slots)
    if places[0].device == "cpu":
        placement = replace(placement, threads=min(runtime.threads or 1, len(places)))
    cache = Cache(device_name(places[0].device.partition(":")[0]), placement)
    both = (run for held in shapes(runs).values() for run in (held[0].run, twin(held[0].run)))
    speed = replace(
        CPU_CORE,
        measured=cache.load(both),
        memory=_memory(len(places)) if places[0].device == "cpu" else inf,
        buckets=places[0].device != "cpu",
        fp16=CPU_CORE.fp16 if places[0].device == "cpu" else 1.0,
    )
    return Here(places, cache, speed)


def twin(run: RunConfig) -> RunConfig:
    """The same run in the precision to compare it with."""
    return replace(run, precision=TWIN[run.precision])


def _memory(places: int) -> float:
    """What the job of one slot may take beside its bare process [bytes]."""
    available = memory_available()
    return inf if available is None else max(0.0, available * MEMORY_SHARE / places - BARE_BYTES)


def shapes(runs: Iterable[PlannedRun]) -> dict[Hashable, list[PlannedRun]]:
    """Runs by what their speed depends on."""
    found: dict[Hashable, list[PlannedRun]] = {}
    for planned in runs:
        found.setdefault(shape_key(planned.run), []).append(planned)
    return found


def worth_measuring(runs: Sequence[PlannedRun], at: Here, probe: bool | None) -> list[PlannedRun]:
    """One run of each shape that a sweep should measure before it trains.

    Args: probe: all that are not in the cache, none, or (None) those that may be packed and train for WORTH times as
    long as their probe, if the start of the probe pays too.
    """
    unknown = {key: held for key, held in shapes(runs).items() if key not in at.speed.measured}
    if probe is not None:
        return [held[0] for held in unknown.values()] if probe else []
    asked, trained, probed = [], 0.0, PROBE_START
    for held in unknown.values():
        most, branch = most_packed(held[0], at.speed), at.cache.placement.branch
        seconds = pack_seconds(held, at.speed, branch=branch, rows=most)
        cost = PROBE_SHAPE + PROBE_STEPS * step_seconds(held[0], 1, at.speed)
        if len(held) > 1 and packable(held[0]) and seconds >= WORTH * cost:
            asked.append(held[0])
            trained, probed = trained + seconds, probed + cost
    return asked if trained >= WORTH * probed else []


def measured(
    asked: Sequence[PlannedRun], at: Here, say: Callable[[str], None], *, compare: bool
) -> dict[Hashable, Measured]:
    """Measure one run of each shape and keep what was found.

    Args: say: told what is being done, one line each; compare: measure the other precision beside it.
    """
    say(f"measuring the speed of {counted(len(asked), 'shape')} on {counted(len(at.places), 'slot')}")
    requests = [_request(planned, at, compare=compare) for planned in asked]
    found: dict[Hashable, Measured] = {}
    notes: dict[str, None] = {}
    for done, (request, answer) in enumerate(measure(requests, at.places), 1):
        if isinstance(answer, str):
            say(f"  {done}/{len(asked)}  not measured: {answer}")
            continue
        for run, held in zip(request.job.runs, answer, strict=True):
            found[shape_key(run)] = held
            notes[at.cache.save(run, held)] = None
        say(f"  {done}/{len(asked)}  {_said(request.job.runs[0], answer[0])}")
    for note in filter(None, notes):
        say(f"note: {note}")
    return found


def _request(planned: PlannedRun, at: Here, *, compare: bool) -> Request:
    compare = compare and not isinstance(planned.run.model, Foreign)  # somebody's own model knows its precision
    runs = (planned.run, twin(planned.run)) if compare else (planned.run,)
    start = most_packed(planned, replace(at.speed, measured={}))
    memory = None if at.speed.memory == inf else int(at.speed.memory)
    return Request(Job(runs, at.cache.placement), start, None if packable(planned) else 1, memory)


def _said(run: RunConfig, held: Measured) -> str:
    k = held.best()
    rate = run.batch_tokens * k / held.seconds(k)
    gain = f", {k * held.seconds(1) / held.seconds(k):.2f} times as fast as one by one" if k > 1 else ""
    return f"{rate:,.0f} tokens/s, {counted(k, 'model')} in a step{gain}"


def precision_advice(runs: Sequence[PlannedRun], at: Here) -> str:
    """Where another precision was measured to be faster here, one sentence; empty elsewhere. The file decides."""
    gains: dict[str, dict[str, float]] = {}  # by precision and shape
    measured = 0
    for held in shapes(runs).values():
        gain = _gain(held[0].run, at.speed.measured)
        measured += gain is not None
        if gain is not None and gain >= FASTER:
            gains.setdefault(held[0].run.precision, {})[_shape_name(held[0])] = gain
    for own, faster in gains.items():
        low, high = min(faster.values()), max(faster.values())
        span = f"{low:.1f}" + (f" to {high:.1f}" if high >= low + 0.1 else "")
        named = [name for name in faster if name]
        listed = ", ".join(named[:MOST_NAMED]) + (f" and {len(named) - MOST_NAMED} more" * (len(named) > MOST_NAMED))
        where = f" for {listed}" if listed and len(faster) < measured else " for every shape" if measured > 1 else ""
        return f"{TWIN[own]} is {span} times as fast as {own} here{where}, measured"
    return ""


def _shape_name(planned: PlannedRun) -> str:
    """The shape as the cells of the plan name it: d_model 128; empty where no cell is about shapes."""
    keys = [key for key in planned.cell if key.startswith("model.") or key == "train.batch_tokens"]
    return " ".join(f"{key.partition('.')[2]} {show(planned.cell[key], key)}" for key in keys)


def _gain(run: RunConfig, known: Mapping[Hashable, Measured]) -> float | None:
    """Speed in the other precision over that in its own, each in its best packs."""
    own, other = known.get(shape_key(run)), known.get(shape_key(twin(run)))
    if own is None or other is None:
        return None
    return (other.best() / other.seconds(other.best())) / (own.best() / own.seconds(own.best()))
