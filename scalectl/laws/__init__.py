"""Scaling laws: one file each, one line in the table below."""

from __future__ import annotations

from scalectl.core.errors import UsageError
from scalectl.core.names import did_you_mean, shown
from scalectl.core.rows import Points
from scalectl.laws.broken import BROKEN, MOST_BREAKS, broken
from scalectl.laws.chinchilla import CHINCHILLA, CHINCHILLA_GAMMA
from scalectl.laws.kaplan import KAPLAN, KAPLAN_CONSTANT
from scalectl.laws.law import Law, Parameter, where
from scalectl.laws.power import POWER, POWER_CONSTANT
from scalectl.laws.repetition import REPETITION
from scalectl.laws.saturating import SATURATING
from scalectl.laws.score import SCORE_EXPONENTIAL, SCORE_SIGMOID
from scalectl.laws.tie import tie, untied
from scalectl.laws.width_depth import WIDTH_DEPTH

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        POWER,
        POWER_CONSTANT,
        CHINCHILLA,
        CHINCHILLA_GAMMA,
        KAPLAN,
        KAPLAN_CONSTANT,
        REPETITION,
        WIDTH_DEPTH,
        BROKEN,
        SATURATING,
        SCORE_SIGMOID,
        SCORE_EXPONENTIAL,
    )
}

# Token budgets are rounded down to whole steps, so that one intended D appears as several a few parts in a thousand
# apart; with β below .5 that moves the loss by under a quarter of a percent. Ours.
SAME_WITHIN = 1.005

__all__ = ["LAWS", "Law", "Parameter", "default_laws", "law_on", "reads", "tie", "untied", "varying", "where"]


def varying(points: Points) -> tuple[str, ...]:
    """Axes that vary over the points: of N and D those that do; C only where neither N nor D explains it."""

    def varies(name: str) -> bool:
        values = getattr(points, name)
        return values is not None and len(values) > 0 and bool(values.max() > SAME_WITHIN * values.min())

    found = tuple(name for name in ("N", "D") if varies(name))
    return found or (("C",) if varies("C") else ())


def law_on(name: str, axes: tuple[str, ...]) -> Law:
    """The law of that name along the axes that vary; `broken:K` has K breaks.

    A law of one axis takes the first of `axes`; a law of fixed axes stays as it is, and fitting it where one of its
    axes does not vary is refused there.
    Raises: UsageError for a name that is no law's.
    """
    kind, colon, breaks = name.partition(":")
    if colon and kind == BROKEN.name and breaks in map(str, range(1, MOST_BREAKS + 1)):
        law = broken(BROKEN.axes[0], int(breaks))
    elif name in LAWS:
        law = LAWS[name]
    else:
        raise UsageError(f"no law {shown(name)}", remedy=did_you_mean(name, LAWS))
    own = [axis for axis in axes if axis in ("N", "D", "C")]
    return law.along(own[0]) if law.along is not None and own else law


def reads(law: Law, axis: str) -> bool:
    """Whether a law accounts for N, D or C: by itself, or by what it follows from, as N does from width and depth."""
    through = {"N": {"width", "C", "loss"}, "D": {"C", "loss"}, "C": {"loss"}}
    return axis in law.axes or bool(through[axis] & set(law.axes))


def default_laws(points: Points) -> tuple[Law, ...]:
    """What to fit when nobody said.

    `power` and `power+constant` along one axis, `chinchilla` and `kaplan` for N and D; for a score with its loss the
    two laws of a score.
    """
    axes = varying(points)
    names = ("chinchilla", "kaplan") if axes == ("N", "D") else ("power", "power+constant")
    if points.measures == "score":
        names = ("score-sigmoid", "score-exponential")
    return tuple(law_on(name, axes) for name in names)
