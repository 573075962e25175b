"""`scalectl fit` of scores: from runs or a table to a verdict for each task of each family."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from scalectl.commands.fit import FEWEST_DRAWS, Columns, Request, choose_best, mapping_of, mask_of
from scalectl.commands.target import Target, changed_note, find_target
from scalectl.core.cost import Convention
from scalectl.core.errors import FitError, NothingMatched, UsageError
from scalectl.core.expression import full_name, parse
from scalectl.core.names import did_you_mean, shown
from scalectl.core.rows import Floats, Points
from scalectl.core.units import count
from scalectl.emergence.artefact import Hinge, Twin, artefact, broken
from scalectl.emergence.curve import Floor, curve_of
from scalectl.emergence.detector import ALPHA, BREAK, FLAT, LEAST_GAIN, SMOOTH, Verdict, detect, discoveries, unable
from scalectl.emergence.threshold import WILSON, wilson
from scalectl.report.views import Place, TaskView, ThresholdView
from scalectl.store.index import refresh
from scalectl.store.points import (
    OBVIOUS,
    SCORE,
    as_numbers,
    columns_listed,
    load_points,
    metrics_listed,
    obvious,
    read_columns,
    run_curves,
)
from scalectl.store.schema import columns_of
from scalectl.store.sweeps import load_sweep

Axis = Literal["N", "C", "D", "step", "loss"]

EXACT, LOGPROB = "exact_match", "answer_logprob"
METRICS = (EXACT, "generated_match", "accuracy", "acc")  # that a report looks for, best first
POSITION = re.compile(r"position_accuracy_\d+")

# Columns of a table that say by themselves what they hold. Source: ours.
_TASK = ("task", "subtask", "benchmark")
_FAMILY = ("family", "model_family", "model family")
_ITEMS = ("items", "n_items", "num_items", "n_examples")
_CHANCE = ("chance", "random_baseline", "random")
_STEP = ("step", "steps")
_LOSSES = re.compile(r"loss|nll|nats|bits|entropy|ppl|perplexity", re.IGNORECASE)

MOST_PLACES = 24  # along the steps of a run; ours: neighbours say the same, and a thousand take minutes
LEVEL = 0.9  # of the interval of a midpoint (emergence.md)


@dataclass(frozen=True)
class Asked:
    """The flags of a score.

    by: the column of tasks of a table, or a setting that splits a sweep; chance: column or number; floor: "auto", a
    number, or None for chance where it is known; twin: the column, or metric, of a continuous twin.
    """

    axis: Axis = "N"
    by: str | None = None
    items: str | None = None
    chance: str | None = None
    floor: str | None = None
    twin: str | None = None


@dataclass(frozen=True)
class Series:
    """The measurements of one task in one family, each array of shape (n,); None for what is not known.

    twin: -log p, of a column of that name; positions: accuracies of the places of an answer.
    """

    task: str
    family: str
    place: Floats
    score: Floats
    items: Floats | None = None
    chance: Floats | None = None
    seed: npt.NDArray[Any] | None = None
    twin: Floats | None = None
    twin_name: str = ""
    positions: tuple[Floats, ...] = ()


@dataclass(frozen=True)
class _Gathered:
    series: list[Series]
    notes: list[str]
    convention: Convention | None = None
    measures: Literal["score", "loss"] = "score"


def run(request: Request, asked: Asked) -> ThresholdView:
    """Verdicts of every task.

    Raises: UsageError for flags that do not fit; NothingMatched if nothing answers.
    """
    if asked.axis not in get_args(Axis):
        raise UsageError(f"--axis {shown(asked.axis)} is not known", remedy=f"use {', '.join(get_args(Axis))}")
    for flag, value in (("--best-over", request.best_over), ("--law", request.laws), ("--fix", request.fix)):
        if value:
            raise UsageError(f"{flag} is for laws of a loss, and this fits a score", remedy=f"leave {flag} out")
    if request.draws < FEWEST_DRAWS:
        raise UsageError(
            f"{request.draws} resamples are too few for a test", remedy=f"give --bootstrap at least {FEWEST_DRAWS}"
        )
    floor = _floor(asked.floor)
    target = find_target(request.target, request.results)
    gathered = _of_table(request, asked, target) if target.file is not None else _of_sweep(request, asked, target)
    notes = [*(() if target.file else changed_note(target.store, target.name)), *gathered.notes]
    if not gathered.series:
        raise NothingMatched(f"no score of {target.name} is left", remedy="check --metric, --map and --where")
    rng = np.random.default_rng(request.seed)
    if gathered.measures == "loss" and asked.axis == "loss":
        raise UsageError("a loss along itself is a line", remedy="--axis N, C, D or step")
    tasks: list[TaskView] = []
    for family in dict.fromkeys(series.family for series in gathered.series):
        members = [series for series in gathered.series if series.family == family]
        if gathered.measures == "loss":
            tasks += _losses(members, asked.axis, rng)
        else:
            tasks += _family(members, floor, asked.axis, request.draws, rng)
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
        level=LEVEL,
        draws=max((task.draws for task in tasks), default=0),
        convention=gathered.convention,
        measures=gathered.measures,
        opening=target.opening,
        notes=tuple(dict.fromkeys(notes)),
    )


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
    members: Sequence[Series], floor: Floor | None, axis: Axis, draws: int, rng: np.random.Generator
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
                task=series.task,
                family=series.family,
            )
        except FitError as error:
            refused[series.task] = unable(series.task, series.family, _in_one_line(error))
        else:
            curves.append(curve)
    verdicts = {held.curve.task: held for held in detect(curves, rng, draws=draws, level=LEVEL)} | refused
    views = []
    for series in members:
        verdict = verdicts[series.task]
        rises = verdict.flagged or verdict.label == SMOOTH
        twin, why = _twin(series, verdict, axis, rng) if rises else (None, "")
        views.append(_view(verdict, axis, twin, why))
    return views


def _in_one_line(error: FitError) -> str:
    """What was found and what helps, for one task among others."""
    return "; ".join(part for part in (error.what, error.remedy) if part)


def _losses(members: Sequence[Series], axis: Axis, rng: np.random.Generator) -> list[TaskView]:
    """Losses of one family, each a power law against one break."""
    found: dict[int, tuple[Hinge, bool, str]] = {}
    refused: dict[int, str] = {}
    for k, series in enumerate(members):
        kept = np.isfinite(series.score) & np.isfinite(series.place) & (series.place > 0)
        try:
            found[k] = broken(series.place[kept], series.score[kept], rng)
        except FitError as error:
            refused[k] = _in_one_line(error)
    q_values = dict(zip(found, discoveries([held[0].p_value for held in found.values()]), strict=True))
    views = []
    for k, series in enumerate(members):
        if k in refused:
            views.append(_view(unable(series.task, series.family, refused[k]), axis, None, ""))
            continue
        hinge, bends, because = found[k]
        place, index = np.unique(series.place, return_inverse=True)
        count_of = np.bincount(index)
        means = np.bincount(index, series.score) / count_of
        gain = 1 - float(means[-1] / means[0])
        jumps = bends and float(q_values[k]) <= ALPHA and gain >= LEAST_GAIN
        first = int(np.searchsorted(np.log10(place), hinge.knot + 1e-9))
        views.append(
            TaskView(
                task=series.task,
                family=series.family,
                label=BREAK if jumps else SMOOTH if gain >= LEAST_GAIN else FLAT,
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
            )
        )
    return views


def _twin(series: Series, verdict: Verdict, axis: Axis, rng: np.random.Generator) -> tuple[Twin | None, str]:
    """The continuous twin of a score that rises, or why there is none."""
    if axis == "loss":
        return None, "along the loss, the loss itself is no twin"
    if series.twin is None and not series.positions:
        return None, "no continuous twin is known: --twin COL names one"
    kept = np.isfinite(series.score) & (series.place > 0)
    kept &= np.isfinite(series.twin) if series.twin is not None else True
    place, index = np.unique(series.place[kept], return_inverse=True)

    def mean(values: Floats) -> Floats:
        return np.asarray(np.bincount(index, values[kept]) / np.bincount(index))

    try:
        twin = artefact(
            place,
            mean(series.score),
            rng,
            loss=None if series.twin is None else mean(series.twin),
            name=series.twin_name,
            positions=[mean(np.prod(series.positions, axis=0))] if series.positions else (),  # of each run
            items=verdict.curve.items if len(place) == len(verdict.curve.place) else None,
        )
    except FitError as error:
        return None, error.what
    return twin, ""


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


def _of_table(request: Request, asked: Asked, target: Target) -> _Gathered:
    """The series of somebody's table, by family and task."""
    assert target.file is not None
    published = target.published
    columns: Columns
    mapping = mapping_of(request.maps) or {}
    if published is not None:
        from pyarrow import csv

        columns = columns_of(csv.read_csv(target.file))
        origin = target.name
        for column in published.table.columns.values():
            if column not in columns:
                raise UsageError(f"{origin} has no column {shown(column)}")
        known = {**published.table.columns, **mapping}
        columns = {**columns, "N": np.asarray(parse(next(iter(published.table.counts.values()))).evaluate(columns))}
        known.setdefault("N", "N")
        mapping = known
    else:
        columns, origin = read_columns(target.file)
    for axis, name in mapping.items():
        if name not in columns:
            raise UsageError(
                f"--map {axis}: {origin} has no column {shown(name)}",
                where=columns_listed(columns),
                remedy=did_you_mean(name, columns),
            )
    score = mapping.get("S") or obvious(SCORE, columns) or mapping.get("L") or obvious(OBVIOUS["L"], columns)
    if score is None:
        raise UsageError(
            f"no column of {origin} is plainly a score", where=columns_listed(columns), remedy="name it: --map S=COLUMN"
        )
    measures: Literal["score", "loss"] = "loss" if _LOSSES.search(score) else "score"
    along = _along(asked.axis, mapping, columns, origin, score)
    notes = []
    if published is None:
        read = ((asked.axis, along), (f"the {measures}", score))
        notes = [f"{axis} is read from the column {name}" for axis, name in read if name not in mapping.values()]
    items = _column(asked.items, "--items", columns, _ITEMS)
    chance, number = _chance(asked.chance, columns)
    task = _column(asked.by, "--by", columns, _TASK)
    family = obvious(_FAMILY, columns, [] if task is None else [task])
    seed = obvious(OBVIOUS["seed"], columns)
    twin = _column(asked.twin, "--twin", columns, ())
    mask = mask_of(request.where)
    if mask is not None:
        named = {axis: columns[name] for axis, name in mapping.items()} | {"S": columns[score]}
        hit = np.asarray(mask({**named, **columns}), dtype=bool)
        columns = {name: values[hit] for name, values in columns.items()}
    place = as_numbers(columns[along], along, asked.axis)
    if asked.axis == "loss":
        with np.errstate(divide="ignore"):
            place = 1 / place
    values = as_numbers(columns[score], score, "S")
    groups = _text(columns, family, len(values)), _text(columns, task, len(values))
    series = []
    for pair in dict.fromkeys(zip(*(held.tolist() for held in groups), strict=True)):
        mine = (groups[0] == pair[0]) & (groups[1] == pair[1])

        def of(name: str | None, mine: npt.NDArray[np.bool_] = mine) -> Floats | None:
            return None if name is None else as_numbers(columns[name][mine], name, "S")

        known_chance = np.full(int(mine.sum()), number) if number is not None else of(chance)
        continuous = None if twin is None else _loss_of(twin, of(twin))
        series.append(
            Series(
                task=pair[1] or score,
                family=pair[0],
                place=place[mine],
                score=values[mine],
                items=of(items),
                chance=known_chance,
                seed=None if seed is None else columns[seed][mine],
                twin=continuous,
                twin_name=twin or "",
            )
        )
    if published is not None and published.table.note:
        notes.append(published.table.note)
    return _Gathered(series, notes, measures=measures)


def _along(axis: Axis, mapping: Mapping[str, str], columns: Columns, origin: str, score: str) -> str:
    key = {"step": "step", "loss": "L"}.get(axis, axis)
    found = mapping.get(key) or obvious(_STEP if axis == "step" else OBVIOUS[key], columns, [score])
    if found is None:
        flag = f"--map {key}=COLUMN" if key != "step" else "call it step"
        raise UsageError(f"no column of {origin} is plainly {axis}", where=columns_listed(columns), remedy=flag)
    return found


def _column(named: str | None, flag: str, columns: Columns, candidates: Sequence[str]) -> str | None:
    """The column that a flag names, else the one that is plainly it."""
    if named is None:
        return obvious(candidates, columns)
    if named not in columns:
        raise UsageError(
            f"{flag} {shown(named)} is no column", where=columns_listed(columns), remedy=did_you_mean(named, columns)
        )
    return named


def _chance(
    given: str | None, columns: Columns, candidates: Sequence[str] = _CHANCE
) -> tuple[str | None, float | None]:
    """The column of chance, or a number for all."""
    if given is None:
        return obvious(candidates, columns), None
    try:
        number = float(given)
    except ValueError:
        return _column(given, "--chance", columns, ()), None
    if not 0 <= number < 1:
        raise UsageError(f"--chance {given} is no score", remedy="a number from 0 to 1, or a column")
    return None, number


def _text(columns: Columns, name: str | None, n: int) -> npt.NDArray[Any]:
    if name is None:
        return np.full(n, "", dtype=object)
    return np.array(["" if value is None or value != value else str(value) for value in columns[name]], dtype=object)


def _loss_of(name: str, values: Floats | None) -> Floats | None:
    """-log p of a twin: a log-probability is below 0, an accuracy or probability in [0, 1], all else a loss."""
    if values is None:
        return None
    known = values[np.isfinite(values)]
    if (known <= 0).all():
        return -values
    if (known >= 0).all() and (known <= 1).all() and not _LOSSES.search(name):
        return np.asarray(-np.log(np.clip(values, 1e-6, 1 - 1e-6)))
    return values


def _of_sweep(request: Request, asked: Asked, target: Target) -> _Gathered:
    """The series of the runs of a sweep: each split that has the metric is a task."""
    if request.maps:
        raise UsageError("--map names columns of a file, and a sweep has its own", remedy="leave --map out")
    sweep = load_sweep(target.store, target.name)
    wanted = set(sweep.current) | (set(sweep.earlier) if request.all else set())
    there = columns_of(refresh(target.store).of(wanted).table)
    split, _, metric = request.metric.rpartition("/")
    splits = [split] if split else [name.rpartition("/")[0] for name in there if name.rpartition("/")[2] == metric]
    if not splits:
        names = [name for name in there if "/" in name]
        raise NothingMatched(
            f"no run has {shown(metric)}", where=metrics_listed(names), remedy=did_you_mean(metric, names)
        )
    series: list[Series] = []
    notes: list[str] = []
    convention: Convention | None = None
    loaded: Points | None = None
    for held in splits:
        task = held if len(splits) > 1 else metric
        known = None if loaded is None or request.at != "last" else _known(loaded.columns, f"{held}/{metric}")
        if loaded is not None and known is not None and np.isfinite(known).all():
            points = replace(loaded, L=known, metric=f"{held}/{metric}")  # the same runs, which are read once
        else:
            name = f"{held}/{metric}"
            points = loaded = load_points(
                target.store, target.name, name, request.convention, request.flops, at=request.at, all=request.all,
                where=mask_of(request.where), by=asked.by,
            )  # fmt: skip
        notes += points.notes
        convention = points.convention
        families: dict[str, npt.NDArray[np.bool_]] = {"": np.ones(len(points), dtype=bool)}
        if asked.by is not None:
            column = full_name(asked.by, tuple(points.columns))
            values = points.columns[column]
            families = {f"{asked.by}={value}": values == value for value in sorted(set(values.tolist()), key=str)}
        for family, mine in families.items():
            part = points.take(mine)
            choose_best(part, None)  # refuses what varies and was not named
            if asked.axis == "step":
                series += _along_steps(target, part, family, task)
                continue
            columns = part.columns
            if asked.axis == "loss":
                place = 1 / _geometric(part.axis("N"), part.axis("loss"))
            elif asked.axis in part.axes():
                place = part.axis(asked.axis)
            else:
                raise UsageError(f"these runs have no {asked.axis}", remedy=f"--axis {' or '.join(part.axes())}")
            if asked.axis == "N" and part.D is not None:
                _refuse_lengths(part.axis("N"), part.D)
            chance, number = _chance(asked.chance, columns, ())
            stored = f"{held}/{'generated_chance' if metric == 'generated_match' else 'chance'}"
            twin = asked.twin and _column(_with_split(asked.twin, held, columns), "--twin", columns, ())
            twin = twin or (f"{held}/{LOGPROB}" if metric == EXACT and f"{held}/{LOGPROB}" in columns else None)
            items = asked.items and _column(_with_split(asked.items, held, columns), "--items", columns, ())
            places = sorted(n for n in columns if n.startswith(f"{held}/") and POSITION.fullmatch(n[len(held) + 1 :]))
            series.append(
                Series(
                    task=task,
                    family=family,
                    place=place,
                    score=part.L,
                    items=_known(columns, items or f"{held}/items"),
                    chance=np.full(len(part), number) if number is not None else _known(columns, chance or stored),
                    seed=part.seed,
                    twin=None if twin is None else _loss_of(twin, _known(columns, twin)),
                    twin_name=twin or "",
                    positions=tuple(columns[n] for n in places) if metric == EXACT else (),
                )
            )
            notes += _heads(columns, part.axis("N")) if part.N is not None else []
    measures: Literal["score", "loss"] = "loss" if _LOSSES.search(metric) else "score"
    return _Gathered(series, list(dict.fromkeys(notes)), convention, measures)


def _with_split(name: str, split: str, columns: Columns) -> str:
    """A metric of the same split, where only its own name was given."""
    full = f"{split}/{name}"
    return full if full in columns else name


def _known(columns: Columns, name: str) -> Floats | None:
    values = columns.get(name)
    return None if values is None or values.dtype == object else values.astype(np.float64)


def _geometric(sizes: Floats, losses: Floats) -> Floats:
    """The loss of each size, as the geometric mean of its runs', (n,)."""
    index = np.unique(sizes, return_inverse=True)[1]
    means = np.exp(np.bincount(index, np.log(losses)) / np.bincount(index))
    return np.asarray(means[index])


def _refuse_lengths(sizes: Floats, tokens: Floats) -> None:
    index = np.unique(sizes, return_inverse=True)[1]
    spans = [np.ptp(tokens[index == k]) / tokens[index == k].min() for k in range(index.max() + 1)]
    if max(spans) > 0.02:  # whole steps differ by less (store.points)
        raise UsageError(
            "D varies at one N among these runs", remedy="--axis D or C, or pick one with --where 'D == ...'"
        )


def _heads(columns: Columns, sizes: Floats) -> list[str]:
    """A sentence where neither the number of heads nor their width is one along the sizes.

    A count of heads that changes along a width axis has made a jump that was luck of the seed (emergence.md).
    """
    heads, width = columns.get("model.n_head"), columns.get("model.d_model")
    if heads is None or width is None or len(set(sizes.tolist())) < 2:
        return []
    try:
        each = width.astype(np.float64) / heads.astype(np.float64)
    except (TypeError, ValueError):
        return []
    if len(set(heads.tolist())) == 1 or len(set(each.tolist())) == 1:
        return []
    return ["neither n_head nor the width of a head is held along the sizes: a jump may be theirs"]


def _along_steps(target: Target, points: Points, family: str, task: str) -> list[Series]:
    """Every evaluation of the runs, a family for each size: runs of one size are its seeds."""
    curves = run_curves(target.store, target.name, points.ids, points.metric)
    if not curves:
        raise NothingMatched(f"no run has {points.metric} on the way", remedy="set eval.every below its steps")
    split = points.metric.rpartition("/")[0]
    facts = {
        "rate": points.columns["steps"] / points.columns["D"],
        "N": points.axis("N"),
        "seed": np.arange(len(points)) if points.seed is None else points.seed,
        "items": _known(points.columns, f"{split}/items"),
        "chance": _known(points.columns, f"{split}/chance"),
    }
    of = {
        run_id: {name: values[row] for name, values in facts.items() if values is not None}
        for row, run_id in enumerate(points.ids)
    }
    found = []
    for N in sorted({float(held["N"]) for held in of.values()}):
        runs = [run_id for run_id in curves if of[run_id]["N"] == N]
        steps = [np.round(curves[run_id][0] * of[run_id]["rate"]) for run_id in runs]
        kept = _spread(np.unique(np.concatenate([*steps, np.zeros(1)])))
        masks = [np.isin(step, kept) for step in steps]

        def each(
            name: str, runs: list[str] = runs, masks: list[npt.NDArray[np.bool_]] = masks
        ) -> npt.NDArray[Any] | None:
            if any(name not in of[run_id] for run_id in runs):
                return None
            return np.concatenate([np.full(int(m.sum()), of[r][name]) for r, m in zip(runs, masks, strict=True)])

        if runs:
            found.append(
                Series(
                    task=task,
                    family=", ".join(part for part in (family, f"N = {count(N)}") if part),
                    place=np.concatenate([step[mask] for step, mask in zip(steps, masks, strict=True)]),
                    score=np.concatenate([curves[r][1][mask] for r, mask in zip(runs, masks, strict=True)]),
                    items=each("items"),
                    chance=each("chance"),
                    seed=each("seed"),
                )
            )
    return found


def _spread(places: Floats) -> Floats:
    """At most MOST_PLACES of ascending places above 0, spread evenly in the log."""
    places = places[places > 0]
    if len(places) <= MOST_PLACES:
        return places
    wanted = np.geomspace(places[0], places[-1], MOST_PLACES)
    return np.unique(places[np.abs(np.log(places) - np.log(wanted)[:, None]).argmin(1)])
