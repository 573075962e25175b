"""What a fit minimises, as values: `Huber(1e-3)`, `LAD`, `MSE`, `LOG_MSE`.

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

Name = Literal["huber", "lad", "mse", "log-mse"]


@dataclass(frozen=True)
class Objective:
    """A sum over points of ρ(residual).

    name: huber and lad (sums over the log residual), mse (mean square of the residual in nats), log-mse (mean square
    of the log residual); delta: where Huber turns from square to absolute [log loss], None for the others; plain:
    residuals are differences whatever the name, as those of a score are, which has no logarithm at 0.
    """

    name: Name
    delta: float | None = None
    plain: bool = False

    def __str__(self) -> str:
        return f"{self.name}:{self.delta:g}" if self.delta is not None else self.name

    @property
    def on_log(self) -> bool:
        """Whether residuals are ln(predicted) - ln(measured), not predicted - measured."""
        return self.name != "mse" and not self.plain

    @property
    def width(self) -> float:
        """Where ρ turns linear, as followed inside; infinite for squares."""
        if self.name == "huber":
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

    def value(self, residual: Floats, weights: Floats | None = None) -> Floats:
        """The objective over the last axis: a sum for huber and lad, a mean for mse and log-mse.

        Args: residual: shape (..., n); weights: shape (..., n), how often each point counts.
        """
        w = np.ones(residual.shape[-1]) if weights is None else weights
        if self.name == "lad":
            total = (w * np.abs(residual)).sum(-1)
        elif self.name == "huber":
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


LAD = Objective("lad")
MSE = Objective("mse")
LOG_MSE = Objective("log-mse")
_PLAIN = {objective.name: objective for objective in (LAD, MSE, LOG_MSE)}


def parse_objective(text: str) -> Objective:
    """An objective from a flag: `huber:1e-3`, `huber`, `lad`, `mse`, `log-mse`. Raises UsageError otherwise."""
    name, colon, number = text.strip().partition(":")
    if name == "huber":
        try:
            return Huber(float(number)) if colon else Huber()
        except ValueError:
            raise UsageError(f"{text}: {number!r} is not a number", remedy="huber:1e-3 is usual") from None
    for known, objective in _PLAIN.items():
        if name == known and not colon:
            return objective
    raise UsageError(f"{text} is not an objective", remedy="use huber:DELTA, lad, mse or log-mse")
