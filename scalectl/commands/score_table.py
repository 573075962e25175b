"""The scores of somebody's table, by family and task."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from scalectl.commands.fit import Columns, Request, mapping_of, mask_of, pooled, unread
from scalectl.commands.measured import (
    Asked,
    Axis,
    Gathered,
    Series,
    chance_of,
    column_of,
    geometric,
    items_of,
    refuse_itself,
    refuse_pooling,
    refuse_several,
)
from scalectl.commands.target import Target
from scalectl.commands.twins import is_perplexity, log_of, measures_of, with_twins_read
from scalectl.core.errors import UsageError
from scalectl.core.expression import parse
from scalectl.core.names import did_you_mean, shown
from scalectl.core.rows import Floats, Points
from scalectl.core.units import counted, counts
from scalectl.store.points import (
    OBVIOUS,
    SCORE,
    as_numbers,
    columns_listed,
    is_export,
    obvious,
    places,
    read_columns,
    with_mapped,
)
from scalectl.store.schema import columns_of
from scalectl.store.unnamed import codes

# Columns of a table that say by themselves what they hold. Source: ours.
_TASK = ("task", "subtask", "benchmark")
_FAMILY = ("family", "model_family", "model family")
_ITEMS = ("items", "n_items", "num_items", "n_examples")
_CHANCE = ("chance", "random_baseline", "random")
_STEP = ("step", "steps")


def of_table(request: Request, asked: Asked, target: Target) -> Gathered:
    """The series of somebody's table, by family and task.

    Raises: UsageError for columns that are not there or hold no numbers, and for what varies at one place and was not
    named; NothingMatched if no row answers.
    """
    columns, mapping, origin = _read(target, mapping_of(request.maps) or {})
    roles = _Roles.of(request, asked, columns, mapping, origin)
    measures = measures_of(roles.score)
    refuse_itself(measures, asked.axis)
    mask = mask_of(request.where)
    if mask is not None:
        hit = np.asarray(mask(with_mapped(columns, {**mapping, **roles.axes, "S": roles.score})), dtype=bool)
        columns = {name: values[hit] for name, values in columns.items()}
    known, derived = _on_axes(roles.axes, columns, asked.axis, origin)
    roles = replace(roles, axes={axis: name for axis, name in roles.axes.items() if axis in known})
    given = {*mapping.values(), request.metric, asked.items, asked.chance, asked.by}
    notes = [] if target.published else roles.told(asked.axis, derived, measures, given)
    values = as_numbers(columns[roles.score], roles.score, "--map S=")
    if is_perplexity(roles.score):
        values = log_of(values)
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

        at = place[mine] if asked.axis != "loss" else 1 / geometric(cell, place[mine])
        series.append(
            Series(
                task=pair[1] or roles.score,
                family=pair[0],
                place=at,
                score=values[mine],
                items=of(roles.items, "--items") if roles.count is None else np.full(len(mine), roles.count),
                chance=of(roles.chance, "--chance") if roles.number is None else np.full(len(mine), roles.number),
                seed=None if roles.seed is None else here[roles.seed],
                twin=of(roles.twin, "--twin"),
                twin_name=roles.twin or "",
            )
        )
    if repeats:
        notes.append(f"{counted(repeats, 'row')} that repeat{'s' * (repeats == 1)} another in every column: left out")
    series, read_as = with_twins_read(series)
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

    axes: of N, D, C, L and step; count, number: items and chance of all rows; by: what splits beside task and family.
    """

    score: str
    axes: Mapping[str, str]
    items: str | None
    count: float | None
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
        score = column_of(metric, "--metric", columns, ()) or mapping.get("S") or obvious(SCORE, columns)
        score = score or mapping.get("L") or obvious(OBVIOUS["L"], columns)
        if score is None:
            raise UsageError(
                f"no column of {origin} is plainly a score",
                where=columns_listed(columns),
                remedy="name it: --map S=COLUMN",
            )
        called = {**{axis: OBVIOUS[axis] for axis in ("N", "D", "C", "L")}, "step": _STEP}
        found = {axis: mapping.get(axis) or obvious(names, columns, [score]) for axis, names in called.items()}
        items, count = items_of(asked.items, columns, _ITEMS)
        chance, number = chance_of(asked.chance, columns, _CHANCE)
        task, by = obvious(_TASK, columns), column_of(asked.by, "--by", columns, ())
        if task is None or task == by:
            task, by = by, None
        family = obvious(_FAMILY, columns, [] if task is None else [task])
        return cls(
            score,
            {axis: name for axis, name in found.items() if name is not None},
            items,
            count,
            chance,
            number,
            task,
            family,
            None if by == family else by,
            mapping.get("seed") or obvious(OBVIOUS["seed"], columns),
            column_of(asked.twin, "--twin", columns, ()),
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
    refuse_pooling(axis, N, D, C)
    if axis in ("N", "D", "C") and step is not None:
        refuse_several("step", step, axis, cell, "step")
    return cell if step is None else _codes([cell, step], n)


def _text(columns: Columns, name: str | None, n: int) -> npt.NDArray[Any]:
    if name is None:
        return np.full(n, "", dtype=object)
    return np.array(["" if value is None or value != value else str(value) for value in columns[name]], dtype=object)
