"""From a loss to a score: a sigmoid, and an exponential.

Sources: Bhagia et al. 2024 (arXiv 2412.04403), S = a / (1 + exp(-k (L - L0))) + b, with the sign of k turned, so that
k > 0 where a score falls with the loss; Gadre et al. 2024 (arXiv 2403.08540), error = ε - k exp(-γ L).

Of nominal 95 % intervals over runs | residuals so many hold the truth (200 data sets, lowest parameter of each, 40
runs, noise alone, bench/coverage.py): sigmoid .96 | .89, exponential .96 | .92.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalectl.core.rows import Points
from scalectl.laws.jet import log_sum_exp
from scalectl.laws.law import Law, Parameter, Theta, exact

# A score that goes from end to end within a fiftieth of a nat is a step. Ours.
STEEPEST = 50.0
STEEP_GRID = (0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 20.0, STEEPEST)
# The middle of the rise may lie outside of the losses, by as much as these span: small models see one end of it.
# Inside, places are as close as a step needs, which is a good curve only between the right two losses. Ours.
MIDDLE_GRID = (
    *(float(x) for x in np.linspace(-1.0, -0.2, 5)),
    *(float(x) for x in np.linspace(0.0, 1.0, 31)),
    *(float(x) for x in np.linspace(1.2, 2.0, 5)),
)
# An exponential that bends by less is a line, whose best ε and k grow without end as γ falls. Ours.
STRAIGHTEST = 1e-3
GAMMA_GRID = tuple(float(x) for x in np.geomspace(STRAIGHTEST, 20.0, 50))

WEAK = "add models of higher loss, or hold the end that is known, such as chance: --fix NAME=VALUE"
STRONG = "add models of lower loss, or hold the end that is known: --fix NAME=VALUE"
ACROSS = "add models over a wider range of losses"


def _rise(theta: Theta, points: Points) -> Any:
    return np.exp(-log_sum_exp(0.0, theta["k"] * (points.axis("loss") - theta["L0"])))


def _sigmoid(theta: Theta, points: Points) -> Any:
    return theta["b"] + theta["a"] * _rise(theta, points)


def _sigmoid_basis(nonlinear: Theta, points: Points) -> dict[str, Any]:
    return {"b": np.ones(len(points)), "a": _rise(nonlinear, points)}


def _exponential(theta: Theta, points: Points) -> Any:
    return theta["epsilon"] - theta["k"] * np.exp(-theta["gamma"] * points.axis("loss"))


def _exponential_basis(nonlinear: Theta, points: Points) -> dict[str, Any]:
    return {"epsilon": np.ones(len(points)), "k": -np.exp(-nonlinear["gamma"] * points.axis("loss"))}


def _rescale(theta: Theta, units: Mapping[str, float]) -> dict[str, Any]:
    return dict(theta)


SCORE_SIGMOID = Law(
    name="score-sigmoid",
    formula="S = b + a/(1 + exp(k (L - L0)))",
    axes=("loss",),
    parameters=(
        Parameter("b", "linear", 0.0, np.inf, helped=WEAK),
        Parameter("a", "linear", 0.0, np.inf, helped=STRONG),
        Parameter(
            "k", "linear", -STEEPEST, STEEPEST, grid=(*(-k for k in reversed(STEEP_GRID)), *STEEP_GRID), helped=ACROSS
        ),
        Parameter(
            "L0",
            "linear",
            -np.inf,
            np.inf,
            grid=MIDDLE_GRID,
            relative="range",
            place=True,
            unit="nats/token",
            helped=ACROSS,
        ),
    ),
    needs=4,
    predict=_sigmoid,
    derivatives=exact(_sigmoid, ("b", "a", "k", "L0")),
    rescale=_rescale,
    example={"b": 0.25, "a": 0.6, "k": 4.0, "L0": 2.4},  # ours: four choices, half-way at 2.4 nats
    basis=_sigmoid_basis,
    measures="score",
)

SCORE_EXPONENTIAL = Law(
    name="score-exponential",
    formula="S = ε - k exp(-γ L)",
    axes=("loss",),
    parameters=(
        Parameter("epsilon", "linear", 0.0, np.inf, helped=WEAK),
        Parameter("k", "log", 0.0, np.inf, exponent="gamma", helped=ACROSS),
        Parameter("gamma", "linear", STRAIGHTEST, STEEPEST, grid=GAMMA_GRID, helped=ACROSS),
    ),
    needs=3,
    predict=_exponential,
    derivatives=exact(_exponential, ("epsilon", "k", "gamma")),
    rescale=_rescale,
    example={"epsilon": 0.86, "k": 2.1, "gamma": 0.73},  # ours: an error of .5 at 2.4 nats
    basis=_exponential_basis,
    measures="score",
)
