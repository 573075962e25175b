"""Laws scored on the ends of curves that they were not shown."""

import math

import numpy as np
import pytest

from scalectl.core.errors import FitError, UsageError
from scalectl.core.rows import Points
from scalectl.fit.backtest import backtest
from scalectl.fit.estimate import fit
from scalectl.fit.objective import Huber
from scalectl.laws import law_on

POWER, FLOORED = (law_on(name, ("D",)) for name in ("power", "power+constant"))
D = np.geomspace(1e5, 1e8, 10)


def curve(floor, exponent=0.3):
    return Points(L=floor + 2 * (D / 1e5) ** -exponent, D=D)


def test_the_law_that_made_the_curves_foretells_their_ends():
    curves = {f"floor {floor}": curve(floor) for floor in (0.0, 0.5, 1.0)}
    scores, trials = backtest(curves, (POWER, FLOORED), Huber(), early=0.5)
    assert [score.law for score in scores] == ["power+constant", "power"]
    best, other = scores
    assert best.worst < 1e-6 < other.median < other.worst
    assert best.fitted == other.fitted == 3
    assert best.best >= 2
    assert {(trial.early, trial.late) for trial in trials} == {(5, 5)}
    assert all(trial.beyond == pytest.approx(D[-1] / D[4]) for trial in trials)
    below = next(trial for trial in trials if (trial.law, trial.curve) == ("power", "floor 1.0"))
    assert below.bias == -below.error  # without a floor it predicts too little everywhere


def test_a_score_is_the_error_of_a_fit_by_hand():
    held = curve(1.0)
    _, (trial,) = backtest({"one": held}, (POWER,), Huber(), early=0.3)
    assert (trial.early, trial.late) == (3, 7)
    fitted = fit(POWER, held.take(np.arange(3)), Huber())
    assert trial.error == pytest.approx(np.abs(fitted.predict(D=D[3:]) / held.L[3:] - 1).mean(), rel=1e-12)


@pytest.mark.parametrize(("early", "fitted"), [(0.01, 1), (0.5, 5), (0.99, 9)])
def test_something_is_fitted_and_something_is_scored(early, fitted):
    _, trials = backtest({"one": curve(0.0)}, (POWER,), Huber(), early)
    assert trials[0].early == fitted
    assert trials[0].late == 10 - fitted


def test_a_law_that_a_curve_cannot_determine_says_why_and_ranks_last():
    scores, trials = backtest({"one": curve(1.0)}, (FLOORED, POWER), Huber(), early=0.2)
    assert [score.law for score in scores] == ["power", "power+constant"]
    assert math.isnan(scores[1].median)
    assert [bool(trial.refused) for trial in trials] == [True, False]


def test_curves_of_one_place_and_shares_beyond_one_are_refused():
    single = Points(L=np.ones(3), D=np.full(3, 1e6))
    with pytest.raises(FitError, match="no curve has two places along D"):
        backtest({"one": single}, (POWER,), Huber())
    with pytest.raises(UsageError, match="--early 1 is not a share"):
        backtest({"one": curve(0.0)}, (POWER,), Huber(), early=1.0)
