"""Labels: one curve for each, and the rules that decide between them."""

import numpy as np
import pytest

from scalectl.emergence.curve import curve_of, simulate
from scalectl.emergence.detector import (
    BIMODAL,
    BREAK,
    COMPATIBLE,
    EDGE,
    FLAT,
    INSUFFICIENT,
    NON_MONOTONE,
    SMOOTH,
    detect,
    discoveries,
)
from scalectl.emergence.shapes import rise

K = 8
N = np.geomspace(1e6, 10**9.5, K)
X = np.log10(N)
ITEMS = np.full(K, 500.0)

CURVES = {
    FLAT: np.full(K, 0.25),
    SMOOTH: np.linspace(0.25, 0.85, K),
    COMPATIBLE: 0.25 + 0.75 * rise("smooth", 8.6, 1 / (0.9 * np.log(10)), X),
    BREAK: 0.25 + 0.6 * rise("logistic", 7.8, 0.1, X),
    EDGE: np.r_[np.full(K - 1, 0.25), 0.6],
    NON_MONOTONE: np.r_[0.25, 0.3, 0.5, 0.8, 0.75, 0.5, 0.3, 0.25],
}


def judged(score, items=ITEMS, draws=100, **more):
    return detect([curve_of(N, score, items, chance=0.25, **more)], np.random.default_rng(0), draws=draws)[0]


@pytest.mark.parametrize("label", CURVES)
def test_each_label_has_its_curve(label):
    rng = np.random.default_rng(3)
    found = [judged(simulate(CURVES[label], ITEMS, 1.0, 1, rng)[0]).label for _ in range(3)]
    assert found.count(label) >= 2, found


def test_the_same_seed_gives_the_same_verdict():
    score = simulate(CURVES[BREAK], ITEMS, 4.0, 1, np.random.default_rng(0))[0]
    first, second = judged(score), judged(score)
    assert first.tests == second.tests
    assert first.threshold == second.threshold


def test_four_sizes_and_equal_scores_are_answered_without_a_test():
    few = detect([curve_of(N[:4], np.array([0.2, 0.2, 0.9, 0.9]), ITEMS[:4])], np.random.default_rng(0))[0]
    assert few.label == INSUFFICIENT
    assert "4 sizes" in few.because
    equal = judged(np.zeros(K))
    assert equal.label == FLAT
    assert "every score is 0" in equal.because


def test_scatter_beyond_the_items_is_no_jump():
    rng = np.random.default_rng(4)
    wild = [judged(simulate(np.full(K, 0.4), ITEMS, 40.0, 1, rng)[0]) for _ in range(20)]
    assert sum(held.flagged for held in wild) <= 1


def test_a_plateau_above_chance_is_no_absence():
    score = np.r_[np.full(5, 0.5), 0.9, 0.9, 0.9]
    assert judged(score).label == SMOOTH
    assert "not within 0.05 of the floor 0.25" in judged(score).because
    assert judged(score, floor=0.5).label == BREAK


def test_tasks_that_were_not_tested_count_in_the_family():
    jump = curve_of(N, CURVES[BREAK], ITEMS, chance=0.25, task="jump")
    still = [curve_of(N, CURVES[FLAT], ITEMS, chance=0.25, task=f"still {k}") for k in range(4)]
    found = detect([*still, jump], np.random.default_rng(0))[-1]
    assert found.label == BREAK
    assert found.q_value == pytest.approx(5 * found.tests.linear)


def test_draws_are_as_many_as_a_family_needs_to_be_decided():
    jump = curve_of(N, CURVES[BREAK], ITEMS, chance=0.25, task="jump")
    still = [curve_of(N, CURVES[SMOOTH], ITEMS, chance=0.25, task=f"line {k}") for k in range(23)]
    found = detect([*still, jump], np.random.default_rng(0), draws=200)[-1]
    assert found.label == BREAK  # 200 draws put no p-value below 1 / 201, and 24 times that is .12
    assert found.tests.draws == 960


def test_a_dip_of_the_metric_at_one_size_is_no_fall_and_hides_no_jump():
    score = CURVES[BREAK].copy()
    score[-2] -= 0.08
    assert judged(score).label == BREAK


def test_q_values_are_those_of_benjamini_and_hochberg():
    # Benjamini and Hochberg 1995, section 4.1: the four smallest are discoveries at .05
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1,
    ]
    q = discoveries(p)
    assert list(q <= 0.05) == [True] * 4 + [False] * 11
    assert q[3] == pytest.approx(0.0095 * 15 / 4)


def test_one_seed_identifies_no_threshold_and_five_do():
    truth = CURVES[BREAK]
    rng = np.random.default_rng(0)
    one = judged(simulate(truth, ITEMS, 1.0, 1, rng)[0], seed=np.zeros(K))
    assert one.threshold is None
    assert one.because.startswith("single seed: threshold not identified")
    many = simulate(truth, ITEMS, 1.0, 5, rng)
    for count in (3, 5):
        curve = curve_of(
            np.tile(N, count), many[:count].ravel(), np.tile(ITEMS, count), chance=0.25, seed=np.repeat(range(count), K)
        )
        found = detect([curve], rng, draws=100)[0]
        assert found.label == BREAK
        assert ("3 seeds near the threshold, and 5 would tell it from their luck" in found.because) == (count == 3)
        assert found.threshold.interval[0] < 10**7.8 < found.threshold.interval[1]


def test_seeds_that_jump_by_luck_are_bimodal_and_counted():
    # the trap of emergence.md: exact match .99 or .10 at one size
    rng = np.random.default_rng(1)
    chance_of_success = np.array([0, 0, 0, 0.2, 0.5, 0.8, 1, 1])
    able = rng.random((8, K)) < chance_of_success
    able[:, 4] = np.arange(8) % 2
    score = simulate(np.full(K, 0.1), ITEMS, 1.0, 8, rng) * ~able + np.where(able, 0.99, 0.0)
    curve = curve_of(np.tile(N, 8), score.ravel(), np.tile(ITEMS, 8), chance=0.1, seed=np.repeat(range(8), K))
    found = detect([curve], rng, draws=100)[0]
    assert found.label == BIMODAL
    assert found.success.share == pytest.approx(able.mean(0))
    assert found.success.low[4] < 0.5 < found.success.high[4]
    even = np.clip(0.1 + 0.89 * rise("logistic", 7.9, 0.1, X) + 0.03 * rng.standard_normal((8, K)), 0, 1)
    curve = curve_of(np.tile(N, 8), even.ravel(), np.tile(ITEMS, 8), chance=0.1, seed=np.repeat(range(8), K))
    assert detect([curve], rng, draws=100)[0].label == BREAK
