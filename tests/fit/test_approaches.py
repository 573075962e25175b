"""The three approaches find the exponent they should, name their own bias, and refuse points that do not show it."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from support import PUBLISHED

from scalectl.core.errors import FitError
from scalectl.core.rows import Points
from scalectl.fit.approaches import approaches, budgets, envelope, isoflops
from scalectl.fit.bootstrap import bootstrap
from scalectl.fit.estimate import fit
from scalectl.laws import LAWS
from scalectl.store.points import table_points

CHINCHILLA = LAWS["chinchilla"]
# symmetric, Chinchilla's, and one whose exponents differ threefold
SURFACES = {
    "symmetric": {"E": 1.69, "A": 400.0, "alpha": 0.31, "B": 400.0, "beta": 0.31},
    "chinchilla": {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28},
    "threefold": {"E": 1.69, "A": 400.0, "alpha": 0.465, "B": 400.0, "beta": 0.155},
}
ISOFLOP = PUBLISHED / "porian_discrepancies" / "isoflop_points.csv"


def right(truth):
    return truth["beta"] / (truth["alpha"] + truth["beta"])


def isoflop_points(truth, reach=2.0, centre=1.0, noise=0.0, sizes=15):
    """Seven budgets, sizes up to `reach` times smaller and larger than `centre` times the best one."""
    rng = np.random.default_rng(0)
    C = np.repeat(np.geomspace(6e18, 3e21, 7), sizes)
    total = truth["alpha"] + truth["beta"]
    G = (truth["alpha"] * truth["A"] / (truth["beta"] * truth["B"])) ** (1 / total)
    N = centre * G * (C / 6) ** right(truth) * np.tile(np.geomspace(1 / reach, reach, sizes), 7)
    exact = CHINCHILLA.predict(truth, Points(L=C, N=N, D=C / (6 * N)))
    return Points(L=exact * np.exp(noise * rng.standard_normal(len(N))), N=N, D=C / (6 * N), C=C, size=N)


def grid_points(truth, noise=0.0):
    """Sizes by token budgets, three times beyond the best ones: the sizes overtake each other."""
    best = isoflop_points(truth, reach=1.0, sizes=1)
    N, D = (x.ravel() for x in np.meshgrid(*(np.geomspace(x.min() / 3, x.max() * 3, 17) for x in (best.N, best.D))))
    rng = np.random.default_rng(0)
    exact = CHINCHILLA.predict(truth, Points(L=N, N=N, D=D))
    return Points(L=exact * np.exp(noise * rng.standard_normal(len(N))), N=N, D=D, C=6 * N * D, size=N)


@pytest.mark.parametrize("truth", SURFACES.values(), ids=SURFACES)
def test_minima_of_narrow_centred_isoflops_have_the_exponent_of_the_surface(truth):
    points = isoflop_points(truth)
    for minimum, tolerance in (("parabola", 5e-6), ("interpolated", 1e-6)):
        a, b = isoflops(points, minimum).exponents()
        assert abs(a - right(truth)) < tolerance
        assert_allclose(a + b, 1.0, rtol=1e-9)


@pytest.mark.parametrize("truth", SURFACES.values(), ids=SURFACES)
def test_the_envelope_has_the_exponent_of_the_surface_but_for_the_steps_between_sizes(truth):
    a, _ = envelope(grid_points(truth)).exponents()
    assert abs(a - right(truth)) < 0.02


def test_the_bias_of_a_parabola_over_wide_sizes_is_measured_and_named():
    truth = SURFACES["threefold"]
    points = isoflop_points(truth, reach=8.0)
    joint = fit(CHINCHILLA, points)
    (second,), _ = approaches(points, joint, None, 0.95, np.random.default_rng(0), which=(2,))
    assert second.bias > 0.005
    # without noise the bias is all that separates it from the truth
    assert_allclose(second.a - second.bias, right(truth), atol=1e-6)
    assert abs(second.other[0] - right(truth)) < 1e-5
    (narrow,), _ = approaches(isoflop_points(truth), joint, None, 0.95, np.random.default_rng(0), which=(2,))
    assert abs(narrow.bias) < 1e-4


def test_three_rows_agree_on_a_surface_and_cover_its_exponent():
    truth = SURFACES["chinchilla"]
    points = grid_points(truth, noise=0.002)
    joint = fit(CHINCHILLA, points)
    draws = bootstrap(joint, 200, "size", np.random.default_rng(1))
    curves = points
    flops = isoflop_points(truth, noise=0.002)
    both = Points(*(np.concatenate([getattr(points, x), getattr(flops, x)]) for x in ("L", "N", "D", "C")))
    found, refused = approaches(both, joint, draws, 0.95, np.random.default_rng(0), curves=curves)
    assert refused == {}
    assert [one.number for one in found] == [1, 2, 3]
    for one in found:
        assert one.a_interval[0] < right(truth) < one.a_interval[1]
        assert one.b_interval[0] < 1 - right(truth) < one.b_interval[1]
    assert [one.unit for one in found] == ["size", "budget", "size"]


def test_budgets_that_scatter_are_brought_to_one():
    truth = SURFACES["chinchilla"]
    exact = isoflop_points(truth)
    off = np.exp(np.random.default_rng(3).uniform(-0.1, 0.1, len(exact)))
    D = exact.D * off
    scattered = Points(L=CHINCHILLA.predict(truth, Points(L=D, N=exact.N, D=D)), N=exact.N, D=D, C=exact.C * off)
    assert [len(group) for group in budgets(scattered)] == [15] * 7
    assert abs(isoflops(scattered).exponents()[0] - right(truth)) < 2e-3
    with pytest.raises(FitError):  # an interpolant would take the scatter for shape
        isoflops(scattered, "interpolated")


def test_points_that_show_no_minimum_are_refused_with_what_to_add():
    truth = SURFACES["chinchilla"]
    # every size far too large for its budget: the lowest loss is at the smallest
    aside = isoflop_points(truth, centre=8.0)
    with pytest.raises(FitError, match="the points have 0, and 7 more without") as raised:
        isoflops(aside)
    assert "train.flops" in raised.value.remedy
    with pytest.raises(FitError, match=r"approach 1 needs 3 sizes .*; the points have 1 among 3 sizes"):
        envelope(grid_points(truth).take(np.isin(np.arange(289) % 17, (4, 8, 12))))
    _, refused = approaches(aside, fit(CHINCHILLA, aside), None, 0.95, np.random.default_rng(0))
    assert set(refused) == {1, 2}


def test_three_budgets_have_a_wide_interval_not_none():
    truth = SURFACES["chinchilla"]
    points = isoflop_points(truth, noise=0.004)
    few = points.take(np.isin(points.C, np.unique(points.C)[:3]))
    (second,), _ = approaches(few, fit(CHINCHILLA, few), None, 0.95, np.random.default_rng(0), which=(2,))
    assert second.units == 3
    assert np.diff(second.a_interval) > 0.05
    (none,), _ = approaches(few, fit(CHINCHILLA, few), None, 0.95, np.random.default_rng(0), which=(2,), resamples=0)
    assert none.a_interval == (-np.inf, np.inf)


@pytest.mark.skipif(not ISOFLOP.exists(), reason=f"the published table is not at {ISOFLOP}")
@pytest.mark.parametrize(
    ("config", "low", "high"),
    [
        ("main_0", 0.824, 0.846),
        ("main_1", 0.691, 0.717),
        ("main_2", 0.591, 0.617),
        ("main_3", 0.560, 0.589),
        ("main_4", 0.491, 0.505),
        ("main_owt2_0", 0.819, 0.897),
        ("main_owt2_1", 0.664, 0.724),
        ("main_owt2_2", 0.570, 0.629),
        ("main_owt2_3", 0.542, 0.606),
        ("main_owt2_4", 0.493, 0.541),
    ],
)
def test_interpolated_minima_of_the_published_sweeps_lie_in_the_published_intervals(config, low, high):
    points = table_points(ISOFLOP, {"N": "params", "D": "tokens", "C": "flops", "L": "loss"})
    mine = points.take(points.columns["config_id"] == config)
    a, _ = isoflops(mine, "interpolated").exponents()
    assert low <= a <= high
    parabola, _ = isoflops(mine).exponents()
    assert abs(parabola - a) < 0.04
