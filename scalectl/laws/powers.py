"""Sums of power terms, L = E + Σ A_k / X_k^α_k: the mathematics that several members share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalectl.core.rows import Points
from scalectl.laws.law import Array, First, Law, Parameter, Second, Theta

# Exponents: published ones lie between .03 and .8; 3 leaves room for fast saturation and keeps X^-α in range. Ours.
EXPONENT_HIGH = 3.0
EXPONENT_GRID = tuple(float(x) for x in np.geomspace(0.02, 2.0, 24))
FLOOR_GRID = (0.0, 0.2, 0.4, 0.55, 0.7, 0.8, 0.88, 0.94, 0.98)  # of the lowest loss, where E is not linear. Ours.
UNITS = {"L": "nats/token", "N": "parameters", "D": "tokens", "C": "FLOP"}


@dataclass(frozen=True)
class Term:
    """One term `coefficient / axis^exponent`, by names; helped: as in `Parameter`."""

    coefficient: str
    axis: str
    exponent: str
    helped: str = ""


SIZES_AND_TOKENS = (Term("A", "N", "alpha"), Term("B", "D", "beta"))


def rescaling(terms: tuple[Term, ...]) -> Callable[[Theta, Mapping[str, float]], dict[str, Any]]:
    """`Law.rescale` of a law whose coefficients carry the unit of their axis to the power of their exponent."""

    def rescale(theta: Theta, units: Mapping[str, float]) -> dict[str, Any]:
        changed = dict(theta)
        for term in terms:
            changed[term.coefficient] = theta[term.coefficient] * units.get(term.axis, 1.0) ** theta[term.exponent]
        return changed

    return rescale


def above(floor: Any, measured: Array) -> Array:
    """What is left of losses above a trial floor, kept from 0 where noise crosses it: for starts alone."""
    rest = measured - floor
    return np.asarray(np.maximum(rest, 0.02 * np.median(rest, axis=-1, keepdims=True)))


def sum_of_powers(
    name: str,
    formula: str,
    terms: tuple[Term, ...],
    *,
    constant: str | None,
    needs: int,
    example: Mapping[str, float],
    along: Callable[[str], Law] | None = None,
) -> Law:
    """A law L = constant + Σ terms.

    Args: constant: name of the floor, at least 0 [nats/token], or None for a law without; the rest: as in `Law`.
    Coefficients carry [nats/token x unit of the axis ^ exponent]; exponents are plain numbers.
    """

    def powers(theta: Theta, points: Points) -> list[tuple[Term, Array, Array]]:
        # exp of a product is twice as fast as `**` on arrays and holds for complex exponents alike.
        logs = [np.log(points.axis(term.axis)) for term in terms]
        return [(term, x, np.exp(-theta[term.exponent] * x)) for term, x in zip(terms, logs, strict=True)]

    def predict(theta: Theta, points: Points) -> Array:
        total: Any = theta[constant] if constant else 0.0
        for term, _, power in powers(theta, points):
            total = total + theta[term.coefficient] * power
        return np.asarray(total)

    def derivatives(theta: Theta, points: Points) -> tuple[Array, First, Second]:
        total: Any = theta[constant] if constant else 0.0
        first: First = {constant: 1.0} if constant else {}
        second: Second = {}
        for term, x, power in powers(theta, points):
            value = theta[term.coefficient] * power
            slope = -x * value
            total = total + value
            first[term.coefficient] = power
            first[term.exponent] = slope
            second[term.coefficient, term.exponent] = -x * power
            second[term.exponent, term.exponent] = -x * slope
        return np.asarray(total), first, second

    def basis(nonlinear: Theta, points: Points) -> dict[str, Any]:
        columns: dict[str, Any] = {constant: np.ones(len(points))} if constant else {}
        return columns | {term.coefficient: power for term, _, power in powers(nonlinear, points)}

    unit = UNITS["L"]
    parameters = [Parameter(constant, "linear", 0.0, np.inf, floor=True, unit=unit)] if constant else []
    for term in terms:
        coefficient = Parameter(
            term.coefficient, "log", 0.0, np.inf, axis=term.axis, exponent=term.exponent, unit=unit, helped=term.helped
        )
        exponent = Parameter(term.exponent, "linear", 0.0, EXPONENT_HIGH, grid=EXPONENT_GRID, helped=term.helped)
        parameters += [coefficient, exponent]
    return Law(
        name=name,
        formula=formula,
        axes=tuple(term.axis for term in terms),
        parameters=tuple(parameters),
        needs=needs,
        predict=predict,
        derivatives=derivatives,
        rescale=rescaling(terms),
        example=example,
        basis=basis,
        along=along,
    )
