"""Facts of a sweep -> Report: grouped, averaged and judged, not yet formatted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scalectl.core.cost import Convention
from scalectl.core.job import State
from scalectl.fit.summary import Summary
from scalectl.report.advice import Advice, Facts, Jump, advise
from scalectl.report.cells import SHORT_ID, label, short_names
from scalectl.report.views import BestView, Flops, GridAxis, RunCurve, RunView, Setting, SweepView, ThresholdView


@dataclass(frozen=True)
class Group:
    """Runs that differ by seed alone.

    cell: the varying keys without the seed; n: finished runs behind the means; loss: their mean; error: its standard
    error, over seeds where there are at least two (`over` = "seeds"), else over held-out sequences ("sequences");
    D and C: of a finished run; curve: mean over seeds, None if nothing was measured.
    """

    cell: Mapping[str, object]
    N: int
    D: int
    C: float
    planned: int
    n: int
    loss: float | None
    error: float | None
    over: str
    bits_per_byte: float | None
    seconds: float | None
    mfu: float | None
    curve: RunCurve | None


@dataclass(frozen=True)
class Ending:
    """A run that did not end well, or not yet."""

    run_id: str
    cell: Mapping[str, object]
    state: State
    message: str


@dataclass(frozen=True)
class Report:
    """Everything that a report says about a sweep, in the order in which it says it."""

    name: str
    question: str
    axes: tuple[GridAxis, ...]
    shared: tuple[Setting, ...]
    convention: Convention
    flops: Flops
    counts: Mapping[State, int]
    groups: tuple[Group, ...]
    seeds: int
    fits: tuple[Summary, ...]
    chosen: Summary | None
    because: str
    diverged: tuple[Ending, ...]
    failed: tuple[Ending, ...]
    unfinished: tuple[Ending, ...]
    advice: tuple[Advice, ...]
    notes: tuple[str, ...]
    provenance: str
    reference: bool
    best_over: BestView | None
    thresholds: ThresholdView | None


def build_report(view: SweepView) -> Report:
    """The report of a sweep. Groups are sorted by N, then D; diverged and failed runs enter no mean."""
    groups = tuple(sorted(_groups(view), key=lambda g: (g.N, g.D)))
    finished = [g for g in groups if g.n]
    counts = Counter(run.state for run in view.runs)
    chosen = next((fit for fit in view.fits if fit.law == view.chosen), None)
    endings = {
        state: tuple(
            Ending(run.run_id, _short(run.cell, view.axes), run.state, run.message)
            for run in view.runs
            if run.state is state
        )
        for state in State
    }
    seeds = min((g.n for g in finished), default=0)
    facts = Facts(
        name=view.name,
        counts=counts,
        sizes=tuple(sorted({g.N for g in finished})),
        seeds=seeds,
        fits=view.fits,
        chosen=chosen,
        rising=() if view.best_over else _rising(finished),  # at one rate, wide models suffer where narrow ones do not
        diverged=tuple(e.run_id[:SHORT_ID] for e in endings[State.DIVERGED]),
        failed=tuple(e.run_id[:SHORT_ID] for e in endings[State.FAILED]),
        jumps=_jumps(view.thresholds),
        script=any(axis.key.startswith("params.") for axis in view.axes),
    )
    return Report(
        name=view.name,
        question=view.question,
        axes=view.axes,
        shared=view.shared,
        convention=view.convention,
        flops=view.flops,
        counts=counts,
        groups=groups,
        seeds=seeds,
        fits=view.fits,
        chosen=chosen,
        because=view.because,
        diverged=endings[State.DIVERGED],
        failed=endings[State.FAILED],
        unfinished=tuple(e for state in State if state.resumes or state is State.RUNNING for e in endings[state]),
        advice=advise(facts),
        notes=view.notes,
        provenance=view.provenance,
        reference=view.reference,
        best_over=view.best_over,
        thresholds=view.thresholds,
    )


def _short(cell: Mapping[str, object], axes: tuple[GridAxis, ...]) -> Mapping[str, object]:
    names = short_names(tuple(axis.key for axis in axes))
    return {names.get(key, key): value for key, value in cell.items()}


def _groups(view: SweepView) -> list[Group]:
    members: dict[tuple[tuple[str, str], ...], list[RunView]] = {}
    for run in view.runs:
        key = tuple((name, repr(value)) for name, value in sorted(run.cell.items()) if name != view.seed_key)
        members.setdefault((*key, ("", run.place)), []).append(run)
    return [_group(runs, view) for runs in members.values()]


def _group(runs: list[RunView], view: SweepView) -> Group:
    done = [run for run in runs if run.state is State.DONE and run.loss is not None and math.isfinite(run.loss)]
    losses = np.array([run.loss for run in done], dtype=float)
    error, over = None, ""
    if len(done) > 1:
        error, over = float(losses.std(ddof=1) / math.sqrt(len(done))), "seeds"
    elif done and done[0].loss_se is not None:
        error, over = done[0].loss_se, "sequences"
    first = (done or runs)[0]
    cell = dict(_short(first.cell, view.axes))
    seed = short_names(tuple(axis.key for axis in view.axes)).get(view.seed_key, view.seed_key)
    cell.pop(seed, None)
    return Group(
        cell=cell,
        N=first.N,
        D=first.D,
        C=first.C,
        planned=len(runs),
        n=len(done),
        loss=float(losses.mean()) if done else None,
        error=error,
        over=over,
        bits_per_byte=_mean([run.bits_per_byte for run in done]),
        seconds=_mean([run.seconds for run in done]),
        mfu=_mean([run.mfu for run in done]),
        curve=_mean_curve([run.curve for run in (done or runs) if run.curve is not None]),
    )


def _jumps(view: ThresholdView | None) -> tuple[Jump, ...]:
    """What advice looks at of the scores that jump."""
    found = []
    for task in view.tasks if view is not None else ():
        if task.flagged:
            ends = [k for k, place in enumerate(task.places) if place.at in (task.bracket or ())]
            near = task.places[ends[0] : ends[-1] + 2] if ends else task.places
            seeds = [place.seeds for place in near if place.seeds is not None]
            found.append(Jump(task.task, min(seeds, default=None), task.label == "edge"))
    return tuple(found)


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _mean_curve(curves: list[RunCurve]) -> RunCurve | None:
    """Mean over seeds at the evaluations that all of them reached; one cell is evaluated at the same steps."""
    if not curves:
        return None
    shortest = min(len(curve.loss) for curve in curves)
    if shortest == 0:
        return None
    first = curves[0]
    loss = np.mean([curve.loss[:shortest] for curve in curves], axis=0)
    return RunCurve(tokens=first.tokens[:shortest], flops=first.flops[:shortest], loss=loss)


def size_keys(groups: Sequence[Group]) -> set[str]:
    """Keys that name the size: each of their values goes with one N."""
    sizes: dict[str, dict[str, set[int]]] = {}
    for group in groups:
        for key, value in group.cell.items():
            sizes.setdefault(key, {}).setdefault(repr(value), set()).add(group.N)
    return {key for key, held in sizes.items() if all(len(found) == 1 for found in held.values())}


def _rising(groups: list[Group]) -> tuple[tuple[str, str], ...]:
    """Neighbouring sizes at equal D whose mean loss rises by more than two standard errors of the difference.

    Source: ours; two standard errors keep chance below one pair in forty.
    """
    found = []
    sizes = size_keys(groups)  # what else varies (a learning rate) has to be equal
    by_rest: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        rest = tuple(repr(value) for key, value in group.cell.items() if key not in sizes)
        by_rest.setdefault((group.D, *rest), []).append(group)
    for row in by_rest.values():
        for small, large in pairwise(row):
            if small.N == large.N or small.loss is None or large.loss is None:
                continue
            noise = math.hypot(small.error or 0.0, large.error or 0.0)
            if large.loss - small.loss > 2 * noise:
                found.append((label(small.cell), label(large.cell)))
    return tuple(found)
