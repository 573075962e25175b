"""A power law whose exponent changes at breaks: L = E + A/X^α Π (1 + (X/d_i)^(1/f_i))^(-c_i f_i).

Source: BNSL, Caballero et al. 2022 (arXiv 2210.14891), equation 1: a is E, b is A, c_0 is α. Left of the first break
the exponent is α, right of break i it has grown by c_i, and f_i is how many e-folds of X the change takes. Exponents
may be negative: curves that rise, and fall again, are among them.

Of nominal 95 % intervals over sizes | runs | residuals so many hold the truth (200 data sets, lowest parameter of each,
one break, 20 sizes x 3 seeds over six decades, noise alone, bench/coverage.py): 1.00 | .96 | .89.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scalectl.core.rows import Points
from scalectl.laws.jet import log_sum_exp, logistic
from scalectl.laws.law import Array, First, Law, Parameter, Second, Theta
from scalectl.laws.powers import EXPONENT_HIGH, UNITS

# A first stretch that rises faster than X itself was never seen; changes may undo the steepest fall. Ours.
ALPHA_LOW = -1.0
SLOPES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
ALPHA_GRID = (-0.3, -0.1, 0.0, *SLOPES)
CHANGES = (*SLOPES, 2.0, EXPONENT_HIGH)
CHANGE_GRID = (*(-slope for slope in reversed(CHANGES)), 0.0, *CHANGES)
# Sharper than 2 % of a factor is a kink that no grid of sizes shows; wider than e^5 is no break. Ours.
SHARP, WIDE = 0.02, 5.0
WIDTH_GRID = (SHARP, 0.05, 0.15, 0.4, 1.0, 2.5, WIDE)
BESIDE = "add points on both sides of the break and across it; without one, power+constant says the same"
PLACE_GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # breaks outside of the points are not looked for


def broken(axis: str, breaks: int) -> Law:
    """The law with that many breaks along one of N, D, C."""
    numbers = range(1, breaks + 1)

    def bends(theta: Theta, points: Points) -> Any:
        x = np.log(points.axis(axis))
        total = -theta["alpha"] * x
        for i in numbers:
            past = (x - np.log(theta[f"d{i}"])) / theta[f"f{i}"]
            total = total - theta[f"c{i}"] * theta[f"f{i}"] * log_sum_exp(0.0, past)
        return total

    def predict(theta: Theta, points: Points) -> Any:
        return theta["E"] + theta["A"] * np.exp(bends(theta, points))

    def derivatives(theta: Theta, points: Points) -> tuple[Array, First, Second]:
        # By hand, three times as fast as `exact`: T is what lies above the floor, G the slopes of ln T; u: e-folds of X
        # past a break in units of its width; s = ln(1 + e^u), p its slope, and p (1 - p) the slope of that.
        x = np.log(points.axis(axis))
        A = theta["A"]
        ln_T = np.log(A) - theta["alpha"] * x
        G: First = {"A": 1.0 / A, "alpha": -x}
        curved: Second = {}
        for i in numbers:
            c, d, f = (theta[f"{name}{i}"] for name in "cdf")
            u = (x - np.log(d)) / f
            s, _, p = logistic(u)
            ln_T = ln_T - c * f * s
            turn = u * p - s
            bend = (c / f) * (p * (1.0 - p))
            G |= {f"c{i}": -f * s, f"d{i}": c / d * p, f"f{i}": c * turn}
            curved |= {
                (f"c{i}", f"d{i}"): p / d,
                (f"c{i}", f"f{i}"): turn,
                (f"d{i}", f"d{i}"): -(bend + c * p) / d**2,
                (f"d{i}", f"f{i}"): -bend * u / d,
                (f"f{i}", f"f{i}"): -bend * u**2,
            }
        T = np.exp(ln_T)
        first = {name: T * slope for name, slope in G.items()}
        second: Second = {}
        for a, b in itertools.combinations_with_replacement(G, 2):
            if (a, b) == ("A", "A"):
                continue
            second[a, b] = first[a] * G[b] + T * curved[a, b] if (a, b) in curved else first[a] * G[b]
        return theta["E"] + T, first | {"E": 1.0}, second

    def basis(nonlinear: Theta, points: Points) -> dict[str, Any]:
        return {"E": np.ones(len(points)), "A": np.exp(bends(nonlinear, points))}

    def rescale(theta: Theta, units: Mapping[str, float]) -> dict[str, Any]:
        unit = units.get(axis, 1.0)
        places = {f"d{i}": theta[f"d{i}"] * unit for i in numbers}
        return {**theta, "A": theta["A"] * unit ** theta["alpha"], **places}

    parameters = [
        Parameter("E", "linear", 0.0, np.inf, floor=True, unit="nats/token"),
        Parameter("A", "log", 0.0, np.inf, axis=axis, exponent="alpha", unit="nats/token"),
        Parameter("alpha", "linear", ALPHA_LOW, EXPONENT_HIGH, grid=ALPHA_GRID),
    ]
    for i in numbers:
        parameters += [
            Parameter(f"c{i}", "linear", -EXPONENT_HIGH, EXPONENT_HIGH, grid=CHANGE_GRID, helped=BESIDE),
            Parameter(
                f"d{i}",
                "log",
                0.0,
                np.inf,
                axis=axis,
                grid=PLACE_GRID,
                relative="range",
                place=True,
                unit=UNITS[axis],
                helped=BESIDE,
            ),
            Parameter(f"f{i}", "log", SHARP, WIDE, grid=WIDTH_GRID, helped=BESIDE),
        ]
    factors = "".join(f" (1 + ({axis}/d{i})^(1/f{i}))^(-c{i} f{i})" for i in numbers)
    along: Callable[[str], Law] = lambda other: broken(other, breaks)  # noqa: E731 - the type is the point
    return Law(
        name="broken" if breaks == 1 else f"broken:{breaks}",
        formula=f"L = E + A/{axis}^α{factors}",
        axes=(axis,),
        parameters=tuple(parameters),
        needs=len(parameters),
        predict=predict,
        derivatives=derivatives,
        rescale=rescale,
        # Ours: a loss that falls slowly, then as a rule of thumb of language models has it, at 700 M parameters.
        example={"E": 1.0, "A": 9.0, "alpha": 0.08}
        | {f"{name}{i}": value for i in numbers for name, value in (("c", 0.3), ("d", 7e8 / 8 ** (i - 1)), ("f", 0.3))},
        basis=basis,
        along=along,
    )


BROKEN = broken("N", 1)
MOST_BREAKS = 4  # three parameters each: beyond, no table of losses has the points. Ours.
