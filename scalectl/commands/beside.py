"""What stands beside a fit: the three approaches to one exponent, and what was published about the same table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from scalectl.commands.fit import Fitted, Request, Result, mask_of
from scalectl.commands.references import Chosen, points_of
from scalectl.core.errors import FitError, NothingMatched, UsageError
from scalectl.core.rows import Points
from scalectl.core.units import counted
from scalectl.fit.against import Comparison, compare
from scalectl.fit.approaches import Approach, approaches
from scalectl.fit.objective import parse_objective
from scalectl.laws import LAWS, untied
from scalectl.report.views import FitView, StatedExponent
from scalectl.store.points import curve_points

APPROACHES = {"1": (1,), "2": (2,), "3": (3,), "all": (1, 2, 3)}
ENOUGH_CURVES = (
    3  # sizes with several lengths, from which on runs are better curves than what they saw on the way. Ours.
)


def beside(view: FitView, request: Request, result: Result, *, approach: str | None, against: bool) -> FitView:
    """The view with the approaches and the published numbers that were asked for.

    Args: approach: 1, 2, 3 or all, None for none; against: whether to compare with what was published.
    Raises: UsageError where no law of N and D was fitted, or nothing was published about the target.
    """
    if approach is not None:
        found, refused = _approaches(request, result, APPROACHES[approach])
        view = replace(view, approaches=found, refused_approaches=refused)
    if against:
        view = replace(view, against=_published_fits(result), stated=_stated(result))
    return view


def _joint(result: Result) -> Fitted:
    for held in result.fitted:
        if set(held.fit.law.axes) == {"N", "D"} and {"alpha", "beta"} <= set(untied(held.fit.law, held.fit.theta)):
            return held
    raise UsageError(
        f"the approaches need a law of N and D beside them; fitted: {', '.join(h.summary.law for h in result.fitted)}",
        remedy="both sizes and token budgets have to vary; use --law chinchilla",
    )


def _approaches(
    request: Request, result: Result, which: tuple[int, ...]
) -> tuple[tuple[Approach, ...], dict[int, str]]:
    joint = _joint(result)
    found, refused = approaches(
        result.points,
        joint.fit,
        joint.draws,
        request.level,
        np.random.default_rng(request.seed),
        which=which,
        curves=_curves(result) if 1 in which else None,
        resamples=request.draws,
    )
    if not found:
        raise FitError("; ".join(f"approach {number}: {why}" for number, why in refused.items()))
    return found, dict(refused)


def _curves(result: Result) -> Points | None:
    """Evaluations inside runs, where the runs themselves are too few to be the curves of their sizes."""
    points, target = result.points, result.target
    if target.file is not None:
        return None
    lengths = [len(np.unique(points.axis("D")[points.axis("N") == N])) for N in np.unique(points.axis("N"))]
    if sum(count > 1 for count in lengths) >= ENOUGH_CURVES:
        return None
    try:
        return curve_points(target.store, target.name, points)
    except NothingMatched:  # runs of another tool, known by their ends alone
        return None


def _published(result: Result) -> tuple[Chosen, Path]:
    chosen, file = result.target.published, result.target.file
    if chosen is None or file is None:
        raise UsageError(
            "--against published compares a published table with what was published about it",
            remedy="fit one: scalectl fit ref:epoch-chinchilla --against published",
        )
    if not chosen.table.fits and not chosen.table.exponents:
        raise UsageError(f"no fit of ref:{chosen.name} is registered", remedy="leave --against out")
    return chosen, file


def _published_fits(result: Result) -> tuple[Comparison, ...]:
    chosen, file = _published(result)
    found = []
    for fit in chosen.table.fits:
        points = points_of(chosen, file, fit.convention, mask=mask_of(fit.where))
        rows = f"{counted(len(points), 'row')}{f' with {fit.where}' if fit.where else ''}"
        counts = f", N {fit.convention.replace('_', '-')}" if len(chosen.table.counts) > 1 and fit.convention else ""
        found.append(
            compare(
                fit.name,
                LAWS[fit.law],
                points,
                parse_objective(fit.objective),
                fit.params,
                stated=fit.value,
                where=rows + counts,
            )
        )
    return tuple(found)


def _stated(result: Result) -> tuple[StatedExponent, ...]:
    """The published exponents of the rows that were fitted."""
    chosen, file = _published(result)
    ids = set(result.points.ids)
    found = []
    for held in chosen.table.exponents:
        try:
            theirs = points_of(chosen, file, None, mask=mask_of(held.where), by=chosen.table.apart)
        except NothingMatched:
            continue
        if ids <= set(theirs.ids):
            found.append(StatedExponent(held.name, held.approach, held.a, held.interval, held.level, held.interpolated))
    return tuple(found)
