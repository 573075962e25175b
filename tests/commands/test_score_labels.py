"""What a score or a loss is called where a size is unsure, a twin ends early, or a loss turns."""

from __future__ import annotations

import numpy as np
import pytest

from scalectl.commands import score
from scalectl.commands.fit import Request
from scalectl.commands.measured import Asked

N = np.geomspace(1e6, 1e9, 9)


def task(folder, **columns):
    """The verdict on a table with these columns, a missing number an empty cell."""
    lines = [",".join(columns)]
    lines += [",".join("" if np.isnan(x) else f"{x:.6g}" for x in row) for row in zip(*columns.values(), strict=True)]
    path = folder / "table.csv"
    path.write_text("\n".join(lines))
    asked = Asked(chance="0", twin="nll" if "nll" in columns else None, items="items" if "items" in columns else None)
    return score.run(Request(str(path), None), asked).tasks[0]


def jump(*above):
    return np.r_[np.full(9 - len(above), 0.01), above]


ITEMS = np.full(9, 500.0)


def test_one_unsure_size_among_those_above_is_no_edge(tmp_path):
    items = np.r_[ITEMS[:7], 20.0, 500.0]
    found = task(tmp_path, N=N, accuracy=jump(0.75, 0.8, 0.15, 0.85), items=items)
    assert found.label.startswith("emergent")
    assert found.bracket == pytest.approx((N[7], N[8]), rel=1e-4)
    assert N[4] < found.midpoint < N[6]
    assert "422 M is unsure, from 20 items" in found.because


def test_a_largest_size_of_few_items_is_what_leaves_a_jump_open(tmp_path):
    found = task(tmp_path, N=N, accuracy=jump(0.75, 0.8, 0.8, 0.0), items=np.r_[ITEMS[:8], 2.0])
    assert not found.flagged
    assert "at 1 B it is not above the floor" in found.because
    assert "from 2 items" in found.because


def test_a_twin_that_is_missing_where_the_score_jumps_leaves_it_open(tmp_path):
    loss = np.exp(-0.1 * np.log10(N / N[0]))
    loss[-1] = np.nan
    found = task(tmp_path, N=N, accuracy=jump(0.6), items=ITEMS, nll=loss)
    assert (found.label, found.artefact) == ("edge", "metric-driven")
    bent = np.exp(-0.1 * np.log10(N / N[0]) - np.maximum(0, np.log10(N / N[3])))
    bent[-1] = np.nan
    found = task(tmp_path, N=N, accuracy=jump(0.6), items=ITEMS, nll=bent)
    assert (found.label, found.artefact) == ("edge", "undetermined")
    assert "and the jump is at 422 M … 1 B" in found.because


def test_a_bend_within_the_rise_makes_it_though_the_score_left_the_floor_before(tmp_path):
    x = np.log10(N / N[0])
    accuracy = np.r_[np.full(4, 0.01), 0.09, 0.1, 0.12, 0.9, 0.95]
    bent = np.exp(-0.05 * x - 3 * np.maximum(0, x - 2.25))
    found = task(tmp_path, N=N, accuracy=accuracy, items=ITEMS, nll=bent)
    assert found.flagged
    assert found.bracket[1] < N[6] < found.interval[0]
    assert "most of the rise comes later" in found.because
    assert found.artefact == "genuine"


@pytest.mark.parametrize(
    ("loss", "label", "said"),
    [
        (1 + np.linspace(0, 1, 9), "non-monotone", "rises from 1 at 1 M to 2 at 1 B"),
        (1.5 + 0.5 * np.abs(np.linspace(-1, 1, 9)), "non-monotone", "rises from 1.5 at 31.6 M to 2 at 1 B"),
        (np.linspace(2, 1, 9), "smooth", ""),
        (np.full(9, 2.0) + 0.01 * np.cos(np.arange(9)), "flat", ""),
    ],
)
def test_a_loss_that_rises_is_said_to(tmp_path, loss, label, said):
    found = task(tmp_path, N=N, loss=loss)
    assert (found.label, said in found.because) == (label, True), found.because
