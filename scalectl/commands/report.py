"""`scalectl report`: everything known about one sweep."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from scalectl.commands import measured, score
from scalectl.commands.fit import FEWEST_DRAWS, Request, Result
from scalectl.commands.fit import run as fit
from scalectl.commands.fit import view as fit_view
from scalectl.commands.target import Target, find_target, shared_facts
from scalectl.core.cost import Ledger, ledger_of_record
from scalectl.core.errors import FitError, NothingMatched, UsageError
from scalectl.core.job import State
from scalectl.core.rows import HELD_OUT, LOSS
from scalectl.models import MODELS
from scalectl.report.views import GridAxis, RunCurve, RunView, SweepView, ThresholdView
from scalectl.store.compact import load_rows
from scalectl.store.index import damaged_runs, refresh
from scalectl.store.live import Standing, states
from scalectl.store.reader import Damaged, read_meta
from scalectl.store.sweeps import StoredSweep, cell_of, load_sweep


def run(request: Request) -> SweepView:
    """Gather a sweep: runs, curves, fits with their intervals, or why there is no fit.

    Raises: NothingMatched if there is no such sweep; UsageError for a file, which has no runs to report.
    """
    target = find_target(request.target, request.results)
    if target.file is not None:
        raise UsageError(
            f"{target.name} is a table, and a report is of a sweep",
            remedy=f"scalectl fit {target.name}, or scalectl import {target.name} --name NAME first",
        )
    sweep = load_sweep(target.store, target.name)
    sweep = sweep.whole if request.all else sweep
    curves, left = _curves(target, sweep)  # first: what its thorough reading sets aside is then in no table either
    index = refresh(target.store)
    columns: dict[str, dict[str, Any]] = {row["run_id"]: row for row in index.of(sweep.current).table.to_pylist()}
    standings = states(target.store, sweep.current, index)
    damaged = [*left, *damaged_runs(target.store, index, sweep.current)]
    axes = _axes(sweep)
    runs = tuple(
        _run_view(
            row, axes, columns.get(row["run_id"], {}), standings[row["run_id"]], curves.get(row["run_id"]), request
        )
        for row in sweep.rows
        if row["current"]
    )
    result, because = _fit(replace(request, target=target.name), target)
    fitted = fit_view(result) if result else None
    thresholds, unscored = _thresholds(replace(request, target=target.name), columns.values())
    question, shared = _about(sweep, columns)
    return SweepView(
        name=target.name,
        question=question,
        axes=axes,
        runs=runs,
        convention=request.convention,
        flops=request.flops,
        shared=shared,
        fits=tuple(held.summary for held in result.fitted) if result else (),
        chosen=result.chosen if result else None,
        because=because,
        notes=tuple(dict.fromkeys([*map(str, damaged), *(fitted.notes if fitted else ()), *unscored])),
        provenance=_provenance(target, [row.run_id for row in runs if row.state is State.DONE]),
        reference=target.reference,
        best_over=fitted.best_over if fitted else None,
        thresholds=thresholds,
    )


def _fit(request: Request, target: Target) -> tuple[Result | None, str]:
    try:
        result = fit(request, choose_rate=True)
    except (FitError, UsageError, NothingMatched) as error:
        return None, f"{error.what}; {error.remedy}" if error.remedy else error.what
    return result, result.because


def _thresholds(request: Request, rows: Iterable[Mapping[str, Any]]) -> tuple[ThresholdView | None, tuple[str, ...]]:
    """Thresholds of the scores that runs have, or why there are none; nothing where no run has a score."""
    names = {name.rpartition("/")[2] for row in rows for name, value in row.items() if value is not None}
    metric = next((name for name in measured.METRICS if name in names), None)
    if metric is None:
        return None, ()
    try:
        draws = max(request.draws, FEWEST_DRAWS)
        view = score.run(replace(request, metric=metric, draws=draws), measured.Asked())
    except (FitError, UsageError, NothingMatched) as error:
        return None, (f"{metric}: {error.what}; {error.remedy}" if error.remedy else f"{metric}: {error.what}",)
    return replace(view, opening=""), ()


def _axes(sweep: StoredSweep) -> tuple[GridAxis, ...]:
    """Keys of the stored cells, with their values in the order of the plan, numbers ascending.

    Constraints drop cells, so that the first runs need not have the first values.
    """
    keys: dict[str, dict[Any, None]] = {}
    for row in sweep.rows:
        if row["current"]:
            for key, value in cell_of(row).items():
                keys.setdefault(key, {})[value] = None
    return tuple(GridAxis(key, tuple(_ascending(list(values)))) for key, values in keys.items())


def _ascending(values: list[Any]) -> list[Any]:
    return sorted(values) if all(isinstance(value, int | float) for value in values) else values


def _curves(target: Target, sweep: StoredSweep) -> tuple[dict[str, RunCurve], list[Damaged]]:
    """Loss curves by run, and the damaged files that could not be moved aside."""
    frame, damaged = load_rows(target.store, sweep.current, metric=LOSS, split=HELD_OUT, sweep=sweep.name)
    found = {}
    for run_id, rows in frame.groupby("run_id", sort=False):
        ordered = rows.sort_values("step")
        tokens, flops, loss = (ordered[name].to_numpy(np.float64) for name in ("tokens", "flops", "value"))
        found[str(run_id)] = RunCurve(tokens, flops, loss)
    return found, [held for held in damaged if held.moved_to is None]


def _run_view(
    row: Mapping[str, Any],
    axes: tuple[GridAxis, ...],
    known: Mapping[str, Any],
    standing: Standing,
    curve: RunCurve | None,
    request: Request,
) -> RunView:
    def number(name: str) -> float | None:
        value = known.get(name)
        return None if value is None or not np.isfinite(float(value)) else float(value)

    config = json.loads(row["config"])
    planned = _planned(config, request)
    N = number(f"N_{request.convention}") or planned[0]
    D = number("D") or planned[1]
    C = number("C_6nd" if request.flops == "6nd" else "C_exact") or planned[2]
    return RunView(
        run_id=row["run_id"],
        cell={axis.key: row[axis.key] for axis in axes if axis.key in row},
        N=int(N),
        D=int(D),
        C=C,
        state=standing.state,
        loss=number(f"{HELD_OUT}/{LOSS}") if standing.state is State.DONE else None,
        loss_se=number(f"{HELD_OUT}/loss_se"),
        bits_per_byte=number(f"{HELD_OUT}/bits_per_byte"),
        seconds=number("seconds") or None,  # nobody timed it
        mfu=number("mfu"),
        message=standing.message,
        curve=curve if curve is not None and len(curve.tokens) > 1 else None,
        place="" if "model" in config else f"{N:.4g} {D:.4g} {C:.4g}",
    )


def _planned(config: Mapping[str, Any], request: Request) -> tuple[float, float, float]:
    """N, D and C of a run that has not ended, from its record; zeros for an imported one, which has none."""
    if "command" in config:
        N, D, C = (float(config[name] or 0.0) for name in ("N", "D", "C"))
        return N, D, C or 6 * N * D
    if "model" not in config:
        return 0.0, 0.0, 0.0
    model = config["model"]
    ledger = _ledger(model)
    own = "ledger" in model or "context" in model["options"]
    context = model["options"]["context"] if own else MODELS[model["name"]].options(**model["options"]).context
    D = float(config["steps"] * config["sequences"] * context)
    C = ledger.flops_6n() * D if request.flops == "6nd" else ledger.flops_per_token() * D
    return float(ledger.params(request.convention)), D, C


def _ledger(model: Mapping[str, Any]) -> Ledger:
    """Of the model of a record; somebody's own model brings it along."""
    if "ledger" in model:
        return ledger_of_record(model["ledger"])
    member = MODELS[model["name"]]
    return member.ledger(member.options(**model["options"]))


def _about(sweep: StoredSweep, columns: Mapping[str, Mapping[str, Any]]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The question of the sweep file, and what its runs share."""
    question = tomllib.loads(sweep.toml).get("question", "")
    return str(question), shared_facts(columns.values())


def _provenance(target: Target, done: list[str]) -> str:
    """Device and versions of the runs, where they agree."""
    found: dict[str, dict[str, None]] = {}
    for run_id in done:
        about = read_meta(target.store.run_file(run_id)).provenance
        for key in ("device_name", "scalectl", "torch", "python"):
            if about.get(key) is not None:
                found.setdefault(key, {})[str(about[key])] = None
    named = {"device_name": "", "scalectl": "scalectl ", "torch": "torch ", "python": "Python "}
    return ", ".join(f"{named[key]}{'/'.join(values)}" for key, values in found.items())
