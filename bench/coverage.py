"""How often nominal 95 % intervals hold the truth, by law and by what is resampled: Monte-Carlo over data sets.

    python bench/coverage.py [--data-sets 200] [--draws 200] [--case NAME ...]

Runs have noise between seeds; where a case has misfit, all runs of one size are off together besides, as a law that is
not quite right is. Three standard errors of a share of 200 about .95 are .046. Every case is kept as it ends.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from record import RESULTS, Section, record

from scalectl.core.errors import FitError
from scalectl.core.rows import Points
from scalectl.fit.approaches import approaches
from scalectl.fit.bootstrap import UNITS, Unit, bootstrap, draws_of, resamples
from scalectl.fit.estimate import fit, refit
from scalectl.fit.stats import confint
from scalectl.laws import LAWS, where

LEVEL = 0.95
TITLE = "Share of nominal 95 % intervals that hold the truth"
FIVE, EIGHT = np.geomspace(2e3, 5e5, 5), np.geomspace(2e3, 5e6, 8)
TOKENS = np.geomspace(2e6, 2e8, 5)
BUDGETS = np.geomspace(1e17, 1e20, 6)  # FLOP
TOKENS_OF_SHAPES = np.geomspace(1e9, 1e11, 3)
EPOCHS = (1.0, 4.0, 15.0, 50.0)


@dataclass(frozen=True)
class Case:
    """A law with its truth, places, and noise between seeds and misfit between sizes; relative, of a score absolute."""

    law: str
    truth: Mapping[str, float]
    there: Points
    noise: float
    misfit: float

    @property
    def units(self) -> tuple[Unit, ...]:
        """What can be resampled: a score over losses knows no sizes."""
        return tuple(unit for unit in UNITS if unit != "size" or self.there.N is not None)


def ladder(sizes: Any, seeds: int) -> Points:
    return where(N=np.repeat(sizes, seeds))


def grid(sizes: Any, tokens: Any) -> Points:
    N, D = np.meshgrid(sizes, tokens)
    return where(N=N.ravel(), D=D.ravel())


def isoflops() -> Points:
    """Nine sizes a factor 1.6 apart about N = sqrt(C / 120) at each budget."""
    C = np.repeat(BUDGETS, 9)
    N = np.sqrt(C / 120) * np.tile(1.6 ** np.arange(-4, 5), len(BUDGETS))
    return where(N=N, D=C / (6 * N))


def shapes() -> Points:
    """Six widths at four depths, each trained on three amounts of tokens."""
    width, depth, D = (
        held.ravel() for held in np.meshgrid(np.geomspace(64, 2048, 6), [4, 8, 16, 32], TOKENS_OF_SHAPES)
    )
    return where(N=12 * width**2 * depth, width=width, depth=depth, D=D)


def repeats() -> Points:
    """Five sizes on three amounts of text, each read 1, 4, 15 and 50 times."""
    N, U, epochs = (held.ravel() for held in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e8, 1e10, 3), EPOCHS))
    return where(N=N, D=U * epochs, U=U)


POWER = {"A": 4.5, "alpha": 0.08}
FLOOR = {"E": 1.0, "A": 40.0, "alpha": 0.4}
KAPLAN = {"A": 1e11, "alpha": 0.1, "B": 1e12, "beta": 0.12}
CHINCHILLA = {"E": 1.7, "A": 30.0, "alpha": 0.3, "B": 120.0, "beta": 0.32}
LOSSES = where(loss=np.linspace(1.8, 4.0, 40))
PUBLISHED = {"E": 1.8172, "A": 482.01, "alpha": 0.3478, "B": 2085.43, "beta": 0.3658}
CASES = {
    "power 5 x 3": Case("power", POWER, ladder(FIVE, 3), 0.004, 0.0),
    "power 5 x 3, misfit": Case("power", POWER, ladder(FIVE, 3), 0.004, 0.01),
    "power+constant 8 x 3": Case("power+constant", FLOOR, ladder(EIGHT, 3), 0.004, 0.0),
    "power+constant 8 x 3, misfit": Case("power+constant", FLOOR, ladder(EIGHT, 3), 0.004, 0.002),
    "kaplan 8 x 5": Case("kaplan", KAPLAN, grid(EIGHT, TOKENS), 0.004, 0.0),
    "kaplan 8 x 5, misfit": Case("kaplan", KAPLAN, grid(EIGHT, TOKENS), 0.004, 0.004),
    "chinchilla 8 x 5": Case("chinchilla", CHINCHILLA, grid(EIGHT, TOKENS), 0.004, 0.0),
    "chinchilla 8 x 5, misfit": Case("chinchilla", CHINCHILLA, grid(EIGHT, TOKENS), 0.004, 0.004),
    "kaplan+constant 8 x 5": Case("kaplan+constant", KAPLAN | {"E": 0.5}, grid(EIGHT, TOKENS), 0.004, 0.0),
    "width-depth 6 x 4 x 3": Case("width-depth", LAWS["width-depth"].example, shapes(), 0.004, 0.0),
    "repetition 5 x 3 x 4": Case("repetition", LAWS["repetition"].example, repeats(), 0.004, 0.0),
    "broken 20 x 3": Case("broken", LAWS["broken"].example, ladder(np.geomspace(1e6, 1e12, 20), 3), 0.002, 0.0),
    "saturating 20 x 3": Case(
        "saturating", LAWS["saturating"].example, ladder(np.geomspace(1e5, 1e11, 20), 3), 0.002, 0.0
    ),
    "score-sigmoid 40": Case("score-sigmoid", LAWS["score-sigmoid"].example, LOSSES, 0.01, 0.0),
    "score-exponential 40": Case("score-exponential", LAWS["score-exponential"].example, LOSSES, 0.01, 0.0),
}
ISOFLOPS = {
    "approaches 6 x 9": Case("chinchilla", PUBLISHED, isoflops(), 0.002, 0.0),
    "approaches 12 x 20": Case(  # runs of twenty lengths at each size: the curves of approach 1
        "chinchilla", PUBLISHED, grid(np.geomspace(1e7, 1e10, 12), np.geomspace(1e8, 1e12, 20)), 0.002, 0.0
    ),
}


def simulate(case: Case, rng: np.random.Generator) -> Points:
    law, there = LAWS[case.law], case.there
    off = case.noise * rng.standard_normal(len(there)) if there.N is None else _off(case, there.N, rng)
    exact = np.asarray(law.predict(case.truth, there))
    score = law.measures == "score"
    sized = case.misfit or there.D is None or "U" in there.axes()
    size = there.N if sized else None
    return replace(there, L=exact + off if score else exact * np.exp(off), size=size, measures=law.measures)


def _off(case: Case, N: Any, rng: np.random.Generator) -> Any:
    sizes, size = np.unique(N, return_inverse=True)
    return case.misfit * rng.standard_normal(len(sizes))[size] + case.noise * rng.standard_normal(len(N))


def measure(case: Case, data_sets: int, draws: int) -> dict[str, dict[str, float]]:
    """Share of data sets whose interval holds the truth, by unit and parameter.

    All data sets and all their resamples are one array operation, warm-started from the fit of the first data set.
    """
    law = LAWS[case.law]
    streams = [np.random.default_rng(k) for k in range(data_sets)]
    points = [simulate(case, rng) for rng in streams]
    L = np.stack([held.L for held in points])
    first = fit(law, points[0])
    optima, _ = refit(first, measured=L)
    fits = [
        replace(first, points=held, theta=dict(zip(law.names, map(float, theta), strict=True)))
        for held, theta in zip(points, optima, strict=True)
    ]
    found = {}
    for unit in case.units:
        drawn = [resamples(held, draws, unit, rng) for held, rng in zip(fits, streams, strict=True)]
        weights, losses = (
            None if getattr(drawn[0], name) is None else np.concatenate([getattr(one, name) for one in drawn])
            for name in ("weights", "measured")
        )
        values, settled = refit(first, weights, np.repeat(L, draws, axis=0) if losses is None else losses)
        hits = dict.fromkeys(case.truth, 0)
        for k, (held, one) in enumerate(zip(fits, drawn, strict=True)):
            part = slice(k * draws, (k + 1) * draws)
            intervals = confint(draws_of(held, one, values[part], settled[part]), LEVEL, held)
            for name, value in case.truth.items():
                hits[name] += intervals[name][0] <= value <= intervals[name][1]
        found[unit] = {name: count / data_sets for name, count in hits.items()}
    return found


def measure_approaches(case: Case, data_sets: int, draws: int) -> dict[str, dict[str, float]]:
    """The same for the exponent a of N* ~ C^a by each approach; the joint fit over each unit."""
    true = case.truth["beta"] / (case.truth["alpha"] + case.truth["beta"])
    hits: dict[str, int] = {}
    seen: dict[str, int] = {}
    for k in range(data_sets):
        rng = np.random.default_rng(k)
        fitted = fit(LAWS[case.law], simulate(case, rng))
        for unit in UNITS:
            try:
                drawn = bootstrap(fitted, draws, unit, rng)
            except FitError:
                continue
            which = (1, 2, 3) if unit == UNITS[0] else (3,)
            found, _ = approaches(fitted.points, fitted, drawn, LEVEL, rng, which=which, resamples=draws)
            for one in found:
                kinds = {f"{one.number} {one.name}" + (f", {unit}" if one.number == 3 else ""): one.a_interval}
                if one.other is not None:
                    kinds["2 interpolated minima"] = one.other[1]
                for name, (low, high) in kinds.items():
                    seen[name] = seen.get(name, 0) + 1
                    hits[name] = hits.get(name, 0) + int(low <= true <= high)
    return {name: {"a": hits[name] / count} for name, count in sorted(seen.items())}


def rows(found: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """A row a case and unit: the least share of a parameter, then each."""
    units = [(case, held["data sets"], *unit) for case, held in found.items() for unit in held["units"].items()]
    return [
        {
            "command": case,
            "setting": unit,
            "data sets": count,
            "least": f"{min(shares.values()):.3f}",
            "each": ", ".join(f"{name} {share:.3f}" for name, share in shares.items()),
        }
        for case, count, unit, shares in units
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-sets", type=int, default=200)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--case", action="append", choices=[*CASES, *ISOFLOPS])
    given = parser.parse_args()
    held = RESULTS / f"{Path(__file__).stem}.json"
    found = json.loads(held.read_text())["rows"] if held.exists() and given.case else {}
    for name in given.case or (*CASES, *ISOFLOPS):
        run = measure if name in CASES else measure_approaches
        units = run((CASES | ISOFLOPS)[name], given.data_sets, given.draws)
        found[name] = {"data sets": given.data_sets, "units": units}
        record(Path(__file__).stem, [Section("rows", TITLE, rows(found), found)])


if __name__ == "__main__":
    main()
