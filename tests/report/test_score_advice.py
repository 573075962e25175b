"""What to do next about scores that jump."""

from scalectl.core.job import State
from scalectl.report.advice import Facts, Jump, advise


def said(*jumps):
    facts = Facts("sums", {State.DONE: 40}, (1, 10, 100, 1000), 5, (), None, jumps=jumps)
    return [(held.seen, held.remedy) for held in advise(facts) if "jump" in held.seen or "threshold" in held.seen]


def test_a_jump_at_the_largest_size_asks_for_larger_ones():
    assert said(Jump("add", 5, edge=True)) == [("add jumps at the largest size", "add two larger sizes to the grid")]
    assert said(Jump("add", 5, edge=True), Jump("mul", 5, edge=True))[0][0] == "add, mul jump at the largest size"


def test_a_threshold_of_few_seeds_asks_for_five():
    assert said(Jump("add", 1, edge=False)) == [("1 seed at the threshold of add", "seed = { grid = [0, 1, 2, 3, 4] }")]


def test_five_seeds_and_scores_of_unknown_seeds_ask_for_nothing():
    assert said(Jump("add", 5, edge=False), Jump("mul", None, edge=False)) == []
