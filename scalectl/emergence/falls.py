"""Whether a score falls on the way: a curve with one turn against one that never falls, by parametric bootstrap.

Dimensions: B data sets, K places along the axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalectl.core.rows import Floats
from scalectl.emergence.curve import MOST_ITEMS, PRIOR, Curve, over_dispersion, simulate
from scalectl.emergence.shapes import deviance, isotonic

LEAST_FALL = 0.1  # as of a gain (emergence.md)
# Ours. A fall takes the place of every other label, so that one curve in a hundred may be called one for nothing.
FALL_ALPHA = 0.01
FALL_DRAWS = 999


@dataclass(frozen=True)
class Fall:
    """A fall that scatter does not explain: indices of its top and its bottom, scores there, and the p-value."""

    top: int
    bottom: int
    high: float
    low: float
    p_value: float


def fall(curve: Curve, phi: float, rng: np.random.Generator) -> Fall | None:
    """The largest fall of the best curve with one turn; None below LEAST_FALL, or where scatter explains it.

    The statistic is how much of the deviance a turn takes off, over what it leaves, so that its scale is that of the
    scatter, whatever φ is. Its law comes from data simulated at the best curve that never falls, beta-binomial with φ,
    and fitted again: a turn can be put anywhere, and somewhere it always takes off a lot. Where training seeds say how
    much a place scatters, φ is that about the curve with a turn; else about the one that never falls, which takes a
    fall for scatter as long as only its size speaks against that: in a single run, no number tells them apart.
    """
    score, items = curve.score[None], curve.items
    kept = turned(score, items)[1][0]
    drop = np.maximum.accumulate(kept) - kept
    bottom = int(drop.argmax())
    if drop[bottom] < LEAST_FALL:
        return None
    top = int(kept[: bottom + 1].argmax())
    if (curve.fewest_seeds or 1) > 1:
        phi = over_dispersion(score, items, kept[None])[0]
    if not curve.counted:  # a scatter without items is no lattice of few shares
        items, phi = np.full_like(items, MOST_ITEMS), phi * MOST_ITEMS / float(items.min())
    simulated = simulate(isotonic(score, items)[0], items, phi, FALL_DRAWS, rng)
    exceeded = int((_statistic(simulated, items) >= _statistic(score, items)[0]).sum())
    p_value = (1 + exceeded) / (1 + FALL_DRAWS)
    return Fall(top, bottom, float(kept[top]), float(kept[bottom]), p_value) if p_value <= FALL_ALPHA else None


def _statistic(score: Floats, items: Floats) -> Floats:
    left = turned(score, items)[0]
    return np.asarray((deviance(score, items, isotonic(score, items)) - left) / (PRIOR + left))


def turned(score: Floats, items: Floats) -> tuple[Floats, Floats]:
    """Deviance (B,) and scores (B, K) of the best curves that turn at most once, up and then down or down and then up.

    score: (B, K); items: behind each, (K,).
    """
    least, kept = np.full(len(score), np.inf), np.empty_like(score)
    for turn in range(1, score.shape[1] + 1):
        for up in (True, False):
            curve = np.concatenate([_one_way(score[:, :turn], items[:turn], up),
                                    _one_way(score[:, turn:], items[turn:], not up)], axis=1)  # fmt: skip
            found = deviance(score, items, curve)
            better = found < least
            least, kept = np.where(better, found, least), np.where(better[:, None], curve, kept)
    return least, kept


def _one_way(score: Floats, items: Floats, up: bool) -> Floats:
    if not len(items):
        return score
    return isotonic(score, items) if up else -isotonic(-score, items)
