"""Which law to believe: the one that extrapolates best to what it was not shown.

In-sample fit does not choose the extrapolator: laws that fit several times better can predict worse (Alabdulmohsin et
al. 2022, arXiv 2209.06640).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scalectl.core.errors import FitError
from scalectl.core.rows import Points
from scalectl.fit.estimate import Fit, without
from scalectl.fit.summary import Holdout, Summary
from scalectl.laws import Law

# Budgets of one isoFLOP group differ by rounding to whole steps and by how N is read off. Ours.
SAME_BUDGET = 0.9


def largest(law: Law, points: Points) -> tuple[str, npt.NDArray[np.bool_]]:
    """The points at the largest size, for a law of one axis, or at the largest N D, and what to call them."""
    if len(law.axes) == 1:
        axis = law.axes[0]
        values = points.axis(axis)
        return f"largest {axis}", values == values.max()
    values = np.prod([points.axis(axis) for axis in law.axes], axis=0)
    return f"largest {' '.join(law.axes)}", values >= SAME_BUDGET * values.max()


def holdout(fitted: Fit, mask: npt.NDArray[np.bool_] | None = None, where: str | None = None) -> Holdout | None:
    """Refits without some points and predicts them.

    Args: mask: the points held out, (n,); the largest size or budget if None; where: what to call them.
    Returns: mean of |predicted / measured - 1| there; None when the rest cannot determine the law.
    """
    name, picked = largest(fitted.law, fitted.points)
    if mask is not None:
        name, picked = where or "held out", mask
    if not picked.any() or picked.all():
        return None
    try:
        rest = without(fitted, ~picked)
    except FitError:
        return None
    there = fitted.points.take(picked)
    predicted = np.asarray(fitted.law.predict(rest.theta, there), dtype=np.float64)
    return Holdout(where=name, n=len(there), relative_error=float(np.abs(predicted / there.L - 1).mean()))


def choose(summaries: Sequence[Summary]) -> tuple[str, str]:
    """The law to report first and the sentence that says why.

    Laws whose parameters are all identified come first, then the smaller hold-out error, then AICc.
    Raises: FitError for no law.
    """
    if not summaries:
        raise FitError("no law could be fitted to these points", remedy="see the message of each law")
    order = sorted(summaries, key=_rank)
    best = order[0]
    unsure = [name for name, known in best.identified.items() if not known]
    if unsure:
        if not best.draws:
            why = "the only law fitted" if len(order) == 1 else _why(best, order[1])
            return best.law, f"{why}; not judged without the bootstrap"
        if len(order) == 1:
            return best.law, f"the only law fitted, although {_and(unsure)} {_is(unsure)} not identified"
        return best.law, f"no law is identified; this one {_why(best, order[1])}"
    if len(order) == 1:
        return best.law, "the only law fitted, and identified"
    other = order[1]
    if not all(other.identified.values()):
        open_ones = [name for name, known in other.identified.items() if not known]
        return best.law, f"{other.law} is not identified ({_and(open_ones)})"
    return best.law, _why(best, other)


def _rank(summary: Summary) -> tuple[bool, float, float]:
    error = summary.holdout[0].relative_error if summary.holdout else math.inf
    return not all(summary.identified.values()), error, summary.aicc


def _why(best: Summary, other: Summary) -> str:
    if best.holdout and other.holdout:
        mine, theirs = best.holdout[0], other.holdout[0]
        return (
            f"predicts the {mine.where} to {100 * mine.relative_error:.2g} %, "
            f"{other.law} to {100 * theirs.relative_error:.2g} %"
        )
    if best.holdout:
        return f"predicts the {best.holdout[0].where}; {other.law} cannot be fitted without it"
    return f"has the lower AICc ({best.aicc:.4g} against {other.aicc:.4g}); nothing could be held out"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
