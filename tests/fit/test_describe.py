"""Summaries, hold-out, choice of a law and predictions: what a user of a fit reads."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from scalectl.core.errors import FitError, UsageError
from scalectl.core.rows import Points
from scalectl.fit.bootstrap import bootstrap
from scalectl.fit.describe import describe
from scalectl.fit.estimate import fit
from scalectl.fit.predict import allocate, beyond, optimum, predict_loss, reach
from scalectl.fit.select import choose, holdout, largest
from scalectl.fit.stats import confint
from scalectl.laws import LAWS, where

SIZES = np.array([2e3, 8e3, 3.2e4, 1.3e5, 5e5])
POWER, POWER_CONSTANT, CHINCHILLA = LAWS["power"], LAWS["power+constant"], LAWS["chinchilla"]
TRUTH = {"E": 1.7, "A": 400.0, "alpha": 0.34, "B": 410.0, "beta": 0.28}


def ladder(E=0.0, A=4.5, alpha=0.08, noise=0.004, seeds=3, sizes=SIZES, rng=0):
    rng = np.random.default_rng(rng)
    N = np.repeat(sizes, seeds)
    L = (E + A * N**-alpha) * np.exp(noise * rng.standard_normal(len(N)))
    return Points(L=L, N=N, D=np.full(len(N), 1.4e6), size=N, convention="non_embedding", flops="6nd")


def surface(noise=0.004, rng=0, n=7, D=None):
    rng = np.random.default_rng(rng)
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 3e9, n), np.geomspace(1e8, 1e11, n) if D is None else D))
    exact = CHINCHILLA.predict(TRUTH, where(N=N, D=D))
    return Points(L=exact * np.exp(noise * rng.standard_normal(len(N))), N=N, D=D, size=N)


def about(law, points, draws=200, **options):
    return describe(law, points, draws=draws, rng=np.random.default_rng(0), **options)


def test_what_a_doubling_takes_away_is_the_interval_of_alpha_and_never_more_than_everything():
    few = Points(L=np.array([4.0, 2.0, 1.9]), N=np.array([1e2, 1e3, 1e4]))
    summary = about(POWER, few)[2]
    low, high = summary.intervals["alpha"]
    assert high > 1
    assert_allclose(summary.doubling, [1 - 2**-x for x in (summary.params["alpha"], low, high)])
    assert 0 <= summary.doubling[1] <= summary.doubling[0] <= summary.doubling[2] < 1
    fixed = about(POWER, few, fix={"alpha": 0.3})[2].doubling
    assert_allclose(fixed, [1 - 2**-0.3] * 3)


def test_a_summary_of_a_power_law_holds_everything_a_report_needs():
    _, draws, summary = about(POWER, ladder(), also=("run", "residual"))
    assert (summary.law, summary.axis, summary.n, summary.sizes) == ("power", "N", 15, 5)
    assert (summary.objective, summary.delta, summary.status) == ("huber", 1e-3, "converged")
    assert (summary.unit, summary.draws, len(draws)) == ("size", 200, 200)
    assert (summary.convention, summary.flops) == ("non_embedding", "6nd")
    assert set(summary.intervals_by_unit) == {"size", "run", "residual"}
    assert summary.intervals == summary.intervals_by_unit["size"]
    assert summary.identified == {"A": True, "alpha": True}
    assert summary.advice == ""
    low, high = summary.intervals["alpha"]
    assert low < 0.08 < high
    share, less, more = summary.doubling
    assert_allclose([share, less, more], [1 - 2**-x for x in (summary.params["alpha"], low, high)])
    assert summary.holdout[0].where == "largest N"
    assert summary.holdout[0].n == 3
    assert summary.holdout[0].relative_error < 0.02
    assert summary.curve.axis == "N"
    assert summary.curve.data == (2e3, 5e5)
    assert ((summary.curve.low <= summary.curve.y) & (summary.curve.y <= summary.curve.high)).mean() > 0.9


def test_one_token_budget_and_five_sizes_do_not_determine_a_floor():
    _, _, summary = about(POWER_CONSTANT, ladder(E=1.0, A=4.5, alpha=0.1))
    assert summary.identified == {"E": False, "A": False, "alpha": False}
    assert "not identified together" in summary.advice
    assert "more tokens per parameter" in summary.advice
    assert summary.intervals["E"][0] < 0.3
    assert summary.intervals["E"][1] <= ladder().L.max() * 2


def test_a_clear_floor_is_identified_and_covered():
    _, _, summary = about(POWER_CONSTANT, ladder(E=1.0, A=40.0, alpha=0.4, sizes=np.geomspace(1e3, 1e6, 8)))
    assert all(summary.identified.values())
    assert summary.intervals["E"][0] < 1.0 < summary.intervals["E"][1]
    assert summary.doubling is None


def test_a_surface_gives_exponents_of_the_optimum_with_intervals():
    _, _, summary = about(CHINCHILLA, surface())
    assert all(summary.identified.values())
    assert_allclose(summary.optimal["a"] + summary.optimal["b"], 1.0)
    for name, truth in {"a": 0.28 / 0.62, "b": 0.34 / 0.62}.items():
        low, high = summary.optimal_intervals[name]
        assert low < truth < high
    assert summary.curve.axis == "C"


def test_tokens_in_step_with_size_do_not_determine_the_joint_law():
    N = np.geomspace(1e6, 3e9, 12)
    exact = CHINCHILLA.predict(TRUTH, where(N=N, D=20 * N))
    noisy = exact * np.exp(0.004 * np.random.default_rng(0).standard_normal(12))
    _, _, summary = about(CHINCHILLA, Points(L=noisy, N=N, D=20 * N, size=N), draws=100, also=())
    assert not any(summary.identified.values())
    assert "several token budgets per size" in summary.advice


@pytest.mark.parametrize(
    ("count", "unit", "said"), [(2, "run", "2 sizes are too few"), (3, "size", ": 1 spare size to judge the law by")]
)
def test_two_or_three_sizes_never_identify_a_power_law(count, unit, said):
    _, _, summary = about(POWER, ladder(sizes=SIZES[:count]))
    assert summary.unit == unit
    assert not any(summary.identified.values())
    assert said in summary.advice


@pytest.mark.parametrize(("first", "second"), [("size", "run"), ("run", "size")])
def test_sizes_of_one_run_each_are_resampled_once_for_both_units(first, second):
    points = ladder(sizes=np.geomspace(2e3, 5e5, 8), seeds=1)
    fitted, draws, summary = about(POWER_CONSTANT, points, unit=first, also=(second,))
    assert set(summary.intervals_by_unit) == {"size", "run"}
    other = bootstrap(fitted, 200, second, np.random.default_rng(0).spawn(2)[0])
    assert (other.values == draws.values).all()
    for name, held in summary.intervals_by_unit[second].items():
        assert_allclose(held, confint(other, 0.95, fitted)[name])


def test_without_draws_nothing_is_identified_and_nothing_is_invented():
    fitted, draws, summary = describe(POWER, ladder(), draws=0, rng=np.random.default_rng(0))
    assert draws is None
    assert summary.intervals == {}
    assert summary.curve is None
    assert not any(summary.identified.values())
    assert summary.params == fitted.theta


def test_a_fixed_parameter_has_a_value_and_no_interval():
    _, _, summary = about(POWER, ladder(), fix={"alpha": 0.08})
    assert summary.params["alpha"] == 0.08
    assert set(summary.intervals) == set(summary.profile) == set(summary.identified) == {"A"}


def test_noise_free_points_are_fitted_without_noise():
    _, _, summary = about(POWER, ladder(noise=0.0))
    assert_allclose(summary.intervals["alpha"], (0.08, 0.08), rtol=1e-8)
    assert_allclose(summary.profile["alpha"], (0.08, 0.08), rtol=1e-4)
    assert summary.identified == {"A": True, "alpha": True}
    assert summary.holdout[0].relative_error < 1e-9


def test_the_largest_size_or_budget_is_held_out():
    name, mask = largest(POWER, ladder())
    assert name == "largest N"
    assert mask.sum() == 3
    points = surface()
    name, mask = largest(CHINCHILLA, points)
    assert name == "largest N D"
    assert mask.tolist() == (points.N * points.D > 0.9 * 3e20).tolist()
    assert holdout(fit(CHINCHILLA, surface(noise=0.0))).relative_error < 1e-9


def test_a_hold_out_that_leaves_too_little_is_none():
    assert holdout(fit(POWER, ladder(sizes=SIZES[:2]))) is None
    fitted = fit(POWER, ladder())
    chosen = holdout(fitted, fitted.points.N > 1e5, "N > 1e5")
    assert (chosen.where, chosen.n) == ("N > 1e5", 6)
    assert holdout(fitted, np.zeros(15, dtype=bool)) is None


def test_the_identified_law_is_chosen_before_the_one_that_is_not():
    points = ladder()
    pair = [about(law, points)[2] for law in (POWER_CONSTANT, POWER)]
    name, because = choose(pair)
    assert name == "power"
    assert "power+constant is not identified" in because


def test_among_identified_laws_the_better_extrapolation_wins():
    points = ladder(E=1.0, A=40.0, alpha=0.4, sizes=np.geomspace(1e3, 1e6, 8))
    pair = [about(law, points)[2] for law in (POWER, POWER_CONSTANT)]
    assert pair[1].holdout[0].relative_error < pair[0].holdout[0].relative_error
    name, because = choose(pair)
    assert name == "power+constant"
    assert "predicts the largest N to" in because


def test_without_a_bootstrap_a_choice_is_not_called_unidentified():
    pair = [about(law, ladder(), draws=0)[2] for law in (POWER, POWER_CONSTANT)]
    assert choose(pair[:1]) == ("power", "the only law fitted; not judged without the bootstrap")
    assert choose(pair)[1].endswith("; not judged without the bootstrap")


def test_choosing_among_nothing_is_an_error():
    with pytest.raises(FitError):
        choose([])


@pytest.fixture(scope="module")
def joint():
    fitted = fit(CHINCHILLA, surface())
    return fitted, bootstrap(fitted, 100, "run", np.random.default_rng(0))


def test_a_prediction_has_an_interval_and_its_distance_from_the_data(joint):
    fitted, draws = joint
    far = predict_loss(fitted, draws, 0.95, N=3e10, D=1e12)
    near = predict_loss(fitted, draws, 0.95, N=1e8, D=1e10)
    assert_allclose(far.value, fitted.predict(N=3e10, D=1e12)[0])
    assert far.interval[0] < far.value < far.interval[1]
    assert_allclose([far.extrapolation["N"], far.extrapolation["D"]], [10.0, 10.0])
    assert near.extrapolation == {"N": 1.0, "D": 1.0}
    assert np.diff(far.interval) > np.diff(near.interval)
    assert beyond(fitted, "N", 1e5) == pytest.approx(10.0)


def test_the_best_split_of_a_budget_equals_the_closed_form(joint):
    fitted, draws = joint
    t = fitted.theta
    a = t["beta"] / (t["alpha"] + t["beta"])
    G = (t["alpha"] * t["A"] / (t["beta"] * t["B"])) ** (1 / (t["alpha"] + t["beta"]))
    answer = allocate(fitted, draws, 0.95, C=1e22)
    assert_allclose(answer.N.value, G * (1e22 / 6) ** a, rtol=1e-9)
    assert_allclose(6 * answer.N.value * answer.D.value, 1e22, rtol=1e-12)
    assert answer.N.interval[0] < answer.N.value < answer.N.interval[1]
    assert_allclose(answer.L.value, fitted.predict(N=answer.N.value, D=answer.D.value)[0])
    N, _ = optimum(CHINCHILLA, draws.theta(), 1e22, fitted)
    assert N.shape == (100, 1)


def test_what_a_loss_costs_is_the_inverse_of_the_prediction(joint):
    fitted, draws = joint
    budget = reach(fitted, draws, 0.95, 2.1)
    assert budget.what == "C"
    assert_allclose(allocate(fitted, draws, 0.95, budget.value).L.value, 2.1, rtol=1e-10)
    tokens = reach(fitted, draws, 0.95, 2.3, N=1e9)
    assert tokens.what == "D"
    assert_allclose(fitted.predict(N=1e9, D=tokens.value), 2.3, rtol=1e-10)
    assert tokens.value > 0
    alone = fit(POWER, ladder())
    size = reach(alone, bootstrap(alone, 100, "run", np.random.default_rng(0)), 0.95, 1.2)
    assert_allclose(size.value, (alone.theta["A"] / 1.2) ** (1 / alone.theta["alpha"]), rtol=1e-9)
    assert size.extrapolation["N"] > 1


def test_a_loss_below_the_floor_is_out_of_reach(joint):
    fitted, draws = joint
    answer = reach(fitted, draws, 0.95, 1.0)
    assert answer.value == math.inf
    assert answer.interval[1] == math.inf
    assert answer.impossible == 1.0


def test_requests_that_mean_nothing_are_refused(joint):
    fitted, draws = joint
    for request in (
        lambda: predict_loss(fitted, draws, 0.95, N=1e9),
        lambda: predict_loss(fitted, draws, 0.95, N=1e9, D=-1.0),
        lambda: allocate(fitted, draws, 0.95, C=0.0),
        lambda: reach(fitted, draws, 0.95, -2.0),
        lambda: reach(fitted, draws, 0.95, 2.0, C=1e20),
        lambda: allocate(fit(POWER, ladder()), draws, 0.95, C=1e20),
    ):
        with pytest.raises(UsageError):
            request()
