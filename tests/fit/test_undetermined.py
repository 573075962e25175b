"""Designs that leave a parameter open: the summary says which, and what to add."""

from dataclasses import replace

import numpy as np
import pytest

from scalectl.core.errors import FitError
from scalectl.fit.describe import describe
from scalectl.fit.estimate import fit
from scalectl.laws import LAWS, where

N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
LADDER = np.repeat(np.geomspace(1e6, 1e9, 8), 2)


def seen(name, there, **changed):
    """What a law says at the places, with a little noise."""
    law = LAWS[name]
    exact = np.asarray(law.predict({**law.example, **changed}, there))
    off = 0.003 * np.random.default_rng(0).standard_normal(len(there))
    losses = exact + off if law.measures == "score" else exact * np.exp(off)
    return replace(there, L=losses, size=there.N, measures=law.measures)


CASES = {
    # law, points, what stays open, what would help
    "kaplan, tokens in step with size": (
        "kaplan",
        seen("kaplan", where(N=LADDER, D=20 * LADDER)),
        {"A", "alpha", "B", "beta"},
        "several token budgets per size",
    ),
    "repetition without repeats": ("repetition", seen("repetition", where(N=N, D=D, U=D)), {"R_D"}, "unique_tokens"),
    "depth in step with width": (
        "width-depth",
        seen("width-depth", where(N=N, D=D, width=np.sqrt(N), depth=np.sqrt(N) / 100)),
        {"E", "A", "alpha", "B", "beta"},  # tokens vary on their own
        "widths at one depth; add depths at one width",
    ),
    "no break": ("broken", seen("broken", where(N=LADDER), c1=0.0), {"c1", "d1", "f1"}, "both sides of the break"),
    "far from chance": ("saturating", seen("saturating", where(N=100 * LADDER)), {"L0", "delta"}, "--fix L0="),
    "models near chance": (
        "score-sigmoid",
        seen("score-sigmoid", where(loss=np.linspace(3.0, 4.5, 20))),
        {"a", "L0"},
        "lower loss",
    ),
    "a floor far below": (
        "kaplan+constant",
        seen("kaplan+constant", where(N=N, D=D), E=0.01),
        {"E", "A", "B"},
        "add larger sizes and token budgets",
    ),
}


LONG = {"no break", "far from chance"}  # flat valleys: a hundred resampled fits take their time
ALSO = {"kaplan, tokens in step with size"}  # asked of chinchilla in every run, in test_describe.py


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in LONG | ALSO else c for c in CASES])
def test_what_the_points_leave_open_is_named_with_what_would_help(case):
    name, points, unknown, helped = CASES[case]
    _, _, summary = describe(LAWS[name], points, draws=100, also=(), rng=np.random.default_rng(0))
    open_ones = {key for key, known in summary.identified.items() if not known}
    assert unknown <= open_ones if case in LONG else unknown == open_ones
    assert "not identified" in summary.advice
    assert helped in summary.advice


@pytest.mark.parametrize(
    ("name", "there", "said"),
    [
        ("kaplan", where(N=LADDER, D=np.full(16, 1e9)), "3 distinct values of D; the points have 1"),
        ("chinchilla+gamma", where(N=np.repeat([1e6, 1e7], 8), D=np.tile(D[::6], 3)[:16]), "3 distinct values of N"),
        ("width-depth", where(D=D, width=np.sqrt(N), depth=np.full(36, 8.0)), "3 distinct values of depth"),
        ("saturating", where(N=np.array([1e6, 1e7, 1e8])), "5 distinct values of N; the points have 3"),
        ("broken", where(N=np.array([1e6, 1e7, 1e8])), "6 distinct values of N; the points have 3"),
        ("score-sigmoid", where(loss=np.array([2.0, 3.0, 4.0])), "4 distinct values of loss"),
    ],
)
def test_designs_that_can_never_do_are_refused_with_what_is_missing(name, there, said):
    with pytest.raises(FitError, match=said):
        fit(LAWS[name], seen(name, there))


def test_one_amount_of_distinct_tokens_is_enough_for_the_repetition_law():
    points = seen("repetition", where(N=N, D=D, U=np.full(36, 2e9)))
    assert fit(LAWS["repetition"], points).theta["R_D"] == pytest.approx(15.4, rel=0.05)  # found: 15.15
