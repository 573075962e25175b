"""Whether the optimum that a fit finds is ever worse than the best of 500 local fits from random starts.

    python bench/optimum.py [--problems 200] [--starts 500] [--law LAW ...] [--go-on]

Random truths, designs and noise for every law; the local fits are the same Newton search on the same objective, so that
what is compared is where it starts. A loss is an objective more than a billionth above the best one, and by more than
residuals of a millionth make: noise-free points in a long valley end in different places below that. Seconds are of the
processor. The whole race takes hours; laws take turns, and what is done is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from record import RESULTS, Section, record

from scalectl.core.errors import FitError
from scalectl.core.rows import Points
from scalectl.fit.estimate import TURNS, finish, fit, search
from scalectl.fit.objective import LOG_MSE, MSE, Asymmetric, Huber, Objective
from scalectl.fit.problem import Problem, pose
from scalectl.laws import LAWS, Law, law_on, where

OBJECTIVES = (Huber(), Huber(), Huber(), Huber(0.03), MSE, LOG_MSE, Asymmetric())
NOISE = (0.0, 0.001, 0.004, 0.01, 0.03)
DIGITS = 1e-6  # residual of a loss (or score) beneath which nothing is told apart: float32 holds seven digits
SAME = 1e-9  # relative difference of two objectives that is none
KEPT = 100  # random starts that are followed beyond their first steps
ROUNDS = (10, 25, 50, 100)  # problems of every law before any law goes on


@dataclass(frozen=True)
class Case:
    """One random problem."""

    law: Law
    points: Points
    objective: Objective


def cases(name: str, problems: int) -> Iterator[Case]:
    """The random problems of a law, always the same ones."""
    law = law_on(name, ())
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    made = 0
    while made < problems:
        case = _case(law, rng)
        if case is not None:
            made += 1
            yield case


def _case(law: Law, rng: np.random.Generator) -> Case | None:
    there = _design(law, rng)
    # bounds that are shares of the losses need some: a truth lies about losses of 2 to 5, a score about 0 to 1
    span = (0.1, 0.9) if law.measures == "score" else (2.0, 5.0)
    problem = pose(law, replace(there, L=np.linspace(*span, len(there))), MSE)
    theta = {key: float(value[0, 0]) for key, value in problem.theta(scatter(problem, 1, rng)).items()}
    with np.errstate(all="ignore"):
        exact = np.asarray(law.predict(law.rescale(theta, problem.units), there), dtype=np.float64)
    if not np.isfinite(exact).all() or np.ptp(exact) < 0.05 or exact.min() <= 0 or exact.max() > 1e3:
        return None
    sigma = NOISE[rng.integers(len(NOISE))]
    off = sigma * rng.standard_normal(len(there))
    if rng.random() < 0.2:
        off[rng.integers(len(off), size=2)] += 30 * sigma
    losses = exact + off if law.measures == "score" else exact * np.exp(off)
    points = replace(there, L=losses, measures=law.measures)
    return Case(law, points, OBJECTIVES[rng.integers(len(OBJECTIVES))])


def _design(law: Law, rng: np.random.Generator) -> Points:
    """Places: sizes by budgets of random number and range, shapes and repeats at random, some of them missing."""
    sizes, budgets = rng.integers(4, 9, size=2)
    if len(law.axes) == 1:
        sizes, budgets = rng.integers(max(8, len(law.parameters) + 2), 31), 1
    N, D = np.meshgrid(_ladder(sizes, 1e6, rng), _ladder(budgets, 1e8, rng))
    N, D = N.ravel(), D.ravel()
    keep = rng.random(len(N)) < (0.8 if budgets > 1 else 1.1)
    if keep.sum() < 3 * len(law.parameters) and budgets > 1:
        keep[:] = True
    N, D = N[keep], D[keep]
    n = len(N)
    depth = rng.choice([2.0, 4.0, 8.0, 16.0, 32.0], size=n)
    return where(
        N=N,
        D=D,
        C=6 * N * D,
        U=D / rng.choice([0.5, 1.0, 2.0, 5.0, 15.0, 50.0], size=n),
        width=np.sqrt(N / depth) / 4,
        depth=depth,
        loss=np.sort(rng.uniform(1.5, rng.uniform(2.5, 5.0), size=n)),
    )


def _ladder(n: int, least: float, rng: np.random.Generator) -> Any:
    first = least * 10 ** rng.uniform(-2, 2)
    even = np.linspace(0, rng.uniform(1.0, 4.0), n)
    return first * 10 ** (even + 0.05 * rng.standard_normal(n))


def scatter(problem: Problem, count: int, rng: np.random.Generator) -> Any:
    """Random coordinates (count, q): nonlinear parameters over their grids, linear ones about the typical loss."""
    law, typical = problem.law, float(np.median(problem.points.L)) or 1.0
    columns = []
    for name in problem.free:
        parameter = law.parameter(name)
        if parameter.grid:
            grid = problem.grid(parameter)
            values = np.interp(rng.uniform(0, len(grid) - 1, count), np.arange(len(grid)), grid)
            columns.append(np.log(values) if parameter.scale == "log" else values)
        elif parameter.floor:
            columns.append(rng.uniform(0, problem.points.L.min(), count))
        else:
            power = law.power(_middle(problem)) if law.power is not None else {}
            size = typical * np.exp(rng.uniform(np.log(0.03), np.log(2.0), count))
            values = size ** (1 / power.get(name, 1.0))
            columns.append(np.log(values) if parameter.scale == "log" else values)
    return np.clip(np.stack(columns, axis=1), problem.low, problem.high)


def _middle(problem: Problem) -> dict[str, float]:
    return {p.name: float(np.median(problem.grid(p))) for p in problem.law.parameters if p.grid}


def best_of_random(case: Case, starts: int, rng: np.random.Generator) -> float:
    """The lowest objective that local fits from random starts reach.

    All take a few steps; the best KEPT of them then go on, and the best of those as far as a fit's own do.
    """
    objective = replace(case.objective, plain=case.law.measures == "score")
    problem = pose(case.law, case.points, objective)
    w = np.ones(len(case.points))
    with np.errstate(all="ignore"):
        ended = search(problem, scatter(problem, starts, rng), w, KEPT)
        finish(problem, ended, w, TURNS)
        values = objective.value(problem.residual(ended.z), w)
    return float(np.nanmin(np.where(np.isfinite(values), values, np.inf)))


def excess(case: Case, starts: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """How far the fit ends above the best of the local fits, relative, and the seconds of both.

    0 where it is not above; below 0 where it lies below, so far that it is more than rounding.
    """
    began = time.process_time()
    fitted = fit(case.law, case.points, case.objective)
    middle = time.process_time()
    best = best_of_random(case, starts, rng)
    ended = time.process_time()
    objective = fitted.objective
    n = len(case.points)
    noise = n * DIGITS**2 / 2 if np.isfinite(objective.width) else DIGITS**2
    lower = min(fitted.value, best)
    above = fitted.value - best
    told = abs(above) > SAME * lower + noise
    return (above / max(lower, noise) if told else 0.0), middle - began, ended - middle


@dataclass
class Race:
    """What is known of a law's problems, in their order: excess of each, and the seconds of both sides, summed."""

    excess: list[float]
    seconds: list[float]

    def row(self, name: str) -> dict[str, Any]:
        lost = [above for above in self.excess if above > 0]
        count = len(self.excess)
        return {
            "command": name,
            "problems": count,
            "worse than random": len(lost),
            "largest excess": f"{max(lost):.2g}" if lost else "",
            "better than random": sum(above < 0 for above in self.excess),
            "fit [ms]": round(1e3 * self.seconds[0] / count),
            "random [ms]": round(1e3 * self.seconds[1] / count),
        }


def go_on(race: Race, name: str, problems: int, starts: int) -> None:
    """Runs the law's problems from where the race stands up to that number of them."""
    for number, case in enumerate(cases(name, problems)):
        if number < len(race.excess):
            continue
        try:
            above, *spent = excess(case, starts, np.random.default_rng([number, starts]))
        except FitError as error:
            print(name, number, error.what, flush=True)
            above, spent = 0.0, [0.0, 0.0]
        race.excess.append(above)
        race.seconds = [mine + more for mine, more in zip(race.seconds, spent, strict=True)]
        if above > 0:
            print(f"{name} {number}: {case.objective} {above:.3g} above the best", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--starts", type=int, default=500)
    parser.add_argument("--law", action="append")
    parser.add_argument("--go-on", action="store_true", help="Keep what bench/results holds, and go on from there.")
    given = parser.parse_args()
    races = {name: Race([], [0.0, 0.0]) for name in given.law or (*LAWS, "broken:2")}
    held = RESULTS / "optimum.json"
    if given.go_on and held.exists():
        races |= {name: Race(**kept) for name, kept in json.loads(held.read_text())["rows"].items()}
    for problems in sorted({*(step for step in ROUNDS if step < given.problems), given.problems}):
        for name in given.law or (*LAWS, "broken:2"):
            go_on(races[name], name, problems, given.starts)
            done = {name: race for name, race in races.items() if race.excess}
            rows = [race.row(name) for name, race in done.items()]
            title = f"A fit against the best of {given.starts} local fits from random starts"
            record("optimum", [Section("rows", title, rows, {name: asdict(race) for name, race in done.items()})])


if __name__ == "__main__":
    main()
