"""Everything a fit says, gathered into one `Summary`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from scalectl.core.errors import FitError
from scalectl.core.rows import Floats, Points
from scalectl.core.units import counted, listed
from scalectl.fit.bootstrap import MIN_SIZES, Draws, Unit, bootstrap, counted_as, sizes
from scalectl.fit.estimate import Fit, Status, fit, without
from scalectl.fit.objective import Objective
from scalectl.fit.predict import FLOPS_PER_PARAMETER_TOKEN, band, optimum
from scalectl.fit.profile import profile
from scalectl.fit.select import holdout, rollout
from scalectl.fit.stats import (
    aicc,
    confint,
    doubling,
    misfit,
    optimal_exponents,
    optimal_intervals,
    outliers,
    seed_noise,
)
from scalectl.fit.summary import Curve, Interval, Summary
from scalectl.laws import Law, untied, varying

# A parameter counts as identified when its interval spans at most a factor of four (twice either way); a coefficient,
# which carries the unit of an axis to the power of its exponent, at most two decades. Ours.
FACTOR = 4.0
FACTOR_LOG = 100.0

# With one spare size, Student's quantile is 12.7 and the spread a single number: data sets that then look sharp are
# sharp by luck (three sizes x 3 seeds: of the power laws called identified, 88 % covered). Ours.
MIN_SPARE = 2
CURVE_POINTS = 61
CURVE_BEYOND = 3.0  # how far past the largest point a curve is drawn. Ours.
LOSS_BEYOND = 1.2  # the same for losses, which go down. Ours.
PLACED = 0.5  # of the range of the axis, that the interval of a place along it may span. Ours.


def describe(
    law: Law,
    points: Points,
    objective: Objective | None = None,
    *,
    fix: Mapping[str, float] | None = None,
    draws: int = 1000,
    unit: Unit = "size",
    also: Sequence[Unit] = ("run",),
    level: float = 0.95,
    hold: tuple[str, npt.NDArray[np.bool_]] | Literal["rollout"] | None = None,
    again: Callable[[Floats], Floats] | None = None,
    rng: np.random.Generator,
) -> tuple[Fit, Draws | None, Summary]:
    """Fits a law and gathers its intervals, checks and hold-out.

    Args: draws: resamples per unit; 0 for none, and then nothing is identified; unit: the one whose interval is
    reported first; also: others to report beside it; hold: name and mask (n,) of the points to hold out, "rollout" for
    each step up the axis in turn, the largest size or budget if None; again: as in `bootstrap`; rng: source of
    randomness, one stream per unit.
    Returns: the fit, its draws over `unit` (None without) and the summary. Where `unit` has too few members, the
    summary's unit is "run" and its advice says so.
    Raises: FitError when the points cannot determine the law.
    """
    fitted = fit(law, points, objective, fix)
    points = fitted.points
    said = [fitted.advice] if fitted.advice else []
    count = len(np.unique(sizes(law, points)))
    if unit == "size" and count < MIN_SIZES:
        few = f"{counted(count, 'size')} {'is' if count == 1 else 'are'} too few to resample"
        said.append(f"{few}: intervals are over runs and leave out the law's own error")
        unit = "run"
    by_unit: dict[Unit, Draws] = {}
    streams = rng.spawn(1 + len(also))
    for wanted, stream in zip((unit, *also), streams, strict=True):
        if draws and wanted not in by_unit and not (wanted == "size" and count < MIN_SIZES):
            if count == len(points) and unit in by_unit and {unit, wanted} == {"run", "size"}:
                by_unit[wanted] = counted_as(by_unit[unit], fitted, wanted)
                continue
            try:
                by_unit[wanted] = bootstrap(fitted, draws, wanted, stream, again)
            except FitError as error:
                said.append(error.what)
    chief = by_unit.get(unit)
    intervals_by_unit = {str(name): confint(held, level, fitted) for name, held in by_unit.items()}
    intervals = intervals_by_unit.get(unit, {})
    free = [name for name in law.names if name not in fitted.fixed]
    profiles = {name: profile(fitted, name, level) for name in free}
    known = identified(fitted, profiles, intervals if chief is not None and chief.spare >= MIN_SPARE else {})
    unsure = [name for name in free if not known[name]]
    if unsure and chief is not None:
        said.append(_not_identified(fitted, unsure, intervals, chief.spare))
    if chief is not None and chief.settled < 0.99:
        said.append(f"{100 * (1 - chief.settled):.0f} % of the resampled fits stopped short of an optimum")
    if hold == "rollout":
        held_out = rollout(fitted)
    else:
        one = holdout(fitted) if hold is None else holdout(fitted, hold[1], hold[0])
        held_out = () if one is None else (one,)
        if one is None and hold is not None:
            said.append(f"nothing is held out: without {hold[0]} the other points do not determine the law")
    exponents, exponent_intervals = optimal(fitted, chief, level)
    far = outliers(fitted)
    summary = Summary(
        law=law.name,
        formula=law.formula,
        axis=" ".join(law.axes),
        objective=fitted.objective.label,
        delta=fitted.objective.delta,
        value=fitted.value,
        gradient_norm=fitted.gradient_norm,
        starts=fitted.starts,
        starts_at_optimum=fitted.starts_at_optimum,
        status=str(fitted.status),
        advice="; ".join(said),
        n=len(points),
        sizes=count,
        convention=points.convention,
        flops=points.flops,
        params=untied(law, fitted.theta),
        intervals=untied(law, intervals),
        intervals_by_unit={name: untied(law, held) for name, held in intervals_by_unit.items()},
        level=level,
        unit=unit,
        draws=len(chief) if chief is not None else 0,
        profile=untied(law, profiles),
        identified=untied(law, known),
        aicc=aicc(fitted),
        holdout=held_out,
        doubling=_doubling(fitted, intervals) if law.names == ("A", "alpha") else None,
        optimal=exponents,
        optimal_intervals=exponent_intervals,
        seed_noise=seed_noise(fitted),
        misfit=misfit(fitted),
        outliers=far,
        without_outliers=untied(law, _without(fitted, far)),
        curve=None if chief is None else curve(fitted, chief, level),
        tied=dict(law.ties),
        units=untied(law, {p.name: p.unit for p in law.parameters if p.unit}),
        signed=tuple(p.name for p in law.parameters if p.low < 0),
    )
    return fitted, chief, summary


def identified(fitted: Fit, profiles: Mapping[str, Interval], intervals: Mapping[str, Interval]) -> dict[str, bool]:
    """Whether the data determine each free parameter.

    The fit has an optimum inside the bounds, the profile is closed on both sides, and neither interval spans more than
    a factor of four (two decades for a coefficient, whose exponent has to be identified as well). Without a resampled
    interval nothing is identified: the profile believes the law.
    Measured (tests/fit/test_coverage.py): the share of simulated data sets that call a parameter identified and miss it
    stays below 1 - level, also where few of them do.
    """
    known = {name: _determined(fitted, name, held, intervals.get(name)) for name, held in profiles.items()}
    through = {name: fitted.law.parameter(name).exponent for name in known}
    return {name: known[name] and (exponent is None or known.get(exponent, True)) for name, exponent in through.items()}


def _determined(fitted: Fit, name: str, profiled: Interval, resampled: Interval | None) -> bool:
    open_ones = (*fitted.at_bound, *fitted.loose)
    if resampled is None or name in open_ones or fitted.status is Status.STALLED:
        return False
    parameter = fitted.law.parameter(name)
    if parameter.place:
        return all(_placed(fitted, name, held) for held in (profiled, resampled))
    allowed = FACTOR_LOG if parameter.scale == "log" else FACTOR
    for low, high in (profiled, resampled):
        if not (math.isfinite(low) and math.isfinite(high)) or low <= parameter.low or high >= parameter.high:
            return False
        near, far = sorted((abs(low), abs(high)))
        if low * high <= 0 or far > allowed * near:
            return False
    return True


def _placed(fitted: Fit, name: str, held: Interval) -> bool:
    """Whether an interval of a place along the axis, or of a width along it, is short beside the range of the axis."""
    parameter = fitted.law.parameter(name)
    values = fitted.points.axis(parameter.axis or fitted.law.axes[0])
    low, high = held
    if parameter.scale == "log":
        low, high, values = math.log(max(low, 1e-300)), math.log(high), np.log(values)
    return math.isfinite(low) and math.isfinite(high) and high - low <= PLACED * float(values.max() - values.min())


def curve(fitted: Fit, draws: Draws, level: float) -> Curve | None:
    """The law along its axis with its band; for N and D along the compute-optimal frontier over C [FLOP].

    None for a law that reads more than that: what else to hold is not known.
    """
    law, points = fitted.law, fitted.points
    if len(law.axes) == 1:
        axis = law.axes[0]
        known = points.axis(axis)
        ends = (known.min(), CURVE_BEYOND * known.max())
        if axis == "loss":
            ends = (known.min() / LOSS_BEYOND, known.max())
        x = np.geomspace(*ends, CURVE_POINTS)
        y, low, high = band(fitted, draws, level, **{axis: x})
    elif law.axes == ("N", "D"):
        axis = "C"
        known = FLOPS_PER_PARAMETER_TOKEN * np.prod([points.axis(name) for name in law.axes], axis=0)
        x = np.geomspace(known.min(), CURVE_BEYOND * known.max(), CURVE_POINTS)
        theta = {name: np.array([[value]]) for name, value in fitted.theta.items()}
        N, D = optimum(law, theta, x[None, :], fitted)
        y, low, high = band(fitted, draws, level, N=N[0], D=D[0])
    else:
        return None
    return Curve(axis=axis, x=x, y=y, low=low, high=high, data=(float(known.min()), float(known.max())))


def _without(fitted: Fit, names: Sequence[str]) -> dict[str, float]:
    """Parameters of the fit to all points but these; none without names, or where too few points are left."""
    points = fitted.points
    ids = points.ids or tuple(str(row + 1) for row in range(len(points)))
    try:
        return without(fitted, ~np.isin(ids, names)).theta if names else {}
    except FitError:
        return {}


def _doubling(fitted: Fit, intervals: Mapping[str, Interval]) -> tuple[float, float, float]:
    """What a doubling takes away, and the interval of α in its terms: widened by itself it could pass 100 %."""
    alpha = fitted.theta["alpha"]
    low, high = (alpha, alpha) if "alpha" in fitted.fixed else intervals.get("alpha", (-math.inf, math.inf))
    known = math.isfinite(low) and math.isfinite(high)
    return float(doubling(alpha)), *((float(doubling(low)), float(doubling(high))) if known else (low, high))


def optimal(fitted: Fit, draws: Draws | None, level: float) -> tuple[dict[str, float], dict[str, Interval]]:
    """Exponents a and b of N* and D* with their intervals, by name; none of a law that has no α and β."""
    point = untied(fitted.law, fitted.theta)
    if fitted.law.axes != ("N", "D") or not {"alpha", "beta"} <= set(point):
        return {}, {}
    a, b = optimal_exponents(point["alpha"], point["beta"])
    found = {"a": float(a), "b": float(b)}
    if draws is None:
        return found, {}
    drawn = untied(fitted.law, draws.known())
    return found, dict(zip("ab", optimal_intervals(drawn["alpha"], drawn["beta"], draws, level), strict=True))


def _not_identified(fitted: Fit, unsure: Sequence[str], intervals: Mapping[str, Interval], spare: int) -> str:
    law, points = fitted.law, fitted.points
    together = " together" if len(unsure) > 1 else ""
    text = f"{listed(unsure)} {'is' if len(unsure) == 1 else 'are'} not identified{together}"
    if "E" in unsure and "E" in intervals and math.isfinite(intervals["E"][1]):
        text += f" (E {intervals['E'][0]:.2g} … {intervals['E'][1]:.2g})"
    axes = varying(points)
    if spare < MIN_SPARE:
        return (
            f"{text}: {counted(max(spare, 0), 'spare size')} to judge the law by; add at least {MIN_SPARE - spare} more"
        )
    helped = list(dict.fromkeys(law.parameter(name).helped for name in unsure if name in law.names))
    if any(helped):
        return f"{text}: {'; '.join(filter(None, helped))}"
    if law.axes == ("N", "D"):
        ratio = points.axis("D") / points.axis("N")
        if ratio.max() < 2 * ratio.min():
            return f"{text}: tokens per parameter hardly vary; add runs at several token budgets per size"
        if "beta" in unsure and "alpha" not in unsure:
            return f"{text}: add a wider range of token budgets"
        if "alpha" in unsure and "beta" not in unsure:
            return f"{text}: add larger sizes"
        return f"{text}: add larger sizes and token budgets"
    if law.axes == ("N",) and "D" not in axes and "E" in law.names:
        return f"{text}: one token budget only; add larger sizes, or runs at more tokens per parameter"
    if "E" in law.names:
        return f"{text}: add larger {law.axes[0]}, where the floor shows"
    return f"{text}: add runs over a wider range of {law.axes[0]}"
