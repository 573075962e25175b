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
from scalectl.core.rows import Floats, Points
from scalectl.core.units import count, listed, si
from scalectl.fit.estimate import Fit, without
from scalectl.fit.predict import FLOPS_PER_PARAMETER_TOKEN
from scalectl.fit.summary import Holdout, Summary
from scalectl.laws import SAME_WITHIN, Law

# Budgets of one isoFLOP group differ by rounding to whole steps and by how N is read off. Ours.
SAME_BUDGET = 0.9

# Steps of a rollout: where there are more places they are taken together, in order. Ours: a reader follows no more.
MOST_STEPS = 12


def extent(law: Law, points: Points) -> Floats:
    """How far up the law each point lies, shape (n,): its place on the one axis, or N D.

    A score goes up where the loss goes down: 1 / loss. Where N is not known, the product of what the law reads.
    """
    if len(law.axes) == 1:
        values = points.axis(law.axes[0])
        return np.asarray(1.0 / values) if law.axes == ("loss",) else values
    known = points.N is not None and points.D is not None
    return np.asarray(np.prod([points.axis(axis) for axis in (("N", "D") if known else law.axes)], axis=0))


def largest(law: Law, points: Points) -> tuple[str, npt.NDArray[np.bool_]]:
    """The points at the largest size, for a law of one axis, or at the largest N D, and what to call them."""
    values = extent(law, points)
    if len(law.axes) == 1:
        axis = law.axes[0]
        return "lowest loss" if axis == "loss" else f"largest {axis}", values == values.max()
    known = points.N is not None and points.D is not None
    return f"largest {'N D' if known else ' '.join(law.axes)}", values >= SAME_BUDGET * values.max()


def holdout(fitted: Fit, mask: npt.NDArray[np.bool_] | None = None, where: str | None = None) -> Holdout | None:
    """Refits without some points and predicts them.

    Args: mask: the points held out, (n,); the largest size or budget if None; where: what to call them.
    Returns: mean of |predicted / measured - 1| there, by how often each point counts, of a score the mean error by the
    mean score; None when the rest cannot determine the law.
    """
    name, picked = largest(fitted.law, fitted.points)
    if mask is not None:
        name, picked = where or "held out", mask
    return _predicted(fitted, ~picked, picked, name)


def _predicted(fitted: Fit, known: npt.NDArray[np.bool_], held: npt.NDArray[np.bool_], name: str) -> Holdout | None:
    if not held.any() or not known.any():
        return None
    try:
        rest = without(fitted, known)
    except FitError:
        return None
    there = fitted.points.take(held)
    worth = np.ones(len(there)) if fitted.weights is None else fitted.weights[held]
    error = np.abs(np.asarray(fitted.law.predict(rest.theta, there), dtype=np.float64) - there.L)
    # A score may be 0, and is then no unit for its error.
    score = fitted.law.measures == "score"
    share = error / (np.average(np.abs(there.L), weights=worth) if score else there.L)
    return Holdout(where=name, n=len(there), relative_error=float(np.average(share, weights=worth)))


def steps(law: Law, points: Points, most: int | None = MOST_STEPS) -> npt.NDArray[np.int64]:
    """The place of each point on the way up the law's axis, or up N D, as an index from 0, shape (n,).

    Places that rounding to whole steps sets apart are one. Where there are more than `most`, they are taken together,
    as many to each step.
    """
    values = extent(law, points)
    near = SAME_WITHIN if len(law.axes) == 1 else 1 / SAME_BUDGET
    index = np.empty(len(values), dtype=np.int64)
    first, label = math.inf, -1  # the largest of a step
    for row in np.argsort(-values, kind="stable"):  # from the top: the last step is what `largest` holds out
        if values[row] * near < first:
            first, label = values[row], label + 1
        index[row] = label
    index = label - index
    return index if most is None or label < most else index * most // (label + 1)


def rollout(fitted: Fit) -> tuple[Holdout, ...]:
    """Each step up the axis (or N D) predicted by the law fitted to what lies below it alone.

    Returns: the steps whose smaller points determine the law, the largest last.
    """
    index = steps(fitted.law, fitted.points)
    values = extent(fitted.law, fitted.points)
    found = [
        _predicted(fitted, index < step, index == step, _step_name(fitted.law, values[index == step].max()))
        for step in range(1, int(index.max()) + 1)
    ]
    return tuple(held for held in found if held is not None)


def _step_name(law: Law, value: float) -> str:
    """N 1.2 M, C 3 TFLOP; of a law of N and D by the budget 6 N D."""
    axis = law.axes[0] if len(law.axes) == 1 else "C"
    if axis == "loss":
        return f"loss {1 / value:.3g}"
    if len(law.axes) > 1:
        value *= FLOPS_PER_PARAMETER_TOKEN
    return f"{axis} {si(value, 'FLOP') if axis == 'C' else count(value)}"


def choose(summaries: Sequence[Summary]) -> tuple[str, str]:
    """The law to report first and the sentence that says why.

    Laws whose parameters are all identified come first, then the smaller hold-out error, then AICc: errors that agree
    to two digits tell no laws apart.
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
            return best.law, f"the only law fitted, although {listed(unsure)} {_is(unsure)} not identified"
        return best.law, f"no law is identified; this one {_why(best, order[1])}"
    if len(order) == 1:
        return best.law, "the only law fitted, and identified"
    other = order[1]
    if not all(other.identified.values()):
        open_ones = [name for name, known in other.identified.items() if not known]
        return best.law, f"{other.law} is not identified ({listed(open_ones)})"
    return best.law, _why(best, other)


def _rank(summary: Summary) -> tuple[bool, float, float]:
    error = held_out_error(summary)
    told = math.inf if error is None else float(f"{error:.1e}")
    return not all(summary.identified.values()), told, summary.aicc


def held_out_error(summary: Summary) -> float | None:
    """Mean over what was held out, each step of a rollout as much as the next; None where nothing was."""
    errors = [held.relative_error for held in summary.holdout]
    return float(np.mean(errors)) if errors else None


def _why(best: Summary, other: Summary) -> str:
    mine, theirs = held_out_error(best), held_out_error(other)
    if mine is not None and theirs is not None:
        return f"predicts the {_what(best)} to {100 * mine:.2g} %, {other.law} to {100 * theirs:.2g} %"
    if mine is not None:
        return f"predicts the {_what(best)}; {other.law} cannot be fitted without it"
    return f"has the lower AICc ({best.aicc:.4g} against {other.aicc:.4g}); nothing could be held out"


def _what(summary: Summary) -> str:
    one = len(summary.holdout) == 1
    return summary.holdout[0].where if one else f"next step of {len(summary.holdout)} on average"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
