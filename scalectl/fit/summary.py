"""What a fit says, as plain values: the one shape that reports, JSON and notebooks read."""

from __future__ import annotations

from dataclasses import dataclass, field

from scalectl.core.rows import Floats

Interval = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A fitted law along one axis with its band; arrays of shape (points,).

    axis: N, D or C; x: in the axis' unit; y, low, high: nats per token.
    data: the range of x that the fit saw; beyond it the curve is an extrapolation.
    """

    axis: str
    x: Floats
    y: Floats
    low: Floats
    high: Floats
    data: Interval


@dataclass(frozen=True)
class Holdout:
    """Fitted without `where`, predicted there. relative_error: mean of |predicted / measured - 1|."""

    where: str
    n: int
    relative_error: float


@dataclass(frozen=True)
class Summary:
    """One law fitted to one set of points.

    intervals: bootstrap percentile intervals by parameter at `level`, resampling `unit` (size, run or residual);
    intervals_by_unit: the same for every unit that was computed, `unit` included;
    profile: profile-likelihood intervals, infinite where the objective never rises enough;
    identified: whether the data determine the parameter, by name; advice: one sentence when something is wrong;
    doubling: share of the loss that a doubling of the axis takes away, with its interval (power law only);
    optimal: for joint laws, exponents a and b of N* ~ C^a, D* ~ C^b, with intervals in `optimal_intervals`;
    seed_noise: relative standard deviation between seeds, None without repeated seeds;
    misfit: relative standard deviation of size means about the law;
    units: of the parameters that have a plain one, by name; signed: parameters that may be negative;
    tied: parameters that were held equal to another one, by name; they share its value, interval and verdict;
    outliers: ids (or row numbers) of points whose residual is beyond 5 robust deviations; without_outliers: parameters
    of the fit to all other points, empty where there are no outliers or too few other points.
    """

    law: str
    formula: str
    axis: str
    objective: str
    delta: float | None
    value: float
    gradient_norm: float
    starts: int
    starts_at_optimum: int
    status: str
    advice: str
    n: int
    sizes: int
    convention: str | None
    flops: str | None
    params: dict[str, float]
    intervals: dict[str, Interval]
    intervals_by_unit: dict[str, dict[str, Interval]]
    level: float
    unit: str
    draws: int
    profile: dict[str, Interval]
    identified: dict[str, bool]
    aicc: float
    holdout: tuple[Holdout, ...]
    doubling: tuple[float, float, float] | None = None
    optimal: dict[str, float] = field(default_factory=dict)
    optimal_intervals: dict[str, Interval] = field(default_factory=dict)
    seed_noise: float | None = None
    misfit: float | None = None
    outliers: tuple[str, ...] = ()
    without_outliers: dict[str, float] = field(default_factory=dict)
    curve: Curve | None = None
    tied: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    signed: tuple[str, ...] = ()
