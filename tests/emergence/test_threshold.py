"""Brackets, midpoints and widths of known jumps."""

import math

import numpy as np
import pytest

from scalectl.emergence.curve import curve_of
from scalectl.emergence.detector import detect
from scalectl.emergence.shapes import TEN_TO_NINETY, rise
from scalectl.emergence.threshold import first_above, wilson

N = np.geomspace(1e6, 10**9.5, 15)
X = np.log10(N)
ITEMS = np.full(15, 2000.0)


def found(score, place=N, items=ITEMS):
    return detect([curve_of(place, score, items, chance=0.25)], np.random.default_rng(0), draws=200)[0]


def test_a_jump_is_put_where_it_is_and_as_wide_as_it_is():
    truth = 0.25 + 0.6 * rise("logistic", 7.8, 0.8 / TEN_TO_NINETY, X)
    where = found(truth).threshold
    assert where.midpoint == pytest.approx(10**7.8, rel=0.05)
    assert where.interval[0] < 10**7.8 < where.interval[1] < 1.6 * where.interval[0]
    assert where.width == pytest.approx(0.8, abs=0.15)
    assert where.resolved
    assert where.bracket == (N[5], N[6])  # .29 and .32 at 10^7.25 and 10^7.5


def test_a_jump_inside_a_gap_is_as_wide_as_the_gap_and_anywhere_in_it():
    score = np.where(np.arange(15) < 7, 0.25, 0.85)
    where = found(score).threshold
    assert where.bracket == (N[6], N[7])
    assert where.width == pytest.approx(0.25)
    assert not where.resolved
    assert where.interval[0] == pytest.approx(N[6], rel=0.1)
    assert where.interval[1] == pytest.approx(N[7], rel=0.1)


def test_of_an_edge_only_a_lower_bound_is_known():
    where = found(np.where(np.arange(15) < 14, 0.25, 0.85)).threshold
    assert where.bracket == (N[13], N[14])
    assert math.isnan(where.midpoint)
    assert where.interval[0] == N[13]
    assert math.isnan(where.interval[1])


def test_a_dip_below_the_floor_moves_the_bracket_beyond_it():
    score = np.where(np.arange(15) < 7, 0.25, 0.85)
    score[9] = 0.31
    curve = curve_of(N, score, np.full(15, 100.0), chance=0.25)
    assert first_above(curve, 1.0) == 10


def test_bounds_are_those_of_wilson():
    low, high = wilson(np.array([0.0, 0.5, 1.0]), np.array([10.0, 20.0, 10.0]), 0.975)
    # Newcombe 1998 (Statistics in Medicine 17), method 3
    assert low == pytest.approx([0, 0.2993, 0.7225], abs=1e-4)
    assert high == pytest.approx([0.2775, 0.7007, 1], abs=1e-4)
