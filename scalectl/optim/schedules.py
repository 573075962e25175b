"""Learning-rate schedules: pure functions of the step, factor 1 at the peak. Torch-free.

Sources: cosine with warm-up, Hoffmann et al. 2022; warm-up-stable-decay with the 1 - sqrt cooldown,
Hägele et al. 2024, arXiv 2405.18392.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """warmup: steps of linear rise; decay: steps of the cooldown (wsd, linear); final: factor at the last step."""

    warmup: int
    decay: int = 0
    final: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """A schedule: factor(options, step, steps) is the multiplier of the learning rate at 0-based `step`."""

    name: str
    version: int
    factor: Callable[[Options, int, int], float]
    decays: bool  # whether `decay` means something to it
    options: type[Options] = Options


def warm(o: Options, step: int) -> float:
    """Linear rise that reaches 1 at step `warmup`; the first step already moves."""
    return min(1.0, (step + 1) / (o.warmup + 1))


def constant(o: Options, step: int, steps: int) -> float:
    """Warm-up, then 1."""
    return warm(o, step)


def cosine(o: Options, step: int, steps: int) -> float:
    """Warm-up, then half a cosine down to `final`."""
    if step < o.warmup:
        return warm(o, step)
    done = (step - o.warmup) / max(1, steps - o.warmup)
    return o.final + (1 - o.final) * 0.5 * (1 + math.cos(math.pi * done))


def linear(o: Options, step: int, steps: int) -> float:
    """Warm-up, then a straight line down to `final`."""
    if step < o.warmup:
        return warm(o, step)
    return 1 - (1 - o.final) * (step - o.warmup) / max(1, steps - o.warmup)


def wsd(o: Options, step: int, steps: int) -> float:
    """Warm-up, stable, then 1 - sqrt over the last `decay` steps."""
    begin = steps - o.decay
    if step < begin or o.decay == 0:
        return warm(o, step)
    done = (step - begin + 1) / (o.decay + 1)
    return warm(o, step) * (o.final + (1 - o.final) * (1 - math.sqrt(done)))


SCHEDULES: dict[str, Schedule] = {
    schedule.name: schedule
    for schedule in (
        Schedule("wsd", 1, wsd, decays=True),
        Schedule("cosine", 1, cosine, decays=False),
        Schedule("linear", 1, linear, decays=False),
        Schedule("constant", 1, constant, decays=False),
    )
}
