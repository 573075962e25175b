"""N and D together: L = E + A/N^α + B/D^β, and the same with a power on the sum of the two terms.

Source: Hoffmann et al. 2022 (arXiv 2203.15556), equation 2. With γ free the family holds the joint law of Kaplan et
al. 2020 above a floor as well (β = 1 in these symbols), so that the data decide between the two; ours.

Of nominal 95 % intervals over sizes | runs | residuals so many hold the truth (200 data sets, lowest parameter of each,
8 sizes x 5 budgets, bench/coverage.py): noise alone 1.00 | .98 | .92, sizes .4 % off the law 1.00 | .79 | .64, of E
1.00 | .98 | .87. On Epoch's 240 places over runs .92 to .98 (tests/fit/test_coverage.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scalectl.core.rows import Points
from scalectl.laws.jet import log_sum_exp
from scalectl.laws.law import LOG_SPAN, Array, Law, Parameter, Theta, exact
from scalectl.laws.powers import (
    EXPONENT_GRID,
    EXPONENT_HIGH,
    FLOOR_GRID,
    SIZES_AND_TOKENS,
    UNITS,
    above,
    rescaling,
    sum_of_powers,
)

CHINCHILLA = sum_of_powers(
    "chinchilla",
    "L = E + A/N^α + B/D^β",
    SIZES_AND_TOKENS,
    constant="E",
    needs=3,
    # Besiroglu et al. 2024, arXiv 2404.10102
    example={"E": 1.8172, "A": 482.01, "alpha": 0.3478, "B": 2085.43, "beta": 0.3658},
)

# Below, the terms of the sum grow so that float64 loses the smaller one; above, γ is a sharp maximum of them. Ours.
GAMMA_LOW, GAMMA_HIGH = 0.05, 5.0
GAMMA_GRID = tuple(float(x) for x in np.geomspace(0.1, 3.0, 12))


def _predict(theta: Theta, points: Points) -> Any:
    sizes = np.log(theta["A"]) - theta["alpha"] * np.log(points.axis("N"))
    budgets = np.log(theta["B"]) - theta["beta"] * np.log(points.axis("D"))
    loss = theta["E"] + np.exp(theta["gamma"] * log_sum_exp(sizes, budgets))
    return loss


def _basis(nonlinear: Theta, points: Points) -> dict[str, Any]:
    return {
        term.coefficient: np.exp(-nonlinear[term.exponent] * np.log(points.axis(term.axis)))
        for term in SIZES_AND_TOKENS
    }


def _link(nonlinear: Theta, measured: Array) -> tuple[Array, Array]:
    rest, power = above(nonlinear["E"], measured), 1.0 / nonlinear["gamma"]
    return rest**power, power * rest ** (power - 1.0)


CHINCHILLA_GAMMA = Law(
    name="chinchilla+gamma",
    formula="L = E + (A/N^α + B/D^β)^γ",
    axes=("N", "D"),
    parameters=(
        Parameter("E", "linear", 0.0, np.inf, grid=FLOOR_GRID, relative="lowest", floor=True, unit=UNITS["L"]),
        Parameter("A", "log", 0.0, np.inf, axis="N", exponent="alpha", span=LOG_SPAN / GAMMA_LOW),
        Parameter("alpha", "linear", 0.0, EXPONENT_HIGH, grid=EXPONENT_GRID),
        Parameter("B", "log", 0.0, np.inf, axis="D", exponent="beta", span=LOG_SPAN / GAMMA_LOW),
        Parameter("beta", "linear", 0.0, EXPONENT_HIGH, grid=EXPONENT_GRID),
        Parameter(
            "gamma", "linear", GAMMA_LOW, GAMMA_HIGH, grid=GAMMA_GRID, helped="hold it: --fix gamma=1 is chinchilla"
        ),
    ),
    needs=3,
    predict=_predict,
    derivatives=exact(_predict, ("E", "A", "alpha", "B", "beta", "gamma")),
    rescale=rescaling(SIZES_AND_TOKENS),
    example={"E": 1.8, "A": 2000.0, "alpha": 0.45, "B": 9000.0, "beta": 0.45, "gamma": 0.8},
    basis=_basis,
    link=_link,
)
