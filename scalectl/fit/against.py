"""A published fit beside ours: the same rows, the same objective, and whether the authors' parameters minimise it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalectl.core.rows import Points
from scalectl.fit.estimate import Fit, fit, follow
from scalectl.fit.objective import Objective
from scalectl.fit.problem import Problem
from scalectl.laws import Law

# Relative distance from the minimum below which a published fit counts as at it: that of two of our own starts. Ours.
SAME = 1e-6


@dataclass(frozen=True)
class Comparison:
    """One published fit and the optimum of what it minimised.

    name: as published; theirs: its parameters; value: its objective at them; rounded: the lowest objective of any
    parameters that print as its do; stated: the objective that its authors give, None if they do not; ours: the
    optimum on the same rows; where: the rows, in words.
    """

    name: str
    theirs: Mapping[str, float]
    value: float
    rounded: float
    stated: float | None
    ours: Fit
    where: str | None

    @property
    def excess(self) -> float:
        """How far its parameters lie above the optimum, relative to it; what their rounding explains is left out."""
        return max(0.0, self.rounded / self.ours.value - 1)

    @property
    def at_optimum(self) -> bool:
        """Whether some parameters that print as its do reach the optimum."""
        return self.excess <= SAME


def compare(
    name: str,
    law: Law,
    points: Points,
    objective: Objective,
    printed: Mapping[str, str],
    *,
    stated: float | None = None,
    where: str | None = None,
) -> Comparison:
    """Args: printed: every parameter with the digits of its source, a logarithm under a name such as "ln A"."""
    held = {name.removeprefix("ln "): (name.startswith("ln "), text) for name, text in printed.items()}
    theirs = {name: float(np.exp(float(text)) if log else float(text)) for name, (log, text) in held.items()}
    residual = objective.residual(np.asarray(law.predict(theirs, points)), points.L)
    value = float(objective.value(residual))
    return Comparison(
        name,
        theirs,
        value,
        min(value, _rounded(law, points, objective, held)),
        stated,
        fit(law, points, objective),
        where,
    )


@np.errstate(all="ignore")
def _rounded(law: Law, points: Points, objective: Objective, held: Mapping[str, tuple[bool, str]]) -> float:
    """The lowest objective of any parameters that round to the printed ones."""
    units = dict.fromkeys(law.axes, 1.0)  # natural units, in which the printed digits are a box
    problem = Problem(law, points, points, units, objective, law.names, {})
    bounds = []
    for name in law.names:
        log, text = held[name]
        value, half = float(text), half_step(text)
        ends = np.array([value - half, value, value + half])
        if not log and law.parameter(name).scale == "log":
            ends = np.log(ends)
        elif log and law.parameter(name).scale != "log":
            ends = np.exp(ends)
        bounds.append(ends)
    low, start, high = np.array(bounds).T
    weights = np.ones(len(points))
    ended = follow(problem, start[None], weights, points.L, low=low, high=high)
    return float(objective.value(problem.residual(ended.z)[0]))


def half_step(text: str) -> float:
    """Half of the last digit of a number as printed: .005 for "482.01"."""
    digits, _, power = text.lower().partition("e")
    decimals = len(digits.partition(".")[2])
    return 0.5 * 10.0 ** (int(power or 0) - decimals)
