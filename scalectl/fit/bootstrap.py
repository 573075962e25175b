"""Resampled fits: what the parameters would have been with other runs, other sizes or other noise.

Efron 1979; over clusters Field and Welsh 2007 (JRSS B 69). Weights are integers on one design, so that a draw is a
warm-started fit and a thousand of them are one array operation.

Measured (bench/coverage.py, 200 data sets; nominal .95): five sizes x 3 seeds of a power law and eight x 3 of one above
a floor, noise .4 %: sizes cover 1.00, runs .94 and .99, residuals .89 and .92. With sizes 1 % and .2 % off the law:
sizes .98 and 1.00, runs .78 and .96 to .98, residuals .66 and .85 to .89: their spread is that of a fit with its
parameters taken out, and they know no size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from scalectl.core.errors import FitError, UsageError
from scalectl.core.rows import Floats, Points
from scalectl.fit.estimate import Fit, refit
from scalectl.laws import Law

Unit = Literal["size", "run", "residual"]
UNITS: tuple[Unit, ...] = get_args(Unit)
MIN_SIZES = 3  # two sizes give three distinct resamples, one of them usable: no distribution. Ours.

# With this many distinct values of an axis a resample has fewer than five of them with a chance below 1e-60, so that
# looking is a waste. Ours.
PLENTY = 64
ATTEMPTS = 200

# Share of the loss below which a term is left out of it: the optimum of such a draw is the same without the term, and
# its exponent, whatever the optimiser left there, is one of many. Ours: of the 1,000 draws of kaplan on cpu-ladder 28
# lie below 1e-12, the next one at 3e-3.
LEFT_OUT = 1e-6


@dataclass(frozen=True)
class Draws:
    """Parameters of resampled fits.

    names: of the parameters; values: shape (draws, parameters), natural units; unit: what was resampled; units: how
    many of them there are; spare: units beyond the parameters that they have to determine, the degrees of freedom;
    unusable: resamples that were drawn again because they had too few distinct sizes to fit; settled: share of the
    draws whose optimiser ended at an optimum; open: which of the values are open, shape of `values`: exponents of terms
    that a draw leaves out; blind: by N and D, the draws (draws,) in which the loss does not depend on it.
    """

    names: tuple[str, ...]
    values: Floats
    unit: Unit
    units: int
    spare: int
    unusable: int
    settled: float
    open: npt.NDArray[np.bool_] | None = None
    blind: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def known(self) -> dict[str, Floats]:
        """Parameters by name, each of shape (draws,), NaN where a draw leaves them open."""
        held = self.values if self.open is None else np.where(self.open, np.nan, self.values)
        return {name: held[:, k] for k, name in enumerate(self.names)}

    def theta(self) -> dict[str, Floats]:
        """Parameters by name, each of shape (draws, 1), as laws take them."""
        return {name: self.values[:, k : k + 1] for k, name in enumerate(self.names)}


def sizes(law: Law, points: Points) -> npt.NDArray[np.int64]:
    """The size of each point as an index from 0, shape (n,): its `size` label, or its place on the law's first axis.

    A group, where points have one, stands for the size.
    Labels count only for laws that read N or what it follows from; along D or C alone, the places themselves are what
    was varied.
    """
    if points.group is not None:
        # Cells of a file may be text, numbers and empty in one column; what is empty is one group.
        names = [f"{type(cell).__name__} {cell}" for cell in points.group.tolist()]
        return np.unique(names, return_inverse=True)[1].ravel().astype(np.int64)
    labelled = points.size is not None and bool({"N", "width"} & set(law.axes))
    labels: npt.NDArray[Any] = points.size if labelled else points.axis(law.axes[0])  # type: ignore[assignment]
    return np.unique(labels, return_inverse=True)[1].ravel().astype(np.int64)


@dataclass(frozen=True)
class Resamples:
    """What resampled fits are made of.

    weights: how often each point counts, (draws, n), or None for once; measured: losses (draws, n), or None for the
    points' own; unit, units, spare, unusable: as in `Draws`.
    """

    weights: Floats | None
    measured: Floats | None
    unit: Unit
    units: int
    spare: int
    unusable: int


def bootstrap(
    fitted: Fit, n: int, unit: Unit, rng: np.random.Generator, again: Callable[[Floats], Floats] | None = None
) -> Draws:
    """`n` resampled fits.

    Args: unit: "size" resamples sizes and then the runs within each, which carries the misfit of the law as well as
    the noise and is the honest default (whole sizes alone leave out the noise where two seeds bracket a robust fit:
    three sizes of two seeds gave an interval of 1e-6); "run" resamples points; "residual" keeps the points and
    resamples their log residuals (the plain residuals for mse). rng: the source of all randomness; again: for points
    that were chosen by their losses: the losses (draws, n) where the points count so many times (draws, n).
    Raises: FitError when there are too few units to resample; UsageError for residuals of points that were chosen.
    """
    drawn = resamples(fitted, n, unit, rng, again)
    return draws_of(fitted, drawn, *refit(fitted, weights=drawn.weights, measured=drawn.measured))


def resamples(
    fitted: Fit, n: int, unit: Unit, rng: np.random.Generator, again: Callable[[Floats], Floats] | None = None
) -> Resamples:
    """What `bootstrap` fits. Args, Raises: as there."""
    if unit not in UNITS:
        raise UsageError(f"{unit} is not a unit of resampling", remedy=f"use {', '.join(UNITS)}")
    law, points = fitted.law, fitted.points
    groups = sizes(law, points) if unit == "size" else np.arange(len(points))
    units = int(groups.max()) + 1
    if unit == "size" and units < MIN_SIZES:
        raise FitError(
            f"resampling sizes needs at least {MIN_SIZES} sizes; the points have {units}",
            remedy="add sizes, or use --unit run, whose interval leaves out how far the law itself is off",
        )
    spare = units - _determined(fitted, unit)
    if unit == "residual":
        if again is not None:
            raise UsageError("residuals say nothing of the choice between runs", remedy="use --unit size or --unit run")
        return Resamples(None, _resampled_losses(fitted, n, rng), unit, units, spare, 0)
    (weights,), unusable = fitting_resamples([fitted], lambda count: [resample(groups, count, rng)], n)
    return Resamples(weights, None if again is None else again(weights), unit, units, spare, unusable)


def _determined(fitted: Fit, unit: Unit) -> int:
    """Sizes have to determine what one axis has to determine; runs and residuals, every parameter."""
    fixed = len(fitted.fixed)
    return max(1, fitted.law.needs - fixed) if unit == "size" else len(fitted.law.names) - fixed


def counted_as(draws: Draws, fitted: Fit, unit: Unit) -> Draws:
    """Draws over sizes of one run each as draws over runs, or the reverse: the same resamples, other spare units."""
    return replace(draws, unit=unit, spare=draws.units - _determined(fitted, unit))


@np.errstate(all="ignore")
def draws_of(fitted: Fit, drawn: Resamples, values: Floats, settled: Any) -> Draws:
    """Draws with what each of them leaves open: terms without which its loss is the same at every point.

    Args: values, settled: parameters (draws, p) and whether each is an optimum (draws,), as from `refit`.
    """
    law, points = fitted.law, fitted.points
    theta = {name: values[:, k : k + 1] for k, name in enumerate(law.names)}
    whole = np.asarray(law.predict(theta, points), dtype=np.float64)
    through: dict[str, list[npt.NDArray[np.bool_]]] = {}
    along: dict[str, list[npt.NDArray[np.bool_]]] = {}
    for parameter in law.parameters:
        if parameter.axis is None or parameter.exponent is None:
            continue
        rest = np.asarray(law.predict({**theta, parameter.name: np.zeros((len(values), 1))}, points), dtype=np.float64)
        gone = np.asarray((np.abs(rest / whole - 1) < LEFT_OUT).all(1))
        through.setdefault(law.ties.get(parameter.exponent, parameter.exponent), []).append(gone)
        along.setdefault(parameter.axis, []).append(gone)
    free = np.zeros(values.shape, dtype=bool)
    for name, gone_terms in through.items():
        if name in law.names and name not in fitted.fixed:
            free[:, law.names.index(name)] = np.logical_and.reduce(gone_terms)
    blind = {axis: np.logical_and.reduce(gone_terms) for axis, gone_terms in along.items() if axis in ("N", "D")}
    share = float(settled.mean())
    return Draws(law.names, values, drawn.unit, drawn.units, drawn.spare, drawn.unusable, share, free, blind)


def _resampled_losses(fitted: Fit, n: int, rng: np.random.Generator) -> Floats:
    points = fitted.points
    predicted = np.asarray(fitted.law.predict(fitted.theta, points), dtype=np.float64)
    residual = fitted.objective.residual(predicted, points.L)
    picked = residual[rng.integers(0, len(points), size=(n, len(points)))]
    if fitted.objective.on_log:
        return np.asarray(predicted * np.exp(-picked))
    # A loss below zero has no meaning; it takes residuals as large as the loss itself.
    return np.asarray(np.maximum(predicted - picked, 1e-3 * predicted))


def resample(groups: npt.NDArray[np.int64], n: int, rng: np.random.Generator, *, whole: bool = True) -> Floats:
    """How often each point counts in n resamples of whole groups and then of the points within each, shape (n, points).

    Args: groups: of each point, from 0 without gaps; whole: False where every group stays, and only its points change.
    """
    units = int(groups.max()) + 1
    drawn = (
        rng.multinomial(units, np.full(units, 1.0 / units), size=n) if whole else np.ones((n, units), dtype=np.int64)
    )
    if units == len(groups):
        return np.asarray(drawn[:, groups], dtype=np.float64)
    weights = np.empty((n, len(groups)))
    for unit in range(units):
        inside = np.flatnonzero(groups == unit)
        chance = np.full(len(inside), 1.0 / len(inside))
        weights[:, inside] = rng.multinomial(drawn[:, unit] * len(inside), chance)
    return weights


def fitting_resamples(
    fits: Sequence[Fit], draw: Callable[[int], Sequence[Floats]], n: int
) -> tuple[Sequence[Floats], int]:
    """`n` resamples with which every fit can be made again, and how many had to be drawn anew.

    Args: draw: so many resamples of the points of each fit, one array (draws, points) for each.
    Raises: FitError where hardly any resample will do.
    """
    weights, unusable = draw(n), 0
    for _ in range(ATTEMPTS):
        good = np.logical_and.reduce([usable(held, own) for held, own in zip(fits, weights, strict=True)])
        bad = np.flatnonzero(~good)
        if bad.size == 0:
            return weights, unusable
        unusable += bad.size
        for own, fresh in zip(weights, draw(bad.size), strict=True):
            own[bad] = fresh
    raise FitError(
        "resamples of these points almost never have enough distinct sizes to fit",
        remedy="add sizes, or choose a --law with fewer parameters",
    )


def usable(fitted: Fit, weights: Floats) -> npt.NDArray[np.bool_]:
    """Which resamples (draws, n) keep enough distinct places to determine the law, shape (draws,)."""
    law, points = fitted.law, fitted.points
    good = np.ones(len(weights), dtype=bool)
    places = [points.axis(axis) for axis in law.axes]
    varied = [points.axis(axis) for axis in law.axes if axis not in law.steady]
    wanted = max(1, law.needs - len(fitted.fixed))
    checks = [(np.unique(place, return_inverse=True)[1].ravel(), wanted) for place in varied]
    cells = np.unique(np.stack(places), axis=1, return_inverse=True)[1].ravel()
    checks.append((cells, len(law.names) - len(fitted.fixed)))
    for index, needed in checks:
        count = int(index.max()) + 1
        if count < PLENTY:
            member = (index[:, None] == np.arange(count)).astype(np.float64)
            good &= ((weights @ member) > 0).sum(1) >= needed
    return good
