"""Whether a score is flat, rises smoothly, or jumps: likelihood-ratio tests by parametric bootstrap, then gates.

Sources: Wei et al. 2022 (arXiv 2206.07682, absent in small models and present in large ones), Schaeffer et al. 2023
(arXiv 2304.15004, jumps made by the metric), Hu et al. 2023 (arXiv 2310.03262, smooth laws that look sudden).

Dimensions: B data sets, K places along the axis.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalectl.core.rows import Floats
from scalectl.emergence.curve import PRIOR, Curve, dispersion, simulate
from scalectl.emergence.falls import Fall, fall
from scalectl.emergence.shapes import (
    ONSET,
    Best,
    Rises,
    best,
    breaks,
    deviance,
    isotonic,
    linear,
    smooth,
)
from scalectl.emergence.threshold import Success, Threshold, above_floor, first_above, success, threshold

INSUFFICIENT, FLAT, SMOOTH = "insufficient", "flat", "smooth"
COMPATIBLE = "emergent (compatible with a smooth law)"
BREAK = "emergent (break beyond a smooth law)"
EDGE, NON_MONOTONE, BIMODAL = "edge", "non-monotone", "bimodal"
LABELS = (INSUFFICIENT, FLAT, SMOOTH, COMPATIBLE, BREAK, EDGE, NON_MONOTONE, BIMODAL)
FLAGGED = (COMPATIBLE, BREAK, EDGE, BIMODAL)

FEWEST_PLACES = 5  # a line has two parameters and a break four; fewer leave no scatter to judge by. Ours.
LEAST_GAIN = 0.1  # emergence.md
PLATEAU = 0.05  # above the floor that a plateau may lie (emergence.md)
PLATEAU_PLACES = 2  # at least, below the onset. Ours: one small model is no plateau.
# The plateau is at least so long beside the rise [decades over decades]. Source: ours; a rise over most of the sizes is
# no jump. By simulation, of logistics over 2.5 of 3.5 decades 6 % pass at .5, 1 % at .55; of hinges 99 %, at .65 83 %.
PLATEAU_SHARE = 0.55
# Where the floor is that of the smallest sizes, which have risen with a slow curve, a plateau has to be flatter and
# longer. By simulation at φ = 4, of logistics over 2.5 decades 15 % pass with the numbers above and 7 % with these; of
# hinges 98 and 80 %.
AUTO_PLATEAU, AUTO_PLATEAU_SHARE = 0.035, 0.75
ALPHA = 0.05  # of false discoveries in a family
SMOOTH_PARAMETERS = 4  # c, h, A and a
FIRST_DRAWS, MOST_DRAWS, CHUNK = 200, 1000, 200
SURE = 16
WORTH_MORE = 0.05  # a p-value that the first draws put below it is worth the rest
NEAR_SEEDS = 5  # training seeds near a threshold (emergence.md)


@dataclass(frozen=True)
class Tests:
    """p-values of a flat curve, a flat or linear one, and the smooth law, against a break; draws: behind them."""

    flat: float
    linear: float
    smooth: float
    draws: int


@dataclass(frozen=True)
class Verdict:
    """What one curve is.

    label: one of LABELS; gain: from the smallest to the largest place, of the isotonic fit; phi: over-dispersion; tests
    and q_value, q_smooth: those of `linear` and `smooth` over the family, None where nothing was tested; threshold:
    None unless flagged; success: share of seeds that have the ability, by place; because: one sentence.
    """

    curve: Curve
    label: str
    gain: float
    phi: float
    tests: Tests | None
    q_value: float | None
    q_smooth: float | None
    threshold: Threshold | None
    success: Success | None
    because: str

    @property
    def flagged(self) -> bool:
        """Whether the score jumps, by whatever law."""
        return self.label in FLAGGED


@dataclass(frozen=True)
class Families:
    """The curves that data over some places are fitted with."""

    linear: Rises
    smooth: Rises
    breaks: Rises

    @classmethod
    def over(cls, x: Floats) -> Families:
        """Those of the places x [log10 of the axis]; tasks of one family share them."""
        return _families(tuple(x.tolist()))


@functools.lru_cache(maxsize=8)
def _families(places: tuple[float, ...]) -> Families:
    x = np.array(places)
    return Families(linear(x), smooth(x), breaks(x))


def detect(
    curves: Sequence[Curve],
    rng: np.random.Generator,
    *,
    draws: int = MOST_DRAWS,
    level: float = 0.9,
) -> list[Verdict]:
    """Verdicts of the tasks of one family, in the order given.

    Args: curves: never of several families; rng: of the bootstrap; draws: most of them, for a task that is not
    decided by the first 200, and more where a family is so large that they could not decide it; level: of the
    interval of a midpoint.
    """
    most = max(draws, int(2 * len(curves) / ALPHA))  # or no q-value gets below ALPHA
    seen = [_look(curve, stream) for curve, stream in zip(curves, rng.spawn(len(curves)), strict=True)]
    tested = [held for held in seen if held.trial is not None]
    # a task that was too flat to test counts as one that was tested in vain: what it gains decided that
    untested = [1.0] * sum(held.trial is None and held.label != INSUFFICIENT for held in seen)
    open_ones = tested
    for wanted in sorted({min(FIRST_DRAWS, draws), draws, most}):
        for held in open_ones:
            held.draw(wanted)
        q_linear = discoveries([held.tests.linear for held in tested] + untested)
        q_smooth = discoveries([held.tests.smooth for held in tested] + untested)
        q_values = [(float(a), float(b)) for a, b in zip(q_linear, q_smooth, strict=True)][: len(tested)]
        open_ones = [held for held, q in zip(tested, q_values, strict=True) if _open(held.tests, *q)]
    of = {id(held): q for held, q in zip(tested, q_values, strict=True)}
    return [_judge(held, of.get(id(held)), level) for held in seen]


def _open(tests: Tests, q_linear: float, q_smooth: float) -> bool:
    """Whether more draws could change a label: a p-value is small, and its q-value not clearly on one side of ALPHA.

    Clearly is twice or half of it; twice only once SURE draws exceeded what was seen, whose error is a quarter then.
    """
    if tests.flat > WORTH_MORE or tests.linear > WORTH_MORE:
        return False
    pairs = [(tests.linear, q_linear)] + [(tests.smooth, q_smooth)] * (tests.smooth <= WORTH_MORE)
    return any(q > ALPHA / 2 and (q < 2 * ALPHA or p * (1 + tests.draws) <= SURE) for p, q in pairs)


def discoveries(p_values: Sequence[float]) -> Floats:
    """q-values of Benjamini and Hochberg 1995, in the order of the p-values."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    ratio = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum(1.0, np.minimum.accumulate(ratio[::-1])[::-1])
    return q


@dataclass(frozen=True)
class _Seen:
    """What needs no other curve.

    trial: of a curve that is tested; label, why: of one that needs no test; falls: in words, if it does.
    """

    curve: Curve
    gain: float
    phi: float
    trial: _Trial | None = None
    falls: str = ""
    label: str = ""
    why: str = ""

    def draw(self, wanted: int) -> None:
        """So many draws of the trial in all."""
        assert self.trial is not None
        self.trial.draw(wanted)

    @property
    def tests(self) -> Tests:
        """Of the trial, as far as it was drawn."""
        assert self.trial is not None
        return self.trial.tests


def unable(task: str, family: str, why: str) -> Verdict:
    """The verdict on a task whose scores are no curve."""
    nothing = np.full(0, np.nan)
    curve = Curve(task, family, nothing, nothing, nothing, np.nan, "auto")
    return Verdict(curve, INSUFFICIENT, np.nan, np.nan, None, None, None, None, None, why)


def _look(curve: Curve, rng: np.random.Generator) -> _Seen:
    score, items = curve.score[None], curve.items
    fitted = isotonic(score, items)[0]
    gain = float(fitted[-1] - fitted[0]) if len(fitted) else np.nan
    phi = float(dispersion(score, items)[0])
    if len(curve.place) < FEWEST_PLACES:
        few = f"{curve.extent}; a break takes at least {FEWEST_PLACES}"
        return _Seen(curve, gain, phi, label=INSUFFICIENT, why=few)
    if np.ptp(curve.score) == 0:
        return _Seen(curve, gain, phi, label=FLAT, why=f"every score is {curve.score[0]:.3g}")
    found = fall(curve, phi, rng.spawn(1)[0])  # a stream of its own: the trial's draws are the same without
    falls = "" if found is None else _fallen(curve, found)
    if gain < LEAST_GAIN:
        why = f"it gains {gain:.2g} from end to end, below {LEAST_GAIN:g}"
        return _Seen(curve, gain, phi, falls=falls, label=FLAT, why=why)
    return _Seen(curve, gain, phi, _Trial(curve, phi, rng), falls)


def _fallen(curve: Curve, found: Fall) -> str:
    ends = [f"{value:.2g} at {curve.shown(curve.place[k])}" for value, k in
            ((found.high, found.top), (found.low, found.bottom))]  # fmt: skip
    return f"it falls from {ends[0]} to {ends[1]} (p = {found.p_value:.2g})"


class _Trial:
    """The likelihood-ratio tests of one curve, drawn as far as they are needed.

    The statistic is how much of the deviance a break takes off, over what it leaves: its scale is that of the scatter,
    whatever φ is. Its law under each null comes from data simulated at that null's fit, beta-binomial with φ, and
    fitted again (chi-square is no law of it: under the null, a threshold is not identified).
    """

    def __init__(self, curve: Curve, phi: float, rng: np.random.Generator) -> None:
        self.rng, self.items, self.families = rng, curve.items, Families.over(curve.x)
        score = curve.score[None]
        self.fitted = best(self.families.breaks, score, self.items)
        lawful = best(self.families.smooth, score, self.items)
        self.nulls = {
            "flat": np.full(score.shape, float(curve.score @ self.items / self.items.sum())),
            "linear": best(self.families.linear, score, self.items).predicted(self.families.linear),
            "smooth": lawful.predicted(self.families.smooth),
        }
        # Where a curve is steep, the isotonic fit passes through every score and leaves no scatter; the smooth law
        # leaves some. By simulation at φ = 4, a true smooth law is rejected at .05 in 10 % without, in 5 % with it.
        spare = max(1, len(curve.place) - SMOOTH_PARAMETERS)
        self.scatter = dict.fromkeys(self.nulls, phi)
        self.scatter["smooth"] = max(phi, (PRIOR + float(lawful.deviance[0])) / (PRIOR + spare))
        self.seen = {name: _statistic(name, self.families, score, self.items)[0] for name in self.nulls}
        self.exceeded = dict.fromkeys(self.nulls, 0)
        self.done = 0

    def draw(self, wanted: int) -> None:
        """So many draws in all."""
        while self.done < wanted:
            count = min(CHUNK, wanted - self.done)
            for name, predicted in self.nulls.items():
                simulated = simulate(predicted[0], self.items, self.scatter[name], count, self.rng)
                statistic = _statistic(name, self.families, simulated, self.items)
                self.exceeded[name] += int((statistic >= self.seen[name]).sum())
            self.done += count

    @property
    def tests(self) -> Tests:
        """The p-values so far."""
        p = {name: (1 + count) / (1 + self.done) for name, count in self.exceeded.items()}
        return Tests(p["flat"], p["linear"], p["smooth"], self.done)


def _statistic(null: str, families: Families, score: Floats, items: Floats) -> Floats:
    """How much better a break is than a null, over what the break leaves, (B,)."""
    left = best(families.breaks, score, items).deviance
    if null == "flat":
        held = deviance(score, items, (score @ items / items.sum())[:, None])
    else:
        held = best(getattr(families, null), score, items).deviance
    return np.asarray((held - left) / (PRIOR + left))


def _judge(held: _Seen, q_values: tuple[float, float] | None, level: float) -> Verdict:
    """The verdict from what was seen of a curve. q_values: against a line and the smooth law, None without a trial."""
    curve, label, why = held.curve, held.label, held.why
    tests = None if held.trial is None else held.trial.tests
    q, q_smooth = q_values or (None, None)
    where, seeds = None, None
    if held.falls and label != INSUFFICIENT:
        label, why = NON_MONOTONE, held.falls
    elif held.trial is not None and tests is not None and q is not None and q_smooth is not None:
        gate = _gate(held, held.trial.families, held.trial.fitted)
        if tests.flat > ALPHA:
            label, why = FLAT, f"a gain of {held.gain:.2g} is within the scatter (p = {tests.flat:.2g})"
        elif q > ALPHA:
            label, why = SMOOTH, f"a straight line in the log is as good as a break (q = {q:.2g})"
        elif gate:
            label, why = SMOOTH, gate
        else:
            where = threshold(curve, held.phi, level)
            seeds = success(curve, where)
            label, why = _jump(curve, held.phi, where, seeds, q_smooth)
            where, why = _seeded(curve, where, why)
    return Verdict(curve, label, held.gain, held.phi, tests, q, q_smooth, where, seeds, why)


def _gate(held: _Seen, families: Families, fitted: Best) -> str:
    """Why a break is no jump; empty if it is one."""
    curve = held.curve
    onset, end = rise_of(families.breaks, int(fitted.index[0]), curve.x)
    below = curve.x <= onset + 1e-9
    count = int(below.sum())
    if count < PLATEAU_PLACES:
        return f"it rises from the start: {count} of {len(below)} {curve.noun} lie before the onset"
    level = float(curve.score[below] @ curve.items[below] / curve.items[below].sum())
    auto = curve.floor_from == "auto"
    most, share = (AUTO_PLATEAU, AUTO_PLATEAU_SHARE) if auto else (PLATEAU, PLATEAU_SHARE)
    if level > curve.floor + most:
        why = f"before the onset it is {level:.2g}, not within {most:g} of the floor {curve.floor:.2g}"
        return f"{why}, chance; --floor auto is that of the smallest sizes" if curve.floor_from == "chance" else why
    if onset - curve.x[0] < share * (end - onset):
        return f"it rises over {end - onset:.2g} decades after a plateau of {onset - curve.x[0]:.2g} decades"
    if first_above(curve, held.phi) >= len(curve.x):
        somewhere = bool(above_floor(curve, held.phi).any())
        where = f"at {curve.shown(curve.place[-1])} it is not" if somewhere else "nowhere is it"
        unsure = f", from {curve.items[-1]:.3g} items" if somewhere else ""
        return f"{where} above the floor of {curve.floor:.2g} by {PLATEAU:g} and its error{unsure}"
    return ""


def rise_of(rises: Rises, index: int, x: Floats) -> tuple[float, float]:
    """Onset and end of a rise [log10 of the axis], the end inside the places."""
    middle, scale = float(rises.middle[index]), float(rises.scale[index])
    if rises.kind[index] == "logistic":
        return middle - ONSET * scale, min(middle + ONSET * scale, float(x[-1]))
    if rises.kind[index] == "step":
        below = x[x <= middle]
        return float(below[-1]), float(x[len(below)])
    return middle, float(x[-1])


def _jump(curve: Curve, phi: float, where: Threshold, seeds: Success | None, q_smooth: float) -> tuple[str, str]:
    if seeds is not None and seeds.split:
        place = curve.shown(curve.place[seeds.split[0]])
        return BIMODAL, f"at {place} seeds are of two kinds (p = {seeds.p_value:.2g}): each jumps by luck of its own"
    if above_floor(curve, phi).sum() == 1:
        end, bound = ("smallest loss", "an upper") if curve.inverse else ("largest size", "a lower")
        return EDGE, f"only the {end} is above: the threshold is {bound} bound, and no law can be told"
    label, why = COMPATIBLE, f"absent below, present above; a smooth law rises as fast (q = {q_smooth:.2g})"
    if q_smooth <= ALPHA:
        label, why = BREAK, f"no smooth law rises so fast (q = {q_smooth:.2g})"
    if above_floor(curve, phi)[: where.first].any():
        unsure = where.first - 1
        why += f"; {curve.shown(curve.place[unsure])} is unsure, from {curve.items[unsure]:.3g} items"
    elif where.bracket[1] < where.interval[0]:
        why += "; it leaves the floor there, and most of the rise comes later"
    return label, why


def _seeded(curve: Curve, where: Threshold, why: str) -> tuple[Threshold | None, str]:
    """The threshold as far as training seeds allow it."""
    if curve.fewest_seeds is None:
        return where, why
    near = [len(curve.seeds[k]) for k in where.near]
    if min(near) == 1:
        return None, f"single seed: threshold not identified; {why}"
    if min(near) < NEAR_SEEDS:
        return where, f"{why}; {min(near)} seeds near the threshold, and {NEAR_SEEDS} would tell it from their luck"
    return where, why
