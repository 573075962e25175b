"""The screen of `compare`: savings with two intervals, and what a claim takes."""

import math
from dataclasses import replace

import pytest
from rich.cells import cell_len

from scalectl.report.compare_screen import compare_lines
from scalectl.report.look import Look
from scalectl.report.terminal import to_text
from scalectl.report.views import ArmView, CompareView, ComparisonView, SavingView

FIRST = ArmView("learned", 20, 5, {"A": 14.1, "alpha": 0.07}, "converged", 0.0083, D=327_680.0)
SECOND = ArmView("rotary", 20, 5, {"A": 16.0, "alpha": 0.08}, "converged", 0.0079, D=327_680.0)
PAIR = ComparisonView(
    first=FIRST,
    second=SECOND,
    overlap=(2.46, 2.82),
    savings=(
        SavingView(2.784, 1.24, (1.05, 1.46), (0.81, 1.9), (1.33e10, 1.07e10), (1.0, 1.0)),
        SavingView(2.64, 1.571, (1.22, 2.03), (1.0, 2.51), (2.96e10, 1.88e10), (1.0, 1.0)),
        SavingView(2.2, 2.9, (0.002, 4.2e5), (1e-12, math.inf), (4.1e11, math.inf), (5.1, math.inf)),
    ),
    one_shape=SavingView(None, 1.502, (1.18, 1.91), (0.97, 2.3)),
    paired_by="model.d_model",
    unpaired_because="",
    noise_of_pairs=0.0051,
    slope=0.074,
    claim=0.02,
    seeds=4,
    seeds_needed=73,
    seeds_needed_unpaired=371,
    unit="size",
)
VIEW = CompareView(
    "pos", "C", "power", "L = A/C^α", "huber", 1e-3, "non_embedding", "exact", "size", 0.95, 1000, (PAIR,)
)


def shown(view, width=80, *, unicode=True):
    look = Look(width, unicode)
    return to_text(compare_lines(view, look), look, color=False)


def words(view):
    return " ".join(shown(view).split())


@pytest.mark.parametrize("unicode", [True, False])
def test_the_comparison_looks_as_it_did(golden, unicode):
    golden(f"compare-80-{'unicode' if unicode else 'ascii'}-plain.txt", shown(VIEW, unicode=unicode))


@pytest.mark.parametrize("width", [40, 64, 80, 120])
@pytest.mark.parametrize("unicode", [True, False])
def test_the_screen_fits_the_terminal(width, unicode):
    text = shown(VIEW, width, unicode=unicode)
    assert max(map(cell_len, text.splitlines())) <= width
    assert unicode or text.isascii()


def test_a_saving_is_claimed_only_where_the_interval_excludes_one():
    assert "rotary saves compute over learned at 2 of 3 losses" in words(VIEW)
    sure = replace(PAIR, savings=PAIR.savings[:2])
    assert "rotary saves compute over learned: the interval excludes 1" in words(replace(VIEW, comparisons=(sure,)))
    worse = replace(PAIR, savings=(replace(PAIR.savings[0], value=0.8, paired=(0.7, 0.9)),))
    assert "learned saves compute over rotary: the interval excludes 1" in words(replace(VIEW, comparisons=(worse,)))
    crossed = words(replace(VIEW, comparisons=(replace(PAIR, savings=(*worse.savings, *sure.savings)),)))
    assert "rotary saves compute over learned at 2 of 3 losses and learned saves compute over rotary at 1" in crossed
    assert "the curves cross, and the interval excludes 1 on both sides" in crossed
    none = replace(PAIR, savings=(replace(PAIR.savings[0], paired=(0.9, 1.4)),))
    alone = words(replace(VIEW, comparisons=(none,)))
    assert (
        "no saving is shown at any one loss; rotary saves compute over learned if both curves have one shape" in alone
    )
    worse = replace(none, one_shape=SavingView(None, 0.8, (0.7, 0.9), (0.6, 1.2)))
    assert "learned saves compute over rotary if both" in words(replace(VIEW, comparisons=(worse,)))
    bent = replace(sure, one_shape=SavingView(None, 1.2, (0.9, 1.5), (0.8, 1.7)))
    assert "excludes 1; with one shape for both curves it holds 1" in words(replace(VIEW, comparisons=(bent,)))
    for open_shape in (None, SavingView(None, 1.2, (0.9, 1.5), (0.8, 1.7))):
        held = replace(none, one_shape=open_shape)
        assert "no saving is shown: every interval holds 1" in words(replace(VIEW, comparisons=(held,)))


def test_runs_that_are_not_paired_have_one_interval_and_a_reason():
    alone = [replace(saving, paired=None) for saving in PAIR.savings]
    held = replace(
        PAIR, savings=tuple(alone), one_shape=None, paired_by="", unpaired_because="the runs have no seeds",
        noise_of_pairs=None, seeds_needed=None,
    )  # fmt: skip
    text = words(replace(VIEW, comparisons=(held,)))
    assert "not paired: the runs have no seeds" in text
    assert "95 % paired" not in text
    assert "371 seeds a size unpaired, now 4" in text


def test_what_pairing_does_not_do_is_said():
    assert "pairing" not in words(VIEW)
    noisy = replace(PAIR, noise_of_pairs=0.0121)  # the sizes are off by the same in both
    assert "pairing helps by the sizes alone: runs of one seed do not share their luck" in words(
        replace(VIEW, comparisons=(noisy,))
    )
    same = tuple(replace(saving, paired=(1.1, 1.5), unpaired=(1.1, 1.51)) for saving in PAIR.savings)
    assert "pairing does not help: its intervals are no narrower" in words(
        replace(VIEW, comparisons=(replace(PAIR, savings=same),))
    )
    both = replace(noisy, savings=same)
    assert "no narrower, and runs of one seed do not share their luck" in words(replace(VIEW, comparisons=(both,)))


def test_without_repeated_seeds_the_noise_is_unknown():
    first, second = (replace(arm, noise=None) for arm in (FIRST, SECOND))
    held = replace(
        PAIR, first=first, second=second, noise_of_pairs=None, seeds=1, seeds_needed=None, seeds_needed_unpaired=None
    )
    assert "no size has two seeds, so that the noise is unknown; add seeds" in words(replace(VIEW, comparisons=(held,)))
