"""Learning-rate schedules: pure functions of the step, factor 1 at the peak. Torch-free.

Sources: cosine with warm-up, Hoffmann et al. 2022; warm-up-stable-decay with the 1 - sqrt cooldown,
Hägele et al. 2024, arXiv 2405.18392.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """warmup: steps of linear rise; decay: steps of the cooldown (wsd alone); final: the factor that a fall leads to.

    The fall would reach `final` one step after the last, so that no step of a run to zero is trained at rate zero.
    """

    warmup: int
    decay: int = 0
    final: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """A schedule: factor(options, step, steps) is the multiplier of the learning rate at 0-based `step`.

    takes: options beside the warm-up that can mean something to it; stable(options, steps): how many of the first steps
    depend on the warm-up alone, whatever the length and the cooldown.
    """

    name: str
    version: int
    factor: Callable[[Options, int, int], float]
    takes: tuple[str, ...]
    stable: Callable[[Options, int], int]
    options: type[Options] = Options

    def reads(self, o: Options) -> tuple[str, ...]:
        """Options that mean something beside these others: without a cooldown nothing leads to `final`."""
        return ("decay",) if "decay" in self.takes and not o.decay else self.takes

    def normal(self, o: Options) -> Options:
        """The same schedule with what it does not read at its default: equal schedules have equal options."""
        kept: dict[str, Any] = {name: getattr(o, name) for name in ("warmup", *self.reads(o))}
        return self.options(**kept)


def warm(o: Options, step: int) -> float:
    """Linear rise that reaches 1 at step `warmup`; the first step already moves."""
    return min(1.0, (step + 1) / (o.warmup + 1))


def constant(o: Options, step: int, steps: int) -> float:
    """Warm-up, then 1."""
    return warm(o, step)


def cosine(o: Options, step: int, steps: int) -> float:
    """Warm-up, then half a cosine towards `final`."""
    if step < o.warmup:
        return warm(o, step)
    done = (step - o.warmup) / max(1, steps - o.warmup)
    return o.final + (1 - o.final) * 0.5 * (1 + math.cos(math.pi * done))


def linear(o: Options, step: int, steps: int) -> float:
    """Warm-up, then a straight line towards `final`."""
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


def until_cooldown(o: Options, steps: int) -> int:
    """Steps before the cooldown; all but the last where there is none, so that every run ends by itself."""
    return steps - max(1, o.decay)


def nowhere(o: Options, steps: int) -> int:
    """None: the factor depends on the length from the end of the warm-up on, and a warm-up is too short to share."""
    return 0


SCHEDULES: dict[str, Schedule] = {
    schedule.name: schedule
    for schedule in (
        Schedule("wsd", 1, wsd, takes=("decay", "final"), stable=until_cooldown),
        Schedule("cosine", 1, cosine, takes=("final",), stable=nowhere),
        Schedule("linear", 1, linear, takes=("final",), stable=nowhere),
        Schedule("constant", 1, constant, takes=(), stable=until_cooldown),
    )
}
