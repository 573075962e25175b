"""N and D together, as one power of a sum: L = ((A/N)^(α/β) + B/D)^β, with or without a floor.

Source: Kaplan et al. 2020 (arXiv 2001.08361), equation 1.5, where A is N_c, B is D_c, α is α_N and β is α_D; the floor
is ours, so that the two joint laws can be compared with equal freedom.

Of nominal 95 % intervals over sizes | runs | residuals so many hold the truth (200 data sets, lowest parameter of each,
8 sizes x 5 budgets, bench/coverage.py): without E, noise alone 1.00 | .96 | .91, sizes .4 % off the law 1.00 | .86 |
.74; with E, noise alone 1.00 | .98 | .90.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalectl.core.rows import Points
from scalectl.laws.jet import log_sum_exp
from scalectl.laws.law import Array, First, Law, Parameter, Second, Theta
from scalectl.laws.powers import EXPONENT_GRID, EXPONENT_HIGH, FLOOR_GRID, UNITS, above

# ln of A/N at the middle of the data is ln(L)/α: with α = .01 it passes 200. Ours.
SPAN = 230.0
BETA_LOW = 1e-3  # the law divides by β. Ours.
BETA_GRID = (0.006, *EXPONENT_GRID, EXPONENT_HIGH)  # at its ends the law is a product and a sharp maximum


def kaplan(name: str, formula: str, constant: str | None) -> Law:
    """The joint law of Kaplan et al. above a floor of that name, or none."""

    def predict(theta: Theta, points: Points) -> Any:
        sizes = theta["alpha"] / theta["beta"] * (np.log(theta["A"]) - np.log(points.axis("N")))
        budgets = np.log(theta["B"]) - np.log(points.axis("D"))
        loss = np.exp(theta["beta"] * log_sum_exp(sizes, budgets))
        return loss + theta[constant] if constant else loss

    def derivatives(theta: Theta, points: Points) -> tuple[Array, First, Second]:
        # By hand, three times as fast as `exact`: this law is fitted whenever N and D vary. G = ln L; p, q: shares of
        # the two terms in the sum, whose logarithms are `sizes` and `budgets`; w: slope of `sizes` by α.
        A, alpha, B, beta = (theta[name] for name in ("A", "alpha", "B", "beta"))
        gap = np.log(A) - np.log(points.axis("N"))
        w = gap / beta
        sizes = alpha * w
        budgets = np.log(B) - np.log(points.axis("D"))
        total = log_sum_exp(sizes, budgets)
        p = np.exp(sizes - total)
        q = np.exp(budgets - total)
        pq = p * q
        loss = np.exp(beta * total)
        G = {"A": alpha / A * p, "alpha": p * gap, "B": beta / B * q, "beta": total - p * sizes}
        bent = pq * sizes
        curved = {
            ("A", "A"): alpha / A**2 * (alpha / beta * pq - p),
            ("A", "alpha"): (p + bent) / A,
            ("A", "B"): -alpha / (A * B) * pq,
            ("A", "beta"): -alpha / (A * beta) * bent,
            ("alpha", "alpha"): pq * gap * w,
            ("alpha", "B"): -pq * gap / B,
            ("alpha", "beta"): -bent * w,
            ("B", "B"): beta / B**2 * (pq - q),
            ("B", "beta"): (q + bent) / B,
            ("beta", "beta"): bent * sizes / beta,
        }
        first: First = {name: loss * slope for name, slope in G.items()}
        second: Second = {(a, b): first[a] * G[b] + loss * bend for (a, b), bend in curved.items()}
        return (loss + theta[constant], first | {constant: 1.0}, second) if constant else (loss, first, second)

    def basis(nonlinear: Theta, points: Points) -> dict[str, Any]:
        share = nonlinear["alpha"] / nonlinear["beta"]
        return {"A": np.exp(-share * np.log(points.axis("N"))), "B": 1.0 / points.axis("D")}

    def link(nonlinear: Theta, measured: Array) -> tuple[Array, Array]:
        rest = above(nonlinear[constant], measured) if constant else measured
        power = 1.0 / nonlinear["beta"]
        return rest**power, power * rest ** (power - 1.0)

    def rescale(theta: Theta, units: Mapping[str, float]) -> dict[str, Any]:
        changed = {"A": theta["A"] * units.get("N", 1.0), "B": theta["B"] * units.get("D", 1.0)}
        return {**theta, **changed}

    parameters = [
        Parameter("A", "log", 0.0, np.inf, axis="N", exponent="alpha", span=SPAN, unit=UNITS["N"]),
        Parameter("alpha", "linear", 0.0, EXPONENT_HIGH, grid=EXPONENT_GRID),
        Parameter("B", "log", 0.0, np.inf, axis="D", exponent="beta", span=SPAN, unit=UNITS["D"]),
        Parameter("beta", "linear", BETA_LOW, EXPONENT_HIGH, grid=BETA_GRID),
    ]
    if constant:
        floor = Parameter(
            constant, "linear", 0.0, np.inf, grid=FLOOR_GRID, relative="lowest", floor=True, unit=UNITS["L"]
        )
        parameters.insert(0, floor)
    published = {"A": 6.4e13, "alpha": 0.076, "B": 1.8e13, "beta": 0.103}  # Kaplan et al. 2020, table 2
    return Law(
        name=name,
        formula=formula,
        axes=("N", "D"),
        parameters=tuple(parameters),
        needs=3,
        predict=predict,
        derivatives=derivatives,
        rescale=rescale,
        example=published | ({constant: 0.5} if constant else {}),
        basis=basis,
        link=link,
        power=lambda nonlinear: {"A": nonlinear["alpha"] / nonlinear["beta"]},
    )


KAPLAN = kaplan("kaplan", "L = ((A/N)^(α/β) + B/D)^β", None)
KAPLAN_CONSTANT = kaplan("kaplan+constant", "L = E + ((A/N)^(α/β) + B/D)^β", "E")
