"""What a fit rests on: its residuals place by place, and what it would say without a single size or point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalectl.core.errors import FitError
from scalectl.core.rows import Floats, Points
from scalectl.core.units import count, si
from scalectl.fit.bootstrap import sizes
from scalectl.fit.estimate import Fit, check, label, refit
from scalectl.fit.select import steps
from scalectl.laws import Law, law_on

FAR = 10.0  # times beyond the largest point where influence on a prediction is read off. Ours.
MOST_POINTS = 1000  # left out one by one; of more points those furthest from the law. Ours: seconds.


@dataclass(frozen=True)
class Place:
    """Residuals of the runs at one place on an axis, (predicted - measured) / measured: mean, least and most."""

    axis: str
    place: str
    n: int
    mean: float
    least: float
    most: float


@dataclass(frozen=True)
class Influence:
    """The fit without some points.

    what: their name; n: how many; params: without them; far: how much more loss is then predicted at FAR times the
    largest point, relative to the loss that the whole fit predicts there.
    """

    what: str
    n: int
    params: dict[str, float]
    far: float


@dataclass(frozen=True)
class Diagnosis:
    """What a fit rests on.

    places: by axis of the law, ascending; sizes, points: without each of them, the most influential first; alone: sizes
    without which nothing is left to determine the law; skipped: points that were not left out.
    """

    law: str
    places: tuple[Place, ...]
    sizes: tuple[Influence, ...]
    points: tuple[Influence, ...]
    alone: tuple[str, ...] = ()
    skipped: int = 0


@np.errstate(all="ignore")
def diagnose(fitted: Fit) -> Diagnosis:
    """Residuals and influence of a fit. Leaving out is refitting, warm-started, with a weight of zero."""
    points, law = fitted.points, fitted.law
    residual = np.asarray(law.predict(fitted.theta, points), dtype=np.float64) / points.L - 1
    index = sizes(law, points)
    groups = [index == k for k in range(int(index.max()) + 1)]
    names = [_size_name(law, points, group) for group in groups]
    held = [_determined(fitted, ~group) for group in groups]
    tried = np.arange(len(points))
    if len(points) > MOST_POINTS:
        tried = np.sort(np.argsort(-np.abs(residual))[:MOST_POINTS])
    single = [np.arange(len(points)) == i for i in tried]
    ids = [label(points, int(i)) for i in tried]
    return Diagnosis(
        law=law.name,
        places=tuple(place for axis in law.axes for place in _places(axis, points, residual)),
        sizes=_without(fitted, [g for g, ok in zip(groups, held, strict=True) if ok],
                       [name for name, ok in zip(names, held, strict=True) if ok]),
        points=_without(fitted, single, ids),
        alone=tuple(name for name, ok in zip(names, held, strict=True) if not ok),
        skipped=len(points) - len(tried),
    )  # fmt: skip


def _places(axis: str, points: Points, residual: Floats) -> list[Place]:
    if axis not in ("N", "D", "C"):
        return []
    index = steps(law_on("power", (axis,)), points)
    values = points.axis(axis)
    found = []
    for place in range(int(index.max()) + 1):
        here = residual[index == place]
        low, high = values[index == place].min(), values[index == place].max()
        name = _value(axis, high) if high < 1.01 * low else f"{_value(axis, low)} … {_value(axis, high)}"
        found.append(Place(axis, name, len(here), float(here.mean()), float(here.min()), float(here.max())))
    return found


def _value(axis: str, value: float) -> str:
    return si(value, "FLOP") if axis == "C" else count(value)


def _size_name(law: Law, points: Points, group: Any) -> str:
    if points.group is not None:
        return f"group {points.group[group][0]}"
    axis = "N" if "N" in law.axes and points.N is not None else law.axes[0]
    return f"{axis} {_value(axis, float(points.axis(axis)[group].max()))}"


def _determined(fitted: Fit, keep: Any) -> bool:
    try:
        check(fitted.law, fitted.points.take(keep), fitted.fixed)
    except FitError:
        return False
    return True


def _without(fitted: Fit, groups: Sequence[Any], names: Sequence[str]) -> tuple[Influence, ...]:
    if not groups:
        return ()
    weights = np.stack([~group for group in groups]).astype(np.float64)
    values, _ = refit(fitted, weights=weights)
    theta = {name: values[:, k : k + 1] for k, name in enumerate(fitted.law.names)}
    there = _far(fitted)
    whole = float(np.asarray(fitted.law.predict(fitted.theta, there), dtype=np.float64)[0])
    moved = np.asarray(fitted.law.predict(theta, there), dtype=np.float64)[:, 0] / whole - 1
    found = [
        Influence(name, int(group.sum()), dict(zip(fitted.law.names, map(float, row), strict=True)), float(change))
        for name, group, row, change in zip(names, groups, values, moved, strict=True)
    ]
    return tuple(sorted(found, key=lambda held: -abs(held.far)))


def _far(fitted: Fit) -> Points:
    """FAR times the largest point, shared out evenly over the axes of the law."""
    law, points = fitted.law, fitted.points
    largest = int(np.argmax(np.prod([points.axis(axis) for axis in law.axes], axis=0)))
    one = points.take(np.array([largest]))
    scaled: dict[str, Any] = {axis: one.axis(axis) * FAR ** (1 / len(law.axes)) for axis in law.axes}
    plain = {axis: scaled.pop(axis) for axis in ("N", "D", "C") if axis in scaled}
    return replace(one, **plain, others={**one.others, **scaled})
