"""What a law says away from its points: a loss, the best N and D for a budget, and what a loss costs.

Every answer carries its interval from the draws and how far beyond the data it lies. Intervals are those of the law's
mean; the noise of one run comes on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalectl.core.errors import FitError, UsageError
from scalectl.core.rows import Floats, Points
from scalectl.fit.bootstrap import Draws
from scalectl.fit.estimate import Fit
from scalectl.fit.stats import interval
from scalectl.fit.summary import Interval
from scalectl.laws import Law, where
from scalectl.laws.law import COMPLEX_STEP, Theta

FLOPS_PER_PARAMETER_TOKEN = 6.0  # C = 6 N D, Kaplan et al. 2020, section 2.1

# Searches run in ln of the axis: to e^±60 of the data (26 decades), in 64 halvings, to 1e-17 of that range.
REACH = 60.0
HALVINGS = 64


@dataclass(frozen=True)
class Prediction:
    """One answer with its interval at `level`.

    what: L, N, D or C, or S for a score; value and interval in its unit [nats/token, parameters, tokens, FLOP];
    infinite where the law never gets there; at: where it was asked; extrapolation: by axis, how many times beyond the
    points (1 inside); impossible: share of the draws for which no finite answer exists.
    """

    what: str
    value: float
    interval: Interval
    level: float
    at: dict[str, float] = field(default_factory=dict)
    extrapolation: dict[str, float] = field(default_factory=dict)
    impossible: float = 0.0


@dataclass(frozen=True)
class Allocation:
    """The compute-optimal run of a budget: N*, D* and its loss at C [FLOP] = 6 N D."""

    C: float
    N: Prediction
    D: Prediction
    L: Prediction


def predict_loss(fitted: Fit, draws: Draws, level: float, **axes: float) -> Prediction:
    """Loss at N, D or C, as the law's axes ask. Raises UsageError when an axis is missing or not positive."""
    _want(fitted.law, axes)
    here = where(**axes)
    values = np.asarray(fitted.law.predict(draws.theta(), here), dtype=np.float64)[:, 0]
    return Prediction(
        what="S" if fitted.law.measures == "score" else "L",
        value=float(fitted.law.predict(fitted.theta, here)[0]),
        interval=interval(values, draws, level, low=0.0),
        level=level,
        at=dict(axes),
        extrapolation={axis: beyond(fitted, axis, value) for axis, value in axes.items()},
    )


def band(fitted: Fit, draws: Draws, level: float, **axes: Floats) -> tuple[Floats, Floats, Floats]:
    """Loss and pointwise interval along a curve: value, low, high, each (points,). axes: arrays of one shape."""
    here = where(**axes)
    values = np.asarray(fitted.law.predict(draws.theta(), here), dtype=np.float64)
    bounds = np.array([interval(column, draws, level, low=0.0) for column in values.T])
    return np.asarray(fitted.law.predict(fitted.theta, here), dtype=np.float64), bounds[:, 0], bounds[:, 1]


def allocate(fitted: Fit, draws: Draws, level: float, C: float) -> Allocation:
    """The N and D that reach the lowest loss with C [FLOP] = 6 N D.

    Raises: UsageError for a law that does not read both N and D, and for a budget that is not positive.
    """
    _joint(fitted.law)
    if not (math.isfinite(C) and C > 0):
        raise UsageError(f"C={C:g} is not a positive budget in FLOP")
    best_N, best_D = optimum(fitted.law, {k: np.array([[v]]) for k, v in fitted.theta.items()}, C, fitted)
    draw_N, draw_D, losses = _frontier(fitted.law, draws, C, fitted)
    loss = float(fitted.law.predict(fitted.theta, where(N=best_N[0], D=best_D[0]))[0])
    at = {"C": C}
    far = {"C": beyond(fitted, "C", C)}

    def part(what: str, value: float, values: Floats) -> Prediction:
        own = far if what == "L" else far | {what: beyond(fitted, what, value)}
        return Prediction(what, value, interval(values, draws, level, low=0.0), level, at, own)

    return Allocation(
        C=C,
        N=part("N", float(best_N[0, 0]), draw_N),
        D=part("D", float(best_D[0, 0]), draw_D),
        L=part("L", loss, losses),
    )


def optimum(law: Law, theta: Theta, C: Any, fitted: Fit) -> tuple[Floats, Floats]:
    """N* and D* of a law of N and D at C [FLOP], each of the batch's shape (B, 1).

    The root of dL/dlnN along N D = C / 6, by bisection; the slope is exact, by a complex step of the axes.
    """
    product = np.log(np.asarray(C, dtype=np.float64) / FLOPS_PER_PARAMETER_TOKEN)
    middle = float(np.log(fitted.points.axis("N")).mean())

    def slope(ln_N: Floats) -> Floats:
        turn = 1j * COMPLEX_STEP
        points = where(N=np.exp(ln_N + turn), D=np.exp(product - ln_N - turn))
        return np.asarray(law.predict(theta, points).imag / COMPLEX_STEP, dtype=np.float64)

    shape = np.broadcast_shapes(*(np.shape(values) for values in theta.values()), np.shape(C))
    ln_N = _bisect(lambda x: slope(x) > 0, np.full(shape, middle - REACH), np.full(shape, middle + REACH))
    return np.exp(ln_N), np.exp(product - ln_N)


@np.errstate(all="ignore")
def _frontier(law: Law, draws: Draws, C: float, fitted: Fit) -> tuple[Floats, Floats, Floats]:
    """N*, D* and the loss there by draw, each (draws,).

    Where a draw's loss does not depend on N it is lowest at no N and endless D, short of sizes that the points cannot
    speak of, and the other way round: those ends are open, whatever exponent the optimiser left behind.
    """
    N, D = (held[:, 0] for held in optimum(law, draws.theta(), C, fitted))
    losses = np.asarray(law.predict(draws.theta(), where(N=N[:, None], D=D[:, None])), dtype=np.float64)[:, 0]
    nowhere = np.full((len(draws), 1), 1e300)
    floor = np.asarray(law.predict(draws.theta(), where(N=nowhere, D=nowhere)), dtype=np.float64)[:, 0]
    for axis, none, endless in (("N", N, D), ("D", D, N)):
        blind = draws.blind.get(axis, np.zeros(len(draws), dtype=bool))
        none[blind], endless[blind] = -math.inf, math.inf
        losses[blind] = floor[blind]
    return N, D, losses


def reach(fitted: Fit, draws: Draws, level: float, loss: float, **given: float) -> Prediction:
    """What it costs to reach a loss.

    That is N, D or C of a law of one axis; for a law of N and D the one that is not given, or, with none given, the
    smallest budget C [FLOP].
    Infinite where the law's floor lies above the loss; then the interval's upper end is infinite as well.
    """
    if not (math.isfinite(loss) and loss > 0):
        raise UsageError(f"loss {loss:g} is not a positive number of nats per token")
    law = fitted.law
    for axis in given:
        if axis not in law.axes or len(law.axes) == 1:
            raise UsageError(f"{law.name} cannot hold {axis} fixed; it reads {', '.join(law.axes)}")
    _positive(given)
    open_axes = [axis for axis in law.axes if axis not in given]
    what = open_axes[0] if len(open_axes) == 1 else "C"
    if what == "C" and law.axes != ("C",):
        _joint(law)

    def solve(theta: Theta) -> Floats:
        if what != "C" or law.axes == ("C",):
            return cost(law, theta, what, loss, fitted.points, **given)
        budgets = FLOPS_PER_PARAMETER_TOKEN * np.prod([fitted.points.axis(axis) for axis in law.axes], 0)

        def enough(x: Floats) -> Any:
            N, D = optimum(law, theta, np.exp(x), fitted)
            return law.predict(theta, where(N=N, D=D)) <= loss

        return _least(enough, theta, budgets)

    value = float(solve({k: np.array([[v]]) for k, v in fitted.theta.items()})[0, 0])
    values = solve(draws.theta())[:, 0]
    if what == "C" and law.axes != ("C",):
        for blind in draws.blind.values():  # then any budget will do, as in `_frontier`
            values[blind & np.isfinite(values)] = -math.inf
    low, high = interval(values, draws, level, low=0.0)
    return Prediction(
        what=what,
        value=value,
        interval=(low, high),
        level=level,
        at={"L": loss, **given},
        extrapolation={axis: beyond(fitted, axis, x) for axis, x in ((what, value), *given.items())},
        impossible=float(np.isinf(values).mean()),
    )


def cost(law: Law, theta: Theta, axis: str, loss: float, points: Points, **given: float) -> Floats:
    """The least of an axis with which a law reaches a loss, infinite where it never does; shape of theta, (B, 1).

    Args: points: near which the search begins; given: the law's other axes.
    """

    def enough(x: Floats) -> Any:
        axes = {name: np.full(x.shape, value) for name, value in given.items()}
        return law.predict(theta, where(**axes, **{axis: np.exp(x)})) <= loss

    return _least(enough, theta, points.axis(axis))


def _least(enough: Any, theta: Theta, known: Floats) -> Floats:
    shape = np.broadcast_shapes(*(np.shape(values) for values in theta.values()))
    middle = float(np.log(known).mean())
    far = np.full(shape, middle + REACH)
    found = np.exp(_bisect(enough, np.full(shape, middle - REACH), far))
    return np.asarray(np.where(enough(far), found, np.inf))


def beyond(fitted: Fit, axis: str, value: float) -> float:
    """How many times beyond the points' range of an axis a value lies, above or below; 1 inside it."""
    points = fitted.points
    if axis == "C" and points.C is None:
        if points.N is None or points.D is None:
            raise FitError("the points have neither C nor both N and D")
        known = FLOPS_PER_PARAMETER_TOKEN * points.N * points.D
    else:
        known = points.axis(axis)
    return float(max(1.0, value / known.max(), known.min() / value if value > 0 else math.inf))


def _bisect(enough: Any, low: Floats, high: Floats) -> Floats:
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        inside = enough(middle)
        low, high = np.where(inside, low, middle), np.where(inside, middle, high)
    return (low + high) / 2


def _want(law: Law, axes: dict[str, float]) -> None:
    if set(axes) != set(law.axes):
        raise UsageError(
            f"{law.name} predicts from {' and '.join(law.axes)}; {', '.join(sorted(axes)) or 'nothing'} was given",
            remedy=f"give {asks(law)}",
        )
    _positive(axes)


def asks(law: Law) -> str:
    """The flags of `scalectl predict` that name a place of the law."""
    flags = {axis: f"--{axis.lower()}" for axis in ("N", "D", "C", "loss")}
    return " and ".join(flags.get(axis, f"--with {axis}=VALUE") for axis in law.axes)


def _positive(axes: dict[str, float]) -> None:
    for axis, value in axes.items():
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{axis}={value:g} is not a positive number")


def _joint(law: Law) -> None:
    if set(law.axes) != {"N", "D"}:
        raise UsageError(
            f"{law.name} reads {', '.join(law.axes)}: a best split of a budget needs a law of N and D",
            remedy="vary both sizes and tokens, then fit chinchilla",
        )
