"""A law, points and an objective as a function of working coordinates, with exact first and second derivatives.

Working coordinates: ln of a parameter whose scale is "log", the parameter itself otherwise, with every axis divided by
its geometric mean. The latter removes the collinearity of A with α and of B with β: on the Epoch points the condition
number of the normal equations falls from 3.5e11 to 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from scalectl.core.rows import Floats, Points
from scalectl.fit.newton import Ints, Local
from scalectl.fit.objective import Objective
from scalectl.laws import Law, Parameter
from scalectl.laws.powers import EXPONENT_HIGH

CHUNK = 30_000  # numbers in one array. Ours: twice as many no longer fit, with the others of a step, into 1 MB.


@dataclass(frozen=True)
class Problem:
    """What is minimised.

    law; points: as given, in natural units; centred: the same with axes divided by `units`; objective;
    free: names of the coordinates; held: names of parameters that are fixed, their values in centred units.
    """

    law: Law
    points: Points
    centred: Points
    units: Mapping[str, float]
    objective: Objective
    free: tuple[str, ...]
    held: Mapping[str, float]

    @cached_property
    def logs(self) -> tuple[bool, ...]:
        """Which coordinates are logarithms of their parameter."""
        return tuple(self.law.parameter(name).scale == "log" for name in self.free)

    @property
    def together(self) -> int:
        """How many places are evaluated in one array operation."""
        return max(1, CHUNK // len(self.points))

    @cached_property
    def low(self) -> Floats:
        """Lower bounds of the coordinates, shape (q,)."""
        return np.array([self._bound(name)[0] for name in self.free])

    @cached_property
    def high(self) -> Floats:
        """Upper bounds of the coordinates, shape (q,)."""
        return np.array([self._bound(name)[1] for name in self.free])

    def _bound(self, name: str) -> tuple[float, float]:
        parameter = self.law.parameter(name)
        low, high = parameter.low, parameter.high
        if parameter.relative is not None:
            first, *_, last = self.grid(parameter)
            if parameter.relative == "lowest":
                last = float(np.median(self.points.L))  # a floor above half of the points is none
            elif parameter.relative == "highest":
                first = float(np.median(self.points.L))
            low, high = max(low, first), min(high, last)
        if parameter.scale == "linear":
            return low, high
        middle = float(np.log(np.median(np.abs(self.points.L)) or 1.0))  # scores may be 0
        lowest, highest = middle - parameter.span, middle + parameter.span
        unit = self.units.get(parameter.axis, 1.0) if parameter.axis else 1.0
        if parameter.axis and unit == 1.0:
            # Not centred: the coefficient also carries X^exponent.
            highest += EXPONENT_HIGH * float(np.log(self.points.axis(parameter.axis)).max())
        return (
            max(lowest, np.log(low)) if low > 0 else lowest,
            min(highest, np.log(high)) if np.isfinite(high) else highest,
        )

    def grid(self, parameter: Parameter) -> Floats:
        """Where starts look for a parameter, in centred units, ascending; shape (k,)."""
        grid = np.array(parameter.grid)
        if parameter.relative == "lowest":
            return np.asarray(grid * float(self.points.L.min()))
        if parameter.relative == "highest":
            return np.asarray(grid * float(self.points.L.max()))
        if parameter.relative == "range":
            values = self.centred.axis(parameter.axis or self.law.axes[0])
            first, last = float(values.min()), float(values.max())
            if parameter.scale == "log":
                return np.asarray(first * (last / first) ** grid)
            return np.asarray(first + (last - first) * grid)
        return grid

    def theta(self, z: Floats) -> dict[str, Any]:
        """Parameters in centred units from coordinates (B, q); each of shape (B, 1)."""
        found: dict[str, Any] = {name: np.full((1, 1), value) for name, value in self.held.items()}
        for k, name in enumerate(self.free):
            column = z[:, k : k + 1]
            found[name] = np.exp(column) if self.logs[k] else column
        return found

    def natural(self, z: Floats) -> Floats:
        """Parameters in natural units, shape (B, p) in the order of the law."""
        theta = self.law.rescale(self.theta(z), self.units)
        columns = [np.broadcast_to(theta[name], (len(z), 1)) for name in self.law.names]
        return np.concatenate(columns, axis=1)

    def coordinates(self, theta: Mapping[str, Any]) -> Floats:
        """Coordinates (B, q) from parameters in natural units, each a number or of shape (B, 1)."""
        centred = self.law.rescale(theta, {axis: 1.0 / unit for axis, unit in self.units.items()})
        columns = [np.atleast_2d(np.asarray(centred[name], dtype=np.float64)) for name in self.free]
        batch = max(len(column) for column in columns)
        columns = [
            np.broadcast_to(np.log(column) if log else column, (batch, 1))
            for column, log in zip(columns, self.logs, strict=True)
        ]
        return np.clip(np.concatenate(columns, axis=1), self.low, self.high)

    def residual(self, z: Floats, measured: Floats | None = None) -> Floats:
        """Residuals (B, n); measured: other losses than the points' own, (n,) or (B, n)."""
        predicted = np.asarray(self.law.predict(self.theta(z), self.centred), dtype=np.float64)
        return self.objective.residual(predicted, self.points.L if measured is None else measured)

    def slopes(self, z: Floats) -> Floats:
        """Slopes of the residuals by coordinate, (B, q, n)."""
        theta = self.theta(z)
        predicted, first, _ = self.law.derivatives(theta, self.centred)
        slopes = self._slopes(theta, first, len(z))
        return slopes / np.asarray(predicted)[:, None, :] if self.objective.on_log else slopes

    def _slopes(self, theta: Mapping[str, Any], first: Mapping[str, Any], batch: int) -> Floats:
        # Of the predicted loss.
        slopes = np.empty((batch, len(self.free), len(self.points)))
        for k, name in enumerate(self.free):
            slopes[:, k, :] = first[name] * theta[name] if self.logs[k] else first[name]
        return slopes

    def evaluate(self, z: Floats, weights: Floats, measured: Floats, width: float) -> Local:
        """The objective / width² around z (B, q), for Huber with that width; infinite width: Σ r²/2, unscaled.

        Args: weights: (n,) or (B, n); measured: losses, (n,) or (B, n).
        """
        theta = self.theta(z)
        predicted, first, second = self.law.derivatives(theta, self.centred)
        shape = (len(z), len(self.points))
        predicted = np.broadcast_to(predicted, shape)
        slopes = self._slopes(theta, first, len(z))
        residual = self.objective.residual(predicted, measured)
        weights = self.objective.counted(residual, weights)
        if np.isfinite(width):
            unit = 1.0 / width
            residual *= unit
            psi = np.clip(residual, -1.0, 1.0)
            pull = weights * psi
            value = (pull * (residual - psi / 2)).sum(1)
            square = weights * (np.abs(residual) <= 1.0) * unit**2
            bulk = weights / np.maximum(np.abs(residual), 1.0) * unit**2
            pull *= unit
        else:
            pull = weights * residual
            value = 0.5 * (pull * residual).sum(1)
            square = np.broadcast_to(weights, shape)
            bulk = square
        if self.objective.on_log:
            # r = ln f: r' = f'/f, r'' = f''/f - r' r'
            pull = pull / predicted
            inverse = 1.0 / predicted
            square = (square - pull * predicted) * inverse**2
            bulk = bulk * inverse**2
        slope = np.matmul(slopes, pull[:, :, None])[:, :, 0]
        curvature = np.matmul(slopes * square[:, None, :], slopes.transpose(0, 2, 1))
        spread = np.matmul(slopes**2, bulk[:, :, None])[:, :, 0]
        place = {name: k for k, name in enumerate(self.free)}
        pairs = [(a, b) for a, b in second if a in place and b in place]
        bends = np.empty((len(pairs), *shape))
        for k, pair in enumerate(pairs):
            bends[k] = second[pair]
        stretch = np.ones_like(z)  # d theta / d coordinate
        for k, name in enumerate(self.free):
            if self.logs[k]:
                stretch[:, k] = theta[name][:, 0]
                curvature[:, k, k] += slope[:, k]
        rows, columns = np.array([(place[a], place[b]) for a, b in pairs], dtype=np.int64).reshape(-1, 2).T
        part = np.einsum("pbn,bn->bp", bends, pull) * stretch[:, rows] * stretch[:, columns]
        curvature[:, rows, columns] += part
        off = rows != columns
        curvature[:, columns[off], rows[off]] += part[:, off]
        return Local(value, slope, curvature, spread)

    def evaluator(self, weights: Floats, measured: Floats, width: float) -> Evaluator:
        """`evaluate` as the function of (z, rows) that `minimise` wants; two-dimensional arrays are picked by row."""
        return Evaluator(self, weights, measured, width)


@dataclass(frozen=True)
class Evaluator:
    """A problem with its weights, its losses and the width of its objective."""

    problem: Problem
    weights: Floats
    measured: Floats
    width: float

    def __call__(self, z: Floats, rows: Ints) -> Local:
        """The objective of problems `rows` at z, in pieces that stay inside a core's cache."""
        size = self.problem.together
        if len(rows) <= size:
            return self._piece(z, rows)
        pieces = [self._piece(z[k : k + size], rows[k : k + size]) for k in range(0, len(rows), size)]
        return Local(*(np.concatenate(part) for part in zip(*(piece.parts() for piece in pieces), strict=True)))

    def _piece(self, z: Floats, rows: Ints) -> Local:
        weights = self.weights if self.weights.ndim == 1 else self.weights[rows]
        measured = self.measured if self.measured.ndim == 1 else self.measured[rows]
        return self.problem.evaluate(z, weights, measured, self.width)


def pose(
    law: Law,
    points: Points,
    objective: Objective,
    fix: Mapping[str, float] | None = None,
    *,
    uncentred: str | None = None,
) -> Problem:
    """A problem from points in natural units.

    Args: fix: parameters that do not move, in natural units; uncentred: a parameter that must be a coordinate in
    natural units itself. The axis of such a parameter is not centred: its exponent would move it otherwise.
    """
    fix = dict(fix or {})
    fixed_axes = {law.parameter(name).axis for name in (*fix, *((uncentred,) if uncentred else ()))}

    carried = {parameter.axis for parameter in law.parameters}

    def unit(axis: str) -> float:
        counted_as = law.shares.get(axis, axis)
        if counted_as in fixed_axes or counted_as not in carried:
            return 1.0
        return float(np.exp(np.log(points.axis(counted_as)).mean()))

    units = {axis: unit(axis) for axis in law.axes}
    scaled: dict[str, Any] = {axis: points.axis(axis) / size for axis, size in units.items()}
    plain = {axis: scaled.pop(axis) for axis in ("N", "D", "C") if axis in scaled}
    return Problem(
        law=law,
        points=points,
        centred=replace(points, **plain, others=scaled),
        units=units,
        objective=objective,
        free=tuple(name for name in law.names if name not in fix),
        held=fix,
    )
