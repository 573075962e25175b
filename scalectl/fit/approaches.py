"""Three ways from the same rows to the exponents of N* ~ C^a and D* ~ C^b.

Source: Hoffmann et al. 2022, arXiv 2203.15556, sections 3.1 to 3.3.

1 the envelope of training curves: at each budget the size with the lowest loss
2 isoFLOP parabolas: at each budget the lowest point of a parabola through loss against ln N
3 the joint fit: a law of N and D, minimised along C = 6 N D

The first two see no law; what their own shape does to the exponent is measured on losses that the fitted law gives at
the same places, free of noise, where the right answer is known.

Of nominal 95 % intervals of a so many hold the truth (bench/coverage.py): on six isoFLOP budgets, 100 data sets,
parabolas .98, joint fit .97 over sizes, .96 over runs, .92 over residuals; on curves of twenty lengths at twelve sizes,
50 data sets, envelope .58, parabolas .82, joint fit 1.00, .96, .92: what few sizes do to an envelope is no noise.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from scalectl.core.errors import FitError
from scalectl.core.rows import Floats, Points
from scalectl.core.units import counted
from scalectl.fit.bootstrap import Draws
from scalectl.fit.describe import optimal
from scalectl.fit.estimate import Fit
from scalectl.fit.predict import FLOPS_PER_PARAMETER_TOKEN
from scalectl.fit.stats import interval
from scalectl.fit.summary import Interval

Minimum = Literal["parabola", "interpolated"]

# Read off figures, equal sizes differ in the fifth digit; the closest pair of sizes of any sweep lies 5 % apart. Ours.
SAME_SIZE = 1.002
# Budgets that were meant to be equal are, in exact sweeps; those read off Chinchilla's figure scatter by 20 %. Ours.
SAME_BUDGET = 1.25
FEWEST_SIZES = 4  # at one budget: a parabola passes through any three
FEWEST_BUDGETS = 3
FEWEST_DISTINCT = 2  # budgets of a resample: a line needs two; with three needed, three budgets would never vary
# A parabola is the law's second order: 10 % above the lowest loss the next order is as large as the noise. On Porian et
# al.'s sweeps, with tails up to three times the lowest loss, all points together move a by up to .10. Ours.
NEAR = 0.10
GRID = 128  # budgets at which the envelope is read, equally spaced in ln C; Hoffmann et al. take 1,500
UNKNOWN: Interval = (-math.inf, math.inf)
FAR = 10.0  # a curve is not read between two of its points that lie further apart in C than this. Ours.


@dataclass(frozen=True)
class Frontier:
    """Compute-optimal runs as an approach reads them; arrays of shape (budgets,), C [FLOP] ascending.

    dropped: budgets at which the lowest loss lies at the edge of the sizes tried, or without a minimum between them.
    """

    C: Floats
    N: Floats
    D: Floats
    dropped: int = 0

    def exponents(self) -> tuple[float, float]:
        """Slopes a and b of ln N* and ln D* against ln C, by least squares."""
        a, b = _slopes(np.ones((1, len(self.C))), self)
        return float(a[0]), float(b[0])


@dataclass(frozen=True)
class Approach:
    """What one approach says.

    number, name; a, b: exponents of N* ~ C^a and D* ~ C^b with their intervals at `level`, infinite without resamples;
    unit: what was resampled (budget, size, run or residual), and how many of them; optima: budgets that the exponents
    rest on, None for a law; dropped: as in `Frontier`; bias: a on noise-free losses of the joint law at the same
    places, less the law's own a; other: for the parabolas, a of interpolated minima instead, where budgets do not
    scatter; note: what its reader has to know.
    """

    number: int
    name: str
    a: float
    b: float
    a_interval: Interval
    b_interval: Interval
    level: float
    unit: str
    units: int
    optima: int | None = None
    dropped: int = 0
    bias: float | None = None
    other: tuple[float, Interval] | None = None
    note: str = ""


def envelope(points: Points) -> Frontier:
    """Approach 1: at each of many budgets the size whose curve is lowest there.

    Args: points: of curves, or of runs of several lengths per size, which then are the curve of that size.
    A budget counts where the lowest curve is neither of the smallest nor of the largest size that reaches it.
    Raises: FitError when fewer than three sizes are the best of a budget.
    """
    C, table, tokens, sizes = _curves(points)
    there = np.isfinite(table)
    best = np.where(there, table, np.inf).argmin(0)
    rank = np.arange(len(sizes))[:, None]
    smallest = np.where(there, rank, len(sizes)).min(0)
    largest = np.where(there, rank, -1).max(0)
    covered = there.any(0)
    at = np.flatnonzero(covered & (best > smallest) & (best < largest))
    winners = len(np.unique(best[at]))
    if winners < FEWEST_BUDGETS:
        raise FitError(
            f"approach 1 needs {FEWEST_BUDGETS} sizes that are the best of a budget between smaller and larger ones; "
            f"the points have {winners} among {counted(len(sizes), 'size')}",
            remedy="add sizes, or longer runs of the larger ones; approach 3 needs neither",
        )
    return Frontier(C[at], sizes[best[at]], np.exp(tokens[best[at], at]), int(covered.sum()) - len(at))


def _curves(points: Points) -> tuple[Floats, Floats, Floats, Floats]:
    """Budgets (g,), log losses and log tokens of each size there (sizes, g), NaN where it has none, and sizes (s,)."""
    N, ln_C, ln_L = points.axis("N"), np.log(_budget(points)), np.log(points.L)
    label = _clusters(np.log(N), math.log(SAME_SIZE))
    grid = np.linspace(ln_C.min(), ln_C.max(), GRID)
    count = int(label.max()) + 1
    table, tokens = np.full((count, GRID), np.nan), np.full((count, GRID), np.nan)
    sizes = np.empty(count)
    for k in range(count):
        mine = np.flatnonzero(label == k)
        mine = mine[np.argsort(ln_C[mine], kind="stable")]
        sizes[k] = np.exp(np.log(N[mine]).mean())
        x, first = np.unique(ln_C[mine], return_index=True)
        if len(x) < 2:
            continue
        where = np.clip(np.searchsorted(x, grid), 1, len(x) - 1)
        inside = (grid >= x[0]) & (grid <= x[-1]) & (x[where] - x[where - 1] <= math.log(FAR))
        for target, values in ((table, ln_L), (tokens, np.log(points.axis("D")))):
            # seeds of one length are one point of the curve
            means = np.add.reduceat(values[mine], first) / np.diff([*first, len(mine)])
            target[k, inside] = np.interp(grid[inside], x, means)
    return np.exp(grid), table, tokens, sizes


def isoflops(points: Points, minimum: Minimum = "parabola") -> Frontier:
    """Approach 2: at each budget the N of lowest loss.

    Args: minimum: of a parabola in ln N through the points within 10 % of the lowest loss (Hoffmann et al. 2022, 3.2,
    take all points of narrow grids), or of Akima's interpolant through the points (Porian et al. 2024, arXiv
    2406.19146).
    Budgets that scatter are brought together with the slope in ln C that their own points show.
    Raises: FitError when fewer than three budgets have a minimum inside their sizes.
    """
    optima, dropped = [], 0
    for group in budgets(points):
        found = _group_minimum(points.take(group), minimum)
        if found is None:
            dropped += 1
        else:
            optima.append(found)
    if len(optima) < FEWEST_BUDGETS:
        raise FitError(
            f"approach 2 needs {FEWEST_BUDGETS} budgets of at least {FEWEST_SIZES} sizes with the lowest loss between "
            f"them; the points have {len(optima)}, and {dropped} more without",
            remedy="train equal budgets over several sizes (train.flops), or count C as they were held (--flops exact)",
        )
    C, N, D = np.array(sorted(optima)).T
    return Frontier(C, N, D, dropped)


def budgets(points: Points) -> list[npt.NDArray[np.int64]]:
    """Groups of points at one budget with at least four sizes, as indices, by ascending C; a point is in one at most.

    The densest windows in ln C first, each as wide as budgets may scatter.
    """
    ln_C = np.log(_budget(points))
    size = _clusters(np.log(points.axis("N")), math.log(SAME_SIZE))
    order = np.argsort(ln_C, kind="stable")
    free = np.ones(len(order), dtype=bool)
    groups: list[npt.NDArray[np.int64]] = []
    while True:
        best: tuple[int, float, int, int] | None = None
        for first in map(int, np.flatnonzero(free)):
            last = first
            while last + 1 < len(order) and free[last + 1] and _within(ln_C, order, first, last + 1):
                last += 1
            sizes = len(np.unique(size[order[first : last + 1]]))
            spread = float(ln_C[order[last]] - ln_C[order[first]])
            if best is None or (sizes, -spread) > (best[0], -best[1]):
                best = (sizes, spread, first, last)
        if best is None or best[0] < FEWEST_SIZES:
            return sorted(groups, key=lambda group: float(ln_C[group].mean()))
        _, _, first, last = best
        free[first : last + 1] = False
        groups.append(np.sort(order[first : last + 1]))


def _within(ln_C: Floats, order: npt.NDArray[np.int64], first: int, last: int) -> bool:
    return bool(ln_C[order[last]] - ln_C[order[first]] <= math.log(SAME_BUDGET))


def _group_minimum(points: Points, minimum: Minimum) -> tuple[float, float, float] | None:
    """C, N and D of the lowest loss at one budget; None where it is not between the sizes tried."""
    ln_N, ln_C, ln_D, ln_L = (np.log(x) for x in (points.axis("N"), _budget(points), points.axis("D"), points.L))
    middle = float(ln_C.mean())
    away = ln_C - middle
    scattered = bool(np.ptp(ln_C) > math.log(SAME_SIZE))
    near = ln_L <= ln_L.min() + math.log1p(NEAR)
    if scattered and minimum == "interpolated":
        return None  # an interpolant takes scatter for shape
    if minimum == "interpolated":
        at = _interpolated_minimum(ln_N, ln_L)
    else:
        at = _vertex(ln_N[near], ln_L[near], away[near] if scattered else None)
    if at is None or not ln_N.min() < at < ln_N.max():
        return None
    # exact for C = 6 N D, and close where C is counted otherwise
    columns = np.stack([np.ones(len(ln_N)), ln_N, *([away] if scattered else [])], axis=1)
    line, *_ = np.linalg.lstsq(columns, ln_D, rcond=None)
    return math.exp(middle), math.exp(at), math.exp(float(line[0] + line[1] * at))


def _vertex(x: Floats, y: Floats, away: Floats | None) -> float | None:
    parameters = 3 if away is None else 4
    if len(np.unique(x)) < parameters:
        return None
    centre = float(x.mean())
    u = x - centre
    columns = np.stack([np.ones(len(u)), u, u**2, *([] if away is None else [away])], axis=1)
    found, *_ = np.linalg.lstsq(columns, y, rcond=None)
    if found[2] <= 0:
        return None
    at = centre - float(found[1] / (2 * found[2]))
    return at if x.min() <= at <= x.max() else None


def _interpolated_minimum(x: Floats, y: Floats) -> float | None:
    from scipy.interpolate import Akima1DInterpolator

    places = np.unique(x)
    if len(places) < FEWEST_SIZES:
        return None
    means = np.array([y[x == place].mean() for place in places])
    lowest = int(means.argmin())
    if lowest in (0, len(places) - 1):
        return None
    curve = Akima1DInterpolator(places, means)
    turns = [t for t in curve.derivative().roots(extrapolate=False) if places[lowest - 1] <= t <= places[lowest + 1]]
    return float(min(turns, key=curve)) if turns else None


def approaches(
    points: Points,
    joint: Fit,
    draws: Draws | None,
    level: float,
    rng: np.random.Generator,
    *,
    which: tuple[int, ...] = (1, 2, 3),
    curves: Points | None = None,
    resamples: int = 1000,
) -> tuple[tuple[Approach, ...], Mapping[int, str]]:
    """The exponents by each approach, from the same rows.

    Args: joint: a law of N and D with exponents alpha and beta, fitted to `points`; draws: its bootstrap; curves: what
    approach 1 reads, the evaluations of training runs, or `points` if None; resamples: of budgets and of curves.
    Returns: those that the points allow, and why not for the others, by number.
    """
    streams = dict(zip((1, 2), rng.spawn(2), strict=True))
    found: list[Approach] = []
    refused: dict[int, str] = {}
    for number in which:
        try:
            if number == 1:
                found.append(_first(curves or points, joint, level, streams[1], resamples, from_runs=curves is None))
            elif number == 2:
                found.append(_second(points, joint, level, streams[2], resamples))
            else:
                found.append(_third(joint, draws, level))
        except FitError as error:
            refused[number] = f"{error.what}; {error.remedy}" if error.remedy else error.what
    return tuple(found), refused


def _first(
    points: Points, joint: Fit, level: float, rng: np.random.Generator, resamples: int, *, from_runs: bool
) -> Approach:
    frontier = envelope(points)
    a, b = frontier.exponents()
    # budgets with one best size share that size's error
    winners = np.unique(frontier.N, return_inverse=True)[1].ravel()
    values = _resampled(frontier, winners, rng, resamples)
    count = int(winners.max()) + 1
    note = (
        "each run is a point of its size's curve, decayed to its own length"
        if from_runs
        else "the curves are those inside runs, not yet decayed: runs of several lengths per size are better ones"
    )
    return Approach(
        1, "envelope", a, b, *_intervals(values, count, level), level, "size", count,
        optima=len(frontier.C), dropped=frontier.dropped, bias=_bias(envelope, points, joint), note=note,
    )  # fmt: skip


def _second(points: Points, joint: Fit, level: float, rng: np.random.Generator, resamples: int) -> Approach:
    def read(minimum: Minimum) -> tuple[Frontier, Floats]:
        frontier = isoflops(points, minimum)
        return frontier, _resampled(frontier, np.arange(len(frontier.C)), rng, resamples)

    frontier, values = read("parabola")
    a, b = frontier.exponents()
    count = len(frontier.C)
    other = None
    with contextlib.suppress(FitError):
        smooth, drawn = read("interpolated")
        other = smooth.exponents()[0], _intervals(drawn, len(smooth.C), level)[0]
    return Approach(
        2, "parabolas", a, b, *_intervals(values, count, level), level, "budget", count,
        optima=count, dropped=frontier.dropped, bias=_bias(isoflops, points, joint), other=other,
        note="a parabola is symmetric in ln N and losses are not: wide or off-centre sizes pull it away",
    )  # fmt: skip


def _third(joint: Fit, draws: Draws | None, level: float) -> Approach:
    point, intervals = optimal(joint, draws, level)
    a, b = (intervals.get(name, UNKNOWN) for name in "ab")
    over = ("run", len(joint.points)) if draws is None else (draws.unit, draws.units)
    return Approach(3, "joint fit", point["a"], point["b"], a, b, level, *over)


def _resampled(frontier: Frontier, units: npt.NDArray[np.int64], rng: np.random.Generator, resamples: int) -> Floats:
    """Exponents (draws, 2) over units drawn with replacement, with two distinct ones at least.

    Args: units: of each budget, an index from 0, shape (budgets,).
    """
    count = int(units.max()) + 1
    weights = np.empty((0, count))
    while len(weights) < resamples:
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
        weights = np.concatenate([weights, drawn[(drawn > 0).sum(1) >= FEWEST_DISTINCT]])
    return np.stack(_slopes(weights[:resamples, units], frontier), axis=1)


def _slopes(weights: Floats, frontier: Frontier) -> tuple[Floats, Floats]:
    x = np.log(frontier.C)
    total = weights.sum(1, keepdims=True)
    centred = x - (weights * x).sum(1, keepdims=True) / total
    bottom = (weights * centred**2).sum(1)
    a, b = ((weights * centred * np.log(values)).sum(1) / bottom for values in (frontier.N, frontier.D))
    return a, b


def _intervals(values: Floats, units: int, level: float) -> tuple[Interval, Interval]:
    if not len(values):
        return UNKNOWN, UNKNOWN
    held = Draws(("a", "b"), values, "run", units, units - 2, 0, 1.0)
    a, b = (interval(column, held, level, scale="linear") for column in values.T)
    return a, b


def _bias(read: Callable[[Points], Frontier], points: Points, joint: Fit) -> float | None:
    exact = np.asarray(joint.law.predict(joint.theta, points), dtype=np.float64)
    try:
        return read(replace(points, L=exact)).exponents()[0] - optimal(joint, None, 0.95)[0]["a"]
    except FitError:
        return None


def _budget(points: Points) -> Floats:
    return points.C if points.C is not None else FLOPS_PER_PARAMETER_TOKEN * points.axis("N") * points.axis("D")


def _clusters(values: Floats, gap: float) -> npt.NDArray[np.int64]:
    """Labels from 0, ascending with the values, of runs of neighbours closer than `gap`."""
    order = np.argsort(values, kind="stable")
    labels = np.zeros(len(values), dtype=np.int64)
    labels[order[1:]] = np.cumsum(np.diff(values[order]) > gap)
    return labels
