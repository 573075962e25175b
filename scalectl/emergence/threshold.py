"""Where a score jumps: a bracket, a midpoint with an interval, a width; and which training seeds have the ability.

Dimensions: K places along the axis, G rises.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from scalectl.core.rows import Floats
from scalectl.emergence.curve import PRIOR, Curve
from scalectl.emergence.shapes import TEN_TO_NINETY, Rises, breaks, every
from scalectl.fit.stats import student_quantile

ABOVE = 0.05  # over the floor, that every lower bound has to exceed (emergence.md)
WILSON = 0.95  # one-sided confidence of those bounds. Ours.
FINE = 16  # middles of a rise in a gap, for a midpoint. Ours.
FINE_WIDTHS = tuple(float(width) for width in np.geomspace(0.03, 6, 24))  # decades, 10 to 90 %
SPLIT = 0.05  # p-value below which seeds are of two kinds
UNIFORM_DRAWS = 4000


@dataclass(frozen=True)
class Threshold:
    """Where a score jumps, in units of the axis.

    bracket: the largest place not above, and the smallest from which all are; NaN at an open end; first: index of the
    latter; midpoint: where half of the rise to the largest place is made, NaN where only a bound is known; interval: of
    the midpoint at `level`, NaN at an open end; width: decades from 10 to 90 % of the rise; resolved: whether that is
    more than the spacing of the places about it; near: indices of the places at the threshold.
    """

    bracket: tuple[float, float]
    first: int
    midpoint: float
    interval: tuple[float, float]
    level: float
    width: float
    resolved: bool
    near: tuple[int, ...]


@dataclass(frozen=True)
class Success:
    """Seeds that have the ability.

    line: the score above which one has it, half-way up; share and low, high: by place, with Wilson's 90 % interval;
    seeds: by place; split: indices of the places where seeds are of two kinds; p_value: the smallest, times the places.
    """

    line: float
    share: Floats
    low: Floats
    high: Floats
    seeds: tuple[int, ...]
    split: tuple[int, ...]
    p_value: float


def wilson(score: Floats, items: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Bounds of a share, each one-sided at `confidence` (Wilson 1927)."""
    z = NormalDist().inv_cdf(confidence)
    middle = (score + z**2 / (2 * items)) / (1 + z**2 / items)
    half = z / (1 + z**2 / items) * np.sqrt(score * (1 - score) / items + z**2 / (4 * items**2))
    low, high = np.maximum(0.0, middle - half), np.minimum(1.0, middle + half)
    return np.where(score > 0, low, 0.0), np.where(score < 1, high, 1.0)  # which rounding misses by 1e-17


def above_floor(curve: Curve, phi: float) -> npt.NDArray[np.bool_]:
    """Whether the lower bound of each place is above the floor by ABOVE, (K,)."""
    return np.asarray(wilson(curve.score, curve.items / phi, WILSON)[0] > curve.floor + ABOVE)


def first_above(curve: Curve, phi: float) -> int:
    """Index of the smallest place from which every lower bound is above the floor by ABOVE; K if there is none."""
    below = np.flatnonzero(~above_floor(curve, phi))
    return int(below[-1]) + 1 if below.size else 0


def threshold(curve: Curve, phi: float, level: float) -> Threshold:
    """Bracket, midpoint and width of a curve that jumps.

    The interval of the midpoint is a likelihood profile over every break, wide where the places leave it open. phi:
    over-dispersion of the curve.
    """
    x = curve.x
    first = first_above(curve, phi)
    bracket = (float(curve.place[first - 1]) if first else math.nan, float(curve.place[first]))
    near = tuple(k for k in (first - 1, first, first + 1) if 0 <= k < len(x))
    fine, half = _fine(tuple(x.tolist()))
    found, low, high = (values[0] for values in every(fine, curve.score[None], curve.items))
    rising = high - low > 1e-3
    found = np.where(rising, found, np.inf)
    top = int(found.argmin())
    spare = max(1, len(x) - 4)
    scatter = max(1.0, (PRIOR + float(found[top])) / (PRIOR + spare))
    scatter = max(scatter, phi)
    limit = student_quantile((1 + level) / 2, spare) ** 2
    inside = half[found - found[top] <= scatter * limit]
    interval = (10 ** float(inside.min()), 10 ** float(inside.max()))
    width = _width(fine, top, x)
    # the spacing of the places about the middle is what a width can be told from
    k = int(np.clip(np.searchsorted(x, half[top]), 1, len(x) - 1))
    spacing = float(x[k] - x[k - 1])
    if above_floor(curve, phi).sum() == 1:  # the last place alone: nobody knows how far the rise goes on
        return Threshold(bracket, first, math.nan, (float(curve.place[-2]), math.nan), level, spacing, False, near)
    return Threshold(
        bracket, first, 10 ** float(half[top]), interval, level, max(width, spacing), width > spacing, near
    )


@functools.lru_cache(maxsize=8)
def _fine(places: tuple[float, ...]) -> tuple[Rises, Floats]:
    """Every break over these places, and its middle; tasks of one family share them."""
    x = np.array(places)
    fine = breaks(x, FINE, FINE_WIDTHS)
    return fine, middles(fine, x)


def middles(rises: Rises, x: Floats) -> Floats:
    """log10 of the place where each rise has made half of its way to the last place, (G,)."""
    found = np.empty(len(rises))
    for g, kind in enumerate(rises.kind):
        if kind == "step":
            found[g] = rises.middle[g]
        elif kind == "hinge":
            found[g] = rises.middle[g] + rises.scale[g] / 2
        else:  # a logistic: s(m) = s(last) / 2
            last = rises.values[g, -1] / 2
            found[g] = rises.middle[g] + rises.scale[g] * (math.log(last) - math.log1p(-last))
    return np.clip(found, x[0], x[-1])


def _width(rises: Rises, index: int, x: Floats) -> float:
    if rises.kind[index] == "logistic":
        return TEN_TO_NINETY * float(rises.scale[index])
    return 0.8 * float(rises.scale[index])  # of a hinge from its knot to the largest place; 0 of a step


def success(curve: Curve, where: Threshold) -> Success | None:
    """Which seeds have the ability, and whether they are of two kinds near the threshold; None without repeats.

    A seed has it above half-way between the floor and the highest of the places above. Seeds are of two kinds where the
    best cut leaves less of their spread than it leaves of as many uniform ones, the least favourable of one kind
    (as Hartigan and Hartigan 1985 calibrate the dip).
    """
    if curve.fewest_seeds is None or max(map(len, curve.seeds)) < 2:
        return None
    line = (curve.floor + float(curve.score[where.first :].max())) / 2
    counts = np.array([len(held) for held in curve.seeds], dtype=np.float64)
    share = np.array([float((held > line).mean()) for held in curve.seeds])
    low, high = wilson(share, counts, WILSON)
    rng = np.random.default_rng(0)
    p_values = {}
    for k in where.near:
        held = curve.seeds[k]
        if len(held) >= 5 and np.ptp(held) >= 0.2:
            uniform = _cut(np.sort(rng.random((UNIFORM_DRAWS, len(held))), axis=1))
            p_values[k] = (1 + int((uniform <= _cut(np.sort(held)[None])[0]).sum())) / (1 + UNIFORM_DRAWS)
    least = min(1.0, min(p_values.values(), default=1.0) * max(1, len(p_values)))
    split = tuple(sorted((k for k, p in p_values.items() if p * len(p_values) <= SPLIT), key=lambda k: p_values[k]))
    return Success(line, share, low, high, tuple(len(held) for held in curve.seeds), split, least)


def _cut(ordered: Floats) -> Floats:
    """Share of the spread that the best cut of ascending values (B, n) into two leaves, (B,)."""
    n = ordered.shape[1]
    sums, squares = np.cumsum(ordered, axis=1), np.cumsum(ordered**2, axis=1)
    count = np.arange(1, n)
    left = squares[:, :-1] - sums[:, :-1] ** 2 / count
    right = (squares[:, -1:] - squares[:, :-1]) - (sums[:, -1:] - sums[:, :-1]) ** 2 / (n - count)
    whole = squares[:, -1] - sums[:, -1] ** 2 / n
    return np.asarray((left + right).min(1) / np.maximum(whole, 1e-300))
