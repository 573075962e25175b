"""Stored runs, and anybody's tables, as the Points of a fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from scalectl.core.cost import Convention
from scalectl.core.errors import NothingMatched, StoreError, UsageError
from scalectl.core.expression import full_name
from scalectl.core.job import State
from scalectl.core.names import did_you_mean, escaped, shown
from scalectl.core.rows import HELD_OUT, LOSS, Floats, Points
from scalectl.store import schema
from scalectl.store.compact import load_rows
from scalectl.store.index import damaged_runs, refresh, source_notes
from scalectl.store.layout import Store
from scalectl.store.sweeps import load_sweep
from scalectl.store.unnamed import codes, hidden_axes

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, npt.NDArray[Any]]
Mask = Callable[[Columns], npt.NDArray[np.bool_]]

# Losses on different data, or on different amounts of held-out data, are different quantities.
_NEVER_POOLED = {
    "data.fingerprint": "data that differ",
    "eval.tokens": "held-out sets of different size",
}

# Column names that say by themselves what they hold, best first. Words are compared without case; single letters as
# they are, because n is often a count of items, d a width and c a constant. Source: ours.
OBVIOUS = {
    "N": ("N", "params", "n_params", "num_params", "parameters", "model_size", "model size"),
    "D": ("D", "tokens", "n_tokens", "num_tokens", "train_tokens", "training tokens"),
    "C": ("C", "flops", "flop", "n_flops", "train_flops", "training flop", "compute"),
    "L": ("L", "loss", "final_loss", "val_loss", "eval_loss", "test_loss"),
    "seed": ("seed", "train.seed", "random_seed", "replicate", "replica", "repeat", "rep"),
}

# The same for a share of right answers.
SCORE = ("S", "score", "exact_match", "accuracy", "acc")

# Axes that only some laws read, and the columns of a run that hold them; of other tables they are named by --map. S is
# a score, whose loss is then an axis.
_OTHERS = {"U": "unique_tokens", "width": "model.d_model", "depth": "model.n_layer"}
_NAMED = (*OBVIOUS, *_OTHERS, "S")

# Config columns that say nothing beyond N, D and seed, or do not touch the numbers.
_NO_AXIS = ("train.seed", "train.steps", "train.tokens", "data.origin", "eval.every")
UNIQUE = "data.unique_tokens"
COUNTS = ("N_total", "N_non_embedding", "N_matmul")
# D is rounded down to whole steps, so equal horizons at different batch sizes differ by less than one step. Source:
# ours; 2 % covers that from 50 steps on, and stays below the spacing of any grid over D that could be fitted.
_SAME_D = 0.02

# Repeats of the same data are worth nearly as much as fresh ones up to about four epochs, then less and less. Source:
# Muennighoff et al. 2023, arXiv 2305.16264: up to 4 epochs the loss changes negligibly against unique data.
_EPOCHS_LIKE_FRESH = 4.0


def load_points(
    store: Store,
    name: str,
    metric: str = "held-out/loss",
    convention: Convention = "non_embedding",
    flops: str = "6nd",
    *,
    at: str = "last",
    all: bool = False,
    where: Mask | None = None,
    by: str | None = None,
) -> Points:
    """One number per finished run of a sweep, as fit input.

    Args: name: the sweep; metric: `split/metric`, the split held-out if left out; convention: how N counts parameters;
    flops: C as "6nd", 6 N D with that N, or "exact"; at: which evaluation counts: "last", "min" (the lowest) or
    "mean:K" (mean of the last K); all: earlier runs of the sweep too; where: mask over the index columns and N, D, C
    and L as they enter the fit; by: a column that the caller splits by, its last word is enough: what may not be pooled
    is then checked within each of its values.
    Returns: points sorted by run id: N [parameters], D [tokens], C [FLOP], L in the metric's unit; size is N; every
    index column that any of the sweep's runs has; what was left out is in the notes.
    Raises: NothingMatched if no run is left or none has the metric (the message names those that are there); UsageError
    for runs that may not be pooled, an unknown `by`, `at` or `flops`.
    Source: Porian et al. 2024, arXiv 2406.19146 (the convention alone moves the fitted exponent).
    """
    keep = _parse_at(at)
    full = metric if "/" in metric else f"{HELD_OUT}/{metric}"
    if flops not in ("6nd", "exact"):
        raise UsageError(f"flops {shown(flops)} is not known", remedy="use 6nd or exact")
    sweep = load_sweep(store, name)
    wanted = set(sweep.current) | (set(sweep.earlier) if all else set())
    index = refresh(store)
    table = index.of(wanted).table
    columns = schema.columns_of(table)
    damaged = damaged_runs(store, index, wanted)
    notes = [str(held) for held in damaged]
    if sweep.earlier:
        said = "included" if all else "left out; --all adds them"
        notes.append(f"{_runs(len(sweep.earlier))} of earlier versions of the sweep {said}")
    if not len(table):  # before `where`: an index without runs has no config columns that it could be about
        raise NothingMatched(
            f"no finished run in sweep {name}: "
            + (f"none of its {_runs(len(wanted))} has ended" if wanted else "it has no runs"),
            where="; ".join(notes) or None,
            remedy=f"scalectl status {name}",
        )
    if where is not None:
        columns = _masked(columns, where(_with_axes(store, name, columns, full, keep, convention, flops)))
    notes += _left_out(columns)
    if where is None and (missing := len(wanted) - len(table) - len(damaged)) > 0:
        notes.append(f"{_runs(missing)} left out: not ended yet")
    diverged = _masked(columns, columns["state"] == str(State.DIVERGED))
    columns = _masked(columns, columns["state"] == str(State.DONE))
    if not len(columns["run_id"]):
        raise NothingMatched(
            f"no finished run of sweep {name} answers to the request",
            where="; ".join(notes) or None,
            remedy=f"scalectl status {name}",
        )
    values = _values(store, name, columns, full, keep)
    has = np.isfinite(values)
    if not has.all():
        notes.append(f"{_runs(int(np.count_nonzero(~has)))} left out: no {full}")
    columns = _masked(columns, has)
    _refuse_mixtures(columns, by)
    notes += [*_repeated(columns), *source_notes(index, columns["run_id"])]

    N = _axis(columns, f"N_{convention}")
    D = _axis(columns, "D")
    exact = _axis(columns, "C_exact")
    if N is None and any(_axis(columns, f"N_{other}") is not None for other in ("total", "non_embedding", "matmul")):
        there = [other for other in ("total", "non_embedding", "matmul") if _axis(columns, f"N_{other}") is not None]
        raise UsageError(
            f"not every run counts its parameters as {convention}", remedy=f"use --convention {' or '.join(there)}"
        )
    C = 6 * N * D if flops == "6nd" and N is not None and D is not None else exact
    used = flops
    if flops == "6nd" and C is exact and exact is not None:
        used = "exact"
        notes.append("C is as the source counts it: N or D is not known, so 6 N D cannot be formed")
    others = _others(columns)
    losses = _axis(columns, f"{HELD_OUT}/{LOSS}") if full.rpartition("/")[2] != LOSS else None
    if losses is not None:
        others["loss"] = losses
    return Points(
        L=values[has],
        N=N,
        D=D,
        C=C,
        others=others,
        ids=tuple(columns["run_id"]),
        size=N,
        seed=columns.get("train.seed"),
        columns=columns,
        unnamed=_foreign(sweep.rows, columns),
        metric=full,
        convention=convention if N is not None else None,
        flops=used if C is not None else None,
        notes=tuple(notes),
        diverged=diverged,
    )


def run_curves(store: Store, sweep: str, ids: Iterable[str], metric: str) -> dict[str, tuple[Floats, Floats]]:
    """Tokens and values of every evaluation of the runs that have more than one, by run id; tokens ascending.

    Args: metric: `split/metric`, as in the points of these runs, which are of the sweep.
    Raises: StoreError if a run is not there any more.
    """
    found = _series(store, sweep, ids, metric)
    return {run_id: curve for run_id, curve in found.items() if len(curve[0]) > 1}


def curve_points(store: Store, sweep: str, points: Points) -> Points:
    """Every evaluation of the runs of `points`, as points of their own.

    Returns: N as in `points` [parameters], D [tokens] and L at each evaluation, C = 6 N D; ids are those of the runs.
    Raises: NothingMatched where no run was evaluated on the way; StoreError if one went away.
    """
    curves = run_curves(store, sweep, points.ids, points.metric)
    if not curves:
        raise NothingMatched(f"no run has {escaped(points.metric)} on the way", remedy="set eval.every below its steps")
    known = dict(zip(points.ids, points.axis("N").tolist(), strict=True))
    D, L = (np.concatenate([curve[k] for curve in curves.values()]) for k in (0, 1))
    lengths = [len(curve[0]) for curve in curves.values()]
    N = np.repeat([known[run_id] for run_id in curves], lengths)
    ids = tuple(np.repeat(list(curves), lengths).tolist())
    found = Points(
        L=L, N=N, D=D, C=6 * N * D, ids=ids, size=N, metric=points.metric, convention=points.convention, flops="6nd"
    )
    return found.take(D > 0)


def table_points(
    source: pd.DataFrame | str | Path,
    mapping: Mapping[str, str] | None = None,
    where: Mask | None = None,
    convention: Convention = "non_embedding",
) -> Points:
    """Anybody's table as fit input, one point per row, in the order of the table.

    Two of N, D and C give the third through C = 6 N D (Kaplan et al. 2020, arXiv 2001.08361), which `derived` names.
    What `scalectl export` wrote is known by its columns and gives the points of its sweep: runs that are done.

    Args: source: a frame, or a CSV or Parquet file; mapping: axis (N, D, C, L, seed, U, width, depth, and S for a
    score whose loss is L) to column; what it does not name is found by obvious column names, which the notes tell, but
    for the last four; where: mask over the columns and, where no column has such a name, N, D, C and L;
    convention: which count of an export is N.
    Returns: N [parameters], D [tokens], C [FLOP], L [nats/token]; ids are row numbers from 1; size is N to four digits;
    rows without a number on an axis are dropped with a note. Convention and flops are known of an export only.
    Raises: UsageError for an unknown column, text or numbers that are not positive on an axis, or no L;
    NothingMatched if no row is left.
    """
    columns, origin = read_columns(source)
    return columns_points(columns, mapping, where, origin, convention)


def frame(points: Points) -> pd.DataFrame:
    """Points as a table: id, N, D, C, L and seed as far as they are known, then the further columns."""
    import pandas as pd

    axes = {"id": points.ids or None, **{name: getattr(points, name) for name in ("N", "D", "C", "L", "seed")}}
    known = {name: values for name, values in axes.items() if values is not None}
    return pd.DataFrame({**known, **{name: held for name, held in points.columns.items() if name not in known}})


def columns_points(
    columns: Columns,
    mapping: Mapping[str, str] | None,
    where: Mask | None,
    origin: str,
    convention: Convention = "non_embedding",
) -> Points:
    """`table_points` of columns at hand. origin: name of the source in messages."""
    return mapped_points(columns, mapping, where, origin, convention)[0]


def mapped_points(
    columns: Columns,
    mapping: Mapping[str, str] | None,
    where: Mask | None,
    origin: str,
    convention: Convention = "non_embedding",
) -> tuple[Points, dict[str, str]]:
    """`columns_points`, and which column was taken for each axis."""
    rows = np.arange(1, 1 + (len(next(iter(columns.values()))) if columns else 0))
    kept = {**columns, _ROW: rows}
    notes = []
    export = is_export(columns)
    if export:
        done = np.array([state == str(State.DONE) for state in columns["state"]], dtype=bool)
        if not done.all():
            notes.append(f"{_runs(int(np.count_nonzero(~done)))} left out: not done")
        kept = _masked(kept, done)
        mapping = {**_export_axes(kept, convention), **(mapping or {})}
    found, said = _find_columns({name: held for name, held in kept.items() if name != _ROW}, mapping or {}, origin)
    notes += said
    if export:
        notes.append("an export of scalectl: " + ", ".join(f"{axis} is {name}" for axis, name in found.items()))
    if where is not None:
        kept = _masked(kept, where(with_mapped(kept, found)))
    axes = {axis: as_numbers(kept[name], name, f"--map {axis}=") for axis, name in found.items() if axis != "seed"}
    whole = np.logical_and.reduce([np.isfinite(values) for values in axes.values()])
    if dropped := np.count_nonzero(~whole):
        notes.append(f"rows left out for want of a number in {', '.join(found[axis] for axis in axes)}: {dropped}")
    kept = _masked(kept, whole)
    axes = {axis: values[whole] for axis, values in axes.items()}
    if not len(kept[_ROW]):
        raise NothingMatched(f"no row of {origin} is left", remedy="check --where and --map")
    for axis, values in axes.items():
        if (wrong := np.flatnonzero(values <= 0)).size and axis != "S":
            raise UsageError(
                f"{found[axis]} is {values[wrong[0]]:g} in row {kept[_ROW][wrong[0]]}; {axis} has to be positive",
                where=origin,
                remedy=f"leave such rows out, as in --where '`{found[axis]}` > 0'",
            )
    N, D, C = axes.get("N"), axes.get("D"), axes.get("C")
    derived = None
    if N is not None and D is not None and C is None:
        C, derived = 6 * N * D, "C"
    elif N is not None and C is not None and D is None:
        D, derived = C / (6 * N), "D"
    elif D is not None and C is not None and N is None:
        N, derived = C / (6 * D), "N"
    counted = export and found.get("N") == f"N_{convention}"
    if derived == "C" and counted:
        derived = None  # the convention of C that was asked for, as for the runs themselves
    if derived:
        notes.append(f"{derived} is computed through C = 6 N D")
    if repeats := _same_rows(axes):
        same = "row repeats" if repeats == 1 else "rows repeat"
        notes.append(
            f"{repeats} {same} another exactly, in {', '.join(found[axis] for axis in axes)}: drop them if they are "
            "the same runs, which count twice"
        )
    numbers = kept.pop(_ROW)
    exact = export and found.get("C") == "C_exact"
    score = "S" in axes
    others = _others(kept) if export else {}
    others |= {axis: axes[axis] for axis in _OTHERS if axis in axes}
    if score:
        others["loss"] = axes["L"]
    points = Points(
        L=axes["S"] if score else axes["L"],
        N=N,
        D=D,
        C=C,
        others=others,
        ids=tuple(str(number) for number in numbers),
        size=None if N is None else _digits(N, 4),
        seed=kept[found["seed"]] if "seed" in found else None,
        columns=kept,
        unnamed=() if export else tuple(name for name in kept if name not in found.values()),
        metric=found["S" if score else "L"],
        measures="score" if score else "loss",
        convention=convention if counted else None,
        flops="exact" if exact else "6nd" if counted else None,
        derived=derived,
        notes=tuple(notes),
    )
    return points, found


def _same_rows(axes: Mapping[str, Floats]) -> int:
    """Rows that equal an earlier one on every axis."""
    columns = list(axes.values())
    order = ordered(columns)
    same = np.ones(len(order) - 1, dtype=bool)
    for column in columns:
        same &= np.diff(column[order]) == 0
    return int(same.sum())


def ordered(columns: Sequence[Floats]) -> npt.NDArray[np.int64]:
    """Rows in the order of the first column, then the next, and so on, (n,); one sort where the first has no ties."""
    first = np.argsort(columns[0], kind="stable")
    if np.diff(columns[0][first]).all():
        return first
    return np.lexsort(columns[::-1])


def is_export(columns: Iterable[str]) -> bool:
    """Whether a table with these columns is what `scalectl export` writes: one row per run of the index."""
    return {"run_id", "state", "steps", "seconds", "pack", "device", f"{HELD_OUT}/{LOSS}"} <= set(columns)


def _export_axes(columns: Columns, convention: Convention) -> dict[str, str]:
    """What the columns of an export are; C only where 6 N D cannot be formed, as for the runs themselves."""
    wanted = {"N": f"N_{convention}", "D": "D", "L": f"{HELD_OUT}/{LOSS}", "seed": "train.seed"}
    found = {axis: name for axis, name in wanted.items() if name in columns and _known(columns[name]).any()}
    if not {"N", "D"} <= set(found) and "C_exact" in columns:
        found["C"] = "C_exact"
    return found


def _known(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which cells hold something: neither None nor NaN, nor pandas' NA."""
    import pandas as pd

    return np.asarray(~pd.isna(values), dtype=bool)


def with_mapped(columns: Columns, found: Mapping[str, str]) -> Columns:
    """The columns, and those that were taken for N, D, C and L under these names, for --where."""
    known = {axis: columns[name] for axis, name in found.items() if axis != "seed"}
    numbers = {axis: held.astype(np.float64) for axis, held in known.items() if held.dtype.kind in "iuf"}
    with np.errstate(divide="ignore", invalid="ignore"):
        if {"N", "D"} <= set(numbers) and "C" not in known:
            known["C"] = 6 * numbers["N"] * numbers["D"]
        elif {"N", "C"} <= set(numbers) and "D" not in known:
            known["D"] = numbers["C"] / (6 * numbers["N"])
        elif {"D", "C"} <= set(numbers) and "N" not in known:
            known["N"] = numbers["C"] / (6 * numbers["D"])
    return {**known, **{name: held for name, held in columns.items() if name != _ROW}}


_ROW = "\0row"  # cannot be a column of a file
_PARTS = ("model.", "data.", "train.", "eval.", "params.", "run.env.", "run.source")


def _foreign(rows: Iterable[Mapping[str, Any]], columns: Columns) -> tuple[str, ...]:
    """What tells the runs of a sweep apart and is no setting of ours: columns of a table that was imported."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return tuple(key for key in keys if key in columns and key != "run_id" and not key.startswith(_PARTS))


def settings(points: Points) -> tuple[str, ...]:
    """The config columns of stored runs (model., data., train., eval.) without those that follow from N, D and seed."""
    return tuple(name for name in points.columns if name.startswith(_PARTS) and name not in _NO_AXIS)


def places(points: Points) -> npt.NDArray[np.int64]:
    """The place of each point as an index from 0, shape (n,): one N and one D (to whole steps), or one C alone."""
    place = np.zeros(len(points), dtype=np.int64)
    if points.N is not None:
        place = np.unique(points.N, return_inverse=True)[1]
    if points.D is not None:
        place = place * len(points) + _budgets(place, points.D)
    if points.N is None and points.D is None and points.C is not None:
        place = np.unique(points.C, return_inverse=True)[1]
    return np.unique(place, return_inverse=True)[1].astype(np.int64)


def vary(points: Points, names: Iterable[str] | None = None, within: str | None = None) -> tuple[str, ...]:
    """Columns that take several values at one and the same N and D: axes that a fit over N and D must not pool.

    A learning rate that is a function of the width is no such axis, nor is the width itself; a grid of rates is. What
    is said in words (positions, norms) must not vary at one N by any way of counting: two kinds of positions have one
    count without tables and two with them. Amounts of distinct data must not vary at all where a run repeats its data.

    Columns of somebody's table count where their values look like those of a setting (`unnamed.py`).

    Args: names: columns to look at, `settings` and what a table may hide by default; within: a column whose values are
    told apart as N and D are, so that neither it nor what follows from it counts.
    Returns: names in the order of the columns.
    """
    hidden = names is None and bool(points.unnamed)
    names = settings(points) if names is None else tuple(names)
    if not names and not hidden:
        return ()
    cells = [places(points)]
    for column in COUNTS:
        counted = _axis(points.columns, column)
        cells += [] if counted is None else [places(replace(points, N=counted))]
    if within is not None:
        cells = [cell * len(points) + codes(points.columns[within]) for cell in cells]
    everywhere = np.zeros(len(points), dtype=np.int64)

    def apart(name: str) -> bool:
        values = points.columns[name]
        if name == UNIQUE and _repeats(points):
            return _splits(everywhere, values)
        in_words = values.dtype == bool or any(isinstance(value, str) for value in values)
        return any(_splits(cell, values) for cell in (cells if in_words else cells[:1]))

    found = tuple(name for name in names if apart(name))
    if len(found) > 1 and any(name.startswith("data.") for name in found if name != "data.fingerprint"):
        found = tuple(name for name in found if name != "data.fingerprint")  # follows from the settings that vary
    return found + (hidden_axes(points, cells[0]) if hidden else ())


def _repeats(points: Points) -> bool:
    """Whether any run saw its data more than once."""
    epochs = _axis(points.columns, "epochs")
    return epochs is not None and bool(epochs.max() > 1)


def _parse_at(at: str) -> int | None:
    """How many of the last evaluations count; None for the lowest of all."""
    if at == "last":
        return 1
    if at == "min":
        return None
    kind, _, number = at.partition(":")
    if kind == "mean" and number.isascii() and number.isdecimal() and 0 < int(number) < 10**6:
        return int(number)
    raise UsageError(f"--at {shown(at)} is not known", remedy="use last, min, or mean:K with K evaluations")


def _masked(columns: Columns, mask: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    picked = np.asarray(mask, dtype=bool)
    return {name: values[picked] for name, values in columns.items()}


def _left_out(columns: Columns) -> list[str]:
    """One sentence per state of runs that ended without a result for a fit."""
    notes = []
    states = columns["state"]
    for state in sorted(set(states) - {str(State.DONE)}):
        ids = columns["run_id"][states == state]
        shown_ids = ", ".join(run_id[:6] for run_id in ids[:4]) + (", ..." if len(ids) > 4 else "")
        notes.append(f"{_runs(len(ids), state)} left out: {shown_ids}")
    return notes


def _repeated(columns: Columns) -> list[str]:
    """One sentence if runs saw their data so often that D counts for less than it says."""
    epochs = columns["epochs"].astype(np.float64)
    over = epochs[epochs > _EPOCHS_LIKE_FRESH]
    if not over.size:
        return []
    return [
        f"{_runs(over.size)} with more than {_EPOCHS_LIKE_FRESH:g} epochs (up to {over.max():.3g}): tokens repeated "
        "that often are worth less than fresh ones, and D counts them alike"
    ]


def _runs(count: int, kind: str = "") -> str:
    return f"{count} {kind} run{'s' * (count != 1)}".replace("  ", " ")


def _with_axes(
    store: Store, sweep: str, columns: Columns, metric: str, keep: int | None, convention: Convention, flops: str
) -> Columns:
    """The columns, and N, D, C and L as a fit of them gets them, NaN where a run has none, for --where."""
    known = {axis: columns[name].astype(np.float64) for axis, name in (("N", f"N_{convention}"), ("C", "C_exact"))}
    if flops == "6nd" and np.isfinite(product := 6 * known["N"] * columns["D"].astype(np.float64)).any():
        known["C"] = product
    if metric in columns:
        known["L"] = _values(store, sweep, columns, metric, keep)
    return {**known, **columns}


def _values(store: Store, sweep: str, columns: Columns, metric: str, keep: int | None) -> Floats:
    """Return the metric of every run, NaN where a run does not have it; `keep` as from `_parse_at`."""
    there = sorted(name for name, held in columns.items() if "/" in name and held.dtype == np.float64)
    there = [name for name in there if np.isfinite(columns[name]).any()]
    if metric not in there:
        raise NothingMatched(
            f"no run has {escaped(metric)}", where=metrics_listed(there), remedy=did_you_mean(metric, there)
        )
    if keep == 1:
        return np.array(columns[metric], dtype=np.float64)
    found = _series(store, sweep, columns["run_id"], metric)
    values = np.full(len(columns["run_id"]), np.nan)
    for i, run_id in enumerate(columns["run_id"]):
        if run_id in found:
            series = found[run_id][1]
            values[i] = series.min() if keep is None else np.mean(series[-keep:])
    return values


def _series(store: Store, sweep: str, run_ids: Iterable[str], metric: str) -> dict[str, tuple[Floats, Floats]]:
    """Tokens and values of a metric in each of these runs of a sweep that have it, steps ascending.

    Raises: StoreError if a run is not there any more.
    """
    split, _, name = metric.partition("/")
    wanted = list(run_ids)
    rows, damaged = load_rows(store, wanted, name, split, sweep=sweep)
    ordered = rows.sort_values("step", kind="stable").groupby("run_id", sort=False)
    curves = {
        str(run_id): (held["tokens"].to_numpy(np.float64), held["value"].to_numpy(np.float64))
        for run_id, held in ordered
    }
    found = {run_id: curves[run_id] for run_id in wanted if run_id in curves}
    gone = [held.path.stem for held in damaged]
    gone += [run_id for run_id in wanted if run_id not in found and not store.run_file(run_id).exists()]
    if gone:
        raise StoreError(f"run {gone[0]} went away while it was read", remedy="repeat the command")
    return found


def _refuse_mixtures(columns: Columns, by: str | None) -> None:
    groups = (
        codes(columns[full_name(by, columns)]) if by is not None else np.zeros(len(columns["run_id"]), dtype=np.int64)
    )
    for name, what in _NEVER_POOLED.items():
        if name not in columns or not _splits(groups, columns[name]):
            continue
        values = sorted({str(value) for value in columns[name]})
        raise UsageError(
            f"these runs have {what}, which are never pooled",
            where=f"{name} is {' or '.join(escaped(value, 20) for value in values[:4])}",
            remedy=f"choose one with --where '{name} == ...' or split with --by {name}",
        )


def _others(columns: Columns) -> dict[str, Floats]:
    """The axes that only some laws read, as far as every run has them."""
    return {axis: held for axis, name in _OTHERS.items() if (held := _axis(columns, name)) is not None}


def _axis(columns: Columns, name: str) -> Floats | None:
    """Return a column as floats, None unless every run has it."""
    values = columns.get(name)
    if values is None or values.dtype == object:
        return None
    floats = values.astype(np.float64)
    return floats if np.isfinite(floats).all() else None


def read_columns(source: pd.DataFrame | str | Path) -> tuple[dict[str, npt.NDArray[Any]], str]:
    """Return a table's columns by name, each of shape (rows,), and the name of the source for messages."""
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        frame, origin = source, "the table"
    else:
        path = Path(source)
        origin = escaped(path.name)
        try:
            frame = pd.read_parquet(path) if path.suffix in (".parquet", ".pq") else pd.read_csv(path)
        except FileNotFoundError as error:
            raise NothingMatched(f"there is no file {origin}", where=escaped(str(path.parent))) from error
        except (OSError, ValueError) as error:  # arrow's and pandas' parser errors are ValueErrors
            said = escaped(str(error).splitlines()[0] if str(error) else type(error).__name__)
            raise UsageError(f"{origin} cannot be read: {said}", remedy="give a CSV or a Parquet file") from error
    return {str(name): frame[name].to_numpy() for name in frame.columns}, origin


def _find_columns(columns: Columns, mapping: Mapping[str, str], origin: str) -> tuple[dict[str, str], list[str]]:
    found = {}
    for axis, name in mapping.items():
        if axis not in _NAMED:
            raise UsageError(f"--map {escaped(axis)}: not an axis", remedy=f"the axes are {', '.join(_NAMED)}")
        if name not in columns:
            several = re.fullmatch(r"([^,=]+),\s*([NDCL]=[^,=]+)(,.*)?", name)
            raise UsageError(
                f"--map {axis}: {origin} has no column {shown(name)}",
                where=columns_listed(columns),
                remedy=f"repeat --map for each axis: --map {axis}={escaped(several[1])} --map {escaped(several[2])}"
                if several
                else did_you_mean(name, columns),
            )
        found[axis] = name
    notes = []
    for axis, candidates in OBVIOUS.items():
        if axis not in found and (plain := obvious(candidates, columns, found.values())):
            found[axis] = plain
            notes.append(f"{axis} is read from the column {plain}")
    unscaled = not {"N", "D", "C", "width", "depth", "S"} & set(found)
    if "L" not in found:
        no_size = "N, D or C, and none " if unscaled else "N, and none " if not {"N", "C"} & set(found) else ""
        remedy = "name them: --map N=COLUMN --map L=COLUMN" if no_size else "name it: --map L=COLUMN"
        if obvious(SCORE, columns) is not None:
            remedy = "scores are fitted with --kind score"
        raise UsageError(
            f"no column of {origin} is plainly {no_size}the loss", where=columns_listed(columns), remedy=remedy
        )
    if unscaled:
        raise UsageError(
            f"no column of {origin} is plainly N, D or C",
            where=columns_listed(columns),
            remedy="name one: --map N=COLUMN",
        )
    return found, notes


def obvious(candidates: Iterable[str], columns: Iterable[str], taken: Iterable[str] = ()) -> str | None:
    """The first column, not taken, that is named like a candidate; None without. Case counts for single letters."""
    names, used = list(columns), set(taken)
    folded = {name.lower(): name for name in reversed(names)}
    for candidate in candidates:
        name = candidate if len(candidate) == 1 else folded.get(candidate, "")
        if name in names and name not in used:
            return name
    return None


_LISTED = 12  # names in a message; ours: more than that nobody reads, and an export has a hundred


def columns_listed(columns: Iterable[str]) -> str:
    """The first dozen names of columns, for a message."""
    names = [escaped(column) for column in columns]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"it has {', '.join(names[:_LISTED])}{more}"


FEW_SPLITS = 6  # are all named; subtasks are counted


def metrics_listed(names: Iterable[str]) -> str:
    """The metrics of runs, for a message: those that many splits have are named once."""
    metrics_of: dict[str, list[str]] = {}
    for name in sorted(names):
        split, _, metric = name.rpartition("/")
        metrics_of.setdefault(split, []).append(metric)
    splits_of: dict[tuple[str, ...], list[str]] = {}
    for split, metrics in metrics_of.items():
        splits_of.setdefault(tuple(metrics), []).append(split)
    listed = []
    for held, splits in splits_of.items():
        if len(splits) > 1:
            named = f"{len(splits)} splits, {escaped(splits[0])} the first"
            if len(splits) <= FEW_SPLITS:
                named = " and ".join(", ".join(map(escaped, part)) for part in (splits[:-1], splits[-1:]))
            listed.append(f"{', '.join(map(escaped, held))} of {named}")
        else:
            listed.append(", ".join(escaped(f"{splits[0]}/{metric}") for metric in held))
    if not listed:
        return "none of the runs of its plan has ended; --all reads those of earlier versions of the sweep"
    return f"there are {'; '.join(listed)}"


def as_numbers(values: npt.NDArray[Any], name: str, flag: str) -> Floats:
    """Return a column as floats; empty cells and infinities are NaN.

    Args: flag: what names another column, such as "--map N=".
    Raises: UsageError naming the first cell that is text.
    """
    if values.dtype != object and np.issubdtype(values.dtype, np.number):
        floats = values.astype(np.float64)
    else:
        floats = np.empty(len(values))
        for i, value in enumerate(values):
            try:
                floats[i] = np.nan if value is None or value == "" else float(value)
            except (TypeError, ValueError) as error:
                raise UsageError(
                    f"column {escaped(name)} holds {shown(value)}, which is no number",
                    remedy=f"name a column of numbers: {flag}COLUMN",
                ) from error
    return np.where(np.isfinite(floats), floats, np.nan)


def _digits(values: Floats, digits: int) -> Floats:
    """Values to that many significant digits: the label of a size that was read off a plot or divided out of C."""
    scale = 10.0 ** (digits - 1 - np.floor(np.log10(values)))
    return np.round(values * scale) / scale


def _budgets(place: npt.NDArray[np.int64], D: Floats) -> npt.NDArray[np.int64]:
    """Labels of the budgets at each place: every one begins at its smallest D, so that close ones do not chain."""
    order = np.lexsort([D, place])
    labels = np.zeros(len(D), dtype=np.int64)
    if np.diff(place[order]).all():
        labels[order] = np.arange(len(D))
        return labels
    at, least, label = -1, 0.0, -1
    for row, here, tokens in zip(order.tolist(), place[order].tolist(), D[order].tolist(), strict=True):
        if here != at or tokens > least * (1 + _SAME_D):
            at, least, label = here, tokens, label + 1
        labels[row] = label
    return labels


def _splits(groups: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> bool:
    """Whether the values differ within any group."""
    pairs = np.stack([groups, codes(values)])
    return bool(np.unique(pairs, axis=1).shape[1] > np.unique(groups).size)
