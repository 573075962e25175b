from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from scalectl.core.job import State
from scalectl.fit.summary import Summary
from scalectl.report.build import build_report
from scalectl.report.look import Look
from scalectl.report.report_screen import report_lines
from scalectl.report.terminal import to_text
from scalectl.report.views import GridAxis, RunCurve, RunView, SweepView

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def screen(view: SweepView, width: int = 80, *, unicode: bool = True, color: bool = False) -> str:
    look = Look(width, unicode)
    return to_text(report_lines(build_report(view), look), look, color=color)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("color", [True, False])
def test_the_report_is_the_one_that_was_looked_at(
    ladder: SweepView, golden: Callable[[str, str], None], width: int, unicode: bool, color: bool
) -> None:
    name = f"report-{width}-{'unicode' if unicode else 'ascii'}-{'color' if color else 'plain'}.txt"
    golden(name, screen(ladder, width, unicode=unicode, color=color))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_line_is_longer_than_the_terminal_is_wide(ladder: SweepView, width: int, unicode: bool) -> None:
    lines = screen(ladder, width, unicode=unicode).splitlines()
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("unicode", [True, False])
def test_of_very_many_values_the_first_and_the_last_are_listed(ladder: SweepView, unicode: bool) -> None:
    for count, listed in ((24, "22, 23}"), (2000, "seed {0, 1, 2, …, 1999: 2000 values}")):
        text = screen(replace(ladder, axes=(GridAxis("train.seed", tuple(range(count))),)), 200, unicode=unicode)
        assert (listed if unicode else listed.replace("…", "..")) in text


def test_ascii_terminals_get_ascii(ladder: SweepView) -> None:
    assert screen(ladder, unicode=False).isascii()


def test_colour_adds_escapes_and_nothing_else(ladder: SweepView) -> None:
    plain, coloured = screen(ladder), screen(ladder, color=True)
    assert "\x1b" not in plain
    assert "\x1b" in coloured
    assert ESCAPES.sub("", coloured) == plain


def test_red_is_for_failure_and_yellow_for_advice(ladder: SweepView) -> None:
    red = [line for line in screen(ladder, color=True).splitlines() if "\x1b[31m" in line]
    assert len(red) == 1
    assert "diverged" in red[0]
    healthy = replace(ladder, runs=tuple(run for run in ladder.runs if run.state is State.DONE))
    assert "\x1b[31m" not in screen(healthy, color=True)


def test_a_message_that_contains_markup_or_escapes_is_printed_harmlessly(ladder: SweepView) -> None:
    nasty = "[red]boo[/red] \x1b[2J\x9b31m \u202egnp.exe \u200b :skull: \r\n\x07"
    run = replace(ladder.runs[0], state=State.FAILED, loss=None, message=nasty, curve=None)
    view = replace(ladder, runs=(run, *ladder.runs[1:]), question=nasty, name="x[bold]", notes=(nasty,))
    text = screen(view, 120)
    assert "[red]boo[/red] \\x1b[2J\\x9b31m \\u202egnp.exe \\u200b :skull: \\r\\n\\x07" in text
    assert "x[bold]" in text
    assert not set(text) & set("\x1b\x9b\u202e\u200b\r\x07")


def test_without_a_usable_fit_the_curves_are_shown_and_what_is_missing(ladder: SweepView) -> None:
    view = replace(ladder, runs=ladder.runs[:6], fits=(), chosen=None, because="two sizes finished, three are needed")
    text = screen(view)
    assert "Loss curves by d_model" in text
    assert "No law yet: two sizes finished, three are needed." in text
    assert "add values to the grid of sizes" in text


def test_a_sweep_that_has_not_begun_says_how_to_begin(ladder: SweepView) -> None:
    bare = [replace(run, state=State.PENDING, loss=None, curve=None, seconds=None) for run in ladder.runs]
    text = screen(replace(ladder, runs=tuple(bare), fits=(), chosen=None))
    assert "15 pending" in text
    assert "scalectl sweep stdlib-ladder" in text
    assert "No loss curves yet" in text


def test_a_parameter_that_is_not_identified_is_never_shown_as_an_estimate(
    ladder: SweepView, summaries: Callable[[], tuple[Summary, Summary]]
) -> None:
    _, floored = summaries()
    text = screen(replace(ladder, fits=(floored,), chosen=None, because="E and α are open"), color=True)
    row = next(line for line in text.splitlines() if "0.12" in line and "0.41" in line)
    assert "\x1b[1m" not in row
    assert "not identified together" in text
    assert "no law chosen: E and α are open" in text


def test_results_shipped_with_scalectl_are_not_taken_for_the_readers_own(ladder: SweepView) -> None:
    assert "not from runs of yours" in screen(replace(ladder, reference=True))
    assert "not from runs of yours" not in screen(ladder)


def test_a_large_grid_shows_its_ends_and_says_how_much_it_leaves_out(ladder: SweepView) -> None:
    template = ladder.runs[0]
    widths = tuple(range(4, 404, 4))
    runs = tuple(replace(template, run_id=f"{w:016x}", cell={"model.d_model": w}, N=w * w) for w in widths)
    view = replace(ladder, axes=(replace(ladder.axes[0], values=widths),), runs=runs, fits=(), chosen=None)
    text = screen(view)
    assert "70 more, see scalectl export stdlib-ladder" in text
    assert "8 of 100 shown" in text
    assert len(text.splitlines()) < 100


def test_the_way_compute_is_counted_is_said(ladder: SweepView) -> None:
    assert "C of all matrix products" in screen(replace(ladder, flops="exact"))
    assert "C = 6 N D" in screen(replace(ladder, flops="6nd"))


WORDS = st.text(alphabet=st.sampled_from("ab [/]=, 日本\x1b\n\u202e…"), max_size=90)


@given(name=WORDS, question=WORDS, value=WORDS, message=WORDS, width=st.integers(40, 130), unicode=st.booleans())
@settings(max_examples=60, deadline=None)
def test_whatever_data_say_lines_stay_inside_the_terminal(
    name: str, question: str, value: str, message: str, width: int, unicode: bool
) -> None:
    nothing = np.array([])
    runs = (
        RunView("a" * 16, {"x": value}, 10, 100, 6e3, State.DONE, 2.0, 0.1, curve=RunCurve(nothing, nothing, nothing)),
        RunView("b" * 16, {"x": 2}, 20, 100, 12e3, State.FAILED, message=message),
        RunView("c" * 16, {"x": 3}, 30, 100, 18e3, State.DONE, math.nan),
    )
    view = SweepView(name, question, (GridAxis("x", (value, 2, 3)),), runs, because=message, notes=(question,))
    text = screen(view, width, unicode=unicode)
    assert max(map(cell_len, text.split("\n"))) <= width
    assert not set(text) & set("\x1b\u202e")


def test_the_share_of_the_peak_stands_beside_the_time_where_there_is_room(ladder: SweepView) -> None:
    known = replace(ladder, runs=tuple(replace(run, mfu=0.3 + run.N / 1e6) for run in ladder.runs))
    assert "MFU" not in screen(ladder)
    head = next(line for line in screen(known, 100).splitlines() if "MFU" in line)
    assert head.split()[-1] == "MFU"
    assert any(line.endswith("70 %") for line in screen(known, 100).splitlines())  # of 397 k parameters
    narrow = screen(known, 60)
    assert "MFU" in narrow  # among what `export` has
    assert not any(line.split()[-1:] == ["MFU"] for line in narrow.splitlines())
