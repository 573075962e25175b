"""Laws put to the test on many curves: fitted to the early part of each, scored on the rest.

After Alabdulmohsin et al. 2022 (arXiv 2209.06640), who rank laws by how they extrapolate; the score here is the mean
relative error, which a reader can compare with the noise between seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalectl.core.errors import FitError, UsageError
from scalectl.core.rows import Points
from scalectl.fit.estimate import fit
from scalectl.fit.objective import Objective
from scalectl.fit.select import extent, steps
from scalectl.laws import Law


@dataclass(frozen=True)
class Trial:
    """One law on one curve.

    early, late: points fitted and points predicted; beyond: how many times further up the axis (or N D) the last of
    these lies than the last of those; error: mean of |predicted / measured - 1| over the late points, NaN where the law
    could not be fitted; bias: mean of predicted / measured - 1; refused: why it could not be fitted.
    """

    curve: str
    law: str
    early: int
    late: int
    beyond: float
    error: float = math.nan
    bias: float = math.nan
    refused: str = ""


@dataclass(frozen=True)
class Score:
    """A law over all curves. fitted: curves that it could be fitted to; best: those where no other law did better.

    median, worst: of the errors; tenth: the error that a tenth of the curves exceed. NaN without curves.
    """

    law: str
    formula: str
    fitted: int
    best: int
    median: float
    tenth: float
    worst: float


def backtest(
    curves: Mapping[str, Points], laws: Sequence[Law], objective: Objective, early: float = 0.5
) -> tuple[tuple[Score, ...], tuple[Trial, ...]]:
    """Fits every law to the early part of every curve and predicts the rest.

    Args: curves: by name; early: share of a curve's places, from the smallest up, that are fitted, rounded up.
    Returns: laws, best median first, and every trial.
    Raises: UsageError if `early` is no share; FitError if no curve has two places.
    """
    if not 0 < early < 1:
        raise UsageError(f"--early {early:g} is not a share between 0 and 1", remedy="0.5 is usual")
    trials: list[Trial] = []
    for name, points in curves.items():
        for law in laws:
            index = steps(law, points, most=None)
            places = int(index.max()) + 1
            known = index < min(max(1, math.ceil(early * places - 1e-9)), places - 1)
            if places > 1:
                trials.append(_trial(name, law, points, known, objective))
    if not trials:
        raise FitError(
            f"no curve has two places along {' and '.join(laws[0].axes)}",
            remedy="choose another --axis, or curves by other columns with --by",
        )
    errors = {(trial.curve, trial.law): trial.error for trial in trials if math.isfinite(trial.error)}
    least = {
        curve: min((errors[curve, law.name] for law in laws if (curve, law.name) in errors), default=math.nan)
        for curve in curves
    }
    scores = [_score(law, [trial for trial in trials if trial.law == law.name], least) for law in laws]
    scores.sort(key=lambda score: (-score.fitted, math.inf if math.isnan(score.median) else score.median))
    return tuple(scores), tuple(trials)


def _trial(curve: str, law: Law, points: Points, known: np.ndarray, objective: Objective) -> Trial:
    there = points.take(~known)
    values = extent(law, points)
    trial = Trial(curve, law.name, int(known.sum()), len(there), float(values.max() / values[known].max()))
    try:
        fitted = fit(law, points.take(known), objective)
    except FitError as error:
        return replace(trial, refused=error.what)
    ratio = np.asarray(law.predict(fitted.theta, there), dtype=np.float64) / there.L
    return replace(trial, error=float(np.abs(ratio - 1).mean()), bias=float((ratio - 1).mean()))


def _score(law: Law, trials: Sequence[Trial], least: Mapping[str, float]) -> Score:
    errors = np.sort([trial.error for trial in trials if math.isfinite(trial.error)])
    best = sum(trial.error == least[trial.curve] for trial in trials)
    if not errors.size:
        return Score(law.name, law.formula, 0, 0, math.nan, math.nan, math.nan)
    tenth = errors[math.ceil(0.9 * (errors.size - 1))]
    return Score(law.name, law.formula, errors.size, best, float(np.median(errors)), float(tenth), float(errors[-1]))
