"""Which runs are one and the same up to a step: a trunk carries them, and each branches off where it begins to cool.

Source: Hägele et al. 2024, arXiv 2405.18392: one stable phase gives every token budget. Here each budget stays a run of
its own and equals the run that had been trained alone, so branching is a matter of where and how fast. Torch-free.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from scalectl.core.run import RunConfig
from scalectl.optim.schedules import SCHEDULES


def split_step(run: RunConfig) -> int:
    """Steps that a run shares with every run of its trunk that is stable for at least as long."""
    return SCHEDULES[run.schedule.name].stable(run.schedule.options, run.steps)


def trunk_key(run: RunConfig) -> Hashable:
    """What runs of one trunk have in common: everything that their stable steps depend on."""
    schedule = run.schedule
    return (
        (run.model, run.task, run.optim, run.sequences, run.seed, run.precision, run.evaluation),
        (schedule.name, schedule.version, schedule.options.warmup),
    )


@dataclass(frozen=True)
class Trunk:
    """Runs that train as one row until they split.

    carrier: the run that goes on with the row when the others have left it; followers: those others, by split step;
    origin: the run whose progress the row begins with, the carrier or any other one that has come further.
    """

    carrier: RunConfig
    followers: tuple[RunConfig, ...]
    origin: RunConfig

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        """Every run once, the carrier first."""
        return (self.carrier, *self.followers)


def trunks(
    runs: Iterable[RunConfig], taken: Mapping[RunConfig, int] | None = None, *, branch: bool = True
) -> tuple[Trunk, ...]:
    """Group runs into trunks so that the fewest steps are trained; every run is in exactly one.

    A run that has come further than others follows for them all: its progress is theirs up to their own split steps. A
    run that is cooling down already, or stands where it splits, is by itself.

    Args: taken: steps that runs have taken, 0 where not given; branch: False leaves every run by itself.
    Returns: trunks in the order of their carriers among `runs`.
    """
    ordered = list(runs)
    if not branch:
        return tuple(Trunk(run, (), run) for run in ordered)
    steps = dict(taken or {})
    groups: dict[Hashable, list[int]] = {}
    found: dict[int, Trunk] = {}
    for i, run in enumerate(ordered):
        if steps.get(run, 0) > split_step(run):
            found[i] = Trunk(run, (), run)
        else:
            groups.setdefault(trunk_key(run), []).append(i)
    for left in groups.values():
        if len(left) == 1:
            found[left[0]] = Trunk(ordered[left[0]], (), ordered[left[0]])
            continue
        while left:
            carrier = max(left, key=lambda i: (split_step(ordered[i]), ordered[i].steps, -i))
            origin = max(left, key=lambda i: (steps.get(ordered[i], 0), i == carrier))
            at = steps.get(ordered[origin], 0)
            followers = []
            for i in left:
                if i != carrier and split_step(ordered[i]) > at:
                    followers.append(i)
                elif i != carrier and split_step(ordered[i]) == at:
                    found[i] = Trunk(ordered[i], (), ordered[origin] if steps.get(ordered[i], 0) < at else ordered[i])
            followers.sort(key=lambda i: (split_step(ordered[i]), ordered[i].steps, i))
            found[carrier] = Trunk(ordered[carrier], tuple(ordered[i] for i in followers), ordered[origin])
            left = [i for i in left if split_step(ordered[i]) < at]
    return tuple(found[i] for i in sorted(found))


def occupancy(found: Iterable[Trunk], rows: int | None = None) -> tuple[tuple[int, int], ...]:
    """How many rows a fresh pack of trunks has, as (rows, steps) one after the other; as `train.loop` goes about it.

    Args: rows: the most at once; the fewest steps left go first, so a cooldown goes before its trunk.
    """
    waiting = [(trunk.carrier.steps, 0, trunk.followers) for trunk in found]  # its length, steps taken, who follows it
    if waiting and all(held == (waiting[0][0], 0, ()) for held in waiting) and len(waiting) <= (rows or len(waiting)):
        return ((len(waiting), waiting[0][0]),)  # the usual pack, of runs of one length
    spent: list[tuple[int, int]] = []
    while waiting:
        waiting.sort(key=lambda held: held[0] - held[1])
        seated, parked = waiting[:rows], waiting[rows:] if rows else []
        count = min(split_step(left[0]) - at if left else steps - at for steps, at, left in seated)
        spent.append((len(seated), count))
        waiting = parked
        for steps, before, left in seated:
            at = before + count
            now = [run for run in left if split_step(run) == at]
            waiting += [(run.steps, at, ()) for run in now]
            if at < steps:
                waiting.append((steps, at, left[len(now) :]))
    return tuple(spent)
