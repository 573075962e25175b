"""Repeated data: L = E + A/N'^α + B/D'^β, where repeats of tokens, and parameters beyond what they feed, fade.

Source: Muennighoff et al. 2023 (arXiv 2305.16264). With U distinct tokens available, U_D = min(U, D) of them are seen,
each D/U_D times; D' = U_D (1 + R_D (1 - exp(-(D/U_D - 1) / R_D))). U_N = min(N, N*(U_D)) are the parameters that such
data feed best, N* = G (G U_D)^(β/α) with G = (α A / (β B))^(1 / (α + β)), and N' = U_N (1 + R_N (1 - exp(-(N/U_N - 1) /
R_N))). R_D and R_N are the paper's R*_D and R*_N.

Of nominal 95 % intervals over sizes | runs | residuals so many hold the truth (200 data sets, lowest parameter of each,
5 sizes x 3 amounts of text x 4 repeats up to 50, noise alone, bench/coverage.py): 1.00 | .96 | .88.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scalectl.core.rows import Points
from scalectl.laws.law import Law, Parameter, Theta, exact
from scalectl.laws.powers import EXPONENT_GRID, EXPONENT_HIGH, SIZES_AND_TOKENS, rescaling

EXPONENT_LOW = 1e-3  # the best size divides by exponents. Ours.
# Half-lives in repeats: the first repeats of the data, and more than anybody trains, so that nothing fades. Ours.
HALF_LOW, HALF_HIGH = 1e-2, 1e4
HALF_GRID = tuple(float(x) for x in np.geomspace(0.5, 5000.0, 12))
FADED = 50.0  # e-folds of N above U_N from which on nothing changes. Ours.


def _faded(ln_unique: Any, ln_all: Any, half: Any) -> Any:
    """Ln of the effective count: unique (1 + half (1 - exp(-repeats / half))), repeats = all / unique - 1."""
    repeats = np.expm1(np.minimum(ln_all - ln_unique, FADED))
    return ln_unique + np.log(1.0 - half * np.expm1(-repeats / half))


def _seen(points: Points) -> Any:
    return np.minimum(np.log(points.axis("U")), np.log(points.axis("D")))


def _sizes(theta: Theta, points: Points) -> Any:
    """Ln N'."""
    alpha, beta = theta["alpha"], theta["beta"]
    ln_N = np.log(points.axis("N"))
    ln_G = (np.log(alpha) + np.log(theta["A"]) - np.log(beta) - np.log(theta["B"])) / (alpha + beta)
    fed = np.minimum(ln_N, ln_G + beta / alpha * (ln_G + _seen(points)))
    return _faded(fed, ln_N, theta["R_N"])


def _tokens(theta: Theta, points: Points) -> Any:
    """Ln D'."""
    return _faded(_seen(points), np.log(points.axis("D")), theta["R_D"])


def _predict(theta: Theta, points: Points) -> Any:
    sizes = np.exp(np.log(theta["A"]) - theta["alpha"] * _sizes(theta, points))
    return theta["E"] + sizes + np.exp(np.log(theta["B"]) - theta["beta"] * _tokens(theta, points))


def _basis(nonlinear: Theta, points: Points) -> dict[str, Any]:
    # U_N depends on A and B themselves: before they are known, every parameter counts as fed.
    sizes = _sizes(nonlinear, points) if {"A", "B"} <= set(nonlinear) else np.log(points.axis("N"))
    return {
        "E": np.ones(len(points)),
        "A": np.exp(-nonlinear["alpha"] * sizes),
        "B": np.exp(-nonlinear["beta"] * _tokens(nonlinear, points)),
    }


REPEATS = "add runs that repeat less data more often, beyond 4 epochs (data.unique_tokens)"
EXCESS = "add sizes far beyond what their distinct tokens feed best"

PARAMETERS = (
    Parameter("E", "linear", 0.0, np.inf, floor=True, unit="nats/token"),
    Parameter("A", "log", 0.0, np.inf, axis="N", exponent="alpha", unit="nats/token"),
    Parameter("alpha", "linear", EXPONENT_LOW, EXPONENT_HIGH, grid=EXPONENT_GRID),
    Parameter("B", "log", 0.0, np.inf, axis="D", exponent="beta", unit="nats/token"),
    Parameter("beta", "linear", EXPONENT_LOW, EXPONENT_HIGH, grid=EXPONENT_GRID),
    Parameter("R_D", "log", HALF_LOW, HALF_HIGH, grid=HALF_GRID, unit="epochs", helped=REPEATS),
    Parameter("R_N", "log", HALF_LOW, HALF_HIGH, grid=HALF_GRID, helped=EXCESS),
)

REPETITION = Law(
    name="repetition",
    formula="L = E + A/N'^α + B/D'^β",
    axes=("N", "D", "U"),
    parameters=PARAMETERS,
    needs=3,
    predict=_predict,
    derivatives=exact(_predict, tuple(p.name for p in PARAMETERS)),
    rescale=rescaling(SIZES_AND_TOKENS),
    # Muennighoff et al. 2023, as fitted there
    example={"E": 1.87, "A": 521.0, "alpha": 0.353, "B": 1488.0, "beta": 0.353, "R_D": 15.4, "R_N": 5.3},
    basis=_basis,
    rough=True,
    steady=("U",),
    shares={"U": "D"},
)
