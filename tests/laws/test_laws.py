"""The contract of every law, over the table."""

import itertools

import numpy as np
import pytest
from law_points import grid_points
from numpy.testing import assert_allclose

from scalectl.core.errors import UsageError
from scalectl.core.rows import Points
from scalectl.fit.estimate import Status, fit
from scalectl.fit.objective import LOG_MSE, MSE, Huber
from scalectl.fit.problem import pose
from scalectl.laws import LAWS, default_laws, law_on, varying
from scalectl.laws.law import complex_step

# Beside the example of each law three surfaces for the sums of powers: symmetric, Hoffmann's, and one axis that matters
# three times as much as the other.
SURFACES = {
    "symmetric": {"E": 1.7, "A": 400.0, "alpha": 0.3, "B": 400.0, "beta": 0.3},
    "published": {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28},
    "lopsided": {"E": 1.2, "A": 2.0e4, "alpha": 0.6, "B": 60.0, "beta": 0.2},
}
TRUTHS = [(name, "example") for name in LAWS] + list(
    itertools.product(("power", "power+constant", "chinchilla"), SURFACES)
)


def own(law, surface="example"):
    return dict(law.example) if surface == "example" else {name: SURFACES[surface][name] for name in law.names}


def draw_inside(law, points, rng):
    """Parameters anywhere inside the bounds that a fit to these points would keep to."""
    problem = pose(law, points, MSE)
    low, high = np.maximum(problem.low, -30.0), np.minimum(problem.high, 30.0)
    return problem.theta(rng.uniform(low, high)[None])


@pytest.mark.parametrize("objective", [Huber(), MSE, LOG_MSE], ids=str)
@pytest.mark.parametrize(("name", "surface"), TRUTHS)
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
    points = grid_points(law, own(law))
    centred = pose(law, points, MSE).centred
    for _ in range(200):
        value = law.predict(draw_inside(law, points, rng), centred)
        assert np.isfinite(value).all()
        assert law.measures == "score" or (value > 0).all()


@pytest.mark.parametrize("name", LAWS)
def test_slopes_equal_a_complex_step_and_second_derivatives_their_differences(name):
    law = LAWS[name]
    theta = {key: np.array([[value], [1.1 * value]]) for key, value in own(law).items()}
    places = grid_points(law, own(law))
    value, first, second = law.derivatives(theta, places)
    value_, first_, second_ = complex_step(law.predict, law.names)(theta, places)
    assert_allclose(value, value_, rtol=1e-13)
    assert set(first) == set(law.names)
    for key in law.names:
        scale = np.abs(first_[key]).max()
        assert_allclose(
            np.broadcast_to(first[key], value.shape), first_[key], rtol=1e-12, atol=1e-14 * scale
        )  # reached: 1.3e-15
    assert set(second) <= set(second_)
    for pair, expected in second_.items():
        found = np.broadcast_to(second.get(pair, 0.0), value.shape)
        scale = np.abs(first_[pair[0]]).max() / np.abs(theta[pair[1]]).max()
        # differences know 8 digits: reached 6e-9 of the scale
        assert_allclose(found, expected, rtol=1e-7, atol=1e-8 * max(np.abs(expected).max(), scale))


@pytest.mark.parametrize("name", LAWS)
def test_the_linear_parts_of_a_law_add_up_to_it(name):
    law = LAWS[name]
    if law.basis is None:
        assert all(p.grid for p in law.parameters)
        return
    theta = own(law)
    places = grid_points(law, theta)
    nonlinear = {p.name: theta[p.name] for p in law.parameters if p.grid}
    powers = law.power(nonlinear) if law.power is not None else {}
    columns = law.basis(nonlinear, places)
    assert set(columns) == set(law.names) - set(nonlinear)
    total = sum(theta[key] ** powers.get(key, 1.0) * column for key, column in columns.items())
    target, slope = law.link(nonlinear, places.L) if law.link is not None else (places.L, np.ones(len(places)))
    error = np.abs(total / target - 1)
    assert np.median(error) < 0.1 if law.rough else error.max() < 1e-12
    if law.link is not None:
        step = 1e-6
        bent = (law.link(nonlinear, places.L + step)[0] - law.link(nonlinear, places.L - step)[0]) / (2 * step)
        assert_allclose(slope, bent, rtol=1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_a_change_of_units_changes_parameters_and_no_prediction(name):
    law = LAWS[name]
    theta = own(law)
    places = grid_points(law, theta)
    problem = pose(law, places, MSE)
    scaled = law.rescale(theta, {axis: 1 / unit for axis, unit in problem.units.items()})
    assert_allclose(law.predict(scaled, problem.centred), law.predict(theta, places), rtol=1e-11)
    back = law.rescale(scaled, problem.units)
    assert_allclose(list(back.values()), list(theta.values()), rtol=1e-11)


@pytest.mark.parametrize("axis", ["N", "D", "C"])
@pytest.mark.parametrize("name", ["power", "power+constant"])
def test_a_law_of_one_axis_runs_along_any(name, axis):
    law = law_on(name, (axis,))
    assert law.axes == (axis,)
    assert f"/{axis}^" in law.formula
    theta = own(law)
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
        ({"N": [1, 2, 3], "D": [1, 2, 4]}, ("N", "D"), ["chinchilla", "kaplan"]),
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
    with pytest.raises(UsageError, match="chinchila") as refused:
        law_on("chinchila", ("N", "D"))
    assert refused.value.remedy == "did you mean chinchilla?"
    with pytest.raises(UsageError):
        law_on("broken:9", ("N",))
