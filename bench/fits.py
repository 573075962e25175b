"""Fits of Chinchilla's 240 points beside how others fit them: seconds, and the objective that each reaches.

    python bench/fits.py [--peer PYTHON] [--quick] [--results DIR]

The points are `ref:epoch-chinchilla` without the five highest losses, the objective is the sum of Huber(1e-3) of the
log residual at the parameters that each ends with, whatever it minimised itself. Peers do their full work, as in
fit_peers.py: the 4,500 starts of Hoffmann et al. 2022, the 4,000 single-start bootstraps of Besiroglu et al. 2024, and
the package `chinchilla` 0.2.0 with the grid of its README, under the interpreter PYTHON where it is installed:

    python -m venv peers && peers/bin/pip install chinchilla==0.2.0
    python bench/fits.py --peer peers/bin/python

Seconds are of the processor, on one thread, so that a busy machine slows no contender more than another; ours are
measured before, between and after the peers' runs, and the median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from record import RESULTS, Section, record

from scalectl.commands.fit import Request, load
from scalectl.commands.target import find_target
from scalectl.core.errors import DataError
from scalectl.core.rows import Points
from scalectl.fit.estimate import fit, refit
from scalectl.fit.objective import Huber
from scalectl.laws import LAWS

TARGET, WHERE = "ref:epoch-chinchilla", "L < 3.446"
COMMAND = ("fit", TARGET, "--where", WHERE, "--law", "chinchilla")
RESAMPLES, SEED = 4000, 42
REPEATS = 15  # of our fit, at each of its turns
LAW, OBJECTIVE = LAWS["chinchilla"], Huber(1e-3)

# the goals
FIT_FASTER, BOOTSTRAP_FASTER, FIT_SECONDS, PROCESS_SECONDS = 1000, 150, 0.05, 1.5


def resamples(n: int, count: int) -> Any:
    """How often each point counts in the resamples that fit_peers.py draws, (count, n)."""
    drawn = np.random.RandomState(SEED)
    return np.stack([np.bincount(drawn.choice(n, n), minlength=n) for _ in range(count)]).astype(float)


def objective(points: Points, params: dict[str, float], weights: Any = None) -> float:
    predicted = LAW.predict(params, points)
    return float(OBJECTIVE.value(OBJECTIVE.residual(predicted, points.L), weights))


def ours(points: Points, weights: Any) -> dict[str, Any]:
    """Seconds of the fit, one number a repeat, and of the bootstrap, with what they end with."""
    times = []
    for _ in range(REPEATS):
        begin = time.process_time()
        fitted = fit(LAW, points, OBJECTIVE)
        times.append(time.process_time() - begin)
    begin = time.process_time()
    values, settled = refit(fitted, weights=weights)
    return {
        "fit": times,
        "bootstrap": time.process_time() - begin,
        "fitted": fitted,
        "values": values,
        "settled": settled,
    }


def peer(procedure: str, python: str, points: Path, quick: bool) -> dict[str, Any] | None:
    """What fit_peers.py says; None where it cannot run."""
    command = [python, str(Path(__file__).with_name("fit_peers.py")), procedure, str(points)]
    done = subprocess.run(
        [*command, *(["--quick"] if quick else [])],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        check=False,
    )
    if done.returncode:
        print(f"{procedure} is left out: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def process_seconds(rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of whole `scalectl fit` processes with all their intervals: by the clock, and of the processor.

    With compiled modules, as an installed package has them: the first round, which may write them, does not count.
    """
    scalectl = str(Path(sys.executable).parent / "scalectl")
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    clock, processor = [], []
    for _ in range(rounds + 1):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([scalectl, *COMMAND], check=True, capture_output=True, env=compiled)
        clock.append(time.perf_counter() - begin)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return clock[1:], processor[1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", metavar="PYTHON", help="An interpreter that has chinchilla 0.2.0.")
    parser.add_argument("--quick", action="store_true", help="A share of every procedure's work: no figures to quote.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    try:
        points = load(Request(target=TARGET, where=WHERE), find_target(TARGET, None))
    except DataError as error:
        sys.exit(f"nothing to measure: {error}")
    weights = resamples(len(points), 20 if given.quick else RESAMPLES)
    turns, found = [ours(points, weights)], {}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "points.npz")
        np.savez(table, N=points.axis("N"), D=points.axis("D"), L=points.L)
        for procedure in ("grid", "bootstrap", "chinchilla"):
            python = given.peer if procedure == "chinchilla" else sys.executable
            if python:
                found[procedure] = peer(procedure, python, table, given.quick)
                turns.append(ours(points, weights))
    seconds = median(part for turn in turns for part in turn["fit"])
    bootstrap_seconds = median(turn["bootstrap"] for turn in turns)
    fitted = turns[0]["fitted"]
    names = {
        "grid": "scipy L-BFGS-B, Hoffmann et al.'s grid",
        "chinchilla": "chinchilla 0.2.0, its README's grid",
    }
    one = [_fit_row("scalectl", fitted.starts, seconds, seconds, fitted.value, fitted.theta)]
    for procedure, name in names.items():
        if held := found.get(procedure):
            value = objective(points, held["params"])
            one.append(_fit_row(name, held["fits"], held["seconds"], seconds, value, held["params"]))
    many = [{"contender": "scalectl", "fits": len(weights), "seconds": round(bootstrap_seconds, 3), "times ours": 1}]
    compared: dict[str, Any] = {}
    if held := found.get("bootstrap"):
        compared = _compare(points, weights, turns[0]["values"], held["rows"])
        many.append(
            {
                "contender": "scipy BFGS from Hoffmann et al.'s point",
                "fits": held["fits"],
                "seconds": round(held["seconds"], 1),
                "times ours": round(held["seconds"] / bootstrap_seconds),
            }
        )
    clock, processor = process_seconds(2 if given.quick else 7)
    goals = _goals(found, seconds, bootstrap_seconds, median(processor), fitted.value, points)
    whole = {
        "command": f"scalectl {shlex.join(COMMAND)}",
        "median s": round(median(processor), 2),
        "by the clock": round(median(clock), 2),
    }
    sections = [
        Section("fit", "One fit of 240 points; the objective at the parameters found", one),
        Section("bootstrap", f"{len(weights)} resamples, numpy's legacy generator, seed {SEED}", many),
        *([Section("draws", "The objective reached on the same resamples", [compared])] if compared else []),
        Section("process", "Whole processes with 1,000 resamples of sizes and of runs", [whole]),
        Section("goals", "Goals", goals),
    ]
    how = "" if found.get("chinchilla") else "chinchilla 0.2.0 was not at hand: give --peer PYTHON. "
    quick = "A share of the work only: no figures to quote. " if given.quick else ""
    record("fits", sections, ("scipy",), given.results, notes=f"{quick}{how}Seconds of the processor, one thread.")


def _fit_row(
    name: str, fits: int, seconds: float, own: float, value: float, params: dict[str, float]
) -> dict[str, Any]:
    return {
        "contender": name,
        "starts": fits,
        "seconds": float(f"{seconds:.3g}"),
        "times ours": round(seconds / own),
        "objective": f"{value:.9f}",
        **{key: float(f"{params[key]:.6g}") for key in LAW.names},
    }


def _compare(points: Points, weights: Any, values: Any, rows: list[dict[str, float]]) -> dict[str, Any]:
    """How our resampled optima stand to theirs, each at its own parameters."""
    excess = []
    for weight, mine, theirs in zip(weights, values, rows, strict=True):
        own = objective(points, dict(zip(LAW.names, mine, strict=True)), weight)
        excess.append(objective(points, theirs, weight) / own - 1)
    return {
        "ours lower or equal (1e-9)": f"{np.mean(np.array(excess) >= -1e-9):.2%}",
        "theirs above ours, median": f"{np.median(excess):.2g}",
        "largest": f"{np.max(excess):.2g}",
        "smallest": f"{np.min(excess):.2g}",
    }


def _goals(
    found: dict[str, Any], seconds: float, bootstrap: float, whole: float, value: float, points: Points
) -> list[dict[str, Any]]:
    rows = [
        _goal("the fit itself, s", seconds, FIT_SECONDS, below=True),
        _goal("whole process, s", whole, PROCESS_SECONDS, below=True),
    ]
    if held := found.get("grid"):
        rows.append(_goal("times faster than 4,500 starts", held["seconds"] / seconds, FIT_FASTER))
    if held := found.get("bootstrap"):
        rows.append(_goal("times faster than its bootstrap", held["seconds"] / bootstrap, BOOTSTRAP_FASTER))
    for name in ("grid", "chinchilla"):
        if held := found.get(name):
            theirs = objective(points, held["params"])
            rows.append(_goal(f"objective / that of {name}", value / theirs, 1.0, below=True))
    return rows


def _goal(what: str, reached: float, goal: float, *, below: bool = False) -> dict[str, Any]:
    met = reached <= goal if below else reached >= goal
    return {"ratio of": what, "reached": float(f"{reached:.4g}"), "goal": goal, "verdict": "met" if met else "missed"}


if __name__ == "__main__":
    main()
