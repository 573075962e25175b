"""What a fit minimises, as values: `Huber(1e-3)`, `LAD`, `MSE`, `LOG_MSE`, `Asymmetric(4)`.

Huber on log loss is a SUM over points (Hoffmann et al. 2022, arXiv 2203.15556, equation 3; the notebook of Besiroglu et
al. 2024, arXiv 2404.10102). As a mean it would be about 4e-6 at δ = 1e-3, below the tolerance of common optimisers.
Inside, the objective is scaled by 1/δ², so that one unit is a residual of δ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from scalectl.core.errors import UsageError
from scalectl.core.rows import Floats

DEFAULT_DELTA = 1e-3  # Hoffmann et al. 2022, section 3.3

# |r| is followed as Huber(δ) with this δ: the optimum differs from the exact one by far less than a loss is known to.
# Reaches the L1 optimum of the Epoch points to six digits in every parameter. Ours.
SHARP = 1e-8

# For resampled fits: moves the Epoch optimum by half a percent of its standard error, which no interval can show, and
# every draw settles (at 1e-8, 92 % do). Ours.
SHARP_ENOUGH = 1e-5

Name = Literal["huber", "lad", "mse", "log-mse", "asym"]
DEFAULT_RATIO = 4.0  # an over-estimate counts as four under-estimates of its size: the curve lies near the lowest 20 %


@dataclass(frozen=True)
class Objective:
    """A sum over points of ρ(residual).

    name: huber and lad (sums over the log residual), mse (mean square of the residual in nats), log-mse (mean square of
    the log residual), asym (Huber with over-estimates counted `ratio` times); delta: where Huber turns from square to
    absolute [log loss], None for those without; plain: residuals are differences whatever the name, as those of a score
    are, which has no logarithm at 0; ratio: 1 for all but asym.
    """

    name: Name
    delta: float | None = None
    plain: bool = False
    ratio: float = 1.0

    def __str__(self) -> str:
        if self.name == "asym":
            return f"{self.label}:{self.delta:g}"
        return f"{self.name}:{self.delta:g}" if self.delta is not None else self.name

    @property
    def label(self) -> str:
        """The name, with the ratio of over-estimates where they count differently."""
        return f"asym:{self.ratio:g}" if self.name == "asym" else self.name

    @property
    def on_log(self) -> bool:
        """Whether residuals are ln(predicted) - ln(measured), not predicted - measured."""
        return self.name != "mse" and not self.plain

    @property
    def width(self) -> float:
        """Where ρ turns linear, as followed inside; infinite for squares."""
        if self.name in ("huber", "asym"):
            assert self.delta is not None
            return self.delta
        return SHARP if self.name == "lad" else math.inf

    @property
    def resampled(self) -> Objective:
        """The objective that resampled fits follow: `lad` with blunter kinks, the others as they are."""
        return replace(self, name="huber", delta=SHARP_ENOUGH) if self.name == "lad" else self

    def residual(self, predicted: Floats, measured: Floats) -> Floats:
        """Residuals, positive where the law predicts too much; relative ones to first order if `on_log`."""
        return np.log(predicted) - np.log(measured) if self.on_log else predicted - measured

    def counted(self, residual: Floats, weights: Floats) -> Floats:
        """Weights of points, those of over-estimates multiplied by the ratio; broadcast to the residuals."""
        return weights if self.ratio == 1.0 else np.asarray(np.where(residual > 0, self.ratio, 1.0) * weights)

    def value(self, residual: Floats, weights: Floats | None = None) -> Floats:
        """The objective over the last axis: a sum for huber, asym and lad, a mean for mse and log-mse.

        Args: residual: shape (..., n); weights: shape (..., n), how often each point counts.
        """
        w = np.ones(residual.shape[-1]) if weights is None else weights
        if self.name == "lad":
            total = (w * np.abs(residual)).sum(-1)
        elif self.delta is not None:
            w = self.counted(residual, w)
            inside = np.clip(residual, -self.width, self.width)
            total = (w * inside * (residual - inside / 2)).sum(-1)
        else:
            total = (w * residual**2).sum(-1) / w.sum(-1)
        return np.asarray(total, dtype=np.float64)


def Huber(delta: float = DEFAULT_DELTA) -> Objective:
    """Σ of r²/2 where |r| <= δ, δ(|r| - δ/2) beyond, r the log residual (Huber 1964)."""
    if not (math.isfinite(delta) and delta > 0):
        raise UsageError(f"huber:{delta:g}: δ is a positive number of log loss", remedy="huber:1e-3 is usual")
    return Objective("huber", delta)


def Asymmetric(ratio: float = DEFAULT_RATIO, delta: float = DEFAULT_DELTA) -> Objective:
    """Huber on log loss with over-estimates, where the law lies above the run, counted `ratio` times.

    A run that was not tuned, as small rungs often are, has a loss above what its size can reach and never one below:
    the law to extrapolate by runs along the lower edge of the points. For δ far below the residuals the minimum is the
    1 / (1 + ratio) quantile of the points about it (Koenker and Bassett 1978, Econometrica 46).
    """
    if not (math.isfinite(ratio) and ratio > 0):
        raise UsageError(f"asym:{ratio:g}: the ratio is a positive number", remedy="asym:4 is usual")
    return Objective("asym", Huber(delta).delta, ratio=ratio)


LAD = Objective("lad")
MSE = Objective("mse")
LOG_MSE = Objective("log-mse")
_PLAIN = {objective.name: objective for objective in (LAD, MSE, LOG_MSE)}


def parse_objective(text: str) -> Objective:
    """An objective from a flag: `huber:1e-3`, `lad`, `mse`, `log-mse`, `asym:4`, `asym:4:1e-3`.

    Raises: UsageError otherwise.
    """
    name, colon, number = text.strip().partition(":")
    if name == "huber":
        try:
            return Huber(float(number)) if colon else Huber()
        except ValueError:
            raise UsageError(f"{text}: {number!r} is not a number", remedy="huber:1e-3 is usual") from None
    if name == "asym":
        try:
            return Asymmetric(*(float(part) for part in number.split(":", 1))) if colon else Asymmetric()
        except ValueError:
            raise UsageError(f"{text}: {number!r} is not RATIO or RATIO:DELTA", remedy="asym:4 is usual") from None
    for known, objective in _PLAIN.items():
        if name == known and not colon:
            return objective
    raise UsageError(f"{text} is not an objective", remedy="use huber:DELTA, lad, mse, log-mse or asym:RATIO")
