"""Resampling, intervals and the verbs over them, on ladders and surfaces whose truth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from scalectl.core.errors import FitError, UsageError
from scalectl.core.rows import Points
from scalectl.fit.bootstrap import Draws, bootstrap, sizes
from scalectl.fit.describe import optimal
from scalectl.fit.diagnose import diagnose
from scalectl.fit.estimate import fit
from scalectl.fit.objective import LAD, LOG_MSE, MSE, Huber
from scalectl.fit.predict import allocate
from scalectl.fit.profile import profile
from scalectl.fit.select import holdout
from scalectl.fit.stats import (
    aicc,
    confint,
    doubling,
    interval,
    misfit,
    optimal_exponents,
    optimal_intervals,
    outliers,
    seed_noise,
    stretch,
    student_quantile,
)
from scalectl.laws import LAWS, law_on, where

SIZES = np.array([2e3, 8e3, 3.2e4, 1.3e5, 5e5])
POWER, POWER_CONSTANT = LAWS["power"], LAWS["power+constant"]


def ladder(noise=0.004, misfit=0.0, seeds=3, sizes=SIZES, rng=0):
    rng = np.random.default_rng(rng)
    N = np.repeat(sizes, seeds)
    off = np.repeat(misfit * rng.standard_normal(len(sizes)), seeds)
    L = 4.5 * N**-0.08 * np.exp(noise * rng.standard_normal(len(N)) + off)
    return Points(L=L, N=N, D=np.full(len(N), 1.4e6), size=N, ids=tuple(f"run{i}" for i in range(len(N))))


@pytest.mark.parametrize(
    ("freedom", "expected"),
    # Quantiles at .975 as tabulated (Abramowitz and Stegun, table 26.10).
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (15, 2.131), (30, 2.042), (120, 1.980)],
)
def test_students_quantiles_are_the_tabulated_ones(freedom, expected):
    assert_allclose(student_quantile(0.975, freedom), expected, atol=6e-4)
    assert_allclose(student_quantile(0.025, freedom), -expected, atol=6e-4)


def test_students_quantile_is_infinite_without_freedom_and_normal_with_much():
    assert student_quantile(0.975, 0) == math.inf
    assert_allclose(student_quantile(0.975, 5000), 1.959964, rtol=1e-6)
    assert_allclose(student_quantile(0.975, 1000), 1.962339, rtol=1e-5)


@pytest.mark.parametrize("unit", ["size", "run", "residual"])
def test_a_seed_gives_the_same_draws_and_another_seed_others(unit):
    fitted = fit(POWER, ladder())
    first, again = (bootstrap(fitted, 50, unit, np.random.default_rng(7)).values for _ in range(2))
    other = bootstrap(fitted, 50, unit, np.random.default_rng(8)).values
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("unit", ["size", "run", "residual"])
@pytest.mark.parametrize("objective", [Huber(), LAD, MSE, LOG_MSE], ids=str)
def test_draws_are_finite_centred_on_the_fit_and_settled(unit, objective):
    fitted = fit(POWER, ladder(misfit=0.005), objective)
    draws = bootstrap(fitted, 200, unit, np.random.default_rng(0))
    alpha = draws.theta()["alpha"][:, 0]
    assert np.isfinite(draws.values).all()
    assert draws.settled > 0.95
    assert abs(np.median(alpha) - fitted.theta["alpha"]) < 2 * alpha.std()


def test_misfit_widens_the_interval_over_sizes_more_than_the_one_over_runs():
    fitted = fit(POWER, ladder(misfit=0.02))
    width = {
        unit: np.diff(confint(bootstrap(fitted, 400, unit, np.random.default_rng(0)), 0.95, fitted)["alpha"])[0]
        for unit in ("size", "run")
    }
    assert width["size"] > 1.5 * width["run"]


def test_resamples_with_too_few_sizes_are_drawn_again_and_counted():
    fitted = fit(POWER_CONSTANT, ladder())
    draws = bootstrap(fitted, 4_000, "size", np.random.default_rng(0))
    # Of 5^5 resamples of five sizes, 5 have one distinct size and 10 (2^5 - 2) have two.
    bad = (5 + 300) / 5**5
    assert_allclose(draws.unusable / 4_000, bad / (1 - bad), rtol=0.15)


def test_too_few_sizes_to_resample_are_refused():
    fitted = fit(POWER, ladder(sizes=SIZES[:2]))
    with pytest.raises(FitError, match="at least 3 sizes; the points have 2"):
        bootstrap(fitted, 10, "size", np.random.default_rng(0))
    with pytest.raises(UsageError, match="seed is not a unit"):
        bootstrap(fitted, 10, "seed", np.random.default_rng(0))


def test_as_many_sizes_as_parameters_leave_no_interval():
    fitted = fit(POWER_CONSTANT, ladder(sizes=SIZES[:3]))
    draws = bootstrap(fitted, 50, "size", np.random.default_rng(0))
    assert draws.spare == 0
    assert stretch(draws, 0.95) == math.inf
    assert confint(draws, 0.95, fitted)["A"] == (0.0, math.inf)
    assert profile(fitted, "alpha") == (-math.inf, math.inf)


def test_along_tokens_the_budgets_are_resampled_not_the_one_size():
    N = np.full(8, 1e6)
    D = np.geomspace(1e7, 1e9, 8)
    points = Points(L=5 * D**-0.1, N=N, D=D, size=N)
    assert len(np.unique(sizes(law_on("power", ("D",)), points))) == 8
    assert len(np.unique(sizes(POWER, points))) == 1


def some_draws(values, spare=1_000):
    return Draws(("x",), values[:, None], "run", spare + 1, spare, 0, 1.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=60), st.floats(0.5, 0.99))
def test_an_interval_lies_inside_its_draws_and_is_ordered(values, level):
    values = np.array(values)
    low, high = interval(values, some_draws(values, spare=2_000), level)
    span = 1e-9 * (1 + np.abs(values).max())
    assert values.min() - span <= low <= high <= values.max() + span


def test_an_interval_widens_with_fewer_units_and_a_higher_level():
    values = np.random.default_rng(0).normal(10, 1, 2_000)
    widths = [np.diff(interval(values, some_draws(values, spare), 0.95))[0] for spare in (2_000, 10, 3, 1)]
    assert widths == sorted(widths)
    assert_allclose(widths[0], 3.92, rtol=0.05)
    assert np.diff(interval(values, some_draws(values), 0.99)) > widths[0]


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, -0.5])
def test_a_level_outside_zero_and_one_is_refused(level):
    values = np.arange(10.0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        interval(values, some_draws(values), level)


def test_infinite_draws_open_an_interval():
    values = np.concatenate([np.full(90, 3.0) + np.arange(90) / 90, np.full(10, np.inf)])
    low, high = interval(values, some_draws(values), 0.95)
    assert 2.9 < low < 3.5
    assert high == math.inf


def test_where_most_draws_never_get_there_the_lower_end_is_what_the_others_need():
    values = np.concatenate([1.0 + np.arange(40) / 40, np.full(60, np.inf)])
    low, high = interval(values, some_draws(values, spare=5), 0.95, 0.0)
    assert 1.0 < low < 1.2
    assert high == math.inf
    none = np.full(100, np.inf)
    assert interval(none, some_draws(none), 0.95, 0.0) == (math.inf, math.inf)


def test_a_draw_that_leaves_a_quantity_open_counts_beyond_both_ends():
    values = np.linspace(1.0, 2.0, 100)
    whole = interval(values, some_draws(values), 0.9)
    few, many = values.copy(), values.copy()
    few[40:44], many[40:46] = np.nan, np.nan
    some = interval(few, some_draws(few), 0.9)
    assert 0.99 < some[0] < whole[0] < whole[1] < some[1] < 2.02
    assert interval(many, some_draws(many), 0.9) == (0.0, math.inf)  # 6 of 100 beyond either end, 5 may be
    assert interval(many, some_draws(many), 0.9, 0.5, 5.0) == (0.5, 5.0)


def test_intervals_of_the_two_optimal_exponents_are_mirror_images():
    rng = np.random.default_rng(0)
    alpha, beta = rng.lognormal(-1.2, 0.4, 201), rng.lognormal(-1.5, 0.3, 201)
    a, b = optimal_intervals(alpha, beta, some_draws(alpha, spare=4), 0.95)
    assert_allclose([b[0], b[1]], [1 - a[1], 1 - a[0]], rtol=1e-12)
    b_itself = interval(alpha / (alpha + beta), some_draws(alpha, spare=4), 0.95, 0.0, 1.0, "share")
    assert_allclose(b, b_itself, rtol=1e-12)
    assert 0 < a[0] < a[1] < 1


def test_the_exponent_of_a_term_that_draws_leave_out_has_open_ends():
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e4, 1e6, 5), np.geomspace(1e6, 1e8, 5)))
    law = LAWS["kaplan"]
    theta = {**law.example, "A": 1e-6}  # the size matters nowhere
    L = law.predict(theta, where(N=N, D=D)) * np.exp(0.005 * np.random.default_rng(3).standard_normal(25))
    fitted = fit(law, Points(L=L, N=N, D=D, size=N))
    draws = bootstrap(fitted, 200, "size", np.random.default_rng(0))
    assert draws.blind["N"].mean() > 0.03  # more than the 2.5 % that open an end
    assert not draws.blind["D"].any()
    found = confint(draws, 0.95, fitted)
    assert found["alpha"] == (0.0, math.inf)
    assert 0.5 * theta["beta"] < found["beta"][0] < found["beta"][1] < 2 * theta["beta"]
    best = allocate(fitted, draws, 0.95, 1e15)
    assert best.N.interval[0] == 0
    assert best.D.interval[1] == math.inf
    assert optimal(fitted, draws, 0.95)[1]["a"] == (0.0, 1.0)


@pytest.mark.parametrize("objective", [Huber(), Huber(0.1), MSE, LOG_MSE], ids=str)
def test_a_profile_bound_is_where_the_refitted_objective_has_risen(objective):
    points = ladder(misfit=0.004)
    fitted = fit(POWER, points, objective)
    low, high = profile(fitted, "alpha", 0.9)
    assert low < fitted.theta["alpha"] < high
    rises = [fit(POWER, points, objective, fix={"alpha": end}).value - fitted.value for end in (low, high)]
    assert_allclose(rises[0], rises[1], rtol=0.02)
    wide = profile(fitted, "alpha", 0.99)
    assert wide[0] < low < high < wide[1]


def test_for_least_squares_the_profile_is_students_interval():
    # One run per size on log loss: ln L is linear in (ln A, alpha), so that textbook regression is exact.
    points = ladder(seeds=1, noise=0.01, sizes=np.geomspace(1e3, 1e6, 9))
    fitted = fit(POWER, points, LOG_MSE)
    x = -np.log(points.N)
    sigma = math.sqrt((fitted.residuals() ** 2).sum() / 7)
    half = student_quantile(0.975, 7) * sigma / math.sqrt(((x - x.mean()) ** 2).sum())
    alpha = fitted.theta["alpha"]
    assert_allclose(profile(fitted, "alpha"), (alpha - half, alpha + half), rtol=2e-3)


def test_a_parameter_that_was_fixed_has_no_profile():
    with pytest.raises(KeyError, match="alpha"):
        profile(fit(POWER, ladder(), fix={"alpha": 0.08}), "alpha")


def test_verbs_have_their_textbook_values():
    assert_allclose(doubling(0.076), 0.0513, atol=1e-4)
    assert_allclose(doubling(1.0), 0.5)
    a, b = optimal_exponents(0.34, 0.28)
    assert_allclose([a, b], [0.28 / 0.62, 0.34 / 0.62])


def test_seed_noise_and_misfit_are_told_apart():
    wide = np.geomspace(1e3, 1e8, 40)
    fitted = fit(POWER, ladder(noise=0.004, misfit=0.02, sizes=wide))
    assert_allclose(seed_noise(fitted), 0.004, rtol=0.2)
    assert_allclose(misfit(fitted), 0.02, rtol=0.3)
    exact = fit(POWER, ladder(noise=0.004, sizes=wide))
    assert misfit(exact) < 0.004
    assert seed_noise(fit(POWER, ladder(seeds=1))) is None
    assert misfit(fit(POWER, ladder(sizes=SIZES[:2]))) is None


def test_an_outlier_is_named_and_exact_points_have_none():
    points = ladder()
    points.L[7] *= 1.2
    assert outliers(fit(POWER, points)) == ("run7",)
    assert outliers(fit(POWER, ladder(noise=0.0))) == ()


@pytest.mark.parametrize("objective", [Huber(), pytest.param(LAD, marks=pytest.mark.slow), MSE, LOG_MSE], ids=str)
def test_aicc_prefers_the_law_that_made_the_points(objective):
    N = np.geomspace(1e3, 1e7, 40)
    plain_wins = 0
    for k in range(20):
        noise = np.exp(0.004 * np.random.default_rng(k).standard_normal(40))
        floored, plain = Points(L=(1 + 40 * N**-0.4) * noise, N=N), Points(L=5 * N**-0.08 * noise, N=N)
        assert aicc(fit(POWER_CONSTANT, floored, objective)) < aicc(fit(POWER, floored, objective))
        plain_wins += aicc(fit(POWER, plain, objective)) < aicc(fit(POWER_CONSTANT, plain, objective))
    # One parameter too many wins when it gains more than its penalty of 2.2: in about one case of eight.
    assert plain_wins >= 13
    assert aicc(fit(POWER_CONSTANT, ladder(sizes=SIZES, seeds=1))) == math.inf


def weighted(points, weight):
    return fit(POWER, replace(points, weight=np.asarray(weight, dtype=float)), LOG_MSE)


def statistics(fitted):
    held = holdout(fitted)
    return [aicc(fitted), misfit(fitted), seed_noise(fitted), held.relative_error, *fitted.theta.values()]


def test_points_of_weight_zero_are_as_if_they_were_not_there():
    points = ladder(misfit=0.004)
    spoilt = replace(points, L=np.where(np.arange(15) % 5 == 2, 3 * points.L, points.L))
    keep = np.arange(15) % 5 != 2
    assert_allclose(statistics(weighted(spoilt, keep)), statistics(fit(POWER, points.take(keep), LOG_MSE)))
    with pytest.raises(FitError, match=r"needs at least 2 distinct values of N; the points have 1"):
        weighted(points, np.arange(15) < 3)
    few = weighted(points, np.arange(15) < 9)
    assert bootstrap(few, 20, "size", np.random.default_rng(0)).units == 3


def test_one_weight_for_all_changes_nothing_and_several_pull_every_statistic():
    points = ladder(misfit=0.004)
    plain = statistics(fit(POWER, points, LOG_MSE))
    assert_allclose(statistics(weighted(points, np.full(15, 7.0))), plain, rtol=1e-7)
    pulled = statistics(weighted(points, np.tile([1.0, 1.0, 50.0], 5)))
    assert (np.abs(np.array(pulled) / plain - 1) > 1e-3).all()


def test_the_noise_between_seeds_is_known_without_bias_whatever_the_weights():
    found = [seed_noise(weighted(ladder(0.01, seeds=4, rng=k), np.tile([1.0, 2.0, 4.0, 8.0], 5))) for k in range(200)]
    assert_allclose(np.sqrt(np.mean(np.square(found))), 0.01, rtol=0.04)  # three standard errors of 200 x 15


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_a_weight_that_is_none_is_named_by_its_row(wrong):
    points = replace(ladder(), ids=())
    with pytest.raises(FitError, match=r"1 of 15 weights is no number from 0 up; the first is of row 4: "):
        weighted(points, np.where(np.arange(15) == 3, wrong, 1.0))
    with pytest.raises(FitError, match="no point counts"):
        weighted(points, np.zeros(15))


def test_points_without_ids_are_numbered_from_one_everywhere():
    points = ladder(noise=0.001, seeds=5)
    spoilt = replace(points, ids=(), L=np.where(np.arange(25) == 7, 1.5 * points.L, points.L))
    fitted = fit(POWER, spoilt, Huber())
    assert outliers(fitted) == ("8",)
    assert {one.what for one in diagnose(fitted).points} == {f"row {k}" for k in range(1, 26)}


def test_groups_have_their_own_names_in_a_diagnosis():
    points = replace(ladder(), group=np.resize(np.array(["red", "green", "blue"]), 15))
    assert {one.what for one in diagnose(fit(POWER, points)).sizes} == {"group red", "group green", "group blue"}
