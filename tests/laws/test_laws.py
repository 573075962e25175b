"""The contract of every law, over the table."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from scalectl.core.rows import Points
from scalectl.fit.estimate import Status, fit
from scalectl.fit.objective import LOG_MSE, MSE, Huber
from scalectl.laws import LAWS, default_laws, law_on, varying, where
from scalectl.laws.law import complex_step

# Three surfaces: symmetric, Hoffmann's, and one axis that matters three times as much as the other.
SURFACES = {
    "symmetric": {"E": 1.7, "A": 400.0, "alpha": 0.3, "B": 400.0, "beta": 0.3},
    "published": {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28},
    "lopsided": {"E": 1.2, "A": 2.0e4, "alpha": 0.6, "B": 60.0, "beta": 0.2},
}


def grid_points(law, theta):
    """Seven sizes by seven budgets (seven places for a law of one axis), without noise."""
    N, D = (values.ravel() for values in np.meshgrid(np.geomspace(4e7, 1e10, 7), np.geomspace(1e9, 4e11, 7)))
    places = where(N=N, D=D, C=6 * N * D)
    return Points(L=np.asarray(law.predict(theta, places)), N=places.N, D=places.D, C=places.C)


def own(law, surface):
    return {name: SURFACES[surface][name] for name in law.names}


@pytest.mark.parametrize("objective", [Huber(), MSE, LOG_MSE], ids=str)
@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("name", LAWS)
def test_a_law_recovers_its_own_parameters_from_noise_free_data(name, surface, objective):
    law = LAWS[name]
    theta = own(law, surface)
    fitted = fit(law, grid_points(law, theta), objective)
    assert fitted.status is Status.CONVERGED
    assert_allclose([fitted.theta[k] for k in theta], list(theta.values()), rtol=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_finite_and_positive_inside_its_bounds(name):
    law = LAWS[name]
    rng = np.random.default_rng(0)
    places = grid_points(law, own(law, "published"))
    centred = where(**{axis: places.axis(axis) / np.exp(np.log(places.axis(axis)).mean()) for axis in law.axes})
    for _ in range(200):
        theta = {}
        for p in law.parameters:
            low = max(p.low, 1e-6)
            high = min(p.high, 1e6)
            theta[p.name] = (
                np.exp(rng.uniform(np.log(low), np.log(high))) if p.scale == "log" else rng.uniform(low, high)
            )
        value = law.predict(theta, centred)
        assert np.isfinite(value).all()
        assert (value > 0).all()


@pytest.mark.parametrize("name", LAWS)
def test_slopes_equal_a_complex_step_and_second_derivatives_their_differences(name):
    law = LAWS[name]
    theta = {key: np.array([[value], [1.1 * value]]) for key, value in own(law, "published").items()}
    places = grid_points(law, own(law, "published"))
    value, first, second = law.derivatives(theta, places)
    value_, first_, second_ = complex_step(law.predict, law.names)(theta, places)
    assert_allclose(value, value_, rtol=1e-14)
    assert set(first) == set(law.names)
    for key in law.names:
        assert_allclose(np.broadcast_to(first[key], value.shape), first_[key], rtol=1e-12)
    assert set(second) <= set(second_)
    for pair, expected in second_.items():
        found = np.broadcast_to(second.get(pair, 0.0), value.shape)
        assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max() + 1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_the_sum_of_its_linear_parts(name):
    law = LAWS[name]
    theta = own(law, "lopsided")
    places = grid_points(law, theta)
    nonlinear = {p.name: theta[p.name] for p in law.parameters if p.grid}
    total = sum(theta[key] * column for key, column in law.basis(nonlinear, places).items())
    assert_allclose(total, law.predict(theta, places), rtol=1e-14)


@pytest.mark.parametrize("name", LAWS)
def test_a_change_of_units_changes_parameters_and_no_prediction(name):
    law = LAWS[name]
    theta = own(law, "published")
    places = grid_points(law, theta)
    units = {axis: unit for axis, unit in {"N": 1e9, "D": 2e10}.items() if axis in law.axes}
    scaled = where(**{axis: places.axis(axis) / units.get(axis, 1.0) for axis in law.axes})
    natural = law.rescale(theta, units)
    assert_allclose(law.predict(natural, places), law.predict(theta, scaled), rtol=1e-12)
    back = law.rescale(natural, {axis: 1 / unit for axis, unit in units.items()})
    assert_allclose(list(back.values()), list(theta.values()), rtol=1e-12)


@pytest.mark.parametrize("axis", ["N", "D", "C"])
@pytest.mark.parametrize("name", ["power", "power+constant"])
def test_a_law_of_one_axis_runs_along_any(name, axis):
    law = law_on(name, (axis,))
    assert law.axes == (axis,)
    assert f"/{axis}^" in law.formula
    theta = own(law, "published")
    fitted = fit(law, grid_points(law, theta))
    assert_allclose([fitted.theta[k] for k in theta], list(theta.values()), rtol=1e-9)


def points(**axes):
    n = len(next(iter(axes.values())))
    return Points(L=np.linspace(4, 3, n), **{name: np.array(values, dtype=float) for name, values in axes.items()})


@pytest.mark.parametrize(
    ("axes", "expected", "laws"),
    [
        ({"N": [1, 2, 3], "D": [5, 5, 5], "C": [30, 60, 90]}, ("N",), ["power", "power+constant"]),
        ({"N": [7, 7, 7], "D": [1, 2, 3]}, ("D",), ["power", "power+constant"]),
        ({"N": [1, 2, 3], "D": [1, 2, 4]}, ("N", "D"), ["chinchilla"]),
        ({"C": [1, 2, 3]}, ("C",), ["power", "power+constant"]),
        ({"N": [1, 1], "D": [2, 2]}, (), ["power", "power+constant"]),
        ({"N": [1, 2, 3], "D": [1382400, 1382400, 1380096]}, ("N",), ["power", "power+constant"]),
    ],
)
def test_default_laws_follow_from_the_axes_that_vary(axes, expected, laws):
    given = points(**axes)
    assert varying(given) == expected
    assert [law.name for law in default_laws(given)] == laws
    if len(expected) == 1:
        assert all(law.axes == expected for law in default_laws(given))


def test_an_unknown_parameter_or_law_names_what_is_there():
    with pytest.raises(KeyError, match="E, A, alpha, B, beta"):
        LAWS["chinchilla"].parameter("gamma")
    with pytest.raises(KeyError):
        law_on("chinchila", ("N", "D"))
