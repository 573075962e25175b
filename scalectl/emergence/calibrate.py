"""The detector's error rates, by simulation: false alarms on curves without a jump, power and coverage on others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalectl.core.rows import Floats
from scalectl.emergence.curve import curve_of, simulate
from scalectl.emergence.detector import BREAK, FLAGGED, NON_MONOTONE, detect
from scalectl.emergence.shapes import TEN_TO_NINETY, rise

# Source: emergence.md, "Numbers to meet"; the range of sizes and the heights are ours: half a decade between sizes, as
# in model families, a score from four choices to .85.
SIZES, DECADES, ITEMS = 8, 3.5, 500
FLOOR, TOP = 0.25, 0.85
DISPERSIONS = (1.0, 4.0)
FLOORS: tuple[Literal["chance", "auto"], ...] = ("chance", "auto")  # how the floor is known
MOST_FALSE, LEAST_POWER, LEAST_COVERED = 0.07, 0.8, 0.8
DRAWS = 100  # of the bootstrap; its p-values hold at any number, and more would only be steadier


@dataclass(frozen=True)
class Kind:
    """A kind of curve.

    score: (x, centre) to the true score, x in decades from the smallest size; centre: where it lies, drawn uniformly,
    so that no grid of sizes is lucky; floor: of the score; jumps: whether it is to be flagged; smooth: whether only
    calling it more than a smooth law is a false alarm, as it is absent in small models and present in large ones.
    """

    name: str
    score: Callable[[Floats, float], Floats]
    centre: tuple[float, float] = (0.0, 0.0)
    floor: float = FLOOR
    jumps: bool = False
    smooth: bool = False


@dataclass(frozen=True)
class Rates:
    """What became of one kind: shares of `simulations`.

    floor_from: what the detector is told of the floor; flagged: by any label of a jump; beyond: as a break beyond a
    smooth law; falls: as non-monotone, which no kind is; wrong: of those, what is a false alarm; covered: intervals of
    the midpoint that hold it, of those given, None without; met: whether the goals are.
    """

    kind: str
    dispersion: float
    floor_from: str
    simulations: int
    flagged: float
    beyond: float
    falls: float
    wrong: float | None
    power: float | None
    covered: float | None
    met: bool


def _flat(x: Floats, centre: float) -> Floats:
    return np.full(len(x), FLOOR)


def _linear(x: Floats, centre: float) -> Floats:
    return FLOOR + (TOP - FLOOR) * x / DECADES


def _wide(width: float) -> Callable[[Floats, float], Floats]:
    return lambda x, centre: FLOOR + (TOP - FLOOR) * rise("logistic", centre, width / TEN_TO_NINETY, x)


def _hinge(x: Floats, centre: float) -> Floats:
    return FLOOR + (TOP - FLOOR) * np.maximum(0.0, x - centre) / (DECADES - centre)


def _smooth(exponent: float) -> Callable[[Floats, float], Floats]:
    return lambda x, centre: FLOOR + (1 - FLOOR) * rise("smooth", centre, 1 / (exponent * np.log(10)), x)


def _six_places(x: Floats, centre: float) -> Floats:
    """Exact match of six places, each wrong with a probability that is a power law, .5 at the smallest size."""
    return (1 - 0.5 * 10 ** (-0.35 * x)) ** 6


KINDS = (
    Kind("flat", _flat),
    Kind("linear", _linear),
    Kind("logit over 2.5 decades", _wide(2.5), (1.5, 2.0)),
    Kind("smooth law, a = .3", _smooth(0.3), (0.5, 1.5)),
    Kind("smooth law, a = .8", _smooth(0.8), (1.25, 2.25), smooth=True),
    Kind("q^6 of six places", _six_places, floor=0.0, smooth=True),
    Kind("logistic over .4 decades", _wide(0.4), (1.25, 2.25), jumps=True),
    Kind("hinge", _hinge, (1.25, 2.25), jumps=True),
)


def calibrate(simulations: int = 200, seed: int = 0, workers: int = 1) -> Iterator[Rates]:
    """Rates of every kind at every dispersion, in order, as they are known; the same for any number of processes."""
    tasks = [
        (number, dispersion, floor_from, simulations, seed)
        for floor_from in FLOORS
        for dispersion in DISPERSIONS
        for number in range(len(KINDS))
    ]
    if workers == 1:
        yield from map(_rates, tasks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_rates, tasks)


def _rates(task: tuple[int, float, Literal["chance", "auto"], int, int]) -> Rates:
    return rates(*task)


def rates(
    number: int, dispersion: float, floor_from: Literal["chance", "auto"], simulations: int, seed: int = 0
) -> Rates:
    """What the detector makes of data simulated from one of KINDS."""
    kind, rng = KINDS[number], np.random.default_rng([seed, number, int(dispersion)])
    x = np.linspace(0, DECADES, SIZES)
    items = np.full(SIZES, float(ITEMS))
    flagged = beyond = falls = held = given = 0
    for _ in range(simulations):
        centre = float(rng.uniform(*kind.centre))
        truth = kind.score(x, centre)
        score = simulate(truth, items, dispersion, 1, rng)[0]
        curve = curve_of(10 ** (6 + x), score, items, chance=kind.floor if floor_from == "chance" else None)
        verdict = detect([curve], rng, draws=DRAWS)[0]
        flagged += verdict.label in FLAGGED
        beyond += verdict.label == BREAK
        falls += verdict.label == NON_MONOTONE
        where = verdict.threshold
        if kind.jumps and where is not None and np.isfinite(where.midpoint):
            middle = centre if kind.name != "hinge" else (centre + DECADES) / 2
            given += 1
            held += where.interval[0] <= 10 ** (6 + middle) <= where.interval[1]
    covered = held / given if given else None
    share, past, down = flagged / simulations, beyond / simulations, falls / simulations
    wrong = None if kind.jumps else down + (past if kind.smooth else share)
    met = share >= LEAST_POWER and (covered or 0) >= LEAST_COVERED if wrong is None else wrong <= MOST_FALSE
    power = share if kind.jumps else None
    return Rates(kind.name, dispersion, floor_from, simulations, share, past, down, wrong, power, covered, met)
