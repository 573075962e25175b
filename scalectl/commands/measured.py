"""What the detector judges: the measurements of each task of each family, from runs of a sweep or anybody's table."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scalectl.commands.fit import Columns, Request, mapping_of, mask_of, pooled, unread
from scalectl.commands.target import Target
from scalectl.core.cost import Convention
from scalectl.core.errors import NothingMatched, UsageError
from scalectl.core.expression import full_name, parse
from scalectl.core.names import did_you_mean, shown
from scalectl.core.rows import Floats, Points
from scalectl.core.units import counted, counts
from scalectl.emergence.curve import MOST_ITEMS
from scalectl.store.index import refresh
from scalectl.store.points import (
    OBVIOUS,
    SCORE,
    as_numbers,
    columns_listed,
    is_export,
    load_points,
    metrics_listed,
    obvious,
    places,
    read_columns,
    run_curves,
    with_mapped,
)
from scalectl.store.schema import columns_of
from scalectl.store.sweeps import load_sweep
from scalectl.store.unnamed import codes

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
# Words of a name, each whole, that make it a loss; those of _PERPLEXITIES are exp of one, those of _UNITS make none of
# what counts right answers.
_PERPLEXITIES = frozenset(("ppl", "perplexity", "perplexities"))
_LOSSES = _PERPLEXITIES.union(
    ("loss", "losses", "logloss", "nll", "bpb", "bpc", "ce", "xent", "entropy", "crossentropy", "surprisal")
)
_UNITS = frozenset(("bits", "nats"))
_RIGHT = frozenset(("correct", "right", "match", "accuracy", "acc", "score"))
_IN_BITS = frozenset(("bits", "bpb", "bpc"))
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")

MOST_PLACES = 24  # along the steps of a run; ours: neighbours say the same, and a thousand take minutes


@dataclass(frozen=True)
class Asked:
    """The flags of a score.

    by: the column of tasks of a table, or a setting that splits a sweep; chance: column or number; floor: "auto", a
    number, or None for chance where it is known; twin: the column, or metric, of a continuous twin; level: of the
    interval of a midpoint; foreign: flags that were given beside these and are for laws.
    """

    axis: Axis = "N"
    by: str | None = None
    items: str | None = None
    chance: str | None = None
    floor: str | None = None
    twin: str | None = None
    level: float = 0.9  # emergence.md
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """The measurements of one task in one family, each array of shape (n,); None for what is not known.

    twin: -log p [nats], of a column of that name, and first as it stands there; positions: accuracies of the places of
    an answer.
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

    @property
    def gaps(self) -> str:
        """At how many places the twin has values, in words; empty if it has them wherever there is a score."""
        scored = np.isfinite(self.score) & np.isfinite(self.place) & (self.place > 0)
        known = scored if self.twin is None else scored & np.isfinite(self.twin)
        have, places = (len(np.unique(self.place[held])) for held in (known, scored))
        return f"the twin has values at {have} of {places} sizes" if have < places else ""


@dataclass(frozen=True)
class Gathered:
    """What there is to judge. convention: of N, None of a table; measures: what a series holds as its score."""

    series: list[Series]
    notes: list[str]
    convention: Convention | None = None
    measures: Literal["score", "loss"] = "score"


def _words(name: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(name))


def _is_loss(name: str) -> bool:
    words = _words(name)
    return not _LOSSES.isdisjoint(words) or (not _UNITS.isdisjoint(words) and _RIGHT.isdisjoint(words))


def _is_perplexity(name: str) -> bool:
    return not _PERPLEXITIES.isdisjoint(_words(name))


def _measures(name: str) -> Literal["score", "loss"]:
    return "loss" if _is_loss(name) else "score"


def _log_of(perplexity: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.log(perplexity))


def of_table(request: Request, asked: Asked, target: Target) -> Gathered:
    """The series of somebody's table, by family and task.

    Raises: UsageError for columns that are not there or hold no numbers, and for what varies at one place and was not
    named; NothingMatched if no row answers.
    """
    columns, mapping, origin = _read(target, mapping_of(request.maps) or {})
    roles = _Roles.of(request, asked, columns, mapping, origin)
    measures = _measures(roles.score)
    _refuse_itself(measures, asked.axis)
    mask = mask_of(request.where)
    if mask is not None:
        hit = np.asarray(mask(with_mapped(columns, {**mapping, **roles.axes, "S": roles.score})), dtype=bool)
        columns = {name: values[hit] for name, values in columns.items()}
    known, derived = _on_axes(roles.axes, columns, asked.axis, origin)
    roles = replace(roles, axes={axis: name for axis, name in roles.axes.items() if axis in known})
    given = {*mapping.values(), request.metric, asked.items, asked.chance, asked.by}
    notes = [] if target.published else roles.told(asked.axis, derived, measures, given)
    values = as_numbers(columns[roles.score], roles.score, "--map S=")
    if _is_perplexity(roles.score):
        values = _log_of(values)
        notes.append(f"{roles.score} is taken as its log, which is a loss")
    place = known["L" if asked.axis == "loss" else asked.axis]
    tasks, families = _groups(roles, columns, known.get("N") if asked.axis == "step" else None)
    row = _codes(columns.values(), len(values))
    run = _codes([place] if roles.seed is None else [place, columns[roles.seed]], len(values))
    series, repeats = [], 0
    for pair in dict.fromkeys(zip(families, tasks, strict=True)):
        there = np.flatnonzero((families == pair[0]) & (tasks == pair[1]))
        mine = there[_distinct(row[there], run[there])]
        repeats += len(there) - len(mine)
        here = {name: held[mine] for name, held in columns.items()}
        cell = _refuse_varying(roles, asked.axis, here, {axis: held[mine] for axis, held in known.items()})

        def of(name: str | None, flag: str, here: Columns = here) -> Floats | None:
            return None if name is None else as_numbers(here[name], name, f"{flag} ")

        at = place[mine] if asked.axis != "loss" else 1 / _geometric(cell, place[mine])
        series.append(
            Series(
                task=pair[1] or roles.score,
                family=pair[0],
                place=at,
                score=values[mine],
                items=of(roles.items, "--items"),
                chance=of(roles.chance, "--chance") if roles.number is None else np.full(len(mine), roles.number),
                seed=None if roles.seed is None else here[roles.seed],
                twin=of(roles.twin, "--twin"),
                twin_name=roles.twin or "",
            )
        )
    if repeats:
        notes.append(f"{counted(repeats, 'row')} that repeat{'s' * (repeats == 1)} another in every column: left out")
    series, read_as = _with_twins_read(series)
    notes += read_as
    if target.published is not None and target.published.table.note:
        notes.append(target.published.table.note)
    return Gathered(series, notes, measures=measures)


def _read(target: Target, maps: Mapping[str, str]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str], str]:
    """The columns of a table, which of them are axes as far as somebody says so, and what the table is called."""
    assert target.file is not None
    published = target.published
    if published is None:
        columns, origin = read_columns(target.file)
        mapping = dict(maps)
    else:
        from pyarrow import csv

        columns, origin = columns_of(csv.read_csv(target.file)), target.name
        for column in published.table.columns.values():
            if column not in columns:
                raise UsageError(f"{origin} has no column {shown(column)}")
        columns["N"] = np.asarray(parse(next(iter(published.table.counts.values()))).evaluate(columns))
        mapping = {"N": "N", **published.table.columns, **maps}
    for axis, name in mapping.items():
        if name not in columns:
            raise UsageError(
                f"--map {axis}: {origin} has no column {shown(name)}",
                where=columns_listed(columns),
                remedy=did_you_mean(name, columns),
            )
    return columns, mapping, origin


@dataclass(frozen=True)
class _Roles:
    """Which column of a table holds what, None for what it has not.

    axes: of N, D, C, L and step; number: chance of all rows; by: what splits beside task and family.
    """

    score: str
    axes: Mapping[str, str]
    items: str | None
    chance: str | None
    number: float | None
    task: str | None
    family: str | None
    by: str | None
    seed: str | None
    twin: str | None

    @classmethod
    def of(cls, request: Request, asked: Asked, columns: Columns, mapping: Mapping[str, str], origin: str) -> _Roles:
        """As flags name them, else those that are plainly it."""
        metric = None if request.metric == Request.metric else request.metric
        if metric is not None and any(text.startswith("S=") for text in request.maps):
            raise UsageError("--metric and --map S both name the score", remedy="leave one of them out")
        score = _column(metric, "--metric", columns, ()) or mapping.get("S") or obvious(SCORE, columns)
        score = score or mapping.get("L") or obvious(OBVIOUS["L"], columns)
        if score is None:
            raise UsageError(
                f"no column of {origin} is plainly a score",
                where=columns_listed(columns),
                remedy="name it: --map S=COLUMN",
            )
        called = {**{axis: OBVIOUS[axis] for axis in ("N", "D", "C", "L")}, "step": _STEP}
        found = {axis: mapping.get(axis) or obvious(names, columns, [score]) for axis, names in called.items()}
        items = _column(asked.items, "--items", columns, _ITEMS)
        chance, number = _chance(asked.chance, columns)
        task, by = obvious(_TASK, columns), _column(asked.by, "--by", columns, ())
        if task is None or task == by:
            task, by = by, None
        family = obvious(_FAMILY, columns, [] if task is None else [task])
        return cls(
            score,
            {axis: name for axis, name in found.items() if name is not None},
            items,
            chance,
            number,
            task,
            family,
            None if by == family else by,
            mapping.get("seed") or obvious(OBVIOUS["seed"], columns),
            _column(asked.twin, "--twin", columns, ()),
        )

    @property
    def used(self) -> set[str]:
        """Names of the columns that hold something."""
        each = (self.score, self.items, self.chance, self.task, self.family, self.by, self.seed, self.twin)
        return {name for name in (*each, *self.axes.values()) if name is not None}

    def told(self, axis: Axis, derived: str | None, what: str, given: Collection[str | None]) -> list[str]:
        """Sentences on the columns that nobody has named, and on the axis that follows from two others."""
        sizes = {"N", "D", "C"} - {derived} if axis == derived else {axis} if axis in ("N", "D", "C") else {axis, "N"}
        order = [name for name in ("N", "D", "C", "step", "loss") if name in sizes]
        read = {name: self.axes.get("L" if name == "loss" else name) for name in order} | {f"the {what}": self.score}
        read |= {"items": self.items, "chance": self.chance} if what == "score" else {}
        read |= {"tasks": self.task, "families": self.family, "seeds": self.seed}
        found = [(name, column) for name, column in read.items() if column is not None and column not in given]
        first = [f"{name} is read from the column {column}" for name, column in found[:1]]
        notes = [", ".join([*first, *(f"{name} from {column}" for name, column in found[1:])])] if found else []
        return [*notes, f"{derived} is computed through C = 6 N D"] if axis == derived else notes


def _refuse_itself(measures: str, axis: Axis) -> None:
    if measures == "loss" and axis == "loss":
        raise UsageError("a loss along itself is a line", remedy="--axis N, C, D or step")


def _on_axes(
    axes: Mapping[str, str], columns: Columns, axis: Axis, origin: str
) -> tuple[dict[str, Floats], str | None]:
    """The axes of the rows that are numbers, and which of N, D and C follows from the two others.

    Raises: UsageError without the axis that is asked for, or with text on it.
    """
    key = "L" if axis == "loss" else axis
    known = {}
    for name, column in axes.items():
        try:
            known[name] = as_numbers(
                columns[column], column, f"--map {name}=" if name != "step" else "the header step over "
            )
        except UsageError:
            if name == key:
                raise
    missing = {"N", "D", "C"} - known.keys()
    derived = missing.pop() if len(missing) == 1 else None
    with np.errstate(divide="ignore", invalid="ignore"):
        if derived == "C":
            known["C"] = 6 * known["N"] * known["D"]
        elif derived is not None:
            known[derived] = known["C"] / (6 * known["D" if derived == "N" else "N"])
    if key not in known:
        flag = f"--map {key}=COLUMN" if key != "step" else "call it step"
        raise UsageError(f"no column of {origin} is plainly {axis}", where=columns_listed(columns), remedy=flag)
    return known, derived


def _groups(roles: _Roles, columns: Columns, sizes: Floats | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The task and the family of each row, both (n,). sizes: along the steps, where each is a family."""
    n = len(columns[roles.score])
    parts = [_text(columns, roles.family, n)]
    if roles.by is not None:
        parts.append(np.array([f"{roles.by}={value}" for value in columns[roles.by]], dtype=object))
    if sizes is not None and len(np.unique(sizes)) > 1:
        distinct = np.unique(sizes[np.isfinite(sizes)]).tolist()
        names = dict(zip(distinct, counts(distinct), strict=True))
        parts.append(np.array([f"N = {names.get(size, 'unknown')}" for size in sizes.tolist()], dtype=object))
    families = [", ".join(part for part in row if part) for row in zip(*parts, strict=True)]
    return _text(columns, roles.task, n), np.array(families, dtype=object)


def _codes(columns: Iterable[npt.NDArray[Any]], n: int) -> npt.NDArray[np.int64]:
    """A number for each row that equal rows share, (n,)."""
    row = np.zeros(n, dtype=np.int64)
    for values in columns:
        row = np.unique(row * n + codes(values), return_inverse=True)[1]
    return row


def _distinct(row: npt.NDArray[np.int64], run: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The first of rows that are equal, or all rows if some of one run (a seed at a place) differ.

    Such runs have parts, or their seeds are not known, and rows of them may be equal by chance.
    """
    first = np.unique(row, return_index=True)[1]
    return np.arange(len(row)) if len(np.unique(run[first])) < len(first) else np.sort(first)


def _refuse_varying(roles: _Roles, axis: Axis, columns: Columns, known: Mapping[str, Floats]) -> npt.NDArray[np.int64]:
    """The cell of each row of a series, (n,): rows of one are its repeats, and each is one where no axis is known.

    Raises: UsageError for what varies at one place and was not named, as among the runs of a sweep.
    """
    N, D, C, step = map(known.get, ("N", "D", "C", "step"))
    n = len(columns[roles.score])
    if N is None and D is None and C is None and step is None:
        return np.arange(n)
    export = is_export(columns)
    unnamed = () if export else tuple(name for name in columns if name not in roles.used)
    points = Points(L=np.zeros(n), N=N, D=D, C=C, columns=dict(columns), unnamed=unnamed)
    if extra := unread(points, (), within=roles.axes.get("step")):
        raise pooled(points, extra, best=False)
    cell = places(points)
    if axis in ("N", "D") and N is not None and D is not None:
        _refuse_pooling(axis, N, D)
    if axis in ("N", "D", "C") and step is not None:
        _refuse_several("step", step, axis, cell, "step")
    return cell if step is None else _codes([cell, step], n)


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


def _with_twins_read(series: Sequence[Series]) -> tuple[list[Series], list[str]]:
    """The series with -log p for the values of their twin, and how these were read, as one sentence.

    All of them are one column, and read in one way: by its name, and where that says nothing by its values. All below 0
    are a log-probability; those in [0, 1] that rise with the score are a probability; all else is a loss.
    """
    twins = [one.twin for one in series if one.twin is not None]
    if not twins:
        return list(series), []
    name = next(one.twin_name for one in series if one.twin is not None).rpartition("/")[2]
    values = np.concatenate(twins)
    known = values[np.isfinite(values)]
    read: Callable[[Floats, Floats | None], Floats]
    if _is_perplexity(name):
        what, read = "the log of a perplexity", lambda twin, _: _log_of(twin)
    elif _is_loss(name):
        in_bits = not _IN_BITS.isdisjoint(_words(name))
        what = f"a loss [{'bits' if in_bits else 'nats'}]"
        read = lambda twin, _: twin * (np.log(2) if in_bits else 1)  # noqa: E731
    elif (known <= 0).all():
        what, read = "a log-probability", lambda twin, _: -twin
    elif (known >= 0).all() and (known <= 1).all() and sum(map(_together, series)) >= 0:
        decimals = _decimals(known)
        what, read = "a probability", lambda twin, items: _surprise(twin, items, decimals)
    else:
        what, read = "a loss [nats]", lambda twin, _: twin
    found = [one if one.twin is None else replace(one, twin=read(one.twin, one.items)) for one in series]
    return found, [f"twin {name} read as {what}"]


def _surprise(share: Floats, items: Floats | None, decimals: int) -> Floats:
    """-log p of shares; those that reach 0 or 1 are taken off it by half an item, or by half of the last decimal."""
    end = 0.5 / (np.full(len(share), MOST_ITEMS) if items is None else np.where(items > 0, items, MOST_ITEMS))
    end = np.maximum(end, 0.5 * 10.0**-decimals)
    return np.asarray(-np.log(np.clip(share, end, 1 - end)))


def _decimals(values: Floats) -> int:
    """To how many decimals, at least two, somebody has rounded all of the values; more than anybody prints if none."""
    return next((n for n in range(2, 6) if (np.round(values, n) == values).all()), 16)


def _together(series: Series) -> float:
    """How far a twin rises with its score: their correlation times the number of measurements."""
    if series.twin is None:
        return 0.0
    known = np.isfinite(series.twin) & np.isfinite(series.score)
    if not known.any():
        return 0.0
    twin, score = series.twin[known], series.score[known]
    twin, score = twin - twin.mean(), score - score.mean()
    spread = float(np.sqrt((twin**2).sum() * (score**2).sum()))
    return float(twin @ score) / spread * len(twin) if spread > 0 else 0.0


def of_sweep(request: Request, asked: Asked, target: Target) -> Gathered:
    """The series of the runs of a sweep: each split that has the metric is a task."""
    if request.maps:
        raise UsageError("--map names columns of a file, and a sweep has its own", remedy="leave --map out")
    sweep = load_sweep(target.store, target.name)
    wanted = set(sweep.current) | (set(sweep.earlier) if request.all else set())
    there = columns_of(refresh(target.store).of(wanted).table)
    split, _, metric = request.metric.rpartition("/")
    _refuse_itself(_measures(metric), asked.axis)
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
                place = 1 / _geometric(places(part), part.axis("loss"))
            elif asked.axis in part.axes():
                place = part.axis(asked.axis)
            else:
                raise UsageError(f"these runs have no {asked.axis}", remedy=f"--axis {' or '.join(part.axes())}")
            if asked.axis in ("N", "D") and part.N is not None and part.D is not None:
                _refuse_pooling(asked.axis, part.axis("N"), part.axis("D"))
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
    if _is_perplexity(metric):
        series = [replace(held, score=_log_of(held.score)) for held in series]
        notes.append(f"{metric} is taken as its log, which is a loss")
    series, read_as = _with_twins_read(series)
    notes += read_as if asked.twin else []  # one that runs store is known
    return Gathered(series, list(dict.fromkeys(notes)), convention, _measures(metric))


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
        chance, number = _chance(asked.chance, columns, ())
        stored = f"{split}/{'generated_chance' if metric == 'generated_match' else 'chance'}"
        twin = asked.twin and _column(_with_split(asked.twin, split, columns), "--twin", columns, ())
        twin = twin or (f"{split}/{LOGPROB}" if metric == EXACT and f"{split}/{LOGPROB}" in columns else None)
        items = asked.items and _column(_with_split(asked.items, split, columns), "--items", columns, ())
        places = sorted(n for n in columns if n.startswith(f"{split}/") and POSITION.fullmatch(n[len(split) + 1 :]))
        n = len(next(iter(columns.values())))
        return cls(
            _numbers(columns, items or f"{split}/items"),
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


def _geometric(cell: npt.NDArray[np.int64], losses: Floats) -> Floats:
    """The loss of each cell, as the geometric mean of its runs' that are above 0, (n,); NaN for the others."""
    known = losses > 0
    index = np.unique(cell, return_inverse=True)[1]
    logs = np.log(np.where(known, losses, 1.0))
    with np.errstate(invalid="ignore"):
        means = np.exp(np.bincount(index, logs) / np.bincount(index, known))
    return np.where(known, means[index], np.nan)


def _refuse_pooling(axis: Axis, sizes: Floats, tokens: Floats) -> None:
    """Runs of several lengths at one size are no seeds of it, nor runs of several sizes at one length."""
    (along, other), name = ((sizes, tokens), "D") if axis == "N" else ((tokens, sizes), "N")
    _refuse_several(name, other, axis, np.unique(along, return_inverse=True)[1], f"{name} or C")


def _refuse_several(name: str, values: Floats, axis: Axis, place: npt.NDArray[np.int64], others: str) -> None:
    """Raises: UsageError for another axis that takes several values at one place, (n,); others: to look along."""
    for k in range(int(place.max(initial=-1)) + 1):
        here = values[(place == k) & np.isfinite(values)]
        if len(here) and np.ptp(here) > 0.02 * here.min():  # whole steps differ by less (store.points)
            raise UsageError(
                f"{name} varies at one {axis} among these runs",
                remedy=f"--axis {others}, or pick one with --where '{name} == ...'",
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
