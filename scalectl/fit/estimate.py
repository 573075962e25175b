"""One law, one set of points, one optimum: `fit`.

1. For fixed exponents the coefficients are linear: non-negative least squares on a grid of exponents (variable
   projection, Golub and Pereyra 1973) puts starts into every basin that the grid can tell apart.
2. Each start follows the objective from a wide Huber down to its own width: kinks come one scale at a time.
3. A damped Newton method moves all starts at once (`newton.py`), in centred coordinates (`problem.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from scalectl.core.errors import FitError, UsageError
from scalectl.core.rows import Floats, Points
from scalectl.core.units import counted, listed
from scalectl.fit.newton import ENOUGH, Local, Minimum, blocked, minimise
from scalectl.fit.objective import Huber, Objective
from scalectl.fit.problem import Problem, pose
from scalectl.laws import Law, where

STARTS = 8  # basins followed from the grid; every published surface tried needs one. Ours.
MORE_STARTS = 24  # where more than FEW parameters are nonlinear
MOST_STARTS = 48  # for each of them where more than SEVERAL are
# More starts, without regard to how far off they are: for each pair of them, and at least. With half as many of a law
# with one break 2 of 200 fits ended above the best of 500 random starts, by up to 3.5 %. Ours.
ANYWHERE, LEAST_ANYWHERE = 16, 512
FEW, SEVERAL = 2, 3
TRIALS = 1024  # grid points with their linear parts solved, before the best are followed. Ours.
MORE_TRIALS = 4096
ROBUST_PASSES, NEAR = 2, 0.1  # of least squares; residuals below this share of the typical one weigh alike. Ours.
ENOUGH_POINTS = 1000  # that trials look at, spread over the axes; all points count from the first step on. Ours.
ROUGH_PASSES = 3  # over columns that depend on what they are multiplied by. Ours.
APART = 2  # grid steps within which two starts count as one. Ours.
BESIDE = 0.5  # grid steps between two breaks that make a pulse. Ours.
SAME_OPTIMUM = 1e-6  # relative difference of the objective below which two starts ended at one optimum. Ours.
LAST_STEPS = 200  # in the last stage
# Most starts of a hard problem end nowhere, and slowly: of many, all get a few steps and the best go on; of those that
# are not at an optimum after FIRST_STEPS in the last stage so many of the best go on for so many steps, turn by turn.
SCOUT_STEPS, KEPT, KEPT_OF_PAIR = 20, 96, 2  # the last for each pair of nonlinear parameters. Ours.
# Scouts within this share of the range of all starts, in every coordinate, are one place, and other places go on first:
# else the 48 best of 700 can all lie in one basin, whose optimum is not the best. Ours.
ONE_PLACE = 0.1
FIRST_STEPS = 60
FIRST_TURNS, TURNS = ((16, 150),), ((8, 300), (4, 600))
# Before the last turns places like the best one but for some parameters are followed, until FAILED looks find nothing
# better: optima of a law with breaks differ by one of them. Ours.
LOOKS, FAILED, AROUND, MOVED = 8, 2, 192, 0.8
DRAW_STEPS = 200  # the same for a resampled fit; with 60 of them 6 % of the draws of a flat law stopped short. Ours.
WIDE_STEPS = 45  # before the last stage; a start far off, followed too briefly, crawls in the last one. Ours.
STAGE = 8.0  # ratio of one Huber width to the next. Ours: the product of stages and steps per stage is flat around it.
ROUNDING = 1e-14  # of a log residual: some fifty times the spacing of float64 beside 1. Ours.
FLAT = 1e-10  # square of the ratio of singular values of the scaled residual slopes: five digits are left. Ours.
LOOSE = 1e-3  # share of a parameter in a direction along which nothing changes, from which on it is open. Ours.


# Squares of losses and of axes have to stay inside float64; no loss, count or budget comes near. Ours.
LARGEST = 1e100


class Status(StrEnum):
    """How a fit ended; anything but `converged` comes with advice."""

    CONVERGED = "converged"
    AT_BOUND = "at bound"
    FLAT = "flat"
    STALLED = "not converged"


@dataclass(frozen=True)
class Fit:
    """A fitted law. Statistics are verbs over it: see stats.py, profile.py, bootstrap.py.

    theta: parameters in natural units; value: the objective as published (sum for Huber and LAD, mean for the squares);
    gradient_norm: largest |Σ ψ(r) ∂r| per point over the centred coordinates that no bound blocks, where ψ runs from
    -1 to 1 for Huber and LAD and is the residual itself for the squares; starts, starts_at_optimum: how many, and how
    many reached the best objective within 1e-6; at_bound: parameters that ended at a bound; loose: those that can
    change, together, without changing what the law says of the points; fixed: those that were not fitted; weights: how
    often each point counts.
    """

    law: Law
    theta: dict[str, float]
    points: Points
    objective: Objective
    value: float
    gradient_norm: float
    starts: int
    starts_at_optimum: int
    status: Status
    advice: str
    at_bound: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    fixed: Mapping[str, float] = field(default_factory=dict)
    weights: Floats | None = None

    def predict(self, **axes: Any) -> Floats:
        """Loss [nats/token] at axes such as N=..., D=..., each a number or an array."""
        return np.asarray(self.law.predict(self.theta, where(**axes)), dtype=np.float64)

    def residuals(self) -> Floats:
        """Residuals of the points, positive where the law predicts too much; shape (n,).

        Of the logarithm for a loss, plain ones for a score.
        """
        predicted = np.asarray(self.law.predict(self.theta, self.points), dtype=np.float64)
        if self.law.measures == "score":
            return predicted - self.points.L
        return np.asarray(np.log(predicted) - np.log(self.points.L))


def check(law: Law, points: Points, fix: Mapping[str, float]) -> None:
    """Raises FitError where the points cannot determine the law whatever their losses, UsageError for a wrong `fix`."""
    for name, value in fix.items():
        if name not in law.names:
            raise UsageError(f"{name} is not a parameter of {law.name}", remedy=f"it has {', '.join(law.names)}")
        parameter = law.parameter(name)
        if not parameter.low <= value <= parameter.high or (parameter.scale == "log" and value <= 0):
            raise UsageError(f"{name}={value:g} is outside {parameter.low:g} to {parameter.high:g}")
    missing = [axis for axis in law.axes if axis not in points.axes()]
    if missing:
        raise FitError(
            f"the law needs {' and '.join(law.axes)}; the points have {', '.join(points.axes()) or 'no axis'}",
            remedy="name the missing column with --map, or choose another --law",
        )
    if len(points) == 0:
        raise FitError("there are no points to fit", remedy="no run is done yet, or --where left nothing")
    for name in ("L", *law.axes):
        values = points.L if name == "L" else points.axis(name)
        score = name == "L" and law.measures == "score"
        least = -LARGEST if score else 1 / LARGEST
        bad = np.flatnonzero(~((values >= least) & (values <= LARGEST)))
        if bad.size:
            what = law.measures if name == "L" else name
            has = "has" if bad.size == 1 else "have"
            raise FitError(
                f"{bad.size} of {counted(len(points), 'point')} {has} no usable {what} "
                f"(finite, {'' if score else 'positive, '}below {LARGEST:g}); "
                f"the first is {label(points, int(bad[0]))}: {values[bad[0]]:g}",
                remedy="leave them out with --where; a diverged run has no loss to fit",
            )
    free = [name for name in law.names if name not in fix]
    needs = max(1, law.needs - len(fix))
    for axis in law.axes:
        distinct = len(np.unique(points.axis(axis)))
        if distinct < needs and axis not in law.steady:
            raise FitError(
                f"the law needs at least {counted(needs, 'distinct value')} of {axis}; the points have {distinct}",
                remedy=f"{_more(axis, len(law.axes) > 1)}, or choose another --law",
            )
    distinct = len(np.unique(np.stack([points.axis(axis) for axis in law.axes]), axis=1).T)
    if distinct < len(free):
        raise FitError(
            f"the law has {counted(len(free), 'free parameter')}; "
            f"the points have {counted(distinct, 'distinct place')}",
            remedy="add runs at other sizes or token budgets, fix a parameter, or choose another --law",
        )


def counting(points: Points, weights: Floats) -> npt.NDArray[np.bool_]:
    """Which points count at all, (n,). Raises: FitError for weights that are none, naming the first."""
    if weights.shape != (len(points),):
        raise FitError(f"{counted(len(points), 'point')} cannot have weights of shape {weights.shape}")
    bad = np.flatnonzero(~((weights >= 0) & (weights <= LARGEST)))
    if bad.size:
        raise FitError(
            f"{bad.size} of {counted(len(points), 'weight')} {'is' if bad.size == 1 else 'are'} no number from 0 up; "
            f"the first is of {label(points, int(bad[0]))}: {weights[bad[0]]:g}",
            remedy="leave those rows out with --where, or give them 0, which leaves them out as well",
        )
    if not weights.any():
        raise FitError("every weight is 0: no point counts", remedy="name another column of weights")
    return np.asarray(weights > 0)


def label(points: Points, row: int) -> str:
    """What to call a point: its id, which in a table is the number of its row from 1."""
    name = points.ids[row] if points.ids else str(row + 1)
    return f"row {name}" if name.isdecimal() and len(name) < 10 else name  # longer ones are digests


def _more(axis: str, joint: bool) -> str:
    """What to add where an axis has too few values. Args: joint: whether the law has other axes as well."""
    if axis == "D":
        return "add token budgets (train.tokens)" + (", or fit each D with --by D" if joint else "")
    return "add sizes" if axis == "N" else f"add runs at other {axis}"


# Steps that leave float64 have a non-finite objective and are refused by value; numpy need not warn of them as well.
@np.errstate(all="ignore")
def fit(
    law: Law,
    points: Points,
    objective: Objective | None = None,
    fix: Mapping[str, float] | None = None,
    weights: Floats | None = None,
) -> Fit:
    """The best parameters of a law.

    Args: points: at least as many distinct places as free parameters; objective: Huber(1e-3) if None; fix: parameters
    held at a value in natural units; weights: (n,), how often each point counts, those of the points if None.
    Returns: a fit whose points are those that count, where some weigh nothing.
    Raises: FitError for points that cannot determine the law; UsageError for a parameter that is not there.
    """
    objective = replace(objective or Huber(), plain=law.measures == "score")
    fix = dict(fix or {})
    weights = points.weight if weights is None else weights
    if weights is not None:
        counts = counting(points, weights)
        points, weights = points.take(counts), weights[counts]
    check(law, points, fix)
    w = np.ones(len(points)) if weights is None else np.asarray(weights, dtype=np.float64)
    problem = pose(law, points, objective, fix)
    if not problem.free:
        raise UsageError(f"every parameter of {law.name} is fixed; there is nothing to fit")
    ended = find_optima(problem, w)
    values = np.where(np.isfinite(ended.local.value), ended.local.value, np.inf)
    best = int(np.argmin(values))
    if not np.isfinite(values[best]):
        raise FitError("no start has a finite objective", remedy="look at the points for a wrong unit")
    # On noise-free points every objective is rounding, and starts still have to agree.
    reached = values <= values[best] * (1 + SAME_OPTIMUM) + rounding(problem, w)
    z = ended.z[best]
    local = ended.local.take(np.array([best]))
    held = blocked(z, local.slope[0], problem.low, problem.high) | _at(z, problem)
    at_bound = tuple(name for name, flag in zip(problem.free, held, strict=True) if flag)
    scale = objective.width if np.isfinite(objective.width) else 1.0
    gradient = float(np.abs(np.where(held, 0.0, local.slope[0])).max(initial=0.0) * scale / w.sum())
    inside = [name for name, flag in zip(problem.free, held, strict=True) if not flag]
    loose = tuple(name for name, flag in zip(inside, _loose(problem.slopes(z[None])[0][~held]), strict=True) if flag)
    status = _status(bool(ended.settled[best]), at_bound, loose)
    theta = dict(zip(law.names, map(float, problem.natural(z[None])[0]), strict=True))
    return Fit(
        law=law,
        theta=theta,
        points=points,
        objective=objective,
        value=float(objective.value(problem.residual(z[None])[0], w)),
        gradient_norm=gradient,
        starts=len(ended.z),
        starts_at_optimum=int(reached.sum()),
        status=status,
        advice=_advice(status, at_bound, loose, theta),
        at_bound=at_bound,
        loose=loose,
        fixed=fix,
        weights=weights,
    )


def follow(
    problem: Problem,
    start: Floats,
    weights: Floats,
    measured: Floats,
    *,
    low: Floats | None = None,
    high: Floats | None = None,
    widest: float | None = None,
    max_steps: int = LAST_STEPS,
) -> Minimum:
    """Local optima from B starts (B, q), through narrowing Huber widths.

    Args: weights, measured: (n,) or (B, n); low, high: boxes if not the problem's own; widest: the first width, if not
    the typical residual at the starts; max_steps: of the last width.
    """
    low = problem.low if low is None else low
    high = problem.high if high is None else high
    z = start
    for width, last in _stages(problem, start, measured, widest):
        feigned = np.broadcast_to(rounding(problem, weights, width), len(z))
        ended = minimise(
            problem.evaluator(weights, measured, width),
            z,
            low,
            high,
            enough=ENOUGH if last else 1e-4,
            rounding=feigned,
            max_steps=max_steps if last else WIDE_STEPS,
        )
        z = ended.z
    return ended


def find_optima(problem: Problem, weights: Floats) -> Minimum:
    """Local optima, the best of which is the best that can be found."""
    dimensions = sum(len(grid) > 1 for grid in _grids(problem))
    kept = max(KEPT, KEPT_OF_PAIR * dimensions**2)
    ended = search(problem, find_starts(problem, weights), weights, kept)
    if dimensions > SEVERAL:
        ended = _looked_about(problem, ended, weights)
    finish(problem, ended, weights, TURNS)
    return ended


def _looked_about(problem: Problem, ended: Minimum, weights: Floats) -> Minimum:
    """With the optima found from places like the best one; that most starts have led to it says nothing."""
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(LOOKS):
        values = np.where(np.isfinite(ended.local.value), ended.local.value, np.inf)
        best = int(np.argmin(values))
        if failed == FAILED or not values[best] > rounding(problem, weights):
            break
        found = search(problem, look_again(problem, ended.z[best], weights, rng), weights, KEPT // 2)
        failed = 0 if np.nanmin(found.local.value) < values[best] * (1 - SAME_OPTIMUM) else failed + 1
        ended = Minimum(
            np.concatenate([ended.z, found.z]),
            Local(*(np.concatenate(both) for both in zip(ended.local.parts(), found.local.parts(), strict=True))),
            np.concatenate([ended.settled, found.settled]),
        )
    return ended


def search(problem: Problem, starts: Floats, weights: Floats, kept: int = KEPT) -> Minimum:
    """Local optima from the `kept` most promising of starts (B, q), the best of them followed further."""
    if len(starts) > kept:
        starts = _scouted(problem, starts, weights, kept)
    ended = follow(problem, starts, weights, problem.points.L, max_steps=FIRST_STEPS)
    finish(problem, ended, weights, FIRST_TURNS)
    return ended


def finish(problem: Problem, ended: Minimum, weights: Floats, turns: Sequence[tuple[int, int]]) -> None:
    """Goes on, in place, with those that are not at an optimum among the best: how many, and for how many steps."""
    width = problem.objective.width
    feigned = rounding(problem, weights, width)
    for count, steps in turns:
        values = np.where(np.isfinite(ended.local.value), ended.local.value, np.inf)
        order = np.argsort(values)[:count]
        rows = order[~ended.settled[order] & np.isfinite(values[order])]
        if not rows.size or values[order[0]] <= feigned:
            break
        further = minimise(
            problem.evaluator(weights, problem.points.L, width),
            ended.z[rows],
            problem.low,
            problem.high,
            rounding=feigned,
            max_steps=steps,
            patience=0,
        )
        ended.z[rows], ended.settled[rows] = further.z, further.settled
        ended.local.put(rows, further.local)


def _scouted(problem: Problem, starts: Floats, weights: Floats, kept: int) -> Floats:
    """Where `kept` starts are after a few steps: the best of each place, then the best of the others."""
    width = problem.objective.width
    if np.isfinite(width):
        typical = np.median(np.abs(problem.residual(starts)))
        width = float(max(width, typical)) if np.isfinite(typical) else width
    z = minimise(
        problem.evaluator(weights, problem.points.L, width),
        starts,
        problem.low,
        problem.high,
        enough=1e-4,
        max_steps=SCOUT_STEPS,
    ).z
    values = problem.objective.value(problem.residual(z), weights)
    z = np.asarray(z[np.argsort(np.nan_to_num(values, nan=np.inf), kind="stable")])
    near = ONE_PLACE * np.ptp(starts, axis=0)
    places: list[int] = []
    alone = np.ones(len(z), dtype=bool)
    while len(places) < kept and alone.any():
        places.append(int(np.argmax(alone)))
        alone &= ~(np.abs(z - z[places[-1]]) <= near).all(1)
        alone[places[-1]] = False
    others = np.setdiff1d(np.arange(len(z)), places)
    return z[[*places, *others[: kept - len(places)]]]


def rounding(problem: Problem, weights: Floats, width: float | None = None) -> Floats:
    """What rounding alone makes of the objective / width² where every residual is zero; shape of weights less n."""
    width = problem.objective.width if width is None else width
    unit = width if np.isfinite(width) else 1.0
    size = 1.0 if problem.objective.on_log else float(problem.points.L.max())
    return np.asarray(weights.sum(-1) * (ROUNDING * size / unit) ** 2)


def _stages(problem: Problem, start: Floats, measured: Floats, widest: float | None) -> list[tuple[float, bool]]:
    width = problem.objective.width
    if not np.isfinite(width):
        return [(width, True)]
    if widest is None:
        widest = float(np.median(np.abs(problem.residual(start, measured))))
    if not np.isfinite(widest) or widest <= width:
        return [(width, True)]
    count = int(np.ceil(np.log(widest / width) / np.log(STAGE)))
    return [(width * STAGE**k, k == 0) for k in range(count, -1, -1)]


def find_starts(problem: Problem, weights: Floats) -> Floats:
    """Starts (B, q), best first: trial values of the nonlinear parameters with their best linear parts.

    Trials are the whole grid of the nonlinear parameters where it is small, else points spread evenly over it. Two
    within two steps of each other on every parameter are one start. A law without linear parts needs a grid for each
    parameter.
    """
    grids = _grids(problem)
    dimensions = sum(len(grid) > 1 for grid in grids)
    many = dimensions > SEVERAL
    score = problem.law.measures == "score"  # a step or a straight end of its curve is a basin of its own
    few = dimensions <= FEW and not score
    count = STARTS if few else MORE_STARTS if not many else MOST_STARTS * dimensions
    index = _trials([len(grid) for grid in grids], MORE_TRIALS if many else TRIALS)
    if not many:
        z, missed = _tried(*_thinned(problem, weights), grids, index, ROBUST_PASSES if score else 0)
        return z[_distinct(index, missed, count)]
    # Basins of a law with breaks are needles that no trial hits: what lies anywhere is followed a little as well.
    anywhere = _beside(problem, index[: max(LEAST_ANYWHERE, ANYWHERE * dimensions**2)], grids, np.random.default_rng(0))
    index = np.concatenate([anywhere, index])
    z, missed = _tried(*_thinned(problem, weights), grids, index, ROBUST_PASSES)
    return np.concatenate([z[_distinct(index, missed, count)], z[: len(anywhere)]])


def _beside(problem: Problem, index: Floats, grids: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """Places (B, dimensions), half of which have one place along the axis beside another, where the law has several.

    Two breaks that undo each other make a pulse, and their distance is far below a grid step.
    """
    places = [k for k, p in enumerate(p for p in problem.law.parameters if p.grid) if p.place]
    if len(places) < 2:
        return index
    index = index.copy()
    for row in np.flatnonzero(rng.random(len(index)) < 0.5):
        one, other = rng.permutation(places)[:2]
        index[row, other] = np.clip(index[row, one] + rng.uniform(-BESIDE, BESIDE), 0, len(grids[other]) - 1.0)
    return index


def look_again(problem: Problem, best: Floats, weights: Floats, rng: np.random.Generator) -> Floats:
    """More starts (B, q): places that share some of their nonlinear parameters with an optimum (q,)."""
    grids = _grids(problem)
    theta = problem.theta(best[None])
    nonlinear = [p for p in problem.law.parameters if p.grid]
    index = np.array(
        [
            np.interp(float(theta[p.name][0, 0]), grid, np.arange(len(grid)))
            for p, grid in zip(nonlinear, grids, strict=True)
        ]
    )
    most = np.array([len(grid) - 1.0 for grid in grids])
    moved = rng.random((AROUND, len(grids))) < rng.uniform(0, MOVED, (AROUND, 1))
    places = _beside(problem, np.where(moved, rng.uniform(0, most, moved.shape), index), grids, rng)
    return _tried(*_thinned(problem, weights), grids, places, ROBUST_PASSES)[0]


def _grids(problem: Problem) -> list[Floats]:
    nonlinear = [p for p in problem.law.parameters if p.grid]
    return [np.array([problem.held[p.name]]) if p.name in problem.held else problem.grid(p) for p in nonlinear]


def _thinned(problem: Problem, weights: Floats) -> tuple[Problem, Floats]:
    if len(problem.points) <= ENOUGH_POINTS:
        return problem, weights
    order = np.lexsort([problem.points.axis(axis) for axis in problem.law.axes])
    some = order[np.linspace(0, len(order) - 1, ENOUGH_POINTS).astype(int)]
    return replace(problem, points=problem.points.take(some), centred=problem.centred.take(some)), weights[some]


def _tried(
    problem: Problem, weights: Floats, grids: Sequence[Floats], index: Floats, passes: int
) -> tuple[Floats, Floats]:
    """Coordinates (B, q) at places on the grids (B, dimensions), between their values too, and the objective there.

    Least squares makes the linear parts, `passes` times more with weights that turn it into the objective.
    """
    law, objective = problem.law, problem.objective
    nonlinear = [p for p in law.parameters if p.grid]
    theta: dict[str, Any] = {
        p.name: np.interp(index[:, k, None], np.arange(len(grid)), grid)
        for k, (p, grid) in enumerate(zip(nonlinear, grids, strict=True))
    }
    if law.basis is not None:
        for _ in range(ROUGH_PASSES if law.rough else 1):
            theta |= _linear_parts(problem, theta, weights, len(index))
    z = _start_coordinates(problem, theta)
    residual = problem.residual(z)
    for _ in range(passes if law.basis is not None and np.isfinite(objective.width) else 0):
        size = np.abs(residual)
        size = np.maximum(size, np.maximum(objective.width, NEAR * np.median(size, axis=1, keepdims=True)))
        theta |= _linear_parts(problem, theta, objective.counted(residual, weights) / size, len(index))
        z = _start_coordinates(problem, theta)
        residual = problem.residual(z)
    return z, np.asarray(np.nan_to_num(objective.value(residual, weights), nan=np.inf))


def _distinct(index: Floats, missed: Floats, count: int) -> list[int]:
    """The best `count` of trials none of which lies within two grid steps of a better one on every parameter."""
    chosen: list[int] = []
    free = np.ones(len(index), dtype=bool)
    for row in np.argsort(missed, kind="stable"):
        if free[row]:
            chosen.append(int(row))
            free &= np.abs(index - index[row]).max(1) > APART
        if len(chosen) == count:
            break
    return chosen


def _trials(sizes: Sequence[int], most: int) -> Floats:
    """Places on a grid of these sizes, shape (trials, dimensions): all of them, or `most` spread over it.

    Spread by the additive recurrence whose step is the generalised golden ratio: the projections on every axis are
    even, and no two trials coincide in any of them (Roberts 2018, "The unreasonable effectiveness of quasirandom
    sequences").
    """
    if math.prod(sizes) <= most:
        return np.array(list(itertools.product(*map(range, sizes))), dtype=np.float64)
    ratio = 2.0
    for _ in range(64):  # root of x^(d+1) = x + 1
        ratio = (1 + ratio) ** (1 / (len(sizes) + 1))
    steps = ratio ** -np.arange(1, len(sizes) + 1)
    places = (0.5 + np.arange(1, most + 1)[:, None] * steps) % 1.0
    return np.asarray(np.floor(places * np.array(sizes)))


def _linear_parts(problem: Problem, theta: Mapping[str, Any], weights: Floats, batch: int) -> dict[str, Any]:
    law, n = problem.law, len(problem.points)
    assert law.basis is not None
    basis = {name: np.broadcast_to(column, (batch, n)) for name, column in law.basis(theta, problem.centred).items()}
    target = np.broadcast_to(problem.points.L, (batch, n))
    # Relative residuals to first order where the objective is one of log loss.
    row_weight = np.sqrt(weights) / (target if problem.objective.on_log else 1.0)
    if law.link is not None:
        target, slope = law.link(theta, problem.points.L)
        row_weight = row_weight / slope
    powers = law.power(theta) if law.power is not None else {}
    free = [name for name in basis if name not in problem.held]
    aim = np.array(target)
    for name in basis:
        if name in problem.held:
            aim -= problem.held[name] ** powers.get(name, 1.0) * basis[name]
    aim *= row_weight
    solved = nonnegative_least_squares(np.stack([basis[name] * row_weight for name in free], axis=1), aim)
    typical = np.median(target, axis=1, keepdims=True)
    found: dict[str, Any] = {}
    for k, name in enumerate(free):
        values = solved[:, k : k + 1]
        if law.parameter(name).scale == "log":
            # A term that least squares leaves out starts small, not at ln 0.
            middle = np.maximum(np.median(np.abs(basis[name]), axis=1, keepdims=True), 1e-300)
            values = np.maximum(values, 1e-3 * typical / middle)
        found[name] = values ** (1.0 / powers[name]) if name in powers else values
    return found


def _start_coordinates(problem: Problem, theta: Mapping[str, Any]) -> Floats:
    columns = []
    for name in problem.free:
        values = np.asarray(theta[name], dtype=np.float64)
        columns.append(np.log(values) if problem.law.parameter(name).scale == "log" else values)
    return np.asarray(np.clip(np.concatenate(columns, axis=1), problem.low, problem.high))


def nonnegative_least_squares(columns: Floats, target: Floats) -> Floats:
    """Batched min ||Σ_k x_k columns_k - target||² with x >= 0; columns (B, k, n), target (B, n), x (B, k).

    Exact: solves every subset of at most k columns and keeps the best feasible one, which for the few linear parts of
    a scaling law is quicker than an active-set iteration.
    """
    batch, k, _ = columns.shape
    # Columns and target in units of their largest number: trial exponents take them to the ends of float64, and those
    # beyond it lose to every other trial.
    columns, target = np.nan_to_num(columns), np.nan_to_num(target)
    unit = np.maximum(np.abs(columns).max(2), 1e-300)
    size_of_target = np.maximum(np.abs(target).max(1, keepdims=True), 1e-300)
    columns, target = columns / unit[:, :, None], target / size_of_target
    gram = np.matmul(columns, columns.transpose(0, 2, 1))
    pull = np.matmul(columns, target[:, :, None])[:, :, 0]
    best = np.zeros((batch, k))
    gain = np.zeros(batch)  # squared length explained; the empty subset explains none
    scale = np.maximum(np.einsum("bii->b", gram) / max(k, 1), 1e-300)
    for size in range(1, k + 1):
        for chosen in itertools.combinations(range(k), size):
            pick = np.array(chosen)
            part = gram[:, pick[:, None], pick[None, :]] + 1e-13 * scale[:, None, None] * np.eye(size)
            x = np.linalg.solve(part, pull[:, pick, None])[:, :, 0]
            explained = 2 * (x * pull[:, pick]).sum(1) - np.einsum("bi,bij,bj->b", x, gram[:, pick[:, None], pick], x)
            better = (x >= 0).all(1) & (explained > gain)
            best[better] = 0.0
            best[better[:, None] & np.isin(np.arange(k), pick)[None, :]] = x[better].ravel()
            gain[better] = explained[better]
    return np.asarray(best * (size_of_target / unit))


def _at(z: Floats, problem: Problem) -> Any:
    span = np.maximum(1.0, np.abs(z))
    return (z <= problem.low + 1e-9 * span) | (z >= problem.high - 1e-9 * span)


def _loose(slopes: Floats) -> Any:
    """Which of the parameters (q,), slopes (q, n), take part in a direction along which the residuals do not change.

    From the slopes, not from the Hessian: an absolute-value objective is flat between two kinks wherever it ends.
    """
    scaled = slopes / np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1e-300)
    values, directions = np.linalg.eigh(scaled @ scaled.T)
    flat = values < FLAT * values.max(initial=0.0)
    return (np.abs(directions[:, flat]) > LOOSE).any(axis=1)


def _status(settled: bool, at_bound: Sequence[str], loose: Sequence[str]) -> Status:
    if at_bound:
        return Status.AT_BOUND
    if loose:
        return Status.FLAT
    return Status.CONVERGED if settled else Status.STALLED


def _advice(status: Status, at_bound: Sequence[str], loose: Sequence[str], theta: Mapping[str, float]) -> str:
    if status is Status.AT_BOUND:
        names = listed(at_bound)
        if list(at_bound) == ["E"]:
            return "no floor is visible in these points (E ends at 0): fit the law without one, or add larger sizes"
        if any(name in ("alpha", "beta") and theta[name] < 1e-6 for name in at_bound):
            return f"the loss does not fall along an axis ({names} ends at 0): look at the learning rate per size"
        return f"{names} ended at a bound: these points do not determine it"
    if status is Status.FLAT:
        several = f"several values of {listed(loose)}"
        return f"{several} fit these points equally well: add other sizes or token budgets"
    if status is Status.STALLED:
        return "the optimiser stopped short of an optimum: look for outliers or a wrong unit"
    return ""


@np.errstate(all="ignore")
def refit(fitted: Fit, weights: Floats | None = None, measured: Floats | None = None) -> tuple[Floats, Any]:
    """The same fit on many resampled data sets, warm-started.

    Args: weights: (draws, n), how often each point counts, or None for once; measured: losses (draws, n), or None for
    the points' own.
    Draws begin at the optimum of all points, so near theirs that the wide stages of the objective are left out where
    its own width is not far below the residuals; draws that do not settle are followed through them after all.
    Returns: parameters (draws, p) in natural units, and whether each draw settled (draws,).
    """
    draws = len(weights) if weights is not None else len(measured) if measured is not None else 0
    problem = pose(fitted.law, fitted.points, fitted.objective.resampled, fitted.fixed)
    home = problem.coordinates(fitted.theta)
    if not draws:
        return np.empty((0, len(fitted.law.names))), np.zeros(0, dtype=bool)
    w = np.ones(len(fitted.points)) if fitted.weights is None else fitted.weights
    w = w if weights is None else weights * w
    y = fitted.points.L if measured is None else measured
    near = float(np.median(np.abs(problem.residual(home)))) <= STAGE * problem.objective.width
    some = slice(0, problem.together)
    typical = float(np.median(np.abs(problem.residual(home, y if y.ndim == 1 else y[some]))))
    start = np.repeat(home, draws, axis=0)
    ended = follow(problem, start, w, y, widest=0.0 if near else typical, max_steps=DRAW_STEPS)
    again = np.flatnonzero(~ended.settled)
    if near and again.size:
        more = follow(problem, start[again], _picked(w, again), _picked(y, again), widest=typical, max_steps=DRAW_STEPS)
        ended.z[again], ended.settled[again] = more.z, more.settled
    return problem.natural(ended.z), ended.settled


def _picked(values: Floats, rows: Any) -> Floats:
    return values if values.ndim == 1 else values[rows]


def without(fitted: Fit, keep: Any) -> Fit:
    """The same law, objective and fixed parameters fitted to the points picked by `keep`."""
    weights = None if fitted.weights is None else fitted.weights[keep]
    return fit(fitted.law, fitted.points.take(keep), fitted.objective, fitted.fixed, weights)
