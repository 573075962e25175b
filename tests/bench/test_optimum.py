"""A fit ends no higher than the best of many local fits from random starts, law by law."""

import sys

import numpy as np
import pytest
from support import REPOSITORY

from scalectl.laws import LAWS

sys.path.insert(0, str(REPOSITORY / "bench"))
from optimum import cases, excess

MANY_BASINS = ("chinchilla+gamma", "repetition", "broken", "saturating")


def losses(name, problems, starts):
    """By how much a fit ends above the best of the local fits, where it does, by the number of the problem."""
    found = enumerate(excess(case, starts, np.random.default_rng(0))[0] for case in cases(name, problems))
    return {number: above for number, above in found if above > 0}


@pytest.mark.parametrize("name", LAWS)
def test_few_random_starts_find_nothing_better(name):
    assert losses(name, 1, 20) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_many_random_starts_rarely_find_something_better(name):
    # Laws of four or more nonlinear parameters lose one problem now and then: bench/results/optimum.md lists them.
    allowed = 2 if name in MANY_BASINS else 0
    assert len(losses(name, 20, 100)) <= allowed


def test_the_random_problems_are_the_same_every_time_and_differ_from_each_other():
    first, again = ([case.points.L for case in cases("chinchilla", 3)] for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert len({len(values) for values in first} | {float(values[0]) for values in first}) > 3
