"""Equal parameters as one: a law with fewer parameters, which fits, resamples and predicts like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from scalectl.core.errors import UsageError
from scalectl.core.rows import Points
from scalectl.laws.law import Array, First, Law, Parameter, Second, Theta

Value = TypeVar("Value")


def tie(law: Law, ties: Mapping[str, str]) -> Law:
    """The law with each parameter named in `ties` equal to the one it is tied to.

    Raises: UsageError for parameters that are not there, that carry different units, or that are tied in a circle.
    """
    for name, master in ties.items():
        for held in (name, master):
            if held not in law.names:
                raise UsageError(f"{held} is not a parameter of {law.name}", remedy=f"it has {', '.join(law.names)}")
        if master in ties:
            raise UsageError(f"{master} is tied to {ties[master]} itself", remedy=f"tie {name} to {ties[master]}")
        kinds = [(p.scale, p.axis, p.floor, p.place) for p in map(law.parameter, (name, master))]
        if kinds[0] != kinds[1]:
            raise UsageError(
                f"{name} and {master} of {law.name} are not of one kind: their units or their scales differ",
                remedy="exponents can be tied to exponents: --tie alpha=beta",
            )
    if not ties:
        return law

    def whole(theta: Theta) -> dict[str, Any]:
        return {**theta, **{name: theta[master] for name, master in ties.items() if master in theta}}

    def free(theta: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in theta.items() if name not in ties}

    def derivatives(theta: Theta, points: Points) -> tuple[Array, First, Second]:
        value, first, second = law.derivatives(whole(theta), points)
        slopes: First = {}
        for name, part in first.items():
            held = ties.get(name, name)
            slopes[held] = slopes[held] + part if held in slopes else part
        bends: Second = {}
        for (a, b), part in second.items():
            pair = sorted((ties.get(a, a), ties.get(b, b)), key=law.names.index)
            # a mixed derivative of two that are tied counts in both orders
            amount = part * (2.0 if a != b and pair[0] == pair[1] else 1.0)
            key = (pair[0], pair[1])
            bends[key] = bends[key] + amount if key in bends else amount
        return value, slopes, bends

    def basis(nonlinear: Theta, points: Points) -> dict[str, Any]:
        assert law.basis is not None
        columns: dict[str, Any] = {}
        for name, column in law.basis(whole(nonlinear), points).items():
            held = ties.get(name, name)
            columns[held] = columns[held] + column if held in columns else column
        return columns

    def bounded(parameter: Parameter) -> Parameter:
        together = [parameter, *(law.parameter(name) for name, master in ties.items() if master == parameter.name)]
        return replace(parameter, low=max(p.low for p in together), high=min(p.high for p in together))

    along, link, power = law.along, law.link, law.power
    return replace(
        law,
        parameters=tuple(bounded(p) for p in law.parameters if p.name not in ties),
        predict=lambda theta, points: law.predict(whole(theta), points),
        derivatives=derivatives,
        rescale=lambda theta, units: free(law.rescale(whole(theta), units)),
        example=free(law.example),
        basis=basis if law.basis is not None else None,
        link=None if link is None else lambda nonlinear, measured: link(whole(nonlinear), measured),
        power=None if power is None else lambda nonlinear: power(whole(nonlinear)),
        along=None if along is None else lambda axis: tie(along(axis), ties),
        ties={**law.ties, **ties},
    )


def untied(law: Law, values: Mapping[str, Value]) -> dict[str, Value]:
    """What is known of each parameter, by name, with the tied ones beside those that they are equal to."""
    found: dict[str, Value] = {}
    for name, value in values.items():
        found |= {name: value} | {other: value for other, master in law.ties.items() if master == name}
    return found
