"""A damped Newton method in a box, for many problems of one shape at once.

Every array operation runs over all problems that are still moving: starts of one fit, bootstrap draws, or the two sides
of a profile. Problems are tiny (two to eight coordinates), so that an exact eigendecomposition of each Hessian is cheap
and makes the step safe where the objective is not convex.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scalectl.core.rows import Floats

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Local:
    """The objective around B places in q coordinates.

    value (B,); slope (B, q); curvature (B, q, q); spread (B, q): a positive scale of the curvature of each coordinate
    that ignores kinks and saddles, used to make coordinates comparable.
    """

    value: Floats
    slope: Floats
    curvature: Floats
    spread: Floats

    def take(self, rows: npt.NDArray[Any]) -> Local:
        """The places picked by index or mask."""
        return Local(self.value[rows], self.slope[rows], self.curvature[rows], self.spread[rows])

    def put(self, rows: npt.NDArray[Any], new: Local) -> None:
        """Overwrites the places picked."""
        for mine, other in zip(self.parts(), new.parts(), strict=True):
            mine[rows] = other

    def parts(self) -> tuple[Floats, Floats, Floats, Floats]:
        """The four arrays."""
        return self.value, self.slope, self.curvature, self.spread


@dataclass(frozen=True)
class Minimum:
    """Where B problems ended. z (B, q); local: the objective there; settled (B,): stopped because no step helps."""

    z: Floats
    local: Local
    settled: npt.NDArray[np.bool_]


# A step is worth taking while it promises this share of the objective; a step that failed is not tried again, shorter,
# when it had promised less than the rounding of a sum of some hundred terms can hide. Ours.
ENOUGH = 1e-15
HIDDEN = 1e-13
# Steps after which a problem counts as lying in a curved valley, where straight steps have to be short, and every step
# is followed by a second one with the same curvature and the slope at its end, which leads back to the valley's floor
# (Shamanskii 1967). It costs an evaluation. Ours: those that need fewer steps do not pay for it.
PATIENCE = 15
DAMPING_START = 1e-3
# From so many problems on, those whose scaled Hessian has pivots above BOWL, four in five, are solved by elimination;
# below that rounding would show, and eigenvalues decide. Ours: of fewer problems the calls cost more than they save.
MANY = 24
BOWL = 1e-8
DAMPING_MAX = 1e12


def minimise(
    evaluate: Callable[[Floats, Ints], Local],
    start: Floats,
    low: Floats,
    high: Floats,
    *,
    enough: float = ENOUGH,
    rounding: Floats | float = 0.0,
    max_steps: int = 200,
    patience: int = PATIENCE,
) -> Minimum:
    """Minimises B objectives in boxes, each from its own start.

    Args: evaluate(z, rows): the objectives of problems `rows` (k,) at z (k, q); start: (B, q); low, high: boxes,
    broadcast to (B, q), equal where a coordinate is held; enough: relative decrease not worth a step; rounding: (B,)
    or a number, the decrease that rounding alone can feign where the objective ends at zero; patience: steps before
    every one gets a second.
    Method: Levenberg's damping added to the absolute eigenvalues of the scaled Hessian (the saddle-free Newton of
    Dauphin et al. 2014, arXiv 1406.2572), after `patience` steps with a second step each; coordinates whose bound
    blocks descent are left out of the step (Bertsekas 1982, projected Newton).
    """
    low = np.broadcast_to(low, start.shape)
    high = np.broadcast_to(high, start.shape)
    z = np.clip(start, low, high)
    here = evaluate(z, np.arange(len(z)))
    damping = np.full(len(z), DAMPING_START)
    settled = np.zeros(len(z), dtype=bool)
    stuck = ~np.isfinite(here.value)
    slack = np.broadcast_to(rounding, len(z))
    for turn in range(max_steps):
        rows = np.flatnonzero(~(settled | stuck))
        if rows.size == 0:
            break
        now = here.take(rows)
        step, promise, convex, solve = _step(z[rows], now, low[rows], high[rows], damping[rows])
        noise = slack[rows]
        still = (promise <= enough * now.value + noise) & convex
        trial = np.clip(z[rows] + step, low[rows], high[rows])
        there = evaluate(trial, rows)
        if turn >= patience:
            turned = np.clip(trial + solve(there.slope), low[rows], high[rows])
            beyond = evaluate(turned, rows)
            gain = beyond.value < there.value
            trial[gain] = turned[gain]
            there.put(np.flatnonzero(gain), beyond.take(gain))
        better = there.value < now.value
        moved = rows[better]
        z[moved] = trial[better]
        here.put(moved, there.take(better))
        damping[rows] = np.where(better, damping[rows] * 0.2, np.maximum(damping[rows], DAMPING_START) * 4)
        damping[rows[better & (damping[rows] < 1e-9)]] = 0.0
        settled[rows[still | (~better & convex & (promise <= HIDDEN * now.value + noise))]] = True
        stuck[rows[damping[rows] > DAMPING_MAX]] = True
    # Damped to nothing is an optimum when no promise is left beside rounding, which a kinked objective makes coarser.
    rows = np.flatnonzero(stuck & np.isfinite(here.value))
    if rows.size:
        now = here.take(rows)
        _, promise, *_ = _step(z[rows], now, low[rows], high[rows], np.zeros(rows.size))
        settled[rows] = promise <= 1e-9 * now.value + slack[rows]
    return Minimum(z, here, settled)


def blocked(z: Floats, slope: Floats, low: Floats, high: Floats) -> npt.NDArray[np.bool_]:
    """Coordinates at a bound that the slope pushes against, and those that are held; shape of z."""
    return np.asarray(((z <= low) & (slope > 0)) | ((z >= high) & (slope < 0)) | (low >= high))


def _step(
    z: Floats, now: Local, low: Floats, high: Floats, damping: Floats
) -> tuple[Floats, Floats, npt.NDArray[np.bool_], Callable[[Floats], Floats]]:
    """The step, what it promises undamped, whether the Hessian is convex, and the step for another slope."""
    batch, q = z.shape
    held = blocked(z, now.slope, low, high)
    scale = np.sqrt(np.maximum(now.spread, 1e-300))
    slope = np.where(held, 0.0, now.slope / scale)
    hessian = now.curvature / (scale[:, :, None] * scale[:, None, :])
    apart = held[:, :, None] | held[:, None, :]
    hessian = np.where(apart, np.eye(q), hessian)
    if not np.isfinite(hessian).all():
        hessian = np.where(np.isfinite(hessian), hessian, 0.0)
    promise = np.zeros(batch)
    bowl = np.zeros(batch, dtype=bool)
    if batch >= MANY:
        upper, pivots = _eliminated(hessian)
        bowl = np.asarray((pivots > BOWL).all(0))
        half = _forward(upper, pivots, slope.T)
        promise = np.asarray(0.5 * (half**2 / pivots).sum(0))
        upper, pivots = _eliminated(hessian + damping[:, None, None] * np.eye(q))
    rest = np.flatnonzero(~bowl)
    convex = bowl
    if rest.size:
        values, vectors = np.linalg.eigh(hessian[rest])
        size = np.abs(values)
        size = np.maximum(size, 1e-14 * size[:, -1:] + 1e-300)
        along = np.einsum("bij,bi->bj", vectors, slope[rest])
        promise[rest] = 0.5 * (along**2 / size).sum(1)
        damped = size + damping[rest, None]
        convex = bowl.copy()
        convex[rest] = values[:, 0] > -1e-9

    def solve(slope: Floats) -> Floats:
        right = np.where(held, 0.0, slope / scale)
        step = np.empty_like(right)
        if rest.size < batch:
            step = _backward(upper, _forward(upper, pivots, right.T) / pivots).T
        if rest.size:
            along = np.einsum("bij,bi->bj", vectors, right[rest])
            step[rest] = np.einsum("bij,bj->bi", vectors, along / damped)
        return np.asarray(-step / scale)

    return solve(now.slope), promise, convex, solve


def _eliminated(matrix: Floats) -> tuple[Floats, Floats]:
    """Gauss's elimination of symmetric matrices (B, q, q): what is left above the diagonal (q, q, B), pivots (q, B).

    Without exchanges; all pivots are positive for positive definite matrices and for no others.
    """
    left = np.ascontiguousarray(matrix.transpose(1, 2, 0))
    for k in range(len(left) - 1):
        row = left[k, k + 1 :]
        left[k + 1 :, k + 1 :] -= (row / left[k, k])[:, None] * row
    return left, np.einsum("kkb->kb", left)


def _forward(upper: Floats, pivots: Floats, right: Floats) -> Floats:
    """Right sides (q, B) after the elimination."""
    found = np.array(right, order="C")
    for k in range(len(found) - 1):
        found[k + 1 :] -= upper[k, k + 1 :] * (found[k] / pivots[k])
    return found


def _backward(upper: Floats, eliminated: Floats) -> Floats:
    """Solutions (q, B) from eliminated right sides divided by their pivots, whose array is used."""
    pivots = np.einsum("kkb->kb", upper)
    for k in range(len(eliminated) - 1, 0, -1):
        eliminated[:k] -= upper[:k, k] / pivots[:k] * eliminated[k]
    return eliminated
