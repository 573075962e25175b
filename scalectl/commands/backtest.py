"""`scalectl backtest`: how laws would have extrapolated on curves that are known to their end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scalectl.commands.fit import Request, load
from scalectl.commands.target import find_target
from scalectl.core.errors import NothingMatched, UsageError
from scalectl.core.expression import full_name
from scalectl.core.names import shown
from scalectl.core.rows import Points
from scalectl.core.units import count, counted
from scalectl.fit.backtest import backtest
from scalectl.fit.objective import parse_objective
from scalectl.fit.select import steps
from scalectl.laws import LAWS, Law, law_on, varying
from scalectl.report.cells import show
from scalectl.report.views import BacktestView
from scalectl.store.points import run_curves, vary

AXES = ("N", "D", "C")


def run(
    request: Request, *, axis: str | None = None, by: Sequence[str] = (), early: float = 0.5, each_run: bool = False
) -> BacktestView:
    """Fit the early part of every curve with every law, and score the rest.

    Args: request: its target, points, laws and objective count; axis: N, D or C to go along, each value of the other
    being a curve; None for what varies, N and D together; by: columns whose values are curves, whatever else varies if
    none is named; early: share of a curve's places that is fitted; each_run: the evaluations of every run over its
    tokens are a curve.
    Raises: UsageError for an axis that is not there or a column that would be pooled; NothingMatched without a curve;
    FitError if no curve has two places.
    """
    target = find_target(request.target, request.results)
    if axis is not None and axis not in AXES:
        raise UsageError(f"--axis {shown(axis)} is not known", remedy=f"use {', '.join(AXES)}")
    points = load(request, target, by=by[0] if by else None)
    notes = list(points.notes)
    if each_run:
        if target.file is not None or by or axis not in (None, "D"):
            raise UsageError(
                "--each-run takes the evaluations of a sweep's runs, along D", remedy="leave --by and --axis out"
            )
        curves = {
            run_id[:6]: Points(L=losses, D=tokens, metric=points.metric)
            for run_id, (tokens, losses) in run_curves(target.store, target.name, points.ids, points.metric).items()
        }
        notes.append(
            "within a run the learning rate is not decayed yet: its losses are above those of runs that end there"
        )
    else:
        curves = split(points, axis, by)
    if not curves:
        raise NothingMatched("no run was evaluated more than once", remedy="lower eval.every")
    axes = ("D",) if each_run else (axis,) if axis else varying(points)
    laws = _laws(request.laws, axes)
    scores, trials = backtest(curves, laws, parse_objective(request.objective), early)
    tried = len({trial.curve for trial in trials})
    if short := len(curves) - tried:
        notes.append(f"{counted(short, 'curve')} with one place only left out")
    return BacktestView(
        target=target.name,
        axis=" ".join(axes),
        early=early,
        curves=tried,
        convention=points.convention,
        scores=scores,
        trials=trials,
        opening=target.opening,
        notes=tuple(notes),
    )


def _laws(names: Sequence[str], axes: tuple[str, ...]) -> tuple[Law, ...]:
    laws = tuple(law_on(name, axes) for name in names or LAWS)
    fitting = tuple(law for law in laws if set(law.axes) == set(axes))
    if len(fitting) < len(names):
        other = next(law for law in laws if law not in fitting)
        raise UsageError(
            f"{other.name} reads {' and '.join(other.axes)}, and these curves go along {' and '.join(axes)}",
            remedy="choose another --law or --axis",
        )
    return fitting


def split(points: Points, axis: str | None, by: Sequence[str]) -> dict[str, Points]:
    """Points by the curve that they belong to; the names say what is held.

    Raises: UsageError for an unknown axis or column, and where settings still vary within a curve.
    """
    if axis is not None and axis not in points.axes():
        raise UsageError(f"these points have no {axis}", remedy=f"they have {', '.join(points.axes())}")
    columns = [full_name(name, tuple(points.columns)) for name in by] or list(vary(points))
    labels = [
        [f"{name.rpartition('.')[2]}={show(value)}" for value in points.columns[name].tolist()] for name in columns
    ]
    for other in ("N", "D") if axis in ("N", "D") else ():
        if other != axis and other in varying(points):
            index = steps(law_on("power", (other,)), points, most=None)
            values = points.axis(other)
            labels.append([f"{other}={count(values[index == place].max())}" for place in index.tolist()])
    names = np.array([" ".join(parts) for parts in zip(*labels, strict=True)] if labels else ["all"] * len(points))
    found = {name: points.take(names == name) for name in dict.fromkeys(names.tolist())}
    for name, part in found.items():
        if extra := vary(part):
            raise UsageError(
                f"{' and '.join(extra)} var{'ies' if len(extra) == 1 else 'y'} within the curve {name}",
                remedy=f"make curves of it: --by {' --by '.join((*by, *extra))}",
            )
    return found
