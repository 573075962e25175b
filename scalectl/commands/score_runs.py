"""The scores of the runs of a sweep, by family and task."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from scalectl.commands.fit import Columns, Request, mask_of, pooled, unread
from scalectl.commands.measured import (
    EXACT,
    LOGPROB,
    Asked,
    Gathered,
    Series,
    chance_of,
    column_of,
    geometric,
    items_of,
    refuse_itself,
    refuse_pooling,
)
from scalectl.commands.target import Target
from scalectl.commands.twins import is_perplexity, log_of, measures_of, with_twins_read
from scalectl.core.cost import Convention
from scalectl.core.errors import NothingMatched, UsageError
from scalectl.core.expression import full_name
from scalectl.core.names import did_you_mean, shown
from scalectl.core.rows import Floats, Points
from scalectl.core.units import counts
from scalectl.store.evaluations import evaluated_sets, is_split_of
from scalectl.store.index import refresh
from scalectl.store.points import (
    load_points,
    metrics_listed,
    places,
    run_curves,
)
from scalectl.store.schema import columns_of
from scalectl.store.sweeps import load_sweep

POSITION = re.compile(r"position_accuracy_\d+")
MOST_PLACES = 24  # along the steps of a run; ours: neighbours say the same, and a thousand take minutes


def of_sweep(request: Request, asked: Asked, target: Target) -> Gathered:
    """The series of the runs of a sweep: each split that has the metric is a task."""
    if request.maps:
        raise UsageError("--map names columns of a file, and a sweep has its own", remedy="leave --map out")
    sweep = load_sweep(target.store, target.name)
    wanted = set(sweep.current) | (set(sweep.earlier) if request.all else set())
    there = columns_of(refresh(target.store).of(wanted).table)
    split, _, metric = request.metric.rpartition("/")
    refuse_itself(measures_of(metric), asked.axis)
    splits = [split] if split else _tasks(target, there, metric)
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
        read = None if loaded is None or request.at != "last" else _numbers(loaded.columns, f"{held}/{metric}")
        if loaded is not None and read is not None and np.isfinite(read).all():
            points = replace(loaded, L=read, metric=f"{held}/{metric}")  # the same runs, which are read once
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
            if extra := unread(part, ()):
                raise pooled(part, extra, best=False)
            columns = part.columns
            known = _Known.of(asked, held, metric, columns)
            if asked.axis == "step":
                series += _along_steps(target, part, family, task, known)
                continue
            if asked.axis == "loss":
                place = 1 / geometric(places(part), part.axis("loss"))
            elif asked.axis in part.axes():
                place = part.axis(asked.axis)
            else:
                raise UsageError(f"these runs have no {asked.axis}", remedy=f"--axis {' or '.join(part.axes())}")
            refuse_pooling(asked.axis, *(part.axis(name) if name in part.axes() else None for name in ("N", "D", "C")))
            series.append(
                Series(
                    task=task,
                    family=family,
                    place=place,
                    score=part.L,
                    items=known.items,
                    chance=known.chance,
                    seed=part.seed,
                    twin=None if known.twin is None else _numbers(columns, known.twin),
                    twin_name=known.twin or "",
                    positions=tuple(columns[n] for n in known.positions),
                )
            )
            notes += _heads(columns, part.axis("N")) if part.N is not None else []
    if is_perplexity(metric):
        series = [replace(held, score=log_of(held.score)) for held in series]
        notes.append(f"{metric} is taken as its log, which is a loss")
    series, read_as = with_twins_read(series)
    notes += read_as if asked.twin else []  # one that runs store is known
    return Gathered(series, list(dict.fromkeys(notes)), convention, measures_of(metric))


def _tasks(target: Target, there: Iterable[str], metric: str) -> list[str]:
    """Splits that have a metric, but for what the runs were judged on afterwards: that is asked for by its name."""
    found = [split for split, _, name in (column.rpartition("/") for column in there) if name == metric]
    later = evaluated_sets(target.store)
    return [split for split in found if not any(is_split_of(split, name) for name in later)]


@dataclass(frozen=True)
class _Known:
    """What runs know beside a score: items and chance of each, (n,); names of a twin and of accuracies by position."""

    items: Floats | None
    chance: Floats | None
    twin: str | None
    positions: tuple[str, ...]

    @classmethod
    def of(cls, asked: Asked, split: str, metric: str, columns: Columns) -> _Known:
        """As flags name them, or as runs store them with `split/metric`."""
        chance, number = chance_of(asked.chance, columns, ())
        stored = f"{split}/{'generated_chance' if metric == 'generated_match' else 'chance'}"
        twin = asked.twin and column_of(_with_split(asked.twin, split, columns), "--twin", columns, ())
        twin = twin or (f"{split}/{LOGPROB}" if metric == EXACT and f"{split}/{LOGPROB}" in columns else None)
        named = None if asked.items is None else _with_split(asked.items, split, columns)
        items, count = items_of(named, columns, ())
        places = sorted(n for n in columns if n.startswith(f"{split}/") and POSITION.fullmatch(n[len(split) + 1 :]))
        n = len(next(iter(columns.values())))
        return cls(
            np.full(n, count) if count is not None else _numbers(columns, items or f"{split}/items"),
            np.full(n, number) if number is not None else _numbers(columns, chance or stored),
            twin,
            tuple(places) if metric == EXACT else (),
        )


def _with_split(name: str, split: str, columns: Columns) -> str:
    """A metric of the same split, where only its own name was given."""
    full = f"{split}/{name}"
    return full if full in columns else name


def _numbers(columns: Columns, name: str) -> Floats | None:
    values = columns.get(name)
    return None if values is None or values.dtype == object else values.astype(np.float64)


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


def _along_steps(target: Target, points: Points, family: str, task: str, known: _Known) -> list[Series]:
    """Every evaluation of the runs, a family for each size: runs of one size are its seeds."""

    def read(metric: str) -> dict[str, tuple[Floats, Floats]]:
        return run_curves(target.store, target.name, points.ids, metric)

    curves = read(points.metric)
    if not curves:
        raise NothingMatched(f"no run has {points.metric} on the way", remedy="set eval.every below its steps")
    beside = {name: read(name) for name in (*filter(None, [known.twin]), *known.positions)}
    rows = {run_id: row for row, run_id in enumerate(points.ids)}
    rate = points.columns["steps"] / points.columns["D"]
    sizes = points.axis("N")
    seeds = np.arange(len(points)) if points.seed is None else points.seed
    distinct = sorted({float(sizes[rows[run_id]]) for run_id in curves})
    found = []
    for N, name in zip(distinct, counts(distinct), strict=True):
        runs = [run_id for run_id in curves if sizes[rows[run_id]] == N]
        steps = {run_id: np.round(curves[run_id][0] * rate[rows[run_id]]) for run_id in runs}
        kept = _spread(np.unique(np.concatenate([*steps.values(), np.zeros(1)])))
        masks = {run_id: np.isin(steps[run_id], kept) for run_id in runs}
        row = np.concatenate([np.full(int(masks[run_id].sum()), rows[run_id]) for run_id in runs])

        def at(series: dict[str, tuple[Floats, Floats]], masks: dict[str, npt.NDArray[np.bool_]] = masks) -> Floats:
            """Values of a metric at these evaluations, NaN where it has none."""
            values = []
            for run_id, mask in masks.items():
                there = dict(zip(*(held.tolist() for held in series.get(run_id, (np.zeros(0),) * 2)), strict=True))
                values += [there.get(tokens, np.nan) for tokens in curves[run_id][0][mask].tolist()]
            return np.array(values)

        found.append(
            Series(
                task=task,
                family=", ".join(part for part in (family, f"N = {name}") if part),
                place=np.concatenate([steps[run_id][masks[run_id]] for run_id in runs]),
                score=at(curves),
                items=None if known.items is None else known.items[row],
                chance=None if known.chance is None else known.chance[row],
                seed=seeds[row],
                twin=None if known.twin is None else at(beside[known.twin]),
                twin_name=known.twin or "",
                positions=tuple(at(beside[name]) for name in known.positions),
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
