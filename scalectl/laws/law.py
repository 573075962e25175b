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
from scalectl.laws.jet import Jet

Array = npt.NDArray[Any]
Theta = Mapping[str, Any]
First = dict[str, Any]
Second = dict[tuple[str, str], Any]
Derivatives = Callable[[Theta, Points], tuple[Array, First, Second]]

# e^±30 of the typical loss is beyond what float64 can see beside the loss itself. Ours.
LOG_SPAN = 30.0

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
    the law never falls below, in nats per token; place: the parameter is a place along its axis, and whether it is
    known is a matter of the range of the axis, not of its own size; unit: of the parameter, "" for none or a mixed one;
    helped: what to add to the points where they do not determine it, "" where that follows from the axes.
    relative: what the grid is a share of, where that is not a fixed number, and then its ends bound the parameter as
    well: the "lowest" or the "highest" measured value, or the "range" of the (first) axis, 0 its smallest and 1 its
    largest value, by logarithms on a log scale; span: how far ln of an unbounded parameter may lie from ln of the
    typical loss.
    """

    name: str
    scale: Literal["log", "linear"]
    low: float
    high: float
    axis: str | None = None
    grid: tuple[float, ...] = ()
    exponent: str | None = None
    floor: bool = False
    place: bool = False
    relative: Literal["lowest", "highest", "range"] | None = None
    span: float = LOG_SPAN
    unit: str = ""
    helped: str = ""


@dataclass(frozen=True)
class Law:
    """A scaling law.

    name: as typed after `--law`; formula: as printed; axes: names of the axes it reads, out of `core.rows.AXES`.
    needs: distinct values that every axis must have before the parameters can be told apart at all, but for those in
    `steady`, which may stay constant; shares: axes that are counted in the unit of another one, by name.
    measures: what it predicts; a score is compared by plain differences, a loss by those of its logarithm.
    predict(theta, points): loss [nats/token], shape of theta broadcast against the points.
    derivatives(theta, points): the loss, its slopes by parameter, and its second derivatives by pair of parameters
    (each pair once, in the order of `parameters`; pairs left out are zero), all in natural units.
    basis(nonlinear, points): by name of each linear parameter, the column that it multiplies; their sum is the loss
    or, with a link, becomes it; rough: it leaves out what depends on the linear parameters, and is asked again
    once these are about known, with them in `nonlinear`. None where no parameter is linear; then all have a grid.
    link(nonlinear, measured): measured losses on the scale on which the columns add up, and the slope of that scale;
    power(nonlinear): to which power a linear parameter multiplies its column, by name; 1 for those left out.
    rescale(theta, units): the parameters for axes in natural units, from those for axes divided by `units`.
    along(axis): the same law along another axis, None for a law whose axes are fixed.
    ties: parameters that are equal to another one and not parameters of their own, by name.
    example: parameters, published where that is possible, at which the law can be looked at.
    """

    name: str
    formula: str
    axes: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    needs: int
    predict: Callable[[Theta, Points], Array] = field(repr=False)
    derivatives: Derivatives = field(repr=False)
    rescale: Callable[[Theta, Mapping[str, float]], dict[str, Any]] = field(repr=False)
    example: Mapping[str, float] = field(repr=False)
    basis: Callable[[Theta, Points], dict[str, Any]] | None = field(default=None, repr=False)
    link: Callable[[Theta, Array], tuple[Array, Array]] | None = field(default=None, repr=False)
    power: Callable[[Theta], Mapping[str, Any]] | None = field(default=None, repr=False)
    along: Callable[[str], Law] | None = field(default=None, repr=False)
    rough: bool = False
    steady: tuple[str, ...] = ()
    shares: Mapping[str, str] = field(default_factory=dict)
    measures: Literal["loss", "score"] = "loss"
    ties: Mapping[str, str] = field(default_factory=dict)

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


def where(*, N: Any = None, D: Any = None, C: Any = None, **others: Any) -> Points:
    """Places to predict at, of one shape; their loss is unknown (NaN). Axes and units as in `core.rows.AXES`."""
    given = {"N": N, "D": D, "C": C} | others
    known = {name: np.atleast_1d(values) for name, values in given.items() if values is not None}
    unknown = np.full(np.broadcast_shapes(*(values.shape for values in known.values())), np.nan)
    rest = {name: values for name, values in known.items() if name not in ("N", "D", "C")}
    return Points(L=unknown, N=known.get("N"), D=known.get("D"), C=known.get("C"), others=rest)


def exact(predict: Callable[[Theta, Points], Array], names: tuple[str, ...]) -> Derivatives:
    """Derivatives of a law from `predict` alone, exact: it is run on numbers that carry them (jet.py)."""

    def derivatives(theta: Theta, points: Points) -> tuple[Array, First, Second]:
        seeds = {name: Jet(theta[name], {k: 1.0}, {}) for k, name in enumerate(names)}
        found: Any = predict(seeds, points)
        first = {name: found.first.get(k, 0.0) for k, name in enumerate(names)}
        return found.value, first, {(names[i], names[j]): part for (i, j), part in found.second.items()}

    return derivatives


def complex_step(predict: Callable[[Theta, Points], Array], names: tuple[str, ...]) -> Derivatives:
    """Derivatives of a law from `predict` alone, by a way that shares nothing with `exact`: members are checked by it.

    Slopes by complex step, exact to rounding; second derivatives as central differences of slopes, to about 1e-9.
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
