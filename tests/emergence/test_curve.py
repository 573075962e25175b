"""What stands behind a score: items, seeds, over-dispersion; and scores that are none."""

import numpy as np
import pytest

from scalectl.core.errors import FitError
from scalectl.emergence.curve import curve_of, dispersion, simulate

N = np.geomspace(1e6, 1e9, 8)
FLAT = np.full(8, 0.3)
ITEMS = np.full(8, 500.0)


@pytest.mark.parametrize("phi", [1.0, 4.0, 30.0])
def test_simulated_scores_have_the_variance_that_phi_says(phi):
    drawn = simulate(FLAT, ITEMS, phi, 20_000, np.random.default_rng(0))
    assert drawn.mean(0) == pytest.approx(FLAT, abs=0.01)
    assert drawn.var(0) == pytest.approx(phi * 0.3 * 0.7 / 500, rel=0.06)


@pytest.mark.parametrize(("phi", "low", "high"), [(1.0, 1.0, 1.5), (4.0, 2.2, 4.0), (40.0, 20.0, 40.0)])
def test_over_dispersion_is_found_and_drawn_towards_one(phi, low, high):
    drawn = simulate(FLAT, ITEMS, phi, 4000, np.random.default_rng(1))
    assert low <= dispersion(drawn, ITEMS).mean() <= high


def test_the_seed_is_the_unit_and_not_the_item():
    seeds = np.tile(np.arange(5), 8)
    place = np.repeat(N, 5)
    lucky = np.where(seeds == 0, 0.9, 0.1)
    curve = curve_of(place, lucky, np.full(40, 500.0), seed=seeds, chance=0.1)
    assert curve.score == pytest.approx(np.full(8, 0.26))
    assert (curve.items < 10).all()  # five seeds, not 2,500 items
    rng = np.random.default_rng(0)
    quiet = curve_of(place, rng.binomial(500, 0.3, 40) / 500, np.full(40, 500.0), seed=seeds, chance=0.1)
    assert (quiet.items > 1000).all()
    assert quiet.fewest_seeds == 5


def test_rows_of_one_seed_at_one_place_are_one_run():
    # subsets of a task, of 100 and 400 items, for each of two seeds: two runs of 500 items at each size
    place, seed = np.repeat(N, 4), np.tile([0, 0, 1, 1], 8)
    score, items = np.tile([0.5, 0.25, 0.4, 0.3], 8), np.tile([100.0, 400.0, 100.0, 400.0], 8)
    curve = curve_of(place, score, items, seed=seed, chance=0.25)
    assert [held.tolist() for held in curve.seeds] == [pytest.approx([0.3, 0.32])] * 8
    assert curve.score == pytest.approx(np.full(8, 0.31))
    assert "32 rows are 16 runs" in " ".join(curve.notes)
    alone = curve_of(place, score, items, seed=np.zeros(32), chance=0.25)
    assert alone.fewest_seeds == 1
    assert alone.items == pytest.approx(np.full(8, 1000.0))
    blank = curve_of(place, score, items, seed=np.where(seed == 0, "", "a"))  # of unknown seeds each is a run
    assert blank.fewest_seeds == 3


def test_without_item_counts_the_scatter_says_how_sure_a_score_is():
    rng = np.random.default_rng(0)
    worth = [curve_of(N, rng.binomial(200, FLAT) / 200, None).items[0] for _ in range(400)]
    assert 120 < np.median(worth) < 320
    curve = curve_of(N, rng.binomial(200, FLAT) / 200, None)
    assert not curve.counted
    assert "no column of item counts" in curve.notes[0]
    assert curve_of(N, np.linspace(0.1, 0.9, 8), None).items[0] == 1000  # nothing scatters, and nobody believes it


def test_the_floor_is_chance_then_what_was_given_then_the_two_smallest():
    score = np.array([0.02, 0.06, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9])
    held = {
        "chance": curve_of(N, score, ITEMS, chance=0.25),
        "given": curve_of(N, score, ITEMS, chance=0.25, floor=0.1),
        "auto": curve_of(N, score, ITEMS, chance=np.full(8, np.nan)),
    }
    assert curve_of(N, score, ITEMS, chance=0.25, floor="auto").floor == held["auto"].floor
    assert {name: curve.floor for name, curve in held.items()} == pytest.approx(
        {"chance": 0.25, "given": 0.1, "auto": 0.04}
    )
    assert all(curve.floor_from == name for name, curve in held.items())


@pytest.mark.parametrize(
    ("score", "items", "said"),
    [
        (np.full(8, 24.2), ITEMS, r"outside \[0, 1\]: 24.2"),
        (np.full(8, -0.1), ITEMS, r"outside \[0, 1\]: -0.1"),
        (np.full(8, np.nan), ITEMS, "no row has a score"),
        (FLAT, np.full(8, 0.0), "item counts below 1"),
    ],
)
def test_scores_that_are_none_are_refused(score, items, said):
    with pytest.raises(FitError, match=said):
        curve_of(N, score, items)


def test_chance_that_is_no_share_is_refused():
    with pytest.raises(FitError, match=r"chance outside \[0, 1\): 1.5"):
        curve_of(N, FLAT, ITEMS, chance=np.r_[np.full(7, 0.25), 1.5])


def test_rows_without_a_number_are_left_out_and_said_to_be():
    score = FLAT.copy()
    score[[2, 5]] = np.nan
    curve = curve_of(N, score, ITEMS)
    assert len(curve.place) == 6
    assert "2 of 8 rows" in curve.notes[0]
