"""How much of an axis, compute say, one recipe saves over another: the ratio of what both need for the same loss.

Two arms that share batches (same seed, same data) also share the luck of them, and two arms of the same sizes share how
far the law is off at each: resampling both together keeps what is common to them out of the interval.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from scalectl.core.errors import FitError, UsageError
from scalectl.core.rows import Floats, Points
from scalectl.fit.best import Best
from scalectl.fit.bootstrap import MIN_SIZES, Draws, Unit, fitting_resamples, resample
from scalectl.fit.estimate import Fit, fit, refit
from scalectl.fit.objective import Objective
from scalectl.fit.predict import beyond, cost
from scalectl.fit.stats import interval, seed_noise, student_quantile
from scalectl.fit.summary import Interval
from scalectl.laws import Law
from scalectl.laws.gain import ARM, with_gain
from scalectl.store.points import places, settings

Ints = npt.NDArray[np.int64]


class Way(Protocol):
    """How to resample both arms."""

    def __call__(self, n: int, *, whole: bool) -> tuple[Floats, Floats]:
        """How often the runs of each arm count, (n, points); whole: whether sizes are drawn too."""


POWER = 0.8  # share of repeats in which a true saving should show; Cohen 1988, as everywhere
NOISE_DRAWS = 400  # of the spread that seeds alone make: known to 4 %. Ours.
# Variance of an interval over sizes against that of its estimate, where noise is all there is: it comes in between the
# sizes and once more within them.
TWICE = 2.0
LOSSES = (0.1, 0.5, 0.9)  # of the overlap, where savings are stated unless asked elsewhere. Ours.
BATCHES = ("data.fingerprint", "train.batch_tokens", "model.context")  # with the seed they fix every batch


@dataclass(frozen=True)
class Arm:
    """One of two recipes. best: how its points were chosen, None where they are all there is."""

    name: str
    points: Points
    best: Best | None = None


@dataclass(frozen=True)
class Pairing:
    """Which runs of two arms belong together.

    by: what matches the sizes; size: of each pair, (pairs,); first, second: pair of each point of the arms. Pairs whose
    other half is missing stay.
    """

    by: str
    size: Ints
    first: Ints
    second: Ints


@dataclass(frozen=True)
class Saving:
    """What the second arm saves at one loss: needs[0] / needs[1].

    loss: [nats/token], None for all of them, where both arms have one shape; paired, unpaired: intervals, None where
    they could not be computed; needs: of the axis, by each arm; beyond: how many times outside the runs of that arm.
    """

    loss: float | None
    value: float
    paired: Interval | None
    unpaired: Interval | None
    needs: tuple[float, float] | None = None
    beyond: tuple[float, float] | None = None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    overlap: losses that both fitted curves reach inside their runs, low to high; shared: the saving if both arms have
    one shape (floor and exponent), None where that law could not be fitted; paired_by: what matches the sizes, empty
    where the arms are not paired, and then `unpaired_because` says why; noise: relative standard deviation between
    seeds of each arm, and of the difference of pairs; slope: by how much ln loss falls per ln of the axis in the middle
    of the overlap; seeds: runs per size now; needed: seeds a size for a claim, paired and unpaired, None if unknown;
    level: of the intervals; unit: what was resampled.
    """

    law: Law
    fits: tuple[Fit, Fit]
    overlap: Interval
    savings: tuple[Saving, ...]
    shared: Saving | None
    paired_by: str
    unpaired_because: str
    noise: tuple[float | None, float | None, float | None]
    slope: float
    sizes: tuple[int, int]
    seeds: int
    claim: float
    needed: tuple[int | None, int | None]
    draws: int
    unit: Unit
    level: float


def compare(
    first: Arm,
    second: Arm,
    law: Law,
    objective: Objective,
    *,
    apart: Collection[str] = (),
    fix: Mapping[str, float] | None = None,
    losses: Sequence[float] = (),
    claim: float = 0.02,
    draws: int = 1000,
    unit: Unit = "size",
    level: float = 0.95,
    rng: np.random.Generator,
) -> Comparison:
    """Fits a law of one axis to both arms and compares what they need for the same loss.

    Args: apart: settings that differ between the arms; fix: parameters held in both; losses: where to state the saving,
    three inside the overlap if empty; claim: share of the axis to be saved, for the seeds that showing it takes; draws:
    resamples, at least one; unit: "size" or "run".
    Raises: FitError for curves that do not overlap in loss, or arms that cannot determine the law.
    """
    if unit == "residual":
        raise UsageError("residuals of two arms cannot be paired", remedy="use --unit size or --unit run")
    (axis,) = law.axes
    arms = (first, second)
    fits = (fit(law, first.points, objective, fix), fit(law, second.points, objective, fix))
    low, high = _overlap(arms, fits, axis)
    at = sorted(losses, reverse=True) or [_short(high - share * (high - low), high - low) for share in LOSSES]
    groups = (places(first.points), places(second.points))
    sizes = (int(groups[0].max()) + 1, int(groups[1].max()) + 1)
    if min(sizes) < MIN_SIZES:
        unit = "run"
    units = min(sizes) if unit == "size" else min(len(first.points), len(second.points))
    spare = units - max(1, law.needs - len(fix or {}))
    matched = pairing(first, second, groups, apart)
    shape = _one_shape(arms, law, objective, fix)
    intervals: dict[str, list[Interval]] = {}
    spreads: dict[str, float | None] = {}
    middle = (low + high) / 2
    for way, draw in _ways(groups, matched, unit, rng).items():
        (one, other), _ = fitting_resamples(fits, partial(draw, whole=True), draws)
        weights = one, other
        like = Draws(("saving",), np.empty((draws, 0)), unit, units, spare, 0, 1.0)
        intervals[way] = _intervals(arms, fits, shape, weights, at, like, level)
        spreads[way] = _spread(arms, fits, draw(NOISE_DRAWS, whole=False), middle)

    def both(k: int) -> dict[str, Interval | None]:
        return {way: intervals[way][k] if way in intervals else None for way in ("paired", "unpaired")}

    savings = []
    for k, loss in enumerate(at):
        needs = _needs(fits, axis, loss)
        out = (beyond(fits[0], axis, needs[0]), beyond(fits[1], axis, needs[1]))
        savings.append(Saving(loss, _ratio(*needs), **both(k), needs=needs, beyond=out))
    slope = sum(_slope(held, axis, needs) for held, needs in zip(fits, _needs(fits, axis, middle), strict=True)) / 2
    noise = (seed_noise(fits[0]), seed_noise(fits[1]), _noise_of_pairs(arms, matched))
    seeds = int(min(np.bincount(held).max() for held in groups))
    quantile = student_quantile((1 + level) / 2, spare)

    def needed(spread: float | None) -> int | None:
        """Seeds with which the interval of a saving of the claimed size lies clear of 1 in `POWER` of all repeats."""
        if spread is None or not math.isfinite(quantile * spread):
            return None
        errors = math.sqrt(TWICE) * quantile + NormalDist().inv_cdf(POWER)
        return max(2, math.ceil(seeds * (errors * spread / math.log1p(claim)) ** 2))

    return Comparison(
        law=law,
        fits=fits,
        overlap=(low, high),
        savings=tuple(savings),
        shared=None if shape is None else Saving(None, shape.theta["gain"], **both(len(at))),
        paired_by=matched.by if isinstance(matched, Pairing) else "",
        unpaired_because=matched if isinstance(matched, str) else "",
        noise=noise,
        slope=slope,
        sizes=sizes,
        seeds=seeds,
        claim=claim,
        needed=(needed(spreads.get("paired")), needed(spreads["unpaired"])),
        draws=draws,
        unit=unit,
        level=level,
    )


def _ways(groups: tuple[Ints, Ints], matched: Pairing | str, unit: Unit, rng: np.random.Generator) -> dict[str, Way]:
    """How to resample both arms, by pairs where there are any, and each by itself."""
    streams = rng.spawn(3)

    def drawn(size: Ints, n: int, whole: bool, stream: np.random.Generator) -> Floats:
        return resample(np.arange(len(size)) if whole and unit == "run" else size, n, stream, whole=whole)

    def apart(n: int, *, whole: bool) -> tuple[Floats, Floats]:
        return drawn(groups[0], n, whole, streams[0]), drawn(groups[1], n, whole, streams[1])

    ways: dict[str, Way] = {"unpaired": apart}
    if isinstance(matched, Pairing):
        pairs = matched

        def together(n: int, *, whole: bool) -> tuple[Floats, Floats]:
            weights = drawn(pairs.size, n, whole, streams[2])
            return weights[:, pairs.first], weights[:, pairs.second]

        ways["paired"] = together
    return ways


def pairing(first: Arm, second: Arm, groups: tuple[Ints, Ints], apart: Collection[str] = ()) -> Pairing | str:
    """Pairs of runs of one size and one seed, or why there are none.

    Sizes match where a setting of the model, or N, D or C, has one value a size, another one in each, and the same ones
    in both arms.
    """
    arms = (first.points, second.points)
    for name in BATCHES:
        held = [set(points.columns[name].tolist()) for points in arms if name in points.columns]
        if len(held) == 2 and (held[0] != held[1] or len(held[0]) != 1):
            return f"{name} differs, so that runs of one seed do not share their batches"
    if any(points.seed is None for points in arms):
        return "the runs have no seeds"
    names = [name for name in settings(first.points) if name in second.points.columns and name not in apart]
    names = [name for name in names if name.startswith("model.")]
    for name in [*names, "N", "D", "C"]:
        labels = [_labels(points, name, group) for points, group in zip(arms, groups, strict=True)]
        if labels[0] is None or labels[1] is None or set(labels[0]) != set(labels[1]):
            continue
        keys = [
            [(label, seed) for label, seed in zip(held, points.seed.tolist(), strict=True)]  # type: ignore[union-attr, arg-type]
            for held, points in zip(labels, arms, strict=True)
        ]
        common = set(keys[0]) & set(keys[1])
        if {label for label, _ in common} != set(labels[0]):
            return "not every size has a seed that both have"
        pairs = list(dict.fromkeys([*keys[0], *keys[1]]))
        sizes = list(dict.fromkeys(label for label, _ in pairs))
        return Pairing(
            by=name,
            size=np.array([sizes.index(label) for label, _ in pairs]),
            first=np.array([pairs.index(key) for key in keys[0]]),
            second=np.array([pairs.index(key) for key in keys[1]]),
        )
    return "the sizes do not match one another"


def _labels(points: Points, name: str, group: Ints) -> list[Any] | None:
    """The value of each point if it tells the sizes apart and nothing else, None otherwise."""
    if name in ("N", "D", "C"):
        if name not in points.axes():
            return None
        values = [float(f"{value:.2g}") for value in points.axis(name)]
    else:
        values = points.columns[name].tolist()
    distinct = set(zip(group.tolist(), values, strict=True))
    return values if len(distinct) == len(set(values)) == int(group.max()) + 1 else None


def _overlap(arms: tuple[Arm, Arm], fits: tuple[Fit, Fit], axis: str) -> Interval:
    """Losses that both curves pass inside their runs."""
    spans = []
    for held in fits:
        places_of = held.points.axis(axis)
        ends = held.predict(**{axis: np.array([places_of.min(), places_of.max()])})
        spans.append((float(ends.min()), float(ends.max())))
    low, high = max(span[0] for span in spans), min(span[1] for span in spans)
    if low < high:
        return low, high
    said = " and ".join(f"{arm.name} from {b:.4g} to {a:.4g}" for arm, (a, b) in zip(arms, spans, strict=True))
    worse, better = (0, 1) if spans[0][0] > spans[1][0] else (1, 0)
    raise FitError(
        f"the curves do not overlap in loss: {said}, so that nobody knows what both need for one loss",
        remedy=f"add larger runs of {arms[worse].name}, or smaller ones of {arms[better].name}",
    )


def _short(loss: float, span: float) -> float:
    """A loss with as many digits as the overlap has."""
    return round(loss, max(0, 2 - math.floor(math.log10(span))))


def _needs(fits: tuple[Fit, Fit], axis: str, loss: float) -> tuple[float, float]:
    first, second = (
        float(cost(held.law, {k: np.array([[v]]) for k, v in held.theta.items()}, axis, loss, held.points)[0, 0])
        for held in fits
    )
    return first, second


def _ratio(first: float, second: float) -> float:
    return math.nan if math.isinf(first) and math.isinf(second) else first / second


def _slope(held: Fit, axis: str, where: float) -> float:
    """-d ln L / d ln X."""
    step = 1e-4
    ends = held.predict(**{axis: where * np.exp(np.array([-step, step]))})
    return float(np.log(ends[0] / ends[1]) / (2 * step))


def _one_shape(arms: tuple[Arm, Arm], law: Law, objective: Objective, fix: Mapping[str, float] | None) -> Fit | None:
    (axis,) = law.axes
    parts = [arm.points for arm in arms]
    change: dict[str, Any] = {axis: np.concatenate([part.axis(axis) for part in parts])}
    arm = np.repeat([0.0, 1.0], [len(part) for part in parts])
    joined = Points(L=np.concatenate([part.L for part in parts]), columns={ARM: arm})
    try:
        return fit(with_gain(law), replace(joined, **change), objective, fix)
    except FitError:
        return None


def _drawn_savings(
    arms: tuple[Arm, Arm], fits: tuple[Fit, Fit], weights: tuple[Floats, Floats], at: Sequence[float]
) -> list[Floats]:
    """The saving in each draw, (draws,), at each loss."""
    (axis,) = fits[0].law.axes
    drawn = []
    for arm, held, weight in zip(arms, fits, weights, strict=True):
        values, _ = refit(held, weights=weight, measured=None if arm.best is None else arm.best.again(weight))
        drawn.append({name: values[:, k : k + 1] for k, name in enumerate(held.law.names)})
    found = []
    for loss in at:
        first, second = (
            cost(held.law, theta, axis, loss, held.points)[:, 0] for held, theta in zip(fits, drawn, strict=True)
        )
        found.append(_savings(first, second))
    return found


def _intervals(
    arms: tuple[Arm, Arm],
    fits: tuple[Fit, Fit],
    shape: Fit | None,
    weights: tuple[Floats, Floats],
    at: Sequence[float],
    like: Draws,
    level: float,
) -> list[Interval]:
    """Of the saving at each loss, and last of the gain of one shape. like: what was resampled, for its freedom."""
    found = [interval(values, like, level, low=0.0) for values in _drawn_savings(arms, fits, weights, at)]
    if shape is not None:
        losses = [
            np.repeat(arm.points.L[None], len(weight), axis=0) if arm.best is None else arm.best.again(weight)
            for arm, weight in zip(arms, weights, strict=True)
        ]
        values, _ = refit(shape, weights=np.concatenate(weights, axis=1), measured=np.concatenate(losses, axis=1))
        found.append(interval(values[:, shape.law.names.index("gain")], like, level, low=0.0))
    return found


def _spread(arms: tuple[Arm, Arm], fits: tuple[Fit, Fit], weights: tuple[Floats, Floats], loss: float) -> float | None:
    """Standard deviation of ln saving that seeds alone make, from resamples within sizes; None with one seed.

    Half the distance between the percentiles of a normal's standard deviations, so that no single draw decides; times
    √(S / (S - 1)), since S seeds resampled vary less than seeds do.
    """
    seeds = min(len(arm.points) / (int(places(arm.points).max()) + 1) for arm in arms)
    if seeds <= 1:
        return None
    (values,) = _drawn_savings(arms, fits, weights, [loss])
    low, high = np.quantile(np.log(values), [NormalDist().cdf(-1), NormalDist().cdf(1)])
    return float((high - low) / 2 * math.sqrt(seeds / (seeds - 1)))


def _savings(first: Floats, second: Floats) -> Floats:
    """Ratios of what is needed; draws in which neither arm gets there say nothing, and stand at either end in turn."""
    with np.errstate(invalid="ignore"):
        ratio = np.asarray(first / second)
    neither = np.flatnonzero(np.isnan(ratio))
    ratio[neither] = np.where(np.arange(len(neither)) % 2, np.inf, 1e-300)
    return np.maximum(ratio, 1e-300)


def _noise_of_pairs(arms: tuple[Arm, Arm], matched: Pairing | str) -> float | None:
    """Relative standard deviation between seeds of the difference of two arms; None without repeated pairs."""
    if isinstance(matched, str):
        return None
    difference = np.full(len(matched.size), np.nan)
    difference[matched.first] = np.log(arms[0].points.L)
    other = np.full(len(matched.size), np.nan)
    other[matched.second] = np.log(arms[1].points.L)
    whole = np.isfinite(difference - other)
    size, gap = matched.size[whole], (difference - other)[whole]
    count = np.bincount(size)
    freedom = len(size) - int((count > 0).sum())
    if freedom < 1:
        return None
    centred = gap - (np.bincount(size, gap) / np.maximum(count, 1))[size]
    return math.sqrt(float((centred**2).sum()) / freedom)
