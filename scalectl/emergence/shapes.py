"""Curves of a score along a log axis, fitted by the binomial likelihood to many data sets at once.

Every curve is p = low + (high - low) s(x) with a fixed rise s from 0 to 1 and 0 <= low <= high <= 1, x = log10 of the
axis. A family is a grid of rises; for each of them the likelihood is concave in (low, high), so that the best of a grid
is the best there is, whatever the start.

Dimensions: B data sets, G rises, K places.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalectl.core.rows import Floats

TEN_TO_NINETY = 2 * math.log(9)  # of a logistic, in units of its scale: from 10 % to 90 % of the rise
ONSET = 2.2  # scales below the middle of a logistic, where it has made a tenth of its rise (emergence.md)

# Widths (10 to 90 %) of logistics, in decades. Source: ours; below .05 a logistic is a step on any grid of sizes, above
# 6 it is a line.
WIDTHS = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2, 1.8, 2.6, 4.0, 6.0)
# Exponents a of the smooth law p = c + (h - c) exp(-A N^-a). Source: Hu et al. 2023 (arXiv 2310.03262); those of
# published losses reach from .05 to .5 (Kaplan et al. 2020, Hoffmann et al. 2022), and a law with a above 1 would be
# no slower than a break: its rise from 10 to 90 % takes 1.34 decades at a = 1.
EXPONENTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
PER_GAP = 4  # middles of a rise between two neighbouring places. Ours; twice as many move no p-value by .01.

_LEAST = 1e-4  # of a probability; keeps the likelihood finite, and no score of a table is that exact
_STEPS = 4  # of Fisher scoring; the deviance of the best then moves by less than 1e-2
_WORTH_A_FIT = 12  # rises; the best of all is among the best dozen of least squares but for .01 of deviance


@dataclass(frozen=True)
class Rises:
    """A family of curves.

    kind: linear, logistic, hinge, step or smooth, of each rise (G,); middle [log10 of the axis] and scale [decades] of
    each, (G,): the place and the scale of a logistic, the knot of a hinge or step (scale 0 for a step, up to the last
    place for a hinge), ln A / a and 1 / a of a smooth law; values: s at the places, (G, K).
    """

    kind: tuple[str, ...]
    middle: Floats
    scale: Floats
    values: Floats

    def __len__(self) -> int:
        return len(self.middle)

    def at(self, index: int, x: Floats) -> Floats:
        """One rise at any x."""
        return rise(self.kind[index], self.middle[index], self.scale[index], x)


@dataclass(frozen=True)
class Best:
    """The best curve of a family for each data set: deviance, low, high and the index of its rise, each (B,)."""

    deviance: Floats
    low: Floats
    high: Floats
    index: npt.NDArray[np.int64]

    def predicted(self, rises: Rises) -> Floats:
        """The curve at the places, (B, K)."""
        s = rises.values[self.index]
        return np.asarray(self.low[:, None] + (self.high - self.low)[:, None] * s)


def rise(kind: str, middle: float | Floats, scale: float | Floats, x: Floats) -> Floats:
    """s(x) of one kind. A hinge is 0 up to its knot and 1 at one scale above it."""
    if kind == "step":
        return np.asarray((x > middle).astype(np.float64))
    z = (x - middle) / scale
    if kind in ("hinge", "linear"):
        return np.asarray(np.maximum(0.0, z))
    if kind == "logistic":
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -60, 60))))
    return np.asarray(np.exp(-np.exp(np.clip(-z, -60, 60))))  # smooth


def linear(x: Floats) -> Rises:
    """Flat and linear in x, which is one family: a flat curve has low = high."""
    return _rises([("linear", float(x[0]), float(x[-1] - x[0]))], x)


def smooth(x: Floats) -> Rises:
    """The smooth law, with its top h free: wrong labels end a rise below 1."""
    per = math.log(10)
    members: list[tuple[str, float, float]] = []
    for a in EXPONENTS:
        # where the law has not begun at the last place, or is over at the first, it is a constant
        middles = np.arange(x[0] - 1.0 / a, x[-1] + 0.6 / a + 1e-9, max(0.1, 0.12 / a))
        members += [("smooth", float(middle), 1 / (a * per)) for middle in middles]
    return _rises(members, x)


def breaks(x: Floats, per_gap: int = PER_GAP, widths: Iterable[float] = WIDTHS) -> Rises:
    """Logistics with free asymptotes, hinges and steps."""
    middles = between(x, per_gap)
    members = [("logistic", float(m), width / TEN_TO_NINETY) for width in widths for m in middles]
    members += [("hinge", float(m), float(x[-1] - m)) for m in middles if m < x[-2] + 1e-9]
    members += [("step", float(m), 0.0) for m in (x[1:] + x[:-1]) / 2]
    return _rises(members, x)


def between(x: Floats, per_gap: int) -> Floats:
    """Places between neighbours, `per_gap` in each gap, ends included."""
    return np.interp(np.arange((len(x) - 1) * per_gap + 1) / per_gap, np.arange(len(x)), x)


def _rises(members: Iterable[tuple[str, float, float]], x: Floats) -> Rises:
    held = list(members)
    values = np.stack([rise(kind, middle, scale or 1.0, x) for kind, middle, scale in held])
    return Rises(
        tuple(kind for kind, _, _ in held),
        np.array([middle for _, middle, _ in held]),
        np.array([scale for _, _, scale in held]),
        values,
    )


def deviance(score: Floats, items: Floats, predicted: Floats) -> Floats:
    """2 Σ n [y ln(y / p) + (1 - y) ln((1 - y) / (1 - p))] over the last axis."""
    p = np.clip(predicted, _LEAST, 1 - _LEAST)
    return np.asarray(2 * (items * (_entropy(score) - score * np.log(p) - (1 - score) * np.log1p(-p))).sum(-1))


def _entropy(y: Floats) -> Floats:
    inside = np.clip(y, 1e-300, 1)
    outside = np.clip(1 - y, 1e-300, 1)
    return np.asarray(y * np.log(inside) + (1 - y) * np.log(outside))


def best(rises: Rises, score: Floats, items: Floats) -> Best:
    """The best curve of a family for each data set.

    Least squares, with weights from the scores themselves, choose the rises that are worth a fit.
    Args: score: shares of right answers (B, K); items: behind each, (K,).
    """
    s_GK = rises.values
    t_GK = 1 - s_GK
    weight_BK, start = _start(s_GK, score, items)
    low, high = start
    square = (
        weight_BK @ (t_GK**2).T * low**2
        + 2 * (weight_BK @ (t_GK * s_GK).T) * low * high
        + weight_BK @ (s_GK**2).T * high**2
        - 2 * ((weight_BK * score) @ t_GK.T * low + (weight_BK * score) @ s_GK.T * high)
    )
    weighed = weight_BK.sum(1, keepdims=True)
    square = np.where(low > high, -((weight_BK * score).sum(1, keepdims=True) ** 2) / weighed, square)  # flat at best
    rows = np.arange(len(score))[:, None]
    few = min(_WORTH_A_FIT, len(rises))
    kept = np.argpartition(square, few - 1, axis=1)[:, :few] if few < len(rises) else np.arange(len(rises))[None, :]
    found, low, high = _score(s_GK[kept], score, items, (low[rows, kept], high[rows, kept]))
    index = found.argmin(1)
    rows = rows[:, 0]
    return Best(
        found[rows, index], low[rows, index], high[rows, index], np.broadcast_to(kept, found.shape)[rows, index]
    )


def every(rises: Rises, score: Floats, items: Floats) -> tuple[Floats, Floats, Floats]:
    """Deviance, low and high of every rise of a family, each (B, G)."""
    return _score(rises.values[None], score, items, _start(rises.values, score, items)[1])


def _start(s_GK: Floats, score: Floats, items: Floats) -> tuple[Floats, tuple[Floats, Floats]]:
    """Weights (B, K) from the scores themselves, halfway to their mean, and what least squares make of them."""
    t_GK = 1 - s_GK
    spread = np.clip(0.5 * score + 0.5 * (score @ items / items.sum())[:, None], 0.02, 0.98)
    weight_BK = items / (spread * (1 - spread))
    return weight_BK, _solve(
        (weight_BK @ (t_GK**2).T, weight_BK @ (t_GK * s_GK).T, weight_BK @ (s_GK**2).T),
        ((weight_BK * score) @ t_GK.T, (weight_BK * score) @ s_GK.T),
    )


def _score(s_BGK: Floats, score: Floats, items: Floats, start: tuple[Floats, Floats]) -> tuple[Floats, Floats, Floats]:
    """Fisher scoring inside the box; the identity link makes the likelihood concave in low and high."""
    low, high = start
    t_BGK = 1 - s_BGK
    y = score[:, None, :]
    for _ in range(_STEPS):
        p_BGK = low[:, :, None] * t_BGK + high[:, :, None] * s_BGK
        weight = items / (p_BGK * (1 - p_BGK))
        tw, sw = weight * t_BGK, weight * s_BGK
        low, high = _solve(
            (
                np.einsum("bgk,bgk->bg", tw, np.broadcast_to(t_BGK, tw.shape)),
                np.einsum("bgk,bgk->bg", tw, np.broadcast_to(s_BGK, tw.shape)),
                np.einsum("bgk,bgk->bg", sw, np.broadcast_to(s_BGK, tw.shape)),
            ),
            (np.einsum("bgk,bk->bg", tw, score), np.einsum("bgk,bk->bg", sw, score)),
        )
    mean_B1 = np.clip((score @ items / items.sum())[:, None], _LEAST, 1 - _LEAST)
    falls = low > high  # the best that does not fall is flat
    low, high = np.where(falls, mean_B1, low), np.where(falls, mean_B1, high)
    predicted = low[:, :, None] * t_BGK + high[:, :, None] * s_BGK
    return deviance(y, items, predicted), low, high


def _solve(curvature: tuple[Floats, Floats, Floats], pull: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Weighted least squares for low and high, each inside [0, 1]."""
    a, b, c = curvature
    u, v = pull
    first, last = _LEAST, 1 - _LEAST
    some_a, some_c = a + 1e-9 * c + 1e-300, c + 1e-9 * a + 1e-300
    determinant = some_a * some_c - b * b + 1e-300
    low, high = (c * u - b * v) / determinant, (a * v - b * u) / determinant
    outside = (low < first) | (low > last) | (high < first) | (high > last)
    low_1 = np.clip(low, first, last)  # one at its end, the other as it then is best
    high_1 = np.clip((v - b * low_1) / some_c, first, last)
    high_2 = np.clip(high, first, last)
    low_2 = np.clip((u - b * high_2) / some_a, first, last)
    one = a * low_1**2 + 2 * b * low_1 * high_1 + c * high_1**2 - 2 * (u * low_1 + v * high_1)
    two = a * low_2**2 + 2 * b * low_2 * high_2 + c * high_2**2 - 2 * (u * low_2 + v * high_2)
    better = one <= two
    return (
        np.where(outside, np.where(better, low_1, low_2), low),
        np.where(outside, np.where(better, high_1, high_2), high),
    )


def isotonic(score: Floats, items: Floats) -> Floats:
    """The best curves that never fall, (B, K) from scores (B, K) and items (K,).

    Source: the max-min formula of Robertson, Wright and Dykstra 1988, which is the same for the binomial likelihood.
    """
    zero = np.zeros((len(score), 1))
    sums = np.concatenate([zero, np.cumsum(score * items, axis=1)], axis=1)
    counts = np.concatenate([[0.0], np.cumsum(items)])
    K = len(items)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (sums[:, None, 1:] - sums[:, :-1, None]) / (counts[None, 1:] - counts[:-1, None])  # [j, k]: j .. k
    mean = np.where(np.arange(K)[:, None] <= np.arange(K), mean, np.inf)
    least = np.minimum.accumulate(mean[:, :, ::-1], axis=2)[:, :, ::-1]  # min over k >= i
    least = np.where(np.arange(K)[:, None] <= np.arange(K), least, -np.inf)
    return np.asarray(least.max(axis=1))
