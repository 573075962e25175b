"""What is held out, and the law that is believed for it."""

from dataclasses import replace

import numpy as np
import pytest

from scalectl.core.rows import Points
from scalectl.fit.describe import describe
from scalectl.fit.estimate import fit
from scalectl.fit.select import MOST_STEPS, choose, held_out_error, holdout, rollout, steps
from scalectl.laws import LAWS, law_on

POWER = law_on("power", ("N",))


def ladder(sizes, seeds=1, bend=0.0):
    """Losses of a power law of N, bent by that much per squared decade."""
    N = np.repeat(np.asarray(sizes, dtype=np.float64), seeds)
    return Points(L=4 * (N / 1e5) ** (-0.1 - bend * np.log10(N / N[0])), N=N, size=N)


def test_steps_count_places_up_the_axis_and_rounding_makes_none():
    points = ladder([1e5, 3e5, 1.001e5, 1e6, 1e5])
    assert steps(POWER, points).tolist() == [0, 1, 0, 2, 0]
    joint = Points(L=np.ones(5), N=np.array([1.0, 2, 1, 4, 2]), D=np.array([8.0, 4, 16, 2.1, 8.5]))
    assert steps(LAWS["chinchilla"], joint).tolist() == [0, 0, 1, 0, 1]


def test_many_places_are_taken_together_in_order():
    index = steps(POWER, ladder(np.geomspace(1e5, 1e9, 100)))
    assert index.max() == MOST_STEPS - 1
    assert (np.diff(index) >= 0).all()
    assert set(np.bincount(index)) <= {8, 9}


def test_a_rollout_predicts_each_step_from_all_below_it():
    points = ladder(np.geomspace(1e5, 1e7, 5), seeds=2, bend=0.01)
    fitted = fit(POWER, points)
    found = rollout(fitted)
    assert [held.where for held in found] == ["N 1 M", "N 3.16 M", "N 10 M"]  # a power law needs two places below
    assert [held.n for held in found] == [2, 2, 2]
    for place, held in zip((2, 3, 4), found, strict=True):
        below = points.take(np.arange(2 * place))
        there = points.take(np.arange(2 * place, 2 * place + 2))
        error = np.abs(fit(POWER, below).predict(N=there.N) / there.L - 1).mean()
        assert held.relative_error == pytest.approx(error, rel=1e-9)
    assert found[-1].relative_error == pytest.approx(holdout(fitted).relative_error, rel=1e-9)


def test_an_exact_law_rolls_out_without_error():
    assert max(held.relative_error for held in rollout(fit(POWER, ladder([1e5, 2e5, 4e5, 8e5])))) < 1e-9


def test_errors_that_agree_to_two_digits_leave_the_choice_to_the_simpler_law():
    points = ladder(np.geomspace(1e5, 1e7, 5), bend=0.01)
    pair = [
        describe(LAWS[name], points, draws=0, rng=np.random.default_rng(0))[2] for name in ("power", "power+constant")
    ]

    def with_errors(*errors):
        held = zip(pair, errors, strict=True)
        return choose([replace(s, holdout=(replace(s.holdout[0], relative_error=error),)) for s, error in held])[0]

    simpler = min(pair, key=lambda summary: summary.aicc).law
    other = next(summary.law for summary in pair if summary.law != simpler)
    errors = {simpler: 0.00301, other: 0.00299}
    assert with_errors(*(errors[summary.law] for summary in pair)) == simpler
    errors = {simpler: 0.0032, other: 0.0028}
    assert with_errors(*(errors[summary.law] for summary in pair)) == other


def test_a_summary_holds_the_whole_rollout_and_its_mean_is_what_chooses():
    points = ladder(np.geomspace(1e5, 1e7, 5), bend=0.01)
    _, _, summary = describe(POWER, points, draws=0, hold="rollout", rng=np.random.default_rng(0))
    assert len(summary.holdout) == 3
    assert held_out_error(summary) == pytest.approx(np.mean([held.relative_error for held in summary.holdout]))
