"""What `fit` refuses, what it says when the data do not determine a law, and the machinery beneath it."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_points import grid_points
from numpy.testing import assert_allclose

from scalectl.core.errors import FitError, UsageError
from scalectl.core.rows import Points
from scalectl.fit.estimate import Status, fit, nonnegative_least_squares, refit
from scalectl.fit.newton import Local, minimise
from scalectl.fit.objective import LAD, LOG_MSE, MSE, Asymmetric, Huber, parse_objective
from scalectl.fit.problem import pose
from scalectl.laws import LAWS, law_on, where

SIZES = np.array([2e3, 8e3, 3.2e4, 1.3e5, 5e5])


def ladder(noise=0.004, seeds=3, alpha=0.08, E=0.0, rng=0, sizes=SIZES):
    """Sizes by seeds at one token budget: L = E + A / N^alpha with log noise."""
    rng = np.random.default_rng(rng)
    N = np.repeat(sizes, seeds)
    L = (E + 4.5 * N**-alpha) * np.exp(noise * rng.standard_normal(len(N)))
    return Points(L=L, N=N, D=np.full(len(N), 1.4e6), size=N, seed=np.tile(np.arange(seeds), len(sizes)))


def surface(n=6, noise=0.004, rng=0):
    rng = np.random.default_rng(rng)
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, n), np.geomspace(1e8, 1e11, n)))
    L = (1.7 + 400 / N**0.34 + 410 / D**0.28) * np.exp(noise * rng.standard_normal(len(N)))
    return Points(L=L, N=N, D=D, size=N)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("huber:1e-3", Huber(1e-3)), ("huber", Huber(1e-3)), ("huber:0.1", Huber(0.1)), ("lad", LAD), ("mse", MSE),
     ("log-mse", LOG_MSE), ("asym", Asymmetric(4.0)), ("asym:9", Asymmetric(9.0)),
     ("asym:2:0.1", Asymmetric(2.0, 0.1))],
)  # fmt: skip
def test_an_objective_is_read_from_its_flag(text, expected):
    assert parse_objective(text) == expected
    assert parse_objective(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "huber:",
        "huber:zero",
        "huber:0",
        "huber:-1",
        "huber:nan",
        "l2",
        "asym:",
        "asym:0",
        "asym:x",
        "asym:2:0",
        "mse:3",
        "",
    ],
)
def test_an_objective_that_means_nothing_is_refused(text):
    with pytest.raises(UsageError):
        parse_objective(text)


def test_huber_is_square_inside_and_absolute_beyond():
    residual = np.array([0.5e-3, -1e-3, 4e-3])
    expected = 0.5 * 0.25e-6 + 0.5e-6 + 1e-3 * (4e-3 - 0.5e-3)
    assert_allclose(Huber(1e-3).value(residual), expected, rtol=1e-12)
    assert_allclose(Huber(1e-3).value(residual, np.array([2.0, 0.0, 0.0])), 0.25e-6, rtol=1e-12)
    assert_allclose(LAD.value(residual), 5.5e-3)
    assert_allclose(LOG_MSE.value(residual, np.array([0.0, 1.0, 1.0])), (1e-6 + 16e-6) / 2)


@pytest.mark.parametrize("objective", [Huber(), Huber(0.1), LAD, MSE, LOG_MSE, Asymmetric(4.0, 0.1)], ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_slope_and_curvature_of_the_objective_equal_differences(name, objective):
    law = LAWS[name]
    points = grid_points(law, law.example, noise=0.004)
    problem = pose(law, points, objective)
    z = problem.coordinates({key: 1.02 * value for key, value in law.example.items()})
    # A wide Huber has no kink near these residuals' neighbourhood, so that differences see what calculus does.
    width = 0.5 if np.isfinite(objective.width) else np.inf
    evaluate = problem.evaluator(np.ones(len(points)), points.L, width)
    here = evaluate(z, np.arange(1))
    step = 1e-6
    for k in range(z.shape[1]):
        nudge = step * np.eye(z.shape[1])[k]
        up, down = evaluate(z + nudge, np.arange(1)), evaluate(z - nudge, np.arange(1))
        scale = np.abs(here.slope).max()
        assert abs(here.slope[0, k] - (up.value - down.value)[0] / (2 * step)) < 1e-6 * scale
        bend = (up.slope - down.slope)[0] / (2 * step)
        assert_allclose(here.curvature[0, k], bend, atol=1e-5 * np.abs(here.curvature).max() + 1e-9 * scale)


def test_newton_ends_at_the_minimum_in_the_box_from_both_sides_of_a_saddle():
    def evaluate(z, rows):  # (x² - 1)² + y², minima at ±1; a box cuts one off at 0.5
        x, y = z.T
        curvature = np.zeros((len(z), 2, 2))
        curvature[:, 0, 0], curvature[:, 1, 1] = 12 * x**2 - 4, 2
        slope = np.stack([4 * x * (x**2 - 1), 2 * y], axis=1)
        return Local((x**2 - 1) ** 2 + y**2, slope, curvature, np.full((len(z), 2), 2.0))

    start = np.array([[0.1, 1.0], [-0.1, -1.0], [0.2, 3.0]])
    high = np.array([[2.0, 5.0], [2.0, 5.0], [0.5, 5.0]])
    ended = minimise(evaluate, start, np.full((3, 2), -5.0), high)
    assert ended.settled.all()
    assert_allclose(ended.z, [[1, 0], [-1, 0], [0.5, 0]], atol=1e-9)


@pytest.mark.parametrize("name", ["chinchilla", "broken", "kaplan"])
def test_problems_solved_together_end_where_each_ends_alone(name):
    # Many are solved by elimination and in pieces, one by eigenvalues.
    law = LAWS[name]
    points = grid_points(law, law.example, noise=0.004)
    fitted = fit(law, points)
    weights = np.random.default_rng(0).multinomial(len(points), np.full(len(points), 1 / len(points)), 60).astype(float)
    together, settled = refit(fitted, weights)
    alone = [refit(fitted, weights[k : k + 1]) for k in range(len(weights))]
    assert (settled == [one[1][0] for one in alone]).mean() > 0.95
    objective = fitted.objective

    def values(theta):
        predicted = law.predict(dict(zip(law.names, theta.T[:, :, None], strict=True)), points)
        return objective.value(objective.residual(predicted, points.L), weights)

    both = settled & [one[1][0] for one in alone]
    assert both.mean() > 0.8
    assert_allclose(values(together)[both], values(np.concatenate([one[0] for one in alone]))[both], rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_nonnegative_least_squares_beats_every_feasible_neighbour(seed, k):
    rng = np.random.default_rng(seed)
    columns = rng.standard_normal((3, k, 12))
    target = rng.standard_normal((3, 12))
    x = nonnegative_least_squares(columns, target)
    assert (x >= 0).all()
    rest = ((np.einsum("bk,bkn->bn", x, columns) - target) ** 2).sum(1)
    slope = 2 * np.einsum("bkn,bn->bk", columns, np.einsum("bk,bkn->bn", x, columns) - target)
    # Karush-Kuhn-Tucker: no slope where a part is used, none that helps where it is not.
    assert_allclose(slope[x > 0], 0, atol=1e-7)
    assert (slope[x == 0] >= -1e-7).all()
    assert (rest <= (target**2).sum(1) + 1e-12).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0, 1e300, 1e-300])
@pytest.mark.parametrize("column", ["L", "N"])
def test_a_point_that_is_not_finite_and_positive_is_refused_and_named(column, value):
    points = ladder()
    getattr(points, column)[4] = value
    with pytest.raises(FitError, match=r"1 of 15 points has no usable .* the first is row 5"):
        fit(LAWS["power"], points)


@pytest.mark.parametrize(
    ("name", "sizes", "message", "remedy"),
    [
        ("power", [1e4], "at least 2 distinct values of N", "add sizes,"),
        ("power+constant", [1e4, 2e4], "at least 3 distinct values of N", "add sizes,"),
        ("chinchilla", SIZES, "at least 3 distinct values of D", "add token budgets .* or fit each D with --by D"),
    ],
)
def test_points_that_cannot_determine_a_law_are_refused_with_what_to_add(name, sizes, message, remedy):
    with pytest.raises(FitError, match=message) as refused:
        fit(LAWS[name], ladder(sizes=np.array(sizes)))
    assert re.match(remedy, refused.value.remedy)
    assert name not in refused.value.what  # whoever prints it has named the law


def test_no_points_and_a_missing_axis_are_refused():
    with pytest.raises(FitError, match="no points"):
        fit(LAWS["power"], ladder().take(np.zeros(15, dtype=bool)))
    with pytest.raises(FitError, match="needs N and D; the points have N"):
        fit(LAWS["chinchilla"], Points(L=np.ones(6), N=np.arange(1.0, 7.0)))


def test_fewer_places_than_parameters_are_refused():
    N = np.array([1e6, 1e7, 1e8, 1e6])
    with pytest.raises(FitError, match="5 free parameters; the points have 4"):
        fit(LAWS["chinchilla"], Points(L=np.array([4.0, 3, 2, 3.5]), N=N, D=np.array([1e8, 1e9, 1e10, 1e9])))


@pytest.mark.parametrize("fix", [{"gamma": 1.0}, {"alpha": -0.1}, {"A": 0.0}, {"A": 1.0, "alpha": 0.1}])
def test_a_fixed_parameter_must_exist_be_in_bounds_and_leave_one_free(fix):
    with pytest.raises(UsageError):
        fit(LAWS["power"], ladder(), fix=fix)


@pytest.mark.parametrize("fix", [("E",), ("A",), ("alpha",), ("A", "B"), ("alpha", "beta"), ("E", "A", "alpha")])
def test_fixing_parameters_at_their_best_values_changes_nothing_else(fix):
    points = surface()
    law = LAWS["chinchilla"]
    free = fit(law, points)
    held = fit(law, points, fix={name: free.theta[name] for name in fix})
    assert_allclose([held.theta[n] for n in law.names], [free.theta[n] for n in law.names], rtol=1e-6)
    assert_allclose(held.value, free.value, rtol=1e-9)


def test_integer_weights_are_repeated_points():
    points = surface()
    weights = np.random.default_rng(1).integers(0, 4, len(points)).astype(float)
    repeated = points.take(np.repeat(np.arange(len(points)), weights.astype(int)))
    law = LAWS["chinchilla"]
    a, b = fit(law, points, weights=weights), fit(law, repeated)
    assert_allclose([a.theta[n] for n in law.names], [b.theta[n] for n in law.names], rtol=1e-6)
    assert_allclose(a.value, b.value, rtol=1e-9)


def test_a_warm_started_refit_ends_where_a_fit_from_scratch_does():
    points = surface(noise=0.01)
    law = LAWS["chinchilla"]
    fitted = fit(law, points)
    weights = np.random.default_rng(2).multinomial(len(points), np.full(len(points), 1 / len(points)), 12).astype(float)
    values, settled = refit(fitted, weights=weights)
    assert settled.all()
    for row, weight in zip(values, weights, strict=True):
        alone = fit(law, points, weights=weight)
        again = Huber().value(
            fitted.objective.residual(law.predict(dict(zip(law.names, row, strict=True)), points), points.L), weight
        )
        assert again <= alone.value * (1 + 1e-6)


def test_a_ladder_without_a_floor_ends_at_the_bound_and_says_so():
    # Losses that fall faster than any power law cannot have a floor above 0.
    N = np.repeat(SIZES, 2)
    bent = Points(L=5 * N**-0.05 * (1 - 0.01 * np.log(N / N[0])), N=N)
    held = fit(LAWS["power+constant"], bent)
    assert held.status is Status.AT_BOUND
    assert held.at_bound == ("E",)
    assert held.theta["E"] == 0
    assert "no floor is visible" in held.advice


def test_a_loss_that_rises_with_size_has_no_exponent():
    N = np.repeat(SIZES, 3)
    rising = fit(LAWS["power"], Points(L=2.0 * N**0.02, N=N))
    assert rising.status is Status.AT_BOUND
    assert rising.theta["alpha"] == 0
    assert "does not fall" in rising.advice


def test_two_sizes_fit_a_power_law_exactly():
    points = ladder(noise=0, seeds=1, sizes=SIZES[:2])
    fitted = fit(LAWS["power"], points)
    assert_allclose(fitted.theta["alpha"], 0.08, rtol=1e-9)


def test_the_unit_of_an_axis_changes_nothing_but_coefficients():
    points = surface()
    law = LAWS["chinchilla"]
    base = fit(law, points)
    scaled = fit(law, Points(L=points.L, N=points.N / 1e6, D=points.D / 1e9))
    for name in ("E", "alpha", "beta"):
        assert_allclose(scaled.theta[name], base.theta[name], rtol=1e-6)
    assert_allclose(scaled.theta["A"], base.theta["A"] / 1e6 ** base.theta["alpha"], rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(15)))
def test_the_order_of_points_changes_nothing(order):
    points = ladder()
    base = fit(LAWS["power"], points)
    other = fit(LAWS["power"], points.take(np.array(order)))
    assert_allclose(list(other.theta.values()), list(base.theta.values()), rtol=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_points_give_a_fit_or_a_fit_error_and_never_a_traceback(data):
    name = data.draw(st.sampled_from(sorted(LAWS)))
    n = data.draw(st.integers(1, 12))
    numbers = st.one_of(st.floats(1e-3, 1e12), st.sampled_from([1.0, 2.0, np.nan, 0.0, -1.0, np.inf, 1e300]))
    L, N, D = (np.array(data.draw(st.lists(numbers, min_size=n, max_size=n))) for _ in range(3))
    objective = data.draw(st.sampled_from([Huber(), LAD, MSE, LOG_MSE]))
    try:
        fitted = fit(law_on(name, ("N", "D")), Points(L=L, N=N, D=D), objective)
    except FitError:
        return
    assert np.isfinite(fitted.value) or fitted.status is not Status.CONVERGED


def test_residuals_are_positive_where_the_law_predicts_too_much():
    fitted = fit(LAWS["power"], ladder())
    high = fitted.predict(N=fitted.points.N) > fitted.points.L
    assert ((fitted.residuals() > 0) == high).all()
    assert set(itertools.chain(high)) == {True, False}
    assert fitted.predict(N=1e6).shape == where(N=1e6).L.shape


def test_an_over_estimate_counts_as_often_as_the_ratio_says():
    residual = np.array([-2e-3, 3e-3])
    expected = 1e-3 * (2e-3 - 0.5e-3) + 4 * 1e-3 * (3e-3 - 0.5e-3)
    assert_allclose(Asymmetric(4.0).value(residual), expected, rtol=1e-12)
    assert_allclose(Asymmetric(1.0).value(residual), Huber().value(residual), rtol=1e-12)


def test_small_rungs_that_were_not_tuned_pull_an_asymmetric_fit_less():
    # Losses are never below the law; those of the three smallest sizes are up to 10 % above it.
    rng = np.random.default_rng(0)
    N = np.repeat(np.geomspace(2e3, 5e5, 8), 5)
    above = np.where(N < 3e4, 0.1 * rng.random(len(N)), 0.002 * rng.random(len(N)))
    points = Points(L=4.5 * N**-0.08 * np.exp(above), N=N)
    plain, lower = (fit(LAWS["power"], points, objective).theta["alpha"] for objective in (Huber(), Asymmetric(9.0)))
    assert abs(lower - 0.08) < 0.3 * abs(plain - 0.08)


def test_an_asymmetric_fit_leaves_its_share_of_points_below():
    points = ladder(seeds=40)
    below = (fit(LAWS["power"], points, Asymmetric(4.0)).residuals() > 0).mean()
    assert abs(below - 1 / 5) < 0.03


def test_weights_of_the_points_count_like_those_of_the_call():
    points = surface()
    weights = np.random.default_rng(1).random(len(points))
    law = LAWS["chinchilla"]
    mine, given = fit(law, replace(points, weight=weights)), fit(law, points, weights=weights)
    assert mine.theta == given.theta
