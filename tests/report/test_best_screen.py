"""What was chosen from a grid of rates, as text: one table, and every edge by name."""

import pytest

from scalectl.report.best_screen import MOST_CELLS, best_lines
from scalectl.report.look import Look
from scalectl.report.terminal import to_text
from scalectl.report.views import BestCell, BestView

RATES = (0.003, 0.006, 0.012, 0.024, 0.048)


def cell(width, value, method="minimum", edge="", values=RATES, diverged=(), seeds=2, filled=0):
    losses = tuple(3.0 + 0.01 * k for k in range(len(values)))
    named = {"model.d_model": width, "N": 12.0 * width**2, "D": 262144.0}
    return BestCell(named, value, 2.5741, method, edge, values, losses, diverged, seeds, 10, filled)


def shown(view, width=80, *, unicode=True):
    look = Look(width, unicode)
    return to_text(best_lines(view, look), look, color=False)


@pytest.fixture
def view():
    cells = (
        cell(8, 0.048, edge="highest"),
        cell(12, 0.02637, "parabola"),
        cell(16, 0.012, values=RATES[:4], diverged=(0.048,)),
        cell(24, 0.003, edge="lowest", filled=1),
        cell(32, 0.003, "only", values=RATES[:1]),
    )
    return BestView("train.lr", 50, cells)


@pytest.mark.parametrize("unicode", [True, False])
def test_the_choice_looks_as_it_did(view, golden, unicode):
    golden(f"best-80-{'unicode' if unicode else 'ascii'}-plain.txt", shown(view, unicode=unicode))


def test_what_all_cells_tried_stands_in_the_title():
    text = shown(BestView("train.lr", 20, (cell(8, 0.006), cell(16, 0.006))))
    assert "best lr of 5 (0.003 … 0.048)" in text
    assert "tried" not in text


def test_many_cells_are_no_table_and_their_edges_are_counted():
    cells = tuple(cell(8 * k, 0.048, edge="highest") for k in range(1, MOST_CELLS + 2))
    text = shown(BestView("train.lr", 130, cells))
    assert "d_model=8, d_model=16, d_model=24, d_model=32 and 9 more" in " ".join(text.split())
    assert "found" not in text


def test_one_seed_is_said():
    assert "one seed" in shown(BestView("train.lr", 10, (cell(8, 0.006, seeds=1), cell(16, 0.006, seeds=1))))
