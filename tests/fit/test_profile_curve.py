"""The drawn profile of a parameter: the objective with it held, against its interval."""

import numpy as np
import pytest

from scalectl.core.errors import FitError
from scalectl.core.rows import Points
from scalectl.fit.estimate import fit
from scalectl.fit.objective import Huber
from scalectl.fit.profile import curve, profile, threshold
from scalectl.laws import law_on

POWER = law_on("power", ("N",))


@pytest.fixture(scope="module")
def fitted():
    N = np.repeat(np.geomspace(1e4, 1e7, 7), 3)
    noise = np.random.default_rng(1).normal(0, 0.005, len(N))
    return fit(POWER, Points(L=4 * (N / 1e4) ** -0.1 * np.exp(noise), N=N, size=N))


@pytest.mark.parametrize("name", ["A", "alpha"])
def test_it_is_zero_at_the_estimate_and_one_at_the_ends_of_the_interval(fitted, name):
    held = curve(fitted, name)
    assert held.interval == profile(fitted, name)
    assert (np.diff(held.x) > 0).all()
    at = np.log if held.log else np.asarray
    rise = np.interp(at([held.estimate, *held.interval]), at(held.x), held.rise)
    assert rise == pytest.approx([0, 1, 1], abs=0.03)
    low, high = held.interval
    assert held.x[0] < low < held.estimate < high < held.x[-1]
    sides = held.rise[held.x <= held.estimate], held.rise[held.x >= held.estimate]
    assert (np.diff(sides[0]) < 0).all()
    assert (np.diff(sides[1]) > 0).all()


def test_a_place_is_the_objective_with_the_parameter_fixed_there(fitted):
    held = curve(fitted, "alpha")
    for k in (0, 10, -1):
        other = fit(POWER, fitted.points, Huber(), fix={"alpha": float(held.x[k])})
        rise = (other.value - fitted.value) / Huber().width ** 2 / threshold(fitted, 0.95)
        assert held.rise[k] == pytest.approx(rise, rel=1e-3, abs=1e-4)


def test_an_open_side_is_drawn_and_never_reaches_one():
    N = np.geomspace(1e5, 4e5, 8)
    floored = law_on("power+constant", ("N",))
    noise = np.random.default_rng(0).normal(0, 0.01, 8)
    held = curve(fit(floored, Points(L=(2 + 3 * (N / 1e5) ** -0.2) * np.exp(noise), N=N, size=N)), "E")
    assert held.interval[0] == -np.inf
    assert held.rise[held.x < held.estimate].max(initial=0.0) < 1
    assert np.isfinite(held.rise).all()


def test_without_a_size_to_spare_there_is_no_profile_to_draw():
    N = np.array([1e5, 1e6])
    with pytest.raises(FitError, match="alpha of power has no profile"):
        curve(fit(POWER, Points(L=np.array([4.0, 3.0]), N=N, size=N)), "alpha")
