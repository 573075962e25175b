"""A law for two arms: its gain is what the second arm saves, and its derivatives are exact."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from scalectl.core.rows import Points
from scalectl.fit.estimate import fit
from scalectl.laws import LAWS
from scalectl.laws.gain import ARM, with_gain
from scalectl.laws.law import complex_step, where

C = np.geomspace(1e10, 1e13, 6)
ARMS = Points(L=np.full(12, np.nan), C=np.tile(C, 2), columns={ARM: np.repeat([0.0, 1.0], 6)})
TRUTH = {"power": {"A": 20.0, "alpha": 0.08}, "power+constant": {"E": 1.0, "A": 40.0, "alpha": 0.15}}


@pytest.fixture(params=list(TRUTH))
def case(request):
    law = LAWS[request.param].along("C")
    return law, with_gain(law), {**TRUTH[request.param], "gain": 1.7}


def test_the_second_arm_loses_what_the_first_loses_at_gain_times_as_much(case):
    law, both, theta = case
    losses = both.predict(theta, ARMS)
    assert_allclose(losses[:6], law.predict(theta, where(C=C)))
    assert_allclose(losses[6:], law.predict(theta, where(C=1.7 * C)))


def test_derivatives_are_those_of_the_prediction(case):
    _, both, theta = case
    batch = {name: np.array([[value], [1.1 * value]]) for name, value in theta.items()}
    value, first, second = both.derivatives(batch, ARMS)
    other_value, other_first, other_second = complex_step(both.predict, both.names)(batch, ARMS)
    assert_allclose(value, other_value)
    for name in both.names:
        assert_allclose(np.broadcast_to(first[name], value.shape), other_first[name], rtol=1e-12, atol=1e-15)
    for pair, part in other_second.items():
        assert_allclose(second.get(pair, 0.0) * np.ones(value.shape), part, rtol=1e-6, atol=1e-6 * np.abs(part).max())


def test_a_fit_of_exact_points_finds_the_gain(case):
    _, both, theta = case
    points = Points(**{**vars(ARMS), "L": both.predict(theta, ARMS)})
    fitted = fit(both, points)
    assert_allclose(fitted.theta["gain"], 1.7, rtol=1e-12)  # reached: 2e-15
