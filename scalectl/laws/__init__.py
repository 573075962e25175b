"""Scaling laws: one file each, one line in the table below."""

from __future__ import annotations

from scalectl.core.rows import Points
from scalectl.laws.chinchilla import CHINCHILLA, CHINCHILLA_GAMMA
from scalectl.laws.kaplan import KAPLAN, KAPLAN_CONSTANT
from scalectl.laws.law import Law, Parameter, where
from scalectl.laws.power import POWER, POWER_CONSTANT
from scalectl.laws.tie import tie, untied

LAWS: dict[str, Law] = {
    law.name: law for law in (POWER, POWER_CONSTANT, CHINCHILLA, CHINCHILLA_GAMMA, KAPLAN, KAPLAN_CONSTANT)
}

# Token budgets are rounded down to whole steps, so that one intended D appears as several a few parts in a thousand
# apart; with β below .5 that moves the loss by under a quarter of a percent. Ours.
SAME_WITHIN = 1.005

__all__ = ["LAWS", "Law", "Parameter", "default_laws", "law_on", "tie", "untied", "varying", "where"]


def varying(points: Points) -> tuple[str, ...]:
    """Axes that vary over the points: of N and D those that do; C only where neither N nor D explains it."""

    def varies(name: str) -> bool:
        values = getattr(points, name)
        return values is not None and len(values) > 0 and bool(values.max() > SAME_WITHIN * values.min())

    found = tuple(name for name in ("N", "D") if varies(name))
    return found or (("C",) if varies("C") else ())


def law_on(name: str, axes: tuple[str, ...]) -> Law:
    """The law of that name along the axes that vary; KeyError for a name outside LAWS.

    A law of one axis takes the first of `axes`; a law of fixed axes stays as it is, and fitting it where one of its
    axes does not vary is refused there.
    """
    law = LAWS[name]
    return law.along(axes[0]) if law.along is not None and axes else law


def default_laws(points: Points) -> tuple[Law, ...]:
    """What to fit when nobody said: `power` and `power+constant` along one axis, `chinchilla` and `kaplan` for two."""
    axes = varying(points)
    names = ("chinchilla", "kaplan") if axes == ("N", "D") else ("power", "power+constant")
    return tuple(law_on(name, axes) for name in names)
