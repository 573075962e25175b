"""The verbs of a notebook over fits: plain values and pandas frames out, inside what the command line calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scalectl.core.errors import UsageError
from scalectl.core.rows import Points
from scalectl.fit import estimate
from scalectl.fit.bootstrap import Draws, Unit, bootstrap
from scalectl.fit.describe import MIN_SPARE, identified
from scalectl.fit.estimate import Fit
from scalectl.fit.objective import Objective, parse_objective
from scalectl.fit.predict import Prediction, allocate, predict_loss, reach
from scalectl.fit.profile import profile
from scalectl.fit.stats import confint as intervals_of
from scalectl.laws import Law, default_laws, law_on, varying
from scalectl.store.points import table_points, vary

if TYPE_CHECKING:
    import pandas as pd

    from scalectl.core.rows import Floats


def fit(
    points: Points | pd.DataFrame,
    law: str | Law | None = None,
    *,
    objective: str | Objective = "huber:1e-3",
    fix: Mapping[str, float] | None = None,
    weights: Floats | None = None,
) -> Fit:
    """The best parameters of a law.

    Args: points: from `load`, or a frame with columns N, D, C and L or others that name them plainly; law: a name as
    after `--law`, None for the first that suits the axes that vary; objective: as after `--objective`; fix: parameters
    held at a value; weights: shape (n,), how often each point counts.
    Returns: facts: `theta` (parameters by name, natural units), `value` (of the objective), `gradient_norm`, `starts`,
    `starts_at_optimum`, `status`, `advice`; `predict(N=..., D=...)` [nats/token] and `residuals()` (log, shape (n,)).
    Raises: UsageError for a law or an objective that is not there, and for runs that differ in more than the law reads;
    FitError for points that cannot determine the law.
    """
    held = points if isinstance(points, Points) else table_points(points)
    extra = vary(held)
    if extra:
        raise UsageError(
            f"{' and '.join(extra)} var{'ies' if len(extra) == 1 else 'y'} among these points at equal N and D",
            remedy=f"load(..., where='{extra[0]} == ...') picks one; pooling would count it as noise",
        )
    return estimate.fit(_law(law, held), held, _objective(objective), fix, weights)


def confint(fitted: Fit, level: float = 0.95, *, unit: Unit = "size", draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Estimate and intervals of every free parameter, one row each.

    Args: unit: what is resampled: size, run or residual; draws: resampled fits; seed: of the resampling.
    Returns: columns estimate, low, high (bootstrap), profile_low, profile_high (profile likelihood), identified.
    Raises: FitError with too few units to resample.
    """
    import pandas as pd

    drawn = _draws(fitted, unit, draws, seed)
    by_draw = intervals_of(drawn, level, fitted)
    profiles = {name: profile(fitted, name, level) for name in by_draw}
    known = identified(fitted, profiles, by_draw if drawn.spare >= MIN_SPARE else {})
    rows = {
        name: (fitted.theta[name], *by_draw[name], *profiles[name], known[name])
        for name in fitted.law.names
        if name in by_draw
    }
    columns = ["estimate", "low", "high", "profile_low", "profile_high", "identified"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("parameter")


def predict(
    fitted: Fit,
    *,
    N: Any = None,
    D: Any = None,
    C: Any = None,
    loss: Any = None,
    level: float = 0.95,
    unit: Unit = "size",
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """What the law says elsewhere, one row an answer.

    Args: N [parameters] and D [tokens], each a number or a sequence: the loss there; C [FLOP]: the compute-optimal N, D
    and loss of a law of N and D, or the loss of a law of C; loss [nats/token]: what it costs to reach, with N or D held
    if given; level, unit, draws, seed: as `confint`.
    Returns: a column for each thing given, then what (L, N, D or C), value, low, high and beyond: how many times beyond
    the points the place lies, 1 inside.
    Raises: UsageError if nothing is asked that the law can answer; FitError with too few units to resample.
    """
    import pandas as pd

    given = {name: values for name, values in (("N", N), ("D", D), ("C", C), ("loss", loss)) if values is not None}
    if not given:
        raise UsageError("nothing to predict", remedy=f"give {' and '.join(fitted.law.axes)}, C or loss")
    drawn = _draws(fitted, unit, draws, seed)
    places = np.broadcast_arrays(*(np.atleast_1d(np.asarray(values, dtype=np.float64)) for values in given.values()))
    rows = []
    for place in zip(*(values.ravel().tolist() for values in places), strict=True):
        asked = dict(zip(given, place, strict=True))
        for found in _answers(fitted, drawn, level, asked):
            far = max(found.extrapolation.values(), default=1.0)
            rows.append({**asked, "what": found.what, "value": found.value, "low": found.interval[0],
                         "high": found.interval[1], "beyond": far})  # fmt: skip
    return pd.DataFrame(rows)


def _answers(fitted: Fit, drawn: Draws, level: float, asked: Mapping[str, float]) -> tuple[Prediction, ...]:
    axes = {name: value for name, value in asked.items() if name != "loss"}
    if "loss" in asked:
        return (reach(fitted, drawn, level, asked["loss"], **axes),)
    if set(axes) == {"C"} and set(fitted.law.axes) == {"N", "D"}:
        best = allocate(fitted, drawn, level, axes["C"])
        return best.N, best.D, best.L
    return (predict_loss(fitted, drawn, level, **axes),)


def _law(law: str | Law | None, points: Points) -> Law:
    if isinstance(law, Law):
        return law
    if law is None:
        return default_laws(points)[0]
    return law_on(law, varying(points) or points.axes())


def _objective(objective: str | Objective) -> Objective:
    return objective if isinstance(objective, Objective) else parse_objective(objective)


def _draws(fitted: Fit, unit: Unit, draws: int, seed: int) -> Draws:
    if draws < 1 or not math.isfinite(draws):
        raise UsageError(f"draws {draws} is not a positive number", remedy="1000 is usual")
    return bootstrap(fitted, draws, unit, np.random.default_rng(seed))
