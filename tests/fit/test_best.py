"""The best of a setting in each cell: what is chosen, what is flagged, and what the choice does to intervals."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from scalectl.core.errors import UsageError
from scalectl.core.rows import Points
from scalectl.fit.best import STEEP, best_over
from scalectl.fit.bootstrap import bootstrap
from scalectl.fit.estimate import fit
from scalectl.fit.predict import predict_loss
from scalectl.fit.stats import confint
from scalectl.laws import LAWS

POWER = LAWS["power"]
TRUTH = {"A": 4.5, "alpha": 0.08}
SIZES = np.geomspace(2e3, 5e5, 5)
RATES = np.geomspace(1e-3, 1.6e-2, 5)


def grid(losses, rates=RATES, *, N=1e4, seeds=None, **columns):
    """One cell from losses of shape (seeds, values)."""
    losses = np.atleast_2d(losses)
    count, width = losses.shape
    seed = np.repeat(np.arange(count) if seeds is None else seeds, width)
    rate = np.tile(rates, count)
    n = losses.size
    return Points(
        L=losses.ravel().astype(float),
        N=np.full(n, N),
        D=np.full(n, 1e6),
        ids=tuple(f"run{k}" for k in range(n)),
        size=np.full(n, N),
        seed=seed,
        columns={"train.lr": rate, **{name: np.full(n, value) for name, value in columns.items()}},
    )


def simulate(rng, *, noise, misfit=0.005, seeds=2, curve=0.02):
    """Five widths x five rates x seeds: a parabola whose minimum lies anywhere within one step of the middle."""
    N, j, seed = (held.ravel() for held in np.meshgrid(SIZES, np.arange(5), np.arange(seeds), indexing="ij"))
    which = np.searchsorted(SIZES, N)
    rise = curve * (j - 2 - rng.uniform(-1, 1, 5)[which]) ** 2 + misfit * rng.standard_normal(5)[which]
    exact = TRUTH["A"] * N ** -TRUTH["alpha"]
    L = exact * np.exp(rise + noise * rng.standard_normal(len(N)))
    return Points(L=L, N=N, size=N, seed=seed, columns={"lr": RATES[j]})


def test_the_minimum_of_a_parabola_between_grid_values_is_found_exactly():
    x = np.log(RATES)
    middle = x[2] + 0.3
    points = grid(2.5 * np.exp(0.01 * (x - middle) ** 2))
    (choice,) = best_over(points, "train.lr").choices
    assert choice.method == "parabola"
    assert not choice.edge
    assert_allclose([choice.value, choice.loss], [np.exp(middle), 2.5], rtol=1e-12)


def test_values_at_unequal_distances_make_the_same_parabola():
    rates = np.array([1e-3, 1.5e-3, 5e-3, 7e-3])
    points = grid(2.5 * np.exp(0.01 * np.log(rates / 4e-3) ** 2), rates)
    (choice,) = best_over(points, "train.lr").choices
    assert_allclose([choice.value, choice.loss], [4e-3, 2.5], rtol=1e-12)


def test_beside_a_cliff_the_lowest_measured_value_is_taken():
    points = grid([1.78, 1.7011, 1.6978, 2.4724, 2.5909])  # stdlib-rates at width 128
    (choice,) = best_over(points, "train.lr").choices
    assert (choice.method, choice.value, choice.edge) == ("minimum", RATES[2], "")
    assert_allclose(choice.loss, 1.6978)


def test_no_parabola_goes_far_below_what_was_measured():
    for rise in np.linspace(0, 2 * STEEP, 41):
        (choice,) = best_over(grid([3.0, 2.0, 2.0 * np.exp(rise), 3.0], RATES[:4]), "train.lr").choices
        assert choice.loss > 2.0 * np.exp(-STEEP / 8 - 1e-12)


@pytest.mark.parametrize(("losses", "edge", "at"), [([5, 4, 3, 2, 1.5], "highest", 4), ([1, 2, 3, 4, 5], "lowest", 0)])
def test_a_best_at_the_edge_is_flagged(losses, edge, at):
    (choice,) = best_over(grid(losses), "train.lr").choices
    assert (choice.edge, choice.value, choice.method) == (edge, RATES[at], "minimum")


def test_nothing_of_a_setting_is_no_edge():
    (choice,) = best_over(grid([1.0, 2.0, 3.0], np.array([0.0, 0.1, 0.2])), "train.lr").choices
    assert (choice.value, choice.edge, choice.method) == (0.0, "", "minimum")


def test_runs_without_the_setting_are_refused():
    with pytest.raises(UsageError, match=r"1 of 3 runs have no train\.lr"):
        best_over(grid([1.0, 2.0, 3.0], np.array([0.1, np.nan, 0.2])), "train.lr")


def test_a_value_at_which_a_run_diverged_is_no_candidate_and_bounds_the_grid():
    points = grid([[5, 4, 3, 2, 1.0], [5, 4, 3, 2, 1.0]], **{"model.d_model": 8, "train.steps": 60})
    gone = {
        "run_id": np.array(["x"]),
        "train.lr": RATES[4:],
        "model.d_model": np.array([8]),
        "train.steps": np.array([60]),
    }
    lost = Points(**{**vars(points), "diverged": gone})
    (choice,) = best_over(lost, "train.lr").choices
    assert (choice.value, choice.edge, choice.diverged) == (RATES[3], "", (RATES[4],))
    elsewhere = {**gone, "model.d_model": np.array([16])}
    (choice,) = best_over(Points(**{**vars(points), "diverged": elsewhere}), "train.lr").choices
    assert (choice.value, choice.edge) == (RATES[4], "highest")


def test_seeds_are_pooled_to_choose_and_kept_apart_to_fit():
    losses = [[3.0, 2.0, 2.6, 3.2], [3.0, 2.9, 2.5, 3.2]]
    best = best_over(grid(losses, RATES[:4]), "train.lr")
    (choice,) = best.choices  # the means are 2.41 and 2.55 (of logs); the seeds alone would choose differently
    assert choice.value == RATES[1]
    assert_allclose(best.points.L, [2.0, 2.9])
    assert best.points.seed.tolist() == [0, 1]
    assert best.points.ids == ("run1", "run5")


def test_a_gap_in_the_grid_is_filled_from_value_and_seed_and_counted():
    whole = grid(np.exp(np.log([[3.0, 2.0, 2.1]]) + np.log([[1.0], [1.1], [0.9]])), RATES[:3])
    kept = whole.take(np.arange(9) != 4)  # the middle seed has no run at the best value
    best = best_over(kept, "train.lr")
    (choice,) = best.choices
    assert (choice.filled, choice.runs, choice.seeds) == (1, 8, 3)
    assert_allclose(best.points.L, best_over(whole, "train.lr").points.L)


def test_a_setting_in_words_has_a_best_and_no_edge():
    points = grid([2.0, 1.9, 2.1], np.array(["adamw", "muon", "sgd"], dtype=object))
    (choice,) = best_over(points, "train.lr").choices
    assert (choice.value, choice.edge, choice.method) == ("muon", "", "minimum")


def test_points_without_seeds_are_numbered_within_each_value():
    points = grid([[3.0, 2.0, 3.0], [3.0, 2.2, 3.0]], RATES[:3])
    best = best_over(Points(**{**vars(points), "seed": None}), "train.lr")
    assert_allclose(best.points.L, [2.0, 2.2])


def test_one_value_a_cell_leaves_nothing_to_choose():
    with pytest.raises(UsageError, match="takes one value at each N and D"):
        best_over(grid([2.0], RATES[:1]), "train.lr")


def test_choosing_again_with_every_run_once_changes_nothing():
    best = best_over(simulate(np.random.default_rng(0), noise=0.02), "lr")
    again = best.again(np.ones((3, len(best.points))))
    assert_allclose(again, np.repeat(best.points.L[None], 3, axis=0), rtol=1e-12)


def test_a_resample_chooses_by_the_runs_that_it_drew():
    best = best_over(grid([[3.0, 2.0, 2.6, 3.2], [3.0, 2.9, 2.5, 3.2]], RATES[:4]), "train.lr")
    again = best.again(np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    assert_allclose(again, [[2.0, 2.9], [2.6, 2.5], [2.0, 2.9]])


def naive(points):
    """The lowest run of each size, as if nobody had chosen it."""
    lowest = [np.flatnonzero(points.N == N)[points.L[points.N == N].argmin()] for N in SIZES]
    return points.take(np.array(lowest))


def coverage(data_sets, **design):
    """Share of intervals that hold the truth, and their mean width, for α and for the loss at N = 1e5.

    The width is given as well in units of the one that a normal estimate of known spread would need.
    """
    covered = {"chosen again": np.zeros(2), "taken as given": np.zeros(2)}
    width = {name: np.zeros(2) for name in covered}
    estimates = []
    goal = np.array([TRUTH["alpha"], TRUTH["A"] * 1e5 ** -TRUTH["alpha"]])
    for k in range(data_sets):
        points = simulate(np.random.default_rng(k), **design)
        best = best_over(points, "lr")
        for name, held, again in (("chosen again", best.points, best.again), ("taken as given", naive(points), None)):
            fitted = fit(POWER, held)
            draws = bootstrap(fitted, 150, "size", np.random.default_rng(k), again)
            pairs = [confint(draws, 0.95, fitted)["alpha"], predict_loss(fitted, draws, 0.95, N=1e5).interval]
            low, high = np.array(pairs).T
            covered[name] += (low <= goal) & (goal <= high)
            width[name] += high - low
            if again:
                estimates.append([fitted.theta["alpha"], float(fitted.predict(N=1e5)[0])])
    known = 2 * 1.96 * np.std(estimates, axis=0)
    covered, width = ({k: v / data_sets for k, v in held.items()} for held in (covered, width))
    return covered, width, width["chosen again"] / known


# With five sizes a size's interval is Student's (3 degrees of freedom, 1.62 times the normal one), and with two seeds
# noise comes in twice, between sizes and within: 1.62 x √2 = 2.3 times. Measured 2.0 to 2.6.


def test_the_interval_that_chooses_again_is_wider_than_that_of_the_lowest_runs_and_covers_where_it_does_not():
    covered, width, share = coverage(30, noise=0.02)
    assert (width["chosen again"] > 1.1 * width["taken as given"]).all()  # measured 1.3 and 1.4
    assert covered["chosen again"].min() > 0.9
    assert share.max() < 2.6 * 1.39  # three standard errors of a spread that 30 data sets know to 13 %
    assert covered["taken as given"][1] < 0.9  # the lowest of ten runs lies below the law: measured .71


@pytest.mark.slow
@pytest.mark.parametrize("design", [{"noise": 0.006}, {"noise": 0.02}, {"noise": 0.02, "misfit": 0.0}])
def test_intervals_through_the_choice_cover(design):
    # Sizes and the runs within them: with two seeds conservative, measured .98 to 1.00 (nominal .95).
    covered, _, share = coverage(200, **design)
    assert covered["chosen again"].min() > 0.95 - 0.046  # three standard errors of a share of 200
    assert share.max() < 2.6 * 1.15  # likewise of a spread, known to 5 %


@pytest.mark.slow
def test_with_one_seed_sizes_alone_carry_the_choice():
    # Measured: α .973; the loss .927, below nominal because the best of five noisy losses looks .04 % too good.
    covered, _, share = coverage(200, noise=0.006, seeds=1)
    assert covered["chosen again"].min() > 0.93 - 0.054  # three standard errors of a share of 200
    assert covered["chosen again"].max() <= 0.97 + 0.036
    assert share.max() < 1.9 * 1.15  # Student's alone: measured 1.5 and 1.9
