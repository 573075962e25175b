"""Learning curves between two ends: (L - E) / (L0 - L)^δ = A/X^α, chance L0 on one side and a floor E on the other.

Source: M4 of Alabdulmohsin et al. 2022 (arXiv 2209.06640): ε_0 is L0, ε_∞ is E, β is A, c is -α, and its α, which says
how the curve leaves chance, is δ. For δ = 0 it is a power law above a floor, for δ = 1 a logistic curve of ln X.

Of nominal 95 % intervals over sizes | runs | residuals so many hold the truth (200 data sets, lowest parameter of each,
20 sizes x 3 seeds over six decades, noise alone, bench/coverage.py): 1.00 | .94 | .91.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalectl.core.rows import Points
from scalectl.laws.jet import logistic, plain
from scalectl.laws.law import Array, First, Law, Parameter, Second, Theta
from scalectl.laws.powers import EXPONENT_GRID, EXPONENT_HIGH, FLOOR_GRID, above

DELTA_LOW, DELTA_HIGH = 0.05, 5.0  # near 0 chance is not felt; above, the curve is a step of ln X. Ours.
DELTA_GRID = (0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5)
CHANCE_GRID = (1.002, 1.02, 1.1, 1.3, 1.7, 2.5, 5.0, 20.0)  # of the highest loss; beyond, it is out of sight. Ours.
CHANCE = "add points near chance, or hold chance: --fix L0=5.545 is that of 256 symbols"
NEWTON_STEPS = 60  # at most; five are usual


def saturating(axis: str) -> Law:
    """The law along one of N, D, C."""

    def ends(theta: Theta, points: Points) -> tuple[Any, Any]:
        """Distances of the loss from the floor and from chance, each without the other's rounding."""
        delta = theta["delta"]
        ln_gap = np.log(theta["L0"] - theta["E"])
        right = np.log(theta["A"]) - theta["alpha"] * np.log(points.axis(axis)) - (1.0 - delta) * ln_gap
        w = _logit(right, delta)
        up, down, _ = logistic(w)
        return np.exp(ln_gap - down), np.exp(ln_gap - up)

    def predict(theta: Theta, points: Points) -> Any:
        return theta["E"] + ends(theta, points)[0]

    def derivatives(theta: Theta, points: Points) -> tuple[Array, First, Second]:
        # Of the L for which H = ln(L - E) - δ ln(L0 - L) - ln A + α ln X is zero: L_i = -H_i / H_L, and so on.
        A, delta = theta["A"], theta["delta"]
        low, high = ends(theta, points)
        x = np.log(points.axis(axis))
        by_low, by_high = 1.0 / low, delta / high
        H_L = by_low + by_high
        H = {"E": -by_low, "L0": -by_high, "A": -1.0 / A, "alpha": x, "delta": -np.log(high)}
        H_LL = by_high / high - by_low**2
        H_iL = {"E": by_low**2, "L0": -by_high / high, "delta": 1.0 / high}
        H_ij = {
            ("E", "E"): -(by_low**2),
            ("L0", "L0"): by_high / high,
            ("L0", "delta"): -1.0 / high,
            ("A", "A"): A**-2.0,
        }
        first: First = {name: -part / H_L for name, part in H.items()}
        second: Second = {}
        for a, b in itertools.combinations_with_replacement(H, 2):
            bend = H_LL * first[a] * first[b] + H_iL.get(a, 0.0) * first[b] + H_iL.get(b, 0.0) * first[a]
            second[a, b] = -(bend + H_ij.get((a, b), 0.0)) / H_L
        return theta["E"] + low, first, second

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
        derivatives=derivatives,
        rescale=rescale,
        # Ours: half-way between bytes at chance, ln 256, and a floor of .5 at 100 M parameters.
        example={"E": 0.5, "L0": 5.545, "A": 1584.9, "alpha": 0.4, "delta": 1.0},
        basis=basis,
        link=link,
        along=saturating,
    )


def _logit(right: Any, delta: Any) -> Any:
    """The w whose ln σ(w) - δ ln(1 - σ(w)) is `right`: the left side grows with w between slopes 1 and δ.

    Newton's steps on plain numbers find the root; one more on what was given carries a complex step of it.
    """

    def step(w: Any, right: Any, delta: Any) -> Any:
        up, down, share = logistic(w)
        return (delta * up - down - right) / (1.0 + (delta - 1.0) * share)

    goal, bent = plain(right), plain(delta)
    w = np.where(goal < 0, goal, goal / bent)
    for _ in range(NEWTON_STEPS):
        change = step(w, goal, bent)
        w = w - change
        if not (np.abs(change) > 1e-10 * (1.0 + np.abs(w))).any():
            break
    return w - step(w, right, delta)


SATURATING = saturating("N")
