"""Final losses as a table that is read, not counted through: crossed where the cells are many, never paragraphs."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from rich.cells import cell_len

from scalectl.core.job import State
from scalectl.report.build import build_report
from scalectl.report.look import Look
from scalectl.report.loss_table import loss_table
from scalectl.report.terminal import to_text
from scalectl.report.views import GridAxis, RunView, SweepView

WIDTHS = (8, 16, 24, 32, 40, 56)
RATIOS = (2.5, 5.0, 10.0, 20.0)


def run(width: int, ratio: float, seed: int, **more: object) -> RunView:
    N = 24 * width * width
    cell = {"model.d_model": width, "train.tokens_per_param": ratio, "train.seed": seed}
    loss = 5 * N**-0.08 * ratio**-0.05 + 0.01 * seed
    D = round(ratio * N)
    made = RunView(f"{width}{ratio}{seed}", cell, N, D, 6.0 * N * D, State.DONE, loss, 0.02, 3.1, 61.0)
    return replace(made, **more)


def crossed() -> SweepView:
    """Six widths by four budgets, three seeds; the smallest width has the two large budgets alone."""
    cells = [cell for cell in product(WIDTHS, RATIOS, (0, 1, 2)) if cell[0] > 8 or cell[1] >= 10]
    axes = tuple(
        GridAxis(key, values)
        for key, values in (
            ("model.d_model", WIDTHS),
            ("train.tokens_per_param", RATIOS),
            ("train.seed", (0, 1, 2)),
        )
    )
    return SweepView("ladder", "", axes, tuple(run(*cell) for cell in cells))


def lines(view: SweepView, width: int = 80) -> list[str]:
    look = Look(width, unicode=True)
    return to_text(loss_table(build_report(view), look), look, color=False).splitlines()


def test_many_cells_are_sizes_down_and_budgets_across_in_the_order_of_numbers() -> None:
    text = lines(crossed())
    title = " ".join(text[:2])
    assert "by d_model and, across, tokens_per_param [nats/token]" in title
    assert "± standard error over seeds, n = 3" in title
    head, *rows = text[2:-1]
    assert head.split() == ["d_model", "2.5", "5", "10", "20"]
    assert [row.split()[0] for row in rows] == [str(width) for width in WIDTHS]
    assert "".join(rows[0][: head.index("10")].split()) == "8"  # no run was planned there
    means = [5 * (24 * 16**2) ** -0.08 * ratio**-0.05 + 0.01 for ratio in RATIOS]
    assert rows[1].split() == ["16", *" ".join(f"{mean:.4f} ± 0.0058" for mean in means).split()]
    assert "scalectl export ladder" in text[-1]


def test_a_cell_without_a_finished_run_is_told_from_one_that_was_dropped() -> None:
    view = crossed()
    gone = {"model.d_model": 16, "train.tokens_per_param": 5.0}
    runs = tuple(
        replace(r, state=State.PENDING, loss=None) if gone.items() <= dict(r.cell).items() else r for r in view.runs
    )
    row = next(row for row in lines(replace(view, runs=runs)) if row.split()[:1] == ["16"])
    assert row.split()[4] == "none"
    fewer = replace(view.runs[0], state=State.DIVERGED, loss=None)
    assert "n = 2 to 3" in " ".join(lines(replace(view, runs=(fewer, *view.runs[1:]))))


def test_six_columns_give_their_errors_up_for_room_and_the_title_says_the_largest() -> None:
    view = crossed()
    rates = (1, 2, 3, 4, 5, 6)
    runs = tuple(
        replace(run(width, 5.0, 0), run_id=f"{width}{rate}", cell={"model.d_model": width, "train.lr": rate})
        for width, rate in product(WIDTHS, rates)
    )
    axes = (view.axes[0], GridAxis("train.lr", rates))
    text = lines(replace(view, axes=axes, runs=runs))
    assert "standard error over sequences at most 0.020, n = 1" in " ".join(text)
    assert not any("±" in line for line in text[2:])
    assert "±" in lines(replace(view, axes=axes, runs=runs), 120)[3]


@pytest.mark.parametrize("cells", [8, 40])
def test_a_list_gives_columns_up_before_its_rows_become_paragraphs(cells: int) -> None:
    """Sixteen cells or fewer are listed with all that is known; so is what no table can cross."""
    view = crossed()
    runs = tuple(
        replace(run(16, 10.0, 0), run_id=str(i), N=1000 + i, D=50_000 + i, cell={"name": f"run number {i}"})
        for i in range(cells)
    )
    axes = (GridAxis("name", tuple(f"run number {i}" for i in range(cells))),)
    for width, kept in ((100, True), (66, False)):
        text = lines(replace(view, axes=axes, runs=runs), width)
        head = next(line for line in text if "loss" in line and "Held-out" not in line)
        assert ("bits/byte" in head) is kept
        assert (f"time and bits/byte of each: scalectl export {view.name}" in text[-1]) is not kept
        assert all(cell_len(line) <= width for line in text)
        assert sum(line.strip().startswith("run number") for line in text) == min(cells, 30)


def test_cells_that_their_keys_do_not_tell_apart_are_listed() -> None:
    view = crossed()
    twins = tuple(replace(r, run_id=f"{r.run_id}x", D=r.D + 64, place="another table") for r in view.runs)
    text = lines(replace(view, runs=view.runs + twins), 120)
    assert "across" not in " ".join(text)
    assert "more, see scalectl export" in " ".join(text)
