"""Whether a jump is made by the metric: a continuous twin of the score then goes straight through it.

Exact match of P places, each right with a probability that grows as a power law, is a product that jumps although
nothing else does (Schaeffer et al. 2023, arXiv 2304.15004). The twin of a score is the loss behind it,
-log p(answer), or what the product of its per-position accuracies would be; its log is a line in log N under a smooth
law, and a hinge where the ability itself appears.

Dimensions: K places along the axis, P positions of an answer, B data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalectl.core.errors import FitError
from scalectl.core.rows import Floats
from scalectl.core.units import count
from scalectl.fit.stats import student_quantile

Origin = Literal["metric-driven", "genuine", "undetermined"]

# Largest difference between exact match and the product that counts as none (emergence.md), or two errors of the score.
REPRODUCED = 0.02
STRAIGHT = 0.8  # share of the twin's change that a line explains, at least, where it is called one. Ours.
STEEPER = 2.0  # times steeper after the break than before, at least, where the ability is said to appear. Ours.
AWAY = 1  # places between the bracket of a jump and a bend that is said to make it, at most. Ours.
KNOT = 0.95  # of the interval in which the bend may lie
ALPHA = 0.05
# A line that is not rejected is called one only where no break that is STEEPER is likelier than this. By simulation of
# 200 twins of scatter .1 over 5, 6 and 8 places a break 2.5 times steeper is called a line in 75, 64 and 21 (137, 135
# and 71 without), a fall of 2 nats in 0 (39, 15 and 0), and true lines of slope .6 are in 189, 184 and 179 (195, 190
# and 190). Ours.
MAYBE = 0.2
FEWEST = 5  # places; a hinge has four parameters
DRAWS = 2000
# Scatter of ln(-log p) that nobody can measure away: a curve that bends by less is straight. Ours.
LEAST_SCATTER = 0.02


@dataclass(frozen=True)
class Hinge:
    """A line, or one with a break, through y over x [decades].

    p_value: of the line against the break; knot: where the break begins, and knots: its interval at KNOT; before,
    after: slopes up to it and from it on, to the end or to where the old slope is back; straight: share of the variance
    of y that the line explains; scatter: of y about the break.
    """

    p_value: float
    knot: float
    knots: tuple[float, float]
    before: float
    after: float
    straight: float
    scatter: float


@dataclass(frozen=True)
class Twin:
    """What a continuous twin says about a jump.

    name: of the twin; place and loss: -log p of the answer there, each (K,); product: of the per-position accuracies,
    (K,) or None; difference: largest one between it and the score; reproduced: whether that is none.
    """

    verdict: Origin
    name: str
    place: Floats
    loss: Floats
    hinge: Hinge
    product: Floats | None
    difference: float | None
    reproduced: bool | None
    because: str


def artefact(
    place: Floats,
    score: Floats,
    rng: np.random.Generator,
    *,
    loss: Floats | None = None,
    name: str = "",
    positions: Sequence[Floats] = (),
    items: Floats | None = None,
    jump: tuple[float, float] | None = None,
) -> Twin:
    """The verdict of a continuous twin.

    Args: place: along the axis, ascending, (K,); score: exact match there; loss: -log p of the answer [any unit], named
    `name`, if it is known; positions: accuracies of the P positions, each (K,); items: behind each score; jump: between
    which places of the axis the score jumps, None where it does not.
    Returns: the twin; it is `loss`, and the product of the positions where that is not known.
    Raises: FitError without either, with fewer than 5 places, or a loss that is not positive.
    """
    product = np.prod(np.stack(list(positions)), axis=0) if positions else None
    if loss is None:
        if product is None:
            raise FitError("no continuous twin is known", remedy="name one: --twin COL")
        end = np.full(len(score), 1e-3) if items is None else 0.5 / items
        loss, name = -np.log(np.clip(product, end, 1 - end)), "product of the per-position accuracies"
    if len(place) < FEWEST:
        raise FitError(f"{len(place)} sizes are too few to tell a line from a hinge", remedy=f"it takes {FEWEST}")
    if not (np.isfinite(loss) & (loss > 0)).all():
        raise FitError(f"{name} is {loss[~(loss > 0)][0]:g} somewhere; -log p of an answer is above 0")
    found = line_or_hinge(np.log10(place), np.log(loss), rng)
    difference = None if product is None else float(np.abs(product - score).max())
    reproduced = None if product is None else _reproduced(product, score, items)
    verdict, because = _verdict(found, name, place, jump)
    if difference is not None:
        made = "reproduces" if reproduced else "does not reproduce"
        because += f"; the product of the per-position accuracies {made} the score (within {difference:.2g})"
    return Twin(verdict, name, place, loss, found, product, difference, reproduced, because)


def _reproduced(product: Floats, score: Floats, items: Floats | None) -> bool:
    error = 0.0 if items is None else np.sqrt(np.clip(score * (1 - score), 0.5 / items, None) / items)
    return bool((np.abs(product - score) <= np.maximum(REPRODUCED, 2 * error)).all())


def _verdict(found: Hinge, name: str, place: Floats, jump: tuple[float, float] | None) -> tuple[Origin, str]:
    if found.before >= 0 and found.after >= 0:
        return "undetermined", f"{name} does not improve"
    bend = f"bends at {count(10**found.knot)}, {_slopes(found)}"
    steep = found.after < 0 and -found.after >= STEEPER * -found.before
    if found.p_value <= ALPHA:
        if found.after >= found.before:
            return "metric-driven", f"{name} improves before the jump as much as in it, and slower after: it {bend}"
        if not steep:
            return "undetermined", f"{name} {bend}, which is less than {STEEPER:g} times as steep"
        if jump is not None and not _near(found.knots, place, jump):
            return "undetermined", f"{name} {bend}, and the jump is at {count(jump[0])} … {count(jump[1])}"
        return "genuine", f"{name} itself {bend}"
    if found.straight >= STRAIGHT:
        explained = f"a line explains {100 * found.straight:.0f} %"
        if steep and found.p_value <= MAYBE:
            either = f"{name} is a power law ({explained}), or {bend}"
            return "undetermined", f"{either} (p = {found.p_value:.2g}): more sizes would tell"
        return (
            "metric-driven",
            f"{name} is a power law {'all along' if jump is None else 'through the jump'} ({explained})",
        )
    return "undetermined", f"{name} scatters too much to tell a line from a hinge (p = {found.p_value:.2g})"


def _slopes(found: Hinge) -> str:
    ways = [f"{'falls' if slope < 0 else 'rises'} by {abs(slope):.2g}" for slope in (found.before, found.after)]
    return f"where its log {ways[0]} a decade before and {ways[1]} after"


def _near(knots: tuple[float, float], place: Floats, jump: tuple[float, float]) -> bool:
    """Whether a bend may begin within AWAY places of where the score jumps."""
    first = int(np.searchsorted(place, jump[0] * (1 + 1e-9))) - 1 - AWAY
    last = int(np.searchsorted(place, jump[1] * (1 - 1e-9))) + AWAY
    ends = np.log10(place[np.clip([first, last], 0, len(place) - 1)])
    return bool(knots[0] <= ends[1] + 1e-9 and knots[1] >= ends[0] - 1e-9)


def broken(place: Floats, loss: Floats, rng: np.random.Generator) -> tuple[Hinge, bool, str]:
    """A loss itself, as a power law against one break.

    Places are the units: the loss of one is the geometric mean of its measurements. Seeds of one size share what that
    size does by itself, and counted one by one they make a break of any scatter between sizes.
    Args: place: along the axis, one for each measurement, (n,); loss: there [any unit].
    Returns: the fit; whether the loss breaks and falls faster from there on; and that in words.
    Raises: FitError with fewer than 5 places, or losses that are not positive.
    """
    places, index = np.unique(place, return_inverse=True)
    if len(places) < FEWEST:
        raise FitError(f"{len(places)} sizes; a break takes at least {FEWEST}")
    if not (loss > 0).all():
        raise FitError(f"a loss of {loss[~(loss > 0)][0]:g}, and its log is wanted")
    found = line_or_hinge(np.log10(places), np.bincount(index, np.log(loss)) / np.bincount(index), rng)
    where = count(10**found.knot)
    if found.p_value > ALPHA:
        return found, False, f"one power law is as good as two (p = {found.p_value:.2g})"
    if found.after < 0 and -found.after >= STEEPER * max(-found.before, 0.0):
        return found, True, f"the loss itself bends at {where}, {_slopes(found)}"
    return found, False, f"the loss bends, and falls no faster after {where} (p = {found.p_value:.2g})"


def line_or_hinge(x: Floats, y: Floats, rng: np.random.Generator, draws: int = DRAWS) -> Hinge:
    """A power law against one break, of y = ln(loss) over x = log10 of the axis, ascending, both (K,).

    A break is a hinge, with its knot between the second and the last place but one, or a fall of one or two gaps
    between stretches of one slope. The p-value is by parametric bootstrap at the line, with normal scatter; the
    statistic, what a break takes off the squares over what it leaves, has no scale.
    """
    knots = [(float(knot), np.inf) for knot in np.linspace(x[1], x[-2], 4 * (len(x) - 3) + 1)]
    knots += [(float(x[k]), float(x[k + gaps])) for gaps in (1, 2) for k in range(1, len(x) - gaps - 1)]
    line = np.stack([np.ones(len(x)), x], axis=1)
    bent = [np.clip(x - first, 0.0, last - first) for first, last in knots]
    bases = [_basis(line)] + [_basis(np.column_stack([line, column])) for column in bent]

    def squares(data: Floats) -> Floats:  # (B, n) to (1 + knots, B)
        return np.stack([(data**2).sum(1) - ((data @ q) ** 2).sum(1) for q in bases])

    def statistic(left: Floats) -> Floats:
        hinge = left[1:].min(0)
        return np.asarray((left[0] - hinge) / (hinge + len(x) * LEAST_SCATTER**2))

    centred = y - y.mean()
    left = squares(centred[None])
    fitted = bases[0] @ (bases[0].T @ centred)
    scatter = np.sqrt(max(left[0][0], 0.0) / max(1, len(x) - 2))
    simulated = fitted + max(scatter, LEAST_SCATTER) * rng.standard_normal((draws, len(x)))
    exceeded = int((statistic(squares(simulated)) >= statistic(left)[0]).sum())
    best = int(left[1:, 0].argmin())
    spare = max(1, len(x) - 4)
    least = (left[1 + best, 0] + len(x) * LEAST_SCATTER**2) / spare
    likely = left[1:, 0] - left[1 + best, 0] <= least * student_quantile((1 + KNOT) / 2, spare) ** 2
    begins = [knot for (knot, _), kept in zip(knots, likely, strict=True) if kept]
    design = np.column_stack([line, bent[best]])
    slopes = np.linalg.lstsq(design, y, rcond=None)[0]
    whole = float((centred**2).sum())
    straight = 1 - float(left[0][0]) / whole if whole > 0 else 0.0
    return Hinge(
        p_value=(1 + exceeded) / (1 + draws),
        knot=knots[best][0],
        knots=(min(begins), max(begins)),
        before=float(slopes[1]),
        after=float(slopes[1] + slopes[2]),
        straight=straight,
        scatter=float(np.sqrt(least)),
    )


def _basis(design: Floats) -> Floats:
    return np.asarray(np.linalg.qr(design)[0])
