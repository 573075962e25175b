"""A fall is told from scatter, whatever the scatter is."""

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from scalectl.emergence.curve import curve_of, dispersion, simulate
from scalectl.emergence.falls import fall, turned
from scalectl.emergence.shapes import deviance

K = 8
N = np.geomspace(1e6, 10**9.5, K)
ITEMS = np.full(K, 500.0)
UP_AND_DOWN = np.r_[0.25, 0.3, 0.5, 0.8, 0.75, 0.5, 0.3, 0.25]
DOWN_AND_UP = np.r_[0.6, 0.45, 0.35, 0.3, 0.35, 0.5, 0.7, 0.85]


def fallen(curve, rng):
    return fall(curve, float(dispersion(curve.score[None], curve.items)[0]), rng)


@pytest.mark.parametrize("items", [ITEMS, None], ids=["items", "no items"])
@pytest.mark.parametrize("phi", [4.0, 40.0])
def test_scatter_is_no_fall(phi, items):
    # an error taken from a curve with one turn called 21 to 48 % of such curves a fall
    rng = np.random.default_rng(0)
    found = [fallen(curve_of(N, simulate(np.full(K, 0.25), ITEMS, phi, 1, rng)[0], items), rng) for _ in range(40)]
    assert sum(held is not None for held in found) <= 3


@pytest.mark.parametrize("items", [ITEMS, None], ids=["items", "no items"])
@pytest.mark.parametrize("truth", [UP_AND_DOWN, np.linspace(0.9, 0.2, K)], ids=["up and down", "down"])
def test_a_fall_is_found_and_put_where_it_is(truth, items):
    rng = np.random.default_rng(1)
    found = [fallen(curve_of(N, simulate(truth, ITEMS, 1.0, 1, rng)[0], items), rng) for _ in range(10)]
    held = [one for one in found if one is not None]
    assert len(held) >= 7
    assert all(abs(one.top - truth.argmax()) <= 1 and one.bottom == K - 1 for one in held)
    assert all(one.high - one.low == pytest.approx(np.ptp(truth), abs=0.15) and one.p_value <= 0.01 for one in held)


def test_seeds_tell_a_dip_that_one_run_cannot():
    rng = np.random.default_rng(2)
    seeds = simulate(DOWN_AND_UP, ITEMS, 1.0, 5, rng)
    curve = curve_of(np.tile(N, 5), seeds.ravel(), np.tile(ITEMS, 5), seed=np.repeat(range(5), K))
    found = fallen(curve, rng)
    assert (found.top, found.bottom) == (0, 3)
    assert (found.high, found.low) == pytest.approx((0.6, 0.3), abs=0.03)


def test_a_small_fall_is_not_worth_a_test():
    score = np.r_[0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.55, 0.51]
    assert fallen(curve_of(N, score, np.full(K, 1e5)), np.random.default_rng(0)) is None


def test_the_best_curve_with_a_turn_is_that_of_pool_adjacent_violators_at_every_turn():
    rng = np.random.default_rng(3)
    score, items = rng.random((20, 6)), rng.integers(10, 500, 6).astype(float)

    def least(y):
        parts = [
            np.r_[
                isotonic_regression(y[:turn], weights=items[:turn], increasing=up).x,
                isotonic_regression(y[turn:], weights=items[turn:], increasing=not up).x if turn < 6 else [],
            ]
            for turn in range(1, 7)
            for up in (True, False)
        ]
        return min(float(deviance(y, items, part)) for part in parts)

    found, curves = turned(score, items)
    assert found == pytest.approx([least(y) for y in score])
    assert deviance(score, items, curves) == pytest.approx(found)
