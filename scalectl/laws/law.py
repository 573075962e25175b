"""What a scaling law is: a frozen value with functions as fields.

A member writes its mathematics once, in natural units (parameters, tokens, FLOP, nats per token). Every function takes
its parameters as a mapping from name to a number or to an array of shape (batch, 1), so that a thousand bootstrap draws
against n points are one array operation of shape (batch, n). All of it is plain arithmetic, `exp` and `log`, which also
hold for complex numbers: derivatives can then be checked, or replaced, by a complex step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scalectl.core.rows import Points

Array = npt.NDArray[Any]
Theta = Mapping[str, Any]
First = dict[str, Any]
Second = dict[tuple[str, str], Any]
Derivatives = Callable[[Theta, Points], tuple[Array, First, Second]]

COMPLEX_STEP = 1e-40  # any step whose square underflows beside 1 is exact (Squire and Trapp 1998, SIAM Review 40)
DIFFERENCE_STEP = 1e-5  # central differences of an exact slope: error of order step^2 = 1e-10 relative


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    scale: "log" when the parameter is positive and its size is a matter of decades, else "linear"; it is the coordinate
    in which fits step; low, high: bounds in natural units; axis: the axis whose unit enters the parameter's unit (A of
    A/N^α carries N), None for one that is the same in all units; grid: where starts look, in units in which the axes
    have geometric mean 1; empty for a parameter that `Law.basis` solves for; exponent: the exponent through which a
    coefficient is read off the data, which lie far from X = 1, so that it is known only if that is; floor: a loss that
    the law never falls below, in nats per token.
    """

    name: str
    scale: Literal["log", "linear"]
    low: float
    high: float
    axis: str | None = None
    grid: tuple[float, ...] = ()
    exponent: str | None = None
    floor: bool = False


@dataclass(frozen=True)
class Law:
    """A scaling law.

    name: as typed after `--law`; formula: as printed; axes: names of the axes it reads, out of N, D, C.
    needs: distinct values that every axis must have before the parameters can be told apart at all.
    predict(theta, points): loss [nats/token], shape of theta broadcast against the points.
    derivatives(theta, points): the loss, its slopes by parameter, and its second derivatives by pair of parameters
    (each pair once, in the order of `parameters`; pairs left out are zero), all in natural units.
    basis(nonlinear, points): by name of each linear parameter, the column that it multiplies; the loss is their sum.
    None where no parameter is linear; then every parameter has a grid.
    rescale(theta, units): the parameters for axes in natural units, from those for axes divided by `units`.
    along(axis): the same law along another axis, None for a law whose axes are fixed.
    """

    name: str
    formula: str
    axes: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    needs: int
    predict: Callable[[Theta, Points], Array] = field(repr=False)
    derivatives: Derivatives = field(repr=False)
    rescale: Callable[[Theta, Mapping[str, float]], dict[str, Any]] = field(repr=False)
    basis: Callable[[Theta, Points], dict[str, Any]] | None = field(default=None, repr=False)
    along: Callable[[str], Law] | None = field(default=None, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(p.name for p in self.parameters)

    def parameter(self, name: str) -> Parameter:
        """The parameter of that name; KeyError names what is there."""
        for held in self.parameters:
            if held.name == name:
                return held
        raise KeyError(f"the law {self.name} has no parameter {name}; it has {', '.join(self.names)}")


def where(*, N: Any = None, D: Any = None, C: Any = None) -> Points:
    """Places to predict at, of one shape; their loss is unknown (NaN). N [parameters], D [tokens], C [FLOP]."""
    given = {name: np.atleast_1d(values) for name, values in (("N", N), ("D", D), ("C", C)) if values is not None}
    unknown = np.full(np.broadcast_shapes(*(values.shape for values in given.values())), np.nan)
    return Points(L=unknown, N=given.get("N"), D=given.get("D"), C=given.get("C"))


def complex_step(predict: Callable[[Theta, Points], Array], names: tuple[str, ...]) -> Derivatives:
    """Derivatives of a law from `predict` alone, for a member that does not write its own.

    Slopes by complex step, exact to rounding; second derivatives as central differences of slopes, to about 1e-9
    relative, which costs a Newton step nothing but the last digits of its rate. About 4 p times slower than analytic.
    """

    def slopes(theta: Theta, points: Points) -> First:
        found: First = {}
        for name in names:
            nudged = {**theta, name: theta[name] + 1j * COMPLEX_STEP}
            found[name] = predict(nudged, points).imag / COMPLEX_STEP
        return found

    def derivatives(theta: Theta, points: Points) -> tuple[Array, First, Second]:
        second: Second = {}
        for name in names:
            step = DIFFERENCE_STEP * np.maximum(np.abs(theta[name]), DIFFERENCE_STEP)
            up = slopes({**theta, name: theta[name] + step}, points)
            down = slopes({**theta, name: theta[name] - step}, points)
            for other in names:
                second[name, other] = (up[other] - down[other]) / (2 * step)
        pairs = itertools.combinations_with_replacement(names, 2)
        return predict(theta, points), slopes(theta, points), {pair: second[pair] for pair in pairs}

    return derivatives
