"""One law for two arms: the second as far along the axis as `gain` times as much of it would be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from scalectl.core.rows import Points
from scalectl.laws.law import COMPLEX_STEP, DIFFERENCE_STEP, Array, First, Law, Parameter, Second, Theta

ARM = "\0arm"  # cannot be a column of a file; 0 for the first arm, 1 for the second
GAIN_HIGH = 1e4  # ours: no change of a recipe saves as much
GAIN_GRID = tuple(float(x) for x in np.geomspace(1 / 32, 32, 11))


def with_gain(law: Law) -> Law:
    """L(gain^arm X) of a law L(X) of one axis: the arms share its shape, and `gain` is what the second one saves.

    The points say in the column ARM which arm each of them is of; points without it are of the first.
    """
    (axis,) = law.axes

    def ahead(theta: Theta, points: Points) -> Points:
        if ARM not in points.columns:
            return points
        reached: Any = points.axis(axis) * np.exp(np.log(theta["gain"]) * points.columns[ARM])
        change: dict[str, Any] = {axis: reached}
        return replace(points, **change)

    def predict(theta: Theta, points: Points) -> Array:
        return law.predict(theta, ahead(theta, points))

    def stretched(theta: Theta, points: Points, turn: Any) -> tuple[Array, First, Second]:
        """The law's own derivatives with ln of the axis moved by `turn`."""
        moved: dict[str, Any] = {axis: points.axis(axis) * np.exp(turn)}
        return law.derivatives(theta, replace(points, **moved))

    def derivatives(theta: Theta, points: Points) -> tuple[Array, First, Second]:
        there = ahead(theta, points)
        value, first, second = law.derivatives(theta, there)
        # By ln of the axis: slopes by a complex step, exact to rounding; the bend as a difference of slopes.
        turned = stretched(theta, there, 1j * COMPLEX_STEP)
        along = turned[0].imag / COMPLEX_STEP
        up, down = (
            stretched(theta, there, sign * DIFFERENCE_STEP + 1j * COMPLEX_STEP)[0].imag / COMPLEX_STEP
            for sign in (1, -1)
        )
        arm = points.columns.get(ARM, 0.0) / theta["gain"]
        bend = (up - down) / (2 * DIFFERENCE_STEP)
        mixed = {(name, "gain"): arm * np.imag(part) / COMPLEX_STEP for name, part in turned[1].items()}
        both = arm * (arm * bend - along / theta["gain"])
        return value, {**first, "gain": arm * along}, {**second, **mixed, ("gain", "gain"): both}

    def basis(nonlinear: Theta, points: Points) -> dict[str, Any]:
        assert law.basis is not None
        return law.basis(nonlinear, ahead(nonlinear, points))

    def rescale(theta: Theta, units: Mapping[str, float]) -> dict[str, Any]:
        return {**law.rescale(theta, units), "gain": theta["gain"]}

    gain = Parameter("gain", "log", 1 / GAIN_HIGH, GAIN_HIGH, grid=GAIN_GRID)
    parameters = (*law.parameters, gain)
    return replace(
        law,
        name=f"{law.name}, one shape",
        parameters=parameters,
        predict=predict,
        derivatives=derivatives,
        rescale=rescale,
        basis=basis if law.basis is not None else None,
        example={**law.example, "gain": 1.2},
        along=None,
    )
