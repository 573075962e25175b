"""Learning curves between two ends: (L - E) / (L0 - L)^δ = A/X^α, chance L0 on one side and a floor E on the other.

Source: M4 of Alabdulmohsin et al. 2022 (arXiv 2209.06640): ε_0 is L0, ε_∞ is E, β is A, c is -α, and its α, which says
how the curve leaves chance, is δ. For δ = 0 it is a power law above a floor, for δ = 1 a logistic curve of ln X.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalectl.core.rows import Points
from scalectl.laws.jet import log_sum_exp, plain
from scalectl.laws.law import Array, Law, Parameter, Theta, exact
from scalectl.laws.powers import EXPONENT_GRID, EXPONENT_HIGH, FLOOR_GRID, above

DELTA_LOW, DELTA_HIGH = 0.05, 5.0  # near 0 chance is not felt; above, the curve is a step of ln X. Ours.
DELTA_GRID = (0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5)
CHANCE_GRID = (1.002, 1.02, 1.1, 1.3, 1.7, 2.5, 5.0, 20.0)  # of the highest loss; beyond, it is out of sight. Ours.
CHANCE = "add points near chance, or hold chance: --fix L0=5.545 is that of 256 symbols"
NEWTON_STEPS = 60  # at most; five are usual
TAYLOR_STEPS = 2  # each doubles the order to which the root is known in the parameters: to 1, then to 3


def saturating(axis: str) -> Law:
    """The law along one of N, D, C."""

    def predict(theta: Theta, points: Points) -> Any:
        E, delta = theta["E"], theta["delta"]
        ln_gap = np.log(theta["L0"] - E)
        right = np.log(theta["A"]) - theta["alpha"] * np.log(points.axis(axis)) - (1.0 - delta) * ln_gap
        return E + np.exp(ln_gap - log_sum_exp(0.0, -_logit(right, delta)))

    def basis(nonlinear: Theta, points: Points) -> dict[str, Any]:
        return {"A": np.exp(-nonlinear["alpha"] * np.log(points.axis(axis)))}

    def link(nonlinear: Theta, measured: Array) -> tuple[Array, Array]:
        low = above(nonlinear["E"], measured)
        high = above(-nonlinear["L0"], -measured)
        target = low / high ** nonlinear["delta"]
        return target, target * (1.0 / low + nonlinear["delta"] / high)

    def rescale(theta: Theta, units: Mapping[str, float]) -> dict[str, Any]:
        return {**theta, "A": theta["A"] * units.get(axis, 1.0) ** theta["alpha"]}

    parameters = (
        Parameter("E", "linear", 0.0, np.inf, grid=FLOOR_GRID, relative="lowest", floor=True, unit="nats/token"),
        Parameter("L0", "linear", 0.0, np.inf, grid=CHANCE_GRID, relative="highest", unit="nats/token", helped=CHANCE),
        Parameter("A", "log", 0.0, np.inf, axis=axis, exponent="alpha"),
        Parameter("alpha", "linear", 0.0, EXPONENT_HIGH, grid=EXPONENT_GRID),
        Parameter("delta", "linear", DELTA_LOW, DELTA_HIGH, grid=DELTA_GRID, helped=CHANCE),
    )
    return Law(
        name="saturating",
        formula=f"(L - E)/(L0 - L)^δ = A/{axis}^α",
        axes=(axis,),
        parameters=parameters,
        needs=5,
        predict=predict,
        derivatives=exact(predict, tuple(p.name for p in parameters)),
        rescale=rescale,
        # Ours: half-way between bytes at chance, ln 256, and a floor of .5 at 100 M parameters.
        example={"E": 0.5, "L0": 5.545, "A": 1584.9, "alpha": 0.4, "delta": 1.0},
        basis=basis,
        link=link,
        along=saturating,
    )


def _logit(right: Any, delta: Any) -> Any:
    """The w whose ln σ(w) - δ ln(1 - σ(w)) is `right`: the left side grows with w between slopes 1 and δ.

    Newton's steps on plain numbers find the root; a few more on what was given carry complex parts or derivatives.
    """

    def step(w: Any, right: Any, delta: Any) -> Any:
        low, high = log_sum_exp(0.0, -w), log_sum_exp(0.0, w)
        return (delta * high - low - right) / (np.exp(-high) + delta * np.exp(-low))

    goal, bent = plain(right), plain(delta)
    w = np.where(goal < 0, goal, goal / bent)
    for _ in range(NEWTON_STEPS):
        change = step(w, goal, bent)
        w = w - change
        if not (np.abs(change) > 1e-10 * (1.0 + np.abs(w))).any():
            break
    found: Any = w
    for _ in range(TAYLOR_STEPS):
        found = found - step(found, right, delta)
    return found


SATURATING = saturating("N")
