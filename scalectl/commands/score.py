"""`scalectl fit` of scores: from runs or a table to a verdict for each task of each family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from scalectl.commands.fit import FEWEST_DRAWS, Request
from scalectl.commands.measured import Asked, Axis, Series
from scalectl.commands.score_runs import of_sweep
from scalectl.commands.score_table import of_table
from scalectl.commands.target import changed_note, find_target
from scalectl.core.errors import FitError, NothingMatched, UsageError
from scalectl.core.names import shown
from scalectl.core.rows import Floats
from scalectl.core.units import count
from scalectl.emergence.artefact import Hinge, Twin, artefact, broken
from scalectl.emergence.curve import Floor, by_run, curve_of, mean_by
from scalectl.emergence.detector import (
    ALPHA,
    BREAK,
    FLAT,
    LEAST_GAIN,
    NON_MONOTONE,
    SMOOTH,
    Verdict,
    detect,
    discoveries,
    unable,
)
from scalectl.emergence.threshold import WILSON, first_above, wilson
from scalectl.report.views import Place, TaskView, ThresholdView

# Flags that only laws read, and the fields of a request that hold them.
_OF_LAWS = {
    "--best-over": "best_over",
    "--law": "laws",
    "--fix": "fix",
    "--tie": "tie",
    "--weight": "weight",
    "--group": "group",
    "--holdout": "holdout",
    "--objective": "objective",
    "--unit": "unit",
    "--rows": "rows",
}
RISEN = 4.0  # scatters of its log by which a loss rises that is said to. Ours.


def run(request: Request, asked: Asked) -> ThresholdView:
    """Verdicts of every task.

    Raises: UsageError for flags that do not fit; NothingMatched if nothing answers.
    """
    if asked.axis not in get_args(Axis):
        raise UsageError(f"--axis {shown(asked.axis)} is not known", remedy=f"use {', '.join(get_args(Axis))}")
    for flag in (*asked.foreign, *(flag for flag, field in _OF_LAWS.items() if _given(request, field))):
        raise UsageError(f"{flag} is for laws of a loss, and this fits a score", remedy=f"leave {flag} out")
    if request.draws < FEWEST_DRAWS:
        raise UsageError(
            f"{request.draws} resamples are too few for a test", remedy=f"give --bootstrap at least {FEWEST_DRAWS}"
        )
    floor = _floor(asked.floor)
    target = find_target(request.target, request.results)
    gathered = of_table(request, asked, target) if target.file is not None else of_sweep(request, asked, target)
    notes = [*(() if target.file else changed_note(target.store, target.name)), *gathered.notes]
    if not gathered.series:
        raise NothingMatched(f"no score of {target.name} is left", remedy="check --metric, --map and --where")
    rng = np.random.default_rng(request.seed)
    tasks: list[TaskView] = []
    for family in dict.fromkeys(series.family for series in gathered.series):
        members = [series for series in gathered.series if series.family == family]
        if gathered.measures == "loss":
            tasks += _losses(members, asked.axis, rng)
        else:
            tasks += _family(members, floor, asked, request.draws, rng)
    families = {task.family for task in tasks}
    if len(families) > 1:
        notes.append(f"{len(families)} families, which are never pooled")
    for note in dict.fromkeys(note for task in tasks for note in task.notes):
        names = list(dict.fromkeys(task.task for task in tasks if note in task.notes))
        everywhere = len(names) == len({task.task for task in tasks})
        notes.append(note if everywhere else f"{note}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}")
    return ThresholdView(
        target=target.name,
        axis=asked.axis,
        tasks=tuple(tasks),
        level=asked.level,
        draws=max((task.draws for task in tasks), default=0),
        convention=gathered.convention,
        measures=gathered.measures,
        opening=target.opening,
        notes=tuple(dict.fromkeys(notes)),
    )


def _given(request: Request, field: str) -> bool:
    return bool(getattr(request, field) != getattr(Request, field))


def _floor(text: str | None) -> Floor | None:
    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value < 1:
        raise UsageError(f"--floor {shown(text)} is no score", remedy="auto, or a number from 0 to 1")
    return value


def _family(
    members: Sequence[Series], floor: Floor | None, asked: Asked, draws: int, rng: np.random.Generator
) -> list[TaskView]:
    """Tasks of one family, in the order given."""
    curves, refused = [], {}
    for series in members:
        try:
            curve = curve_of(
                series.place,
                series.score,
                series.items,
                chance=series.chance,
                floor=floor,
                seed=series.seed,
                inverse=asked.axis == "loss",
                task=series.task,
                family=series.family,
            )
        except FitError as error:
            refused[series.task] = unable(series.task, series.family, _in_one_line(error))
        else:
            curves.append(curve)
    verdicts = {held.curve.task: held for held in detect(curves, rng, draws=draws, level=asked.level)} | refused
    views = []
    for series in members:
        verdict = verdicts[series.task]
        rises = verdict.flagged or verdict.label == SMOOTH
        twin, why = _twin(series, verdict, asked.axis, rng) if rises else (None, "")
        views.append(_view(verdict, asked.axis, twin, why))
    return views


def _in_one_line(error: FitError) -> str:
    """What was found and what helps, for one task among others."""
    return "; ".join(part for part in (error.what, error.remedy) if part)


def _losses(members: Sequence[Series], axis: Axis, rng: np.random.Generator) -> list[TaskView]:
    """Losses of one family, each a power law against one break."""
    found: dict[int, tuple[Hinge, bool, str]] = {}
    refused: dict[int, str] = {}
    kept = [np.isfinite(series.score) & np.isfinite(series.place) & (series.place > 0) for series in members]
    for k, (series, known) in enumerate(zip(members, kept, strict=True)):
        try:
            found[k] = broken(series.place[known], series.score[known], rng)
        except FitError as error:
            refused[k] = _in_one_line(error)
    q_values = dict(zip(found, discoveries([held[0].p_value for held in found.values()]), strict=True))
    views = []
    for k, (series, known) in enumerate(zip(members, kept, strict=True)):
        missing = int(np.count_nonzero(~known))
        notes = (f"{missing} of {len(known)} rows without a loss, or a place above 0, are left out",) * bool(missing)
        if k in refused:
            views.append(replace(_view(unable(series.task, series.family, refused[k]), axis, None, ""), notes=notes))
            continue
        hinge, bends, because = found[k]
        place, index = np.unique(series.place[known], return_inverse=True)
        count_of = np.bincount(index)
        means = mean_by(index, series.score[known])
        gain = 1 - float(means[-1] / means[0])
        jumps = bends and float(q_values[k]) <= ALPHA and gain >= LEAST_GAIN
        label = BREAK if jumps else SMOOTH if gain >= LEAST_GAIN else FLAT
        rises = _rise(place, means, hinge.scatter)
        if rises:
            label, jumps, because = NON_MONOTONE, False, rises
        first = int(np.searchsorted(np.log10(place), hinge.knot + 1e-9))
        views.append(
            TaskView(
                task=series.task,
                family=series.family,
                label=label,
                flagged=jumps,
                bracket=(float(place[first - 1]), float(place[first])) if jumps else None,
                midpoint=None,
                interval=None,
                width_decades=None,
                width_resolved=None,
                gain=gain,
                p_value=hinge.p_value,
                q_value=float(q_values[k]),
                smooth_p_value=None,
                smooth_q_value=None,
                draws=0,
                artefact="genuine" if jumps else None,
                because=because,
                floor=np.nan,
                floor_from="",
                dispersion=np.nan,
                places=tuple(
                    Place(float(at), float(mean), np.nan, np.nan, np.nan, int(runs), None, None)
                    for at, mean, runs in zip(place, means, count_of, strict=True)
                ),
                notes=notes,
            )
        )
    return views


def _rise(place: Floats, loss: Floats, scatter: float) -> str:
    """Where a loss rises, in words; empty if it does not by more than LEAST_GAIN and RISEN scatters of its log."""
    lowest = np.minimum.accumulate(loss)
    top = int(np.argmax(loss / lowest))
    bottom = int(np.argmax(loss == lowest[top]))
    risen = float(np.log(loss[top] / lowest[top]))
    if risen <= max(np.log1p(LEAST_GAIN), RISEN * scatter):
        return ""
    return f"it rises from {loss[bottom]:.3g} at {count(place[bottom])} to {loss[top]:.3g} at {count(place[top])}"


def _twin(series: Series, verdict: Verdict, axis: Axis, rng: np.random.Generator) -> tuple[Twin | None, str]:
    """The continuous twin of a score that rises, or why there is none."""
    if axis == "loss":
        return None, "along the loss, the loss itself is no twin"
    if series.twin is None and not series.positions:
        return None, "no continuous twin is known: --twin COL names one"
    kept = np.isfinite(series.score) & np.isfinite(series.place) & (series.place > 0)
    kept &= np.isfinite(series.twin) if series.twin is not None else True
    items = None if series.items is None or not np.isfinite(series.items[kept]).all() else series.items[kept]
    places = series.place[kept]
    run, first = by_run(places, np.full(len(places), "") if series.seed is None else series.seed[kept])
    place, index = np.unique(places[first], return_inverse=True)
    curve = verdict.curve

    def mean(values: Floats) -> Floats:  # of its runs, as a curve's
        return mean_by(index, mean_by(run, values[kept], items))

    try:
        twin = artefact(
            place,
            mean(series.score),
            rng,
            loss=None if series.twin is None else mean(series.twin),
            name=series.twin_name,
            positions=[mean(np.prod(series.positions, axis=0))] if series.positions else (),  # of each run
            items=curve.items if len(place) == len(curve.place) else None,
            jump=_span(verdict) if verdict.flagged else None,
        )
    except FitError as error:
        return None, "; ".join(part for part in (series.gaps, error.what) if part)
    return twin, ""


def _span(verdict: Verdict) -> tuple[float, float]:
    """Between which places a score jumps: the bracket and the interval of the midpoint."""
    curve, where = verdict.curve, verdict.threshold
    first = first_above(curve, verdict.phi)
    ends = [float(curve.place[max(0, first - 1)]), float(curve.place[first])]
    ends += [] if where is None else [end for end in where.interval if np.isfinite(end)]
    return min(ends), max(ends)


def _view(held: Verdict, axis: Axis, twin: Twin | None, why: str) -> TaskView:
    """A verdict as facts to render; places of a loss, which curves hold as 1 / loss, are losses again."""
    curve, where, tests = held.curve, held.threshold, held.tests
    down = axis == "loss"
    if len(curve.place):
        low, high = wilson(curve.score, curve.items / held.phi, WILSON)
    else:
        low = high = curve.score
    ability = held.success

    def unit(value: float) -> float:
        return 1 / value if down else value

    def pair(values: tuple[float, float]) -> tuple[float, float]:
        first, last = map(unit, values)
        return (last, first) if down else (first, last)

    places = tuple(
        Place(
            at=unit(float(curve.place[k])),
            score=float(curve.score[k]),
            low=float(low[k]),
            high=float(high[k]),
            items=float(curve.items[k]),
            seeds=len(curve.seeds[k]) if curve.seeds else None,
            able=None if ability is None else float(ability.share[k]),
            able_interval=None if ability is None else (float(ability.low[k]), float(ability.high[k])),
        )
        for k in range(len(curve.place))
    )
    because = held.because
    if held.flagged or twin is not None:
        because += f"; {twin.because if twin is not None else why}"
    return TaskView(
        task=curve.task,
        family=curve.family,
        label=held.label,
        flagged=held.flagged,
        bracket=None if where is None else pair(where.bracket),
        midpoint=None if where is None else unit(where.midpoint),
        interval=None if where is None else pair(where.interval),
        width_decades=None if where is None else where.width,
        width_resolved=None if where is None else where.resolved,
        gain=held.gain,
        p_value=None if tests is None else tests.linear,
        q_value=held.q_value,
        smooth_p_value=None if tests is None else tests.smooth,
        smooth_q_value=held.q_smooth,
        draws=0 if tests is None else tests.draws,
        artefact=twin.verdict if twin is not None else "undetermined" if held.flagged else None,
        because=because,
        floor=curve.floor,
        floor_from=curve.floor_from,
        dispersion=held.phi,
        places=places,
        success_above=None if ability is None else ability.line,
        twin=twin,
        notes=curve.notes,
    )
