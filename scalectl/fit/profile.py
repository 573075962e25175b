"""Profile-likelihood intervals: how far one parameter can move before the rest cannot make up for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scalectl.core.errors import FitError
from scalectl.core.rows import Floats
from scalectl.fit.bootstrap import sizes
from scalectl.fit.estimate import Fit, follow
from scalectl.fit.newton import Local
from scalectl.fit.problem import Problem, pose
from scalectl.fit.stats import cells, robust_deviation, student_quantile, weights_of
from scalectl.fit.summary import Interval

STEPS = 16  # solves per side; five are usual
CLOSE = 2e-3  # of the root of the rise: the bound is then within 0.2 % of the half-width. Ours.
SIDE = 20  # places of a drawn profile on each side
BEYOND = 1.3  # times as far as the interval reaches. Ours, to see the curve cross.
OPEN = 1.0  # how far an open side is drawn: a factor e of a parameter that is a matter of decades, else 1. Ours.
EXACT = 1e-12  # rise per point, in squared widths, taken as noise where there is none: keeps an exact fit's interval >0


def threshold(fitted: Fit, level: float) -> float:
    """The rise of the objective (divided by width²; Σ r²/2 for squares) that bounds a parameter.

    ½ t² E[ψ²] / E[ψ'] with t Student's quantile: for least squares that is σ² t² / 2, for a robust objective the scaled
    rise of Ronchetti 1982 and Huber and Ronchetti 2009 (Robust Statistics, section 7.5): δ is a choice, not the noise,
    so that without the scale the interval would mean nothing.
    E[ψ²] adds ψ up within each design point before squaring, because runs there share the misfit of the law (Liang and
    Zeger 1986), and divides by spare design points; for a law of several axes the same is done by size, and the larger
    of the two rises counts. E[ψ'] is that of normal noise with the robust deviation of the
    residuals: the share of residuals inside δ itself is a handful of points.
    Infinite without spare design points.
    """
    points, objective = fitted.points, fitted.objective
    weights = weights_of(fitted)
    predicted = np.asarray(fitted.law.predict(fitted.theta, points), dtype=np.float64)
    residual = objective.residual(predicted, points.L)
    free = len(fitted.law.names) - len(fitted.fixed)
    robust = math.isfinite(objective.width)
    weights = objective.counted(residual, weights)
    psi = weights * (np.clip(residual / objective.width, -1, 1) if robust else residual)
    across = max(1, fitted.law.needs - len(fitted.fixed))
    groupings = [(cells(fitted.law, points), free), (sizes(fitted.law, points), across)]
    square = 0.0
    for index, parameters in groupings[: len(fitted.law.axes)]:
        together = np.bincount(index, psi)
        spare = len(together) - parameters
        if spare < 1:
            return math.inf
        quantile = student_quantile((1 + level) / 2, spare)
        square = max(square, quantile**2 * float((together**2).sum()) / weights.sum() * len(together) / spare)
    slope = 1.0
    if robust:
        deviation = robust_deviation(residual, free)
        slope = math.erf(objective.width / (deviation * math.sqrt(2))) if deviation > 0 else 1.0
    return float(max(0.5 * square / slope, EXACT))


@dataclass(frozen=True)
class Curve:
    """How far the objective rises as one parameter is held elsewhere and the others make up for it.

    law, name: of the parameter; estimate, interval: natural units, infinite where the objective never rises enough; x:
    places, ascending, shape (n,); rise: of the objective, in units of the rise that bounds the interval at `level`.
    """

    law: str
    name: str
    estimate: float
    interval: Interval
    level: float
    log: bool
    x: Floats
    rise: Floats


@dataclass(frozen=True)
class _Held:
    """A fit with one parameter apart, a coordinate in natural units.

    weights: (n,); home: the optimum (1, q); here: the objective there; place: of the parameter; log: whether its
    coordinate is its logarithm.
    """

    problem: Problem
    weights: Floats
    home: Floats
    here: Local
    place: int
    log: bool

    @property
    def middle(self) -> float:
        """The parameter's coordinate at the optimum."""
        return float(self.home[0, self.place])

    @property
    def edges(self) -> Floats:
        """Between which its coordinate may lie, (2,)."""
        return np.array([self.problem.low[self.place], self.problem.high[self.place]])

    def solve(self, z: Floats, at: Floats) -> tuple[Floats, Floats]:
        """The others' best coordinates (B, q) from z (B, q) where the parameter is held at (B,), and the objective."""
        start = z.copy()
        start[:, self.place] = at
        low, high = (np.repeat(bound[None], len(z), axis=0) for bound in (self.problem.low, self.problem.high))
        low[:, self.place] = high[:, self.place] = at
        ended = follow(self.problem, start, self.weights, self.problem.points.L, low=low, high=high)
        return ended.z, ended.local.value


def _apart(fitted: Fit, name: str) -> _Held:
    """Raises: KeyError for a parameter that the law does not have or that was fixed."""
    if name not in fitted.law.names or name in fitted.fixed:
        raise KeyError(f"{name} is not a free parameter of this fit of {fitted.law.name}")
    weights = weights_of(fitted)
    log = fitted.law.parameter(name).scale == "log"
    problem = pose(fitted.law, fitted.points, fitted.objective, fitted.fixed, uncentred=name if log else None)
    home = problem.coordinates(fitted.theta)
    here = problem.evaluate(home, weights, fitted.points.L, problem.objective.width)
    return _Held(problem, weights, home, here, problem.free.index(name), log)


@np.errstate(all="ignore")
def curve(fitted: Fit, name: str, level: float = 0.95) -> Curve:
    """The profile of a parameter, drawn a little beyond its interval; as far as OPEN where a side is open.

    Raises: KeyError for a parameter that the law does not have or that was fixed; FitError where no design point is to
    spare, so that no rise is known to mean anything.
    """
    low, high = profile(fitted, name, level)
    unit = threshold(fitted, level)
    if not math.isfinite(unit):
        raise FitError(
            f"{name} of {fitted.law.name} has no profile: no size is to spare to judge the noise by", remedy="add sizes"
        )
    held = _apart(fitted, name)
    middle, edges, log = held.middle, held.edges, held.log
    ends = [math.log(x) if log and 0 < x < math.inf else x for x in (low, high)]
    found = {middle: 0.0}
    for end, edge in zip(ends, edges, strict=True):
        open_side = not math.isfinite(end) or (log and end <= edges[0])
        way = math.copysign(OPEN, edge - middle) if open_side else BEYOND * (end - middle)
        z = held.home
        for share in np.linspace(0, 1, SIDE + 1)[1:]:
            at = float(np.clip(middle + share * way, *edges))
            z, value = held.solve(z, np.array([at]))
            found[at] = float(max(value[0] - held.here.value[0], 0.0) / unit)
    x = np.array(sorted(found))
    rise = np.array([found[at] for at in x])
    return Curve(fitted.law.name, name, fitted.theta[name], (low, high), level, log, np.exp(x) if log else x, rise)


@np.errstate(all="ignore")
def profile(fitted: Fit, name: str, level: float = 0.95) -> Interval:
    """Profile interval of one parameter in natural units; infinite on a side where the objective never rises enough.

    Raises: KeyError for a parameter that the law does not have or that was fixed.
    """
    held = _apart(fitted, name)
    rise = threshold(fitted, level)
    if not math.isfinite(rise):
        return -math.inf, math.inf
    sides = np.array([-1.0, 1.0])
    middle, edge, log = held.middle, held.edges, held.log
    at = np.clip(middle + sides * _first_step(held.here, held.place, rise), edge[0], edge[1])
    inner, inner_root = np.full(2, middle), np.zeros(2)
    outer, outer_root = np.full(2, np.nan), np.full(2, np.inf)
    z = np.repeat(held.home, 2, axis=0)
    found = np.full(2, np.nan)
    for _ in range(STEPS):
        todo = np.flatnonzero(np.isnan(found))
        if todo.size == 0:
            break
        solved, value = held.solve(z[todo], at[todo])
        root = np.sqrt(np.maximum(value - held.here.value[0], 0.0) / rise)
        for k, side in enumerate(todo):
            z[side] = solved[k]
            if abs(root[k] - 1) < CLOSE:
                found[side] = at[side]
            elif root[k] < 1 and at[side] == edge[side]:
                found[side] = sides[side] * math.inf
            elif root[k] < 1:
                inner[side], inner_root[side] = at[side], root[k]
            else:
                outer[side], outer_root[side] = at[side], root[k]
            if np.isnan(found[side]):
                at[side] = _next(middle, edge[side], inner[side], inner_root[side], outer[side], outer_root[side])
    # Out of steps: the bracket's outer end never claims too much; without one the objective did not rise.
    found = np.where(np.isnan(found), np.where(np.isnan(outer), sides * math.inf, outer), found)
    ends = [math.exp(x) if log and math.isfinite(x) else x for x in found]
    return float(ends[0]), float(ends[1])


def _first_step(here: Local, place: int, rise: float) -> float:
    # Where a parabola would rise enough; half a unit of the coordinate where the curvature cannot say.
    values, vectors = np.linalg.eigh(here.curvature[0])
    values = np.maximum(np.abs(values), 1e-12 * np.abs(values).max())
    variance = float((vectors[place] ** 2 / values).sum())
    step = math.sqrt(2 * rise * variance)
    return min(step, 0.5) if step > 0 else 1e-6


def _next(middle: float, edge: float, inner: float, inner_root: float, outer: float, outer_root: float) -> float:
    if math.isnan(outer):
        grown = (inner - middle) * min(max(1.05 / max(inner_root, 1e-9), 1.3), 4.0)
        return min(middle + grown, edge) if edge > middle else max(middle + grown, edge)
    share = (1 - inner_root) / (outer_root - inner_root) if math.isfinite(outer_root) else 0.5
    return inner + (outer - inner) * min(max(share, 0.1), 0.9)
