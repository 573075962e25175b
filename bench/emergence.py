"""The detector of jumps: its error rates by simulation, its speed, and what it says of BIG-bench and of our own sweeps.

    python bench/emergence.py [--simulations 200] [--results DIR]

False alarms, power and coverage are those of `scalectl fit --calibrate`; for a smooth law that is absent in small
models and present in large ones, only a break beyond a smooth law is a false alarm. The speed is that of 24 tasks of 12
sizes on one core, 200 draws each; BIG-bench's table is read from SCALECTL_REFERENCES, and left out where it is not. The
parities and products are the shipped results of `emergence-parity` and `emergence-multiplication`.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, Section, record
from scipy.stats import spearmanr

from scalectl.commands.fit import Request
from scalectl.commands.fit import run as fit
from scalectl.commands.measured import Asked
from scalectl.commands.score import run
from scalectl.commands.shipped import reference_folder
from scalectl.core.errors import DataError
from scalectl.emergence.calibrate import ITEMS, calibrate
from scalectl.emergence.curve import curve_of, simulate
from scalectl.emergence.detector import detect
from scalectl.emergence.shapes import rise

TASKS, SIZES, DRAWS = 24, 12, 200
GOAL = 60.0  # seconds


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def calibration(simulations: int) -> Section:
    rows = []
    for held in calibrate(simulations, workers=len(os.sched_getaffinity(0))):
        rows.append(
            {
                "model": held.kind,
                "φ": f"{held.dispersion:g}",
                "floor": held.floor_from,
                "flagged": percent(held.flagged),
                "beyond a smooth law": percent(held.beyond),
                "falls": percent(held.falls),
                "false alarms": percent(held.wrong),
                "power": percent(held.power),
                "covered": percent(held.covered),
                "goal": "met" if held.met else "missed",
            }
        )
        print(rows[-1], flush=True)
    return Section("calibration", f"{simulations} simulated curves each: 8 sizes of {ITEMS} items", rows)


def speed() -> Section:
    """Every second task jumps, so that half of them take all draws."""
    rng = np.random.default_rng(0)
    x = np.linspace(6, 11, SIZES)
    items = np.full(SIZES, 500.0)
    truths = [0.25 + 0.6 * rise("logistic", 8.5, 0.1, x), np.linspace(0.25, 0.7, SIZES)]
    curves = [
        curve_of(10**x, simulate(truths[k % 2], items, 2.0, 1, rng)[0], items, chance=0.25, task=str(k))
        for k in range(TASKS)
    ]
    begin = time.process_time()
    detect(curves, rng, draws=DRAWS)
    spent = time.process_time() - begin
    row = {"setting": f"{TASKS} tasks, {SIZES} sizes, {DRAWS} draws", "seconds": f"{spent:.1f}", "goal": f"{GOAL:g}"}
    return Section("speed", "Processor time on one thread", [row], {"seconds": spent, "met": spent < GOAL})


def big_bench() -> Section | None:
    try:
        view = run(Request(target="ref:bigbench-lite", where='family == "BIG-G T=0"'), Asked())
    except DataError as error:
        print(f"BIG-bench is left out: {error.what}")
        return None
    rows = [
        {
            "model": task.task,
            "setting": task.label,
            "gain": f"{task.gain:.2f}",
            "q": "" if task.q_value is None else f"{task.q_value:.3f}",
            "not above": "" if task.bracket is None else f"{task.bracket[0]:.3g}",
            "above": "" if task.bracket is None else f"{task.bracket[1]:.3g}",
        }
        for task in sorted(view.tasks, key=lambda held: not held.flagged)
    ]
    return Section("big_bench", "BIG-bench Lite, family BIG-G T=0", rows)


def shipped(sweep: str, **more: Any) -> Request:
    return Request(target=sweep, results=str(reference_folder()), **more)


def parities() -> list[Section]:
    """Each jump beside the step of the width in which its loss falls most, and the exponent of the mean loss."""
    rows = []
    ranks, places = [], []
    for task in run(shipped("emergence-parity", metric="exact_match"), Asked()).tasks:
        if not task.flagged or task.bracket is None or task.twin is None:
            continue
        bits = task.twin.loss / np.log(2)
        fall = int((bits[:-1] - bits[1:]).argmax())
        ranks.append(int(task.task.removeprefix("subtask")))
        midpoint = task.midpoint if task.midpoint is not None and np.isfinite(task.midpoint) else None
        places.append(midpoint or task.bracket[1])
        rows.append(
            {
                "model": task.task,
                "setting": task.label,
                "not above": f"{task.bracket[0]:.4g}",
                "above": f"{task.bracket[1]:.4g}",
                "midpoint": "" if midpoint is None else f"{midpoint:.4g}",
                "bits before, after": f"{bits[fall]:.2f}, {bits[fall + 1]:.2f}",
                "by the metric": task.artefact,
            }
        )
    title = f"Parities that jump, mean of 3 seeds; rank against threshold: {spearmanr(ranks, places).statistic:.2f}"
    exponents = []
    for seed in range(3):
        answer = fit(shipped("emergence-parity", where=f"train.seed == {seed}", laws=("power",))).answer
        alpha = answer.summary.params["alpha"]
        low, high = answer.summary.intervals["alpha"]
        exponents.append({"setting": f"seed {seed}", "α of N": f"{alpha:.3f}", "95 %": f"{low:.3f} ... {high:.3f}"})
    return [
        Section("parities", title, rows),
        Section("parities_mean", "Mean loss of all parities over N, L = A / N^α; goal .32 ... .48", exponents),
    ]


def products() -> Section:
    """Exact match beside the product of its per-position accuracies, by size."""
    (task,) = run(shipped("emergence-multiplication", metric="exact_match"), Asked()).tasks
    assert task.twin is not None
    assert task.twin.product is not None
    rows = [
        {
            "N": f"{place.at:g}",
            "seeds": place.seeds,
            "exact match": f"{place.score:.3f}",
            "product of positions": f"{product:.3f}",
            "difference": f"{place.score - product:+.3f}",
        }
        for place, product in zip(task.places, task.twin.product, strict=True)
    ]
    return Section("products", f"Products of two digits: {task.label}, {task.artefact}", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    sections = [speed(), big_bench(), *parities(), products(), calibration(asked.simulations)]
    record("emergence", [held for held in sections if held is not None], folder=asked.results)


if __name__ == "__main__":
    main()
