"""`scalectl compare`: how much one recipe saves over another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from scalectl.commands.fit import (
    FEWEST_DRAWS,
    Request,
    best_view,
    choose_best,
    load,
    most_rows,
    pairs,
    split,
    thinned,
)
from scalectl.commands.target import find_target
from scalectl.core.errors import NothingMatched, UsageError
from scalectl.core.expression import full_name
from scalectl.core.names import did_you_mean, shown
from scalectl.core.rows import Points
from scalectl.fit.compare import Arm, Comparison, Saving, compare
from scalectl.fit.objective import parse_objective
from scalectl.laws import LAWS, SAME_WITHIN, Law, law_on
from scalectl.report.cells import show
from scalectl.report.views import ArmView, CompareView, ComparisonView, SavingView
from scalectl.store.points import places

Axis = Literal["C", "N", "D"]
DEFAULT_LAW = "power"  # two parameters: the curves are read off between their runs, where a floor changes little. Ours.


@dataclass(frozen=True)
class Asked:
    """The flags of `compare` beside those of a fit.

    other: the second target; by: a column whose values are the recipes; base: the value that the others are compared
    with, the first if None; axis: what is saved; losses: where to state it; claim: share of it to be shown.
    """

    other: str | None = None
    by: str | None = None
    base: str | None = None
    axis: Axis = "C"
    losses: tuple[float, ...] = ()
    claim: float = 0.02


def run(request: Request, asked: Asked) -> CompareView:
    """Compare two targets, or the values of a column with one of them.

    Raises: UsageError for flags that do not go together or runs that cannot be compared; NothingMatched for a value
    that no run has; FitError for curves that do not overlap in loss.
    """
    if request.draws < FEWEST_DRAWS:
        raise UsageError("a saving needs an interval", remedy=f"give --bootstrap at least {FEWEST_DRAWS}")
    if (asked.other is None) == (asked.by is None):
        raise UsageError(
            "compare takes two targets, or one and the column that tells its recipes apart",
            remedy="scalectl compare A B, or scalectl compare A --by model.position",
        )
    if not 0 < asked.claim < 1:
        raise UsageError(f"--claim {asked.claim:g} is not between 0 and 1", remedy="0.02 is a saving of 2 %")
    target = find_target(request.target, request.results)
    if asked.by is not None:
        column, parts = split(request, target, asked.by)
        most = most_rows(request, target)
        arms = [_arm(show(value, column), thinned(part, most), request, asked.axis) for value, part in parts.items()]
        arms = _based(arms, asked.base, column)
        apart: tuple[str, ...] = (column,)
    else:
        second = find_target(asked.other, request.results)
        loaded = [thinned(load(request, held), most_rows(request, held)) for held in (target, second)]
        names = (target.name, second.name)
        arms = [_arm(name, part, request, asked.axis) for name, part in zip(names, loaded, strict=True)]
        if second.name == target.name:
            raise UsageError(f"{target.name} is compared with itself", remedy="name two sweeps, or use --by")
        apart = ()
    _same_data(arms, request.metric)
    if request.best_over is not None:
        apart += (full_name(request.best_over, tuple(arms[0].points.columns)),)
    law, objective = _law(request, asked.axis), parse_objective(request.objective)
    found = [_compared(arms[0], arm, law, request, asked, apart) for arm in arms[1:]]
    first = arms[0].points
    notes = dict.fromkeys(note for arm in arms for note in arm.points.notes)
    return CompareView(
        target=target.name,
        axis=asked.axis,
        law=law.name,
        formula=law.formula,
        objective=objective.name,
        delta=objective.delta,
        convention=first.convention,
        flops=first.flops,
        unit=found[0].unit,
        level=request.level,
        draws=request.draws,
        comparisons=tuple(found),
        opening=target.opening,
        notes=tuple(notes),
    )


def _arm(name: str, points: Points, request: Request, axis: Axis) -> Arm:
    best = choose_best(points, request.best_over)
    held = points if best is None else best.points
    if axis not in held.axes():
        raise UsageError(
            f"the runs of {name} have no {axis}; they have {', '.join(held.axes())}",
            remedy="name a column with --map, choose another --axis, or use --flops 6nd",
        )
    _one_curve(name, held, axis)
    return Arm(name, held, best)


def _one_curve(name: str, points: Points, axis: Axis) -> None:
    """Raises: UsageError where the loss is no function of the axis alone."""
    both: tuple[Literal["N", "D"], ...] = ("N", "D")
    distinct = {held: int(places(_along(points, held)).max()) + 1 for held in both if held in points.axes()}
    if axis == "C":
        both_vary = len(distinct) == 2 and min(distinct.values()) > 1
        if both_vary and int(places(points).max()) + 1 > distinct["N"]:  # some size has several budgets
            raise UsageError(
                f"N and D vary each by itself among the runs of {name}: their loss is no curve along C",
                remedy="pick one token budget with --where, or fit a law of both to each: scalectl fit",
            )
        return
    other: Literal["N", "D"] = "D" if axis == "N" else "N"
    if distinct.get(other, 1) > 1:
        raise UsageError(
            f"{other} varies among the runs of {name}: their loss is no curve along {axis}",
            remedy=f"pick one {other} with --where, or compare along C",
        )


def _along(points: Points, axis: Literal["N", "D"]) -> Points:
    return replace(points, D=None, C=None) if axis == "N" else replace(points, N=None, C=None)


def _based(arms: list[Arm], base: str | None, column: str) -> list[Arm]:
    """The arms with the one that the others are compared with first."""
    if len(arms) < 2:
        raise NothingMatched(f"{column} has one value among these runs, {arms[0].name}; there is nothing to compare")
    if base is None:
        return arms
    names = [arm.name for arm in arms]
    if base not in names:
        raise NothingMatched(
            f"no run has {column} = {shown(base)}", remedy=did_you_mean(base, names) or f"there are {', '.join(names)}"
        )
    return sorted(arms, key=lambda arm: arm.name != base)


def _same_data(arms: list[Arm], metric: str) -> None:
    """Raises: UsageError for losses on different data, which are different quantities."""
    for name in ("data.fingerprint", "eval.tokens"):
        held = {str(value) for arm in arms for value in arm.points.columns.get(name, np.array([])).tolist()}
        if len(held) > 1:
            raise UsageError(
                f"the {metric} of these runs is on different data ({name} differs), so that they cannot be compared",
                remedy="compare runs of one corpus, tokeniser and held-out set",
            )


def _law(request: Request, axis: Axis) -> Law:
    if len(request.laws) > 1:
        raise UsageError("compare fits one law to both", remedy="give one --law, power or power+constant")
    name = request.laws[0] if request.laws else DEFAULT_LAW
    if name not in LAWS:
        raise UsageError(f"no law {shown(name)}", remedy=did_you_mean(name, LAWS))
    if LAWS[name].along is None:
        raise UsageError(f"{name} is no law of one axis", remedy="give --law power or power+constant")
    return law_on(name, (axis,))


def _compared(
    first: Arm, second: Arm, law: Law, request: Request, asked: Asked, apart: tuple[str, ...]
) -> ComparisonView:
    found = compare(
        first,
        second,
        law,
        parse_objective(request.objective),
        apart=apart,
        fix=pairs(request.fix, "--fix"),
        losses=asked.losses,
        claim=asked.claim,
        draws=request.draws,
        unit=request.unit,
        level=request.level,
        rng=np.random.default_rng(request.seed),
    )
    return ComparisonView(
        first=_arm_view(first, found, 0),
        second=_arm_view(second, found, 1),
        overlap=found.overlap,
        savings=tuple(_saving(held) for held in found.savings),
        one_shape=None if found.shared is None else _saving(found.shared),
        paired_by=found.paired_by,
        unpaired_because=found.unpaired_because,
        noise_of_pairs=found.noise[2],
        slope=found.slope,
        claim=found.claim,
        seeds=found.seeds,
        seeds_needed=found.needed[0],
        seeds_needed_unpaired=found.needed[1],
        unit=found.unit,
    )


def _arm_view(arm: Arm, found: Comparison, number: Literal[0, 1]) -> ArmView:
    fitted = found.fits[number]
    D = arm.points.D
    return ArmView(
        name=arm.name,
        runs=len(arm.points) if arm.best is None else arm.best.runs,
        sizes=found.sizes[number],
        params=dict(fitted.theta),
        status=str(fitted.status),
        noise=found.noise[number],
        D=float(D[0]) if D is not None and D.max() <= SAME_WITHIN * D.min() else None,
        best_over=None if arm.best is None else best_view(arm.best),
    )


def _saving(held: Saving) -> SavingView:
    return SavingView(
        loss=held.loss,
        value=held.value,
        paired=held.paired,
        unpaired=held.unpaired,
        needs=held.needs,
        beyond=held.beyond,
    )
