"""Tied parameters: a law with fewer of them, whatever the law."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from scalectl.core.errors import UsageError
from scalectl.core.rows import Points
from scalectl.fit.bootstrap import bootstrap
from scalectl.fit.describe import describe
from scalectl.fit.estimate import Status, fit
from scalectl.fit.profile import profile
from scalectl.laws import LAWS, tie, untied, where
from scalectl.laws.law import complex_step


def places(n=6):
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, n), np.geomspace(1e8, 1e11, n)))
    return where(N=N, D=D)


def surface(noise=0.004, alpha=0.3, beta=0.3):
    there = places()
    exact = 1.7 + 400 / there.N**alpha + 900 / there.D**beta
    rng = np.random.default_rng(0)
    return Points(L=exact * np.exp(noise * rng.standard_normal(len(there))), N=there.N, D=there.D, size=there.N)


TIED = tie(LAWS["chinchilla"], {"beta": "alpha"})


def test_tied_exponents_are_recovered_as_one():
    fitted = fit(TIED, surface(noise=0.0))
    assert fitted.status is Status.CONVERGED
    assert list(fitted.theta) == ["E", "A", "alpha", "B"]
    assert_allclose(list(untied(TIED, fitted.theta).values()), [1.7, 400, 0.3, 0.3, 900], rtol=1e-9)


@pytest.mark.parametrize("name", ["chinchilla", "chinchilla+gamma", "kaplan+constant"])
def test_derivatives_of_a_tied_law_equal_a_complex_step(name):
    law = tie(LAWS[name], {"beta": "alpha"})
    theta = {key: np.array([[value]]) for key, value in law.example.items()}
    value, first, second = law.derivatives(theta, places())
    value_, first_, second_ = complex_step(law.predict, law.names)(theta, places())
    assert_allclose(value, value_, rtol=1e-13)
    assert set(first) == set(law.names)
    for key, expected in first_.items():
        assert_allclose(np.broadcast_to(first[key], value.shape), expected, rtol=1e-12)  # reached: 2e-15
    for pair, expected in second_.items():
        found = np.broadcast_to(second.get(pair, 0.0), value.shape)
        assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())  # reached: 1e-9, by differences


def test_a_tie_that_holds_narrows_the_interval_and_one_that_does_not_costs_fit():
    free, tied = fit(LAWS["chinchilla"], surface()), fit(TIED, surface())
    assert tied.value >= free.value
    widths = [np.diff(profile(fitted, "alpha"))[0] for fitted in (free, tied)]
    assert widths[1] < widths[0]
    wrong = surface(beta=0.15)
    assert fit(TIED, wrong).value > 3 * fit(LAWS["chinchilla"], wrong).value  # 3.5 times


def test_a_summary_shows_both_names_with_one_value_and_one_interval():
    _, draws, summary = describe(TIED, surface(), draws=100, rng=np.random.default_rng(0))
    assert summary.tied == {"beta": "alpha"}
    assert list(summary.params) == ["E", "A", "alpha", "beta", "B"]
    for facts in (summary.params, summary.intervals, summary.profile, summary.identified):
        assert facts["beta"] == facts["alpha"]
    assert summary.intervals["beta"][0] < 0.3 < summary.intervals["beta"][1]
    assert draws.names == ("E", "A", "alpha", "B")
    assert_allclose([summary.optimal["a"], *summary.optimal_intervals["a"]], 0.5)


def test_a_tied_parameter_is_fixed_with_the_other_and_resampled_with_it():
    fitted = fit(TIED, surface(), fix={"alpha": 0.3})
    assert untied(TIED, fitted.theta)["beta"] == 0.3
    assert bootstrap(fitted, 20, "run", np.random.default_rng(0)).values.shape == (20, 4)


@pytest.mark.parametrize(
    ("ties", "said"),
    [
        ({"delta": "alpha"}, "delta is not a parameter of chinchilla"),
        ({"beta": "delta"}, "delta is not a parameter"),
        ({"B": "A"}, "not of one kind"),
        ({"beta": "E"}, "not of one kind"),
        ({"beta": "alpha", "alpha": "beta"}, "is tied to"),
    ],
)
def test_a_tie_that_means_nothing_is_refused(ties, said):
    with pytest.raises(UsageError, match=said):
        tie(LAWS["chinchilla"], ties)


def test_no_ties_leave_the_law_as_it_is():
    assert tie(LAWS["chinchilla"], {}) is LAWS["chinchilla"]
