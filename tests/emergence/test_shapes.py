"""The batched fits find what a general optimiser finds, and the isotonic fit is the known one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression, minimize

from scalectl.emergence import shapes

X = np.linspace(6, 9.5, 8)
ITEMS = np.array([500.0, 500, 120, 500, 60, 500, 500, 500])


def drawn(p, seed=0, count=20):
    return np.random.default_rng(seed).binomial(ITEMS.astype(int), p, (count, len(X))) / ITEMS


SCORES = {
    "jump": drawn(0.25 + 0.6 / (1 + np.exp(-(X - 7.9) / 0.1))),
    "from nothing to everything": drawn(np.clip((X - 7.5) / 0.8, 0, 1)),
    "flat": drawn(np.full(8, 0.4)),
    "falling": drawn(np.linspace(0.9, 0.2, 8)),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("family", [shapes.linear, shapes.smooth, shapes.breaks])
def test_the_best_curve_is_the_one_that_a_general_optimiser_finds(name, family):
    rises = family(X)
    for score in SCORES[name][:3]:
        found = shapes.best(rises, score[None], ITEMS)
        near = np.unique(np.r_[found.index[0], np.argsort(shapes.every(rises, score[None], ITEMS)[0][0])[:4]])

        def worse(z, s, score=score):
            low, high = z[0], max(z)
            return float(shapes.deviance(score, ITEMS, low + (high - low) * s))

        least = min(
            minimize(worse, start, (rises.values[g],), bounds=[(1e-4, 1 - 1e-4)] * 2, method="Nelder-Mead").fun
            for g in near
            for start in ([0.2, 0.8], [0.4, 0.45], [0.01, 0.99])
        )
        assert found.deviance[0] <= least + 0.02
        assert float(shapes.deviance(score, ITEMS, found.predicted(rises)[0])) == pytest.approx(found.deviance[0])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("family", [shapes.smooth, shapes.breaks])
def test_choosing_by_least_squares_first_loses_nothing(name, family):
    rises = family(X)
    all_of_them = shapes.every(rises, SCORES[name], ITEMS)[0].min(1)
    assert np.max(shapes.best(rises, SCORES[name], ITEMS).deviance - all_of_them) < 0.05


def test_a_curve_that_falls_is_best_met_by_a_flat_one():
    score = SCORES["falling"]
    found = shapes.best(shapes.linear(X), score, ITEMS)
    assert found.low == pytest.approx(found.high)
    assert found.low == pytest.approx(score @ ITEMS / ITEMS.sum())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 1000)), min_size=2, max_size=12))
def test_the_isotonic_fit_is_that_of_pool_adjacent_violators(pairs):
    score, items = np.array(pairs).T
    assert shapes.isotonic(score[None], items)[0] == pytest.approx(isotonic_regression(score, weights=items).x)
