"""One curve: the scores of one task in one family along one axis, with what is behind each of them.

Dimensions: B data sets, K places along the axis, n measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from scalectl.core.errors import FitError
from scalectl.core.rows import Floats
from scalectl.core.units import count
from scalectl.emergence.shapes import isotonic

Floor = float | Literal["auto"]

# How much the belief that scores scatter no more than their items weighs, in degrees of freedom. Source: ours; by
# simulation (`scalectl fit --calibrate`) less makes few sizes miss, more calls scatter a jump.
PRIOR = 2.0
MOST_ITEMS = 1000.0  # that scores without item counts are taken to rest on, however smooth they are. Ours.
FLOOR_SIZES = 2  # smallest places whose mean is the floor of `auto` (emergence.md)


@dataclass(frozen=True)
class Curve:
    """Scores along an axis.

    place: ascending, (K,); score: mean of the runs there, (K,); items: how many independent items the mean is worth,
    over-dispersion between seeds taken off, (K,); floor: the score of no ability; floor_from: how it is known;
    seeds: scores of each run by place, where training seeds are known; counted: whether item counts were given;
    inverse: whether places are 1 / what the axis shows, as those of a loss, along which models get better as it falls;
    notes: what a reader has to know, one sentence each.
    """

    task: str
    family: str
    place: Floats
    score: Floats
    items: Floats
    floor: float
    floor_from: Literal["chance", "given", "auto"]
    seeds: tuple[Floats, ...] = ()
    counted: bool = True
    inverse: bool = False
    notes: tuple[str, ...] = ()

    @property
    def x(self) -> Floats:
        """log10 of the place."""
        return np.log10(self.place)

    def shown(self, place: float) -> str:
        """A place in words, in units of the axis."""
        return f"{1 / place:.3g}" if self.inverse else count(place)

    @property
    def noun(self) -> str:
        """What the places are."""
        return "losses" if self.inverse else "sizes"

    @property
    def extent(self) -> str:
        """How many places there are, in words."""
        one = "loss" if self.inverse else "size"
        return f"1 {one}" if len(self.place) == 1 else f"{len(self.place)} {self.noun}"

    @property
    def fewest_seeds(self) -> int | None:
        """Runs at the place with the fewest, None where seeds are not known."""
        return min(map(len, self.seeds)) if self.seeds else None


def curve_of(
    place: Floats,
    score: Floats,
    items: Floats | None,
    *,
    chance: Floats | float | None = None,
    floor: Floor | None = None,
    seed: npt.NDArray[np.generic] | None = None,
    inverse: bool = False,
    task: str = "",
    family: str = "",
) -> Curve:
    """A curve from n measurements.

    Args: place: along the axis, above 0; score: in [0, 1]; items: behind each, NaN where unknown; chance: NaN where
    unknown; floor: a number, or "auto" for the mean of the two smallest places, None for chance where it is known and
    else "auto"; seed: of training: measurements of one seed at one place are one run, its items those of all; inverse:
    as of a Curve.
    Raises: FitError for scores outside [0, 1], chance outside [0, 1), item counts below 1, or no score.
    """
    known = np.isfinite(place) & np.isfinite(score) & (place > 0)
    notes = []
    if missing := int(np.count_nonzero(~known)):
        notes.append(f"{missing} of {len(known)} rows without a score, or a place above 0, are left out")
    if not known.any():
        raise FitError("no row has a score and a place above 0", remedy="check --metric, --map and --where")
    place, score = place[known], score[known]
    if (wrong := (score < 0) | (score > 1)).any():
        raise FitError(
            f"scores outside [0, 1]: {score[wrong][0]:g}",
            remedy="give shares of right answers; divide percentages by 100",
        )
    by_chance = None if chance is None else np.broadcast_to(chance, known.shape)[known]
    if by_chance is not None and (wrong := (by_chance < 0) | (by_chance >= 1)).any():
        raise FitError(
            f"chance outside [0, 1): {by_chance[wrong][0]:g}", remedy="--chance names a column of shares, or one number"
        )
    items = None if items is None else items[known]
    if items is not None and not np.isfinite(items).any():
        items = None
    if items is not None:
        if (items[np.isfinite(items)] < 1).any():
            raise FitError(
                "item counts below 1", remedy="--items names the column of how many items a score is a share of"
            )
        if (blank := ~np.isfinite(items)).any():
            items = np.where(blank, items[~blank].min(), items)
            notes.append(f"{int(blank.sum())} of {len(blank)} rows without an item count: taken as the smallest one")
    if seed is not None:
        runs_of, joined = by_run(place, seed[known])
        if len(joined) < len(place):
            notes.append(f"{len(place)} rows are {len(joined)} runs: those of one seed at one place count as one run")
            score = mean_by(runs_of, score, items)
            items = None if items is None else np.bincount(runs_of, items).astype(np.float64)
            place = place[joined]
    sizes, index = np.unique(place, return_inverse=True)
    runs = np.bincount(index)
    means = np.bincount(index, score) / runs
    if seed is None and (runs > 1).any():
        notes.append("several rows at one place and no seeds: taken as runs of their own")
    seeds = tuple(score[index == k] for k in range(len(sizes))) if seed is not None or (runs > 1).any() else ()
    if (runs > 1).any():
        behind = _repeated(score, items, index, means)
    else:
        behind = _scattered(means) if items is None else np.asarray(items[np.argsort(place)])
    if items is None:
        scatter = "between seeds" if (runs > 1).any() else "about a curve that never falls"
        notes.append(f"no column of item counts (--items COL names one): errors from the scatter {scatter}")
    at_floor = _floor(floor, by_chance, means)
    return Curve(task, family, sizes, means, behind, *at_floor, seeds, items is not None, inverse, tuple(notes))


def by_run(place: Floats, seed: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Measurements of one seed at one place are one run: index of the run of each (n,), and of its first (runs,).

    A measurement without a seed is a run of its own.
    """
    found: dict[tuple[object, ...], int] = {}
    run = np.empty(len(place), dtype=np.int64)
    for row, (at, held) in enumerate(zip(place.tolist(), seed.tolist(), strict=True)):
        blank = held is None or held != held or held == ""
        run[row] = found.setdefault((at, None, row) if blank else (at, held), len(found))
    return run, np.unique(run, return_index=True)[1]


def mean_by(index: npt.NDArray[np.int64], values: Floats, items: Floats | None = None) -> Floats:
    """Mean of the values of each group, weighted by items where they are known, (groups,)."""
    weight = np.ones(len(values)) if items is None else items
    return np.asarray(np.bincount(index, weight * values) / np.bincount(index, weight))


def _floor(
    floor: Floor | None, chance: Floats | None, means: Floats
) -> tuple[float, Literal["chance", "given", "auto"]]:
    if floor is not None and floor != "auto":
        return float(floor), "given"
    if floor is None and chance is not None and np.isfinite(chance).any():
        return float(np.nanmean(chance)), "chance"
    return float(means[:FLOOR_SIZES].mean()), "auto"


def _scattered(means: Floats) -> Floats:
    """How many items each score is worth where nobody says: as many as scatter so about the isotonic fit, (K,)."""
    fitted = isotonic(means[None], np.ones(len(means)))[0]
    spare = max(1, len(means) - len(np.unique(fitted)))
    square = float(((means - fitted) ** 2).sum())
    middle = float(np.clip(fitted.mean(), 0.02, 0.98))
    worth = middle * (1 - middle) * spare / square if square > 0 else MOST_ITEMS
    return np.full(len(means), min(worth, MOST_ITEMS))


def _repeated(score: Floats, items: Floats | None, index: npt.NDArray[np.int64], means: Floats) -> Floats:
    """How many items each mean of several runs is worth, (K,): those behind it, over φ between its seeds.

    φ is the variance of a run over that of its items, of each place drawn towards that of all places. Without item
    counts a run is one item, and φ may be below 1.
    """
    runs = np.bincount(index)
    total = np.asarray(np.bincount(index, items), dtype=np.float64)
    spread = np.maximum(means * (1 - means), 1e-6 if items is None else 0.25 * (runs / total) ** 2)
    ratio = np.asarray(np.bincount(index, (score - means[index]) ** 2) * (total / runs) / spread)
    spare = runs - 1
    prior, least, most = (0.0, 1e-12, np.full(len(runs), MOST_ITEMS)) if items is None else (PRIOR, 1.0, total)
    pooled = (prior + float(ratio.sum())) / (prior + int(spare.sum()))
    phi = np.maximum((PRIOR * pooled + ratio) / (PRIOR + spare), least)
    return np.asarray(np.clip(total / phi, np.minimum(runs, total), most))


def dispersion(score: Floats, items: Floats) -> Floats:
    """Over-dispersion φ of each data set about the isotonic fit, (B,)."""
    return over_dispersion(score, items, isotonic(score, items))


def over_dispersion(score: Floats, items: Floats, fitted: Floats) -> Floats:
    """Over-dispersion φ of each data set, (B,): Pearson's about a fit in blocks, drawn towards 1 and never below it.

    A fit of so many blocks takes so many degrees of freedom (Meyer and Woodroofe 2000, Annals of Statistics 28).
    Args: score and fitted: (B, K); items: (K,).
    """
    blocks = 1 + np.count_nonzero(np.abs(np.diff(fitted, axis=1)) > 1e-12, axis=1)
    spread = np.clip(fitted, 0.5 / items, 1 - 0.5 / items)
    pearson = (items * (score - fitted) ** 2 / (spread * (1 - spread))).sum(1)
    return np.asarray(np.maximum(1.0, (PRIOR + pearson) / (PRIOR + score.shape[1] - blocks)))


def simulate(p: Floats, items: Floats, phi: float, draws: int, rng: np.random.Generator) -> Floats:
    """Scores of over-dispersed binomials, (draws, K): beta-binomial with variance φ p (1 - p) / n.

    Items may be fractions, as φ makes them; a score is then drawn for whole ones and scattered for the rest.
    """
    whole = np.maximum(1, np.round(items)).astype(np.int64)
    scatter = np.clip((phi * whole / items - 1) / np.maximum(whole - 1, 1), 1e-9, 0.95)
    both = (1 - scatter) / scatter
    p = np.clip(p, 1e-9, 1 - 1e-9)
    with np.errstate(under="ignore"):
        drawn = rng.beta(np.maximum(p * both, 1e-9), np.maximum((1 - p) * both, 1e-9), size=(draws, len(p)))
    return np.asarray(rng.binomial(whole, np.clip(np.nan_to_num(drawn, nan=0.0), 0, 1)) / whole)
