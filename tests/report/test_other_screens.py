from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.text import Text

from scalectl.core import units
from scalectl.core.job import State
from scalectl.fit.summary import Summary
from scalectl.report.fit_screen import fit_lines, predict_lines
from scalectl.report.look import Look
from scalectl.report.plan_screen import plan_lines, status_lines
from scalectl.report.terminal import to_text
from scalectl.report.views import Answer, FitView, PlanGroup, PlanView, PredictView, StatusRow, StatusView

Golden = Callable[[str, str], None]
Summaries = Callable[[], tuple[Summary, Summary]]
Screen = Callable[[Look], list[Text]]
LENGTHS = ("train.tokens", "train.tokens_per_param")
SIZES = {8: 1_904, 16: 6_880, 32: 26_048, 64: 101_248, 128: 399_104}


def plan_view() -> PlanView:
    groups = tuple(
        PlanGroup(
            cell={"model.d_model": width},
            runs=3,
            done=3 if width < 32 else 0,
            pack=3,
            N=N,
            D=1_382_400,
            epochs=0.13,
            flops=8.3e6 * N,
            memory=3e6 + 600.0 * N,
            seconds=4 + width / 2,
        )
        for width, N in SIZES.items()
    )
    return PlanView(
        name="stdlib-ladder",
        question="How does byte-level loss on the Python standard library fall with model size?",
        groups=groups,
        flops=1.31e13,
        seconds=147.0,
        disk=2.1e6,
        devices="2 CPU threads",
        todo=9,
        shared=(("n_layer", "2"), ("context", "96"), ("precision", "fp32")),
        dropped=(("tokens_per_param < 2", 3),),
        warnings=("tokens = 1382500 is rounded down to 1382400, 600 whole steps",),
        older=4,
    )


def ladder_view() -> PlanView:
    """Ten widths, four budgets each on one trunk, three seeds."""
    widths = (8, 16, 24, 32, 40, 56, 80, 112, 144, 192)
    groups = tuple(
        PlanGroup(
            cell={"model.d_model": width, "train.tokens_per_param": ratio},
            runs=3,
            done=3 if width == 8 else 0,
            pack=6 if width < 56 else 1,
            N=24 * width**2,
            D=int(24 * width**2 * ratio),
            epochs=0.01,
            flops=144 * width**4 * ratio,
            memory=1e6 + 40.0 * width**2,
            seconds=width * ratio,
            jobs=1 if width < 56 else 3,
            slot_seconds=0.0 if width == 8 else width * (3.0 if ratio == 20 else 0.5) * ratio,
        )
        for width in widths
        for ratio in (2.5, 5, 10, 20)
        if (width, ratio) not in ((8, 2.5), (192, 20))
    )
    return replace(
        plan_view(), name="cpu-ladder", groups=groups, jobs=20, trunks=27, alone=(2e13, 230.0), lengths=LENGTHS
    )


def status_view() -> StatusView:
    rows = (
        StatusRow(
            "4f1c9e0000000000", {"model.d_model": 8, "train.seed": 0}, State.LOST, 300, 600, 4_000.0, "worker died"
        ),
        StatusRow(
            "b03a7d0000000000",
            {"model.d_model": 8, "train.seed": 1},
            State.FAILED,
            12,
            600,
            180_000.0,
            "RuntimeError: [/red] \x1b[31mno kernel image is available for execution on the device that was asked for",
        ),
        StatusRow("c1d2e30000000000", {"model.d_model": 16, "train.seed": 0}, State.PENDING, None, 600),
        StatusRow("d4e5f60000000000", {"model.d_model": 16, "train.seed": 1}, State.RUNNING, 451, 600, 2.0),
    )
    counts = {State.DONE: 11, State.LOST: 1, State.FAILED: 1, State.PENDING: 1, State.RUNNING: 1}
    return StatusView("stdlib-ladder", counts, rows)


def predict_view() -> PredictView:
    answers = (
        Answer("loss at N = 1 B", "L", 0.897, (0.61, 1.2), {"N": 2_505.0}),
        Answer("loss at N = 100 k", "L", 1.837, (1.81, 1.86), {"N": 1.0}),
        Answer("N for loss 1.2", "N", 2.4e7, (0.9e7, 3.1e8), {"N": 60.0}),
        Answer("N for loss 0.4", "N", 3.2e13, (1e11, math.inf), {"N": 8.1e7}, impossible=0.13),
        Answer("compute-optimal D at C = 1e21 FLOP", "D", 5.4e10, (4.2e10, 7.7e10), {"C": 310.0}),
        Answer("C for loss 2", "C", 3.3e21, (2e21, 8e21), {"C": 3.2}),
    )
    return PredictView("stdlib-ladder", "power", "L = A/N^α", 15, "non_embedding", "size", 0.95, 1000, answers)


def fit_view(summaries: Summaries) -> FitView:
    because = "held-out error 1.9 % against 3.1 %"
    return FitView("stdlib-ladder", summaries(), "power", because, seeds=3, fixed={"D": 1_382_400.0})


@pytest.fixture
def screens(summaries: Summaries) -> dict[str, Screen]:
    return {
        "plan": lambda look: plan_lines(plan_view(), look),
        "ladder": lambda look: plan_lines(ladder_view(), look),
        "status": lambda look: status_lines(status_view(), look),
        "fit": lambda look: fit_lines(fit_view(summaries), look),
        "predict": lambda look: predict_lines(predict_view(), look),
    }


NAMES = ("plan", "ladder", "status", "fit", "predict")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unicode", [True, False])
def test_the_screen_is_the_one_that_was_looked_at(
    screens: dict[str, Screen], golden: Golden, name: str, unicode: bool
) -> None:
    look = Look(80, unicode)
    golden(f"{name}-80-{'unicode' if unicode else 'ascii'}-plain.txt", to_text(screens[name](look), look, color=False))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [40, 64, 80, 120])
@pytest.mark.parametrize("unicode", [True, False])
def test_screens_fit_the_terminal(screens: dict[str, Screen], name: str, width: int, unicode: bool) -> None:
    look = Look(width, unicode)
    text = to_text(screens[name](look), look, color=False)
    assert max(map(cell_len, text.splitlines())) <= width
    assert unicode or text.isascii()
    assert "\x1b" not in text


def shown(lines: list[Text]) -> str:
    return "\n".join(line.plain for line in lines)


def test_a_plan_with_nothing_to_do_says_what_comes_next() -> None:
    view = plan_view()
    done = replace(view, todo=0, groups=tuple(replace(group, done=group.runs) for group in view.groups))
    assert "Nothing to do: 15/15 done.  Next:  scalectl fit stdlib-ladder" in shown(plan_lines(done, Look()))


def test_runs_that_wait_for_somebody_else_are_not_counted_as_work() -> None:
    text = shown(plan_lines(replace(plan_view(), todo=0), Look()))
    assert "Nothing to do: 6/15 done." in text
    assert "Next:" not in text


def test_budgets_epochs_and_packs_that_differ_stand_in_the_rows() -> None:
    view = plan_view()
    groups = tuple(
        replace(group, D=group.D * (i + 1), epochs=1.0 * i, pack=i + 1, runs=4) for i, group in enumerate(view.groups)
    )
    text = shown(plan_lines(replace(view, groups=groups), Look(120)))
    assert "D tokens (epochs)" in text
    assert "4.15 M (2 epochs)" in text
    assert "memory up to 231 MiB a pack" in text
    header = next(line.split() for line in text.splitlines() if line.split()[:1] == ["d_model"])
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["128"])
    assert row[header.index("pack")] == "5"


def test_a_narrow_plan_leaves_out_memory_and_then_compute_before_it_is_no_table() -> None:
    view = plan_view()
    groups = tuple(
        replace(group, cell={**group.cell, "train.tokens_per_param": 20 + i}, D=1e9 * (i + 1), epochs=180.0 + i, runs=4)
        for i, group in enumerate(view.groups)
    )
    said = {}
    for width in (110, 80, 66):
        text = shown(plan_lines(replace(view, groups=groups), Look(width)))
        assert any(line.split()[:3] == ["8,", "20", "4,"] for line in text.splitlines()), text  # no paragraphs
        said[width] = " ".join(text.split())
        assert "(180 epochs)" in said[width]
        assert "tokens_per_param of all parameters" in said[width]
    assert [("memory up to" in text, "FLOP to " in text) for text in said.values()] == [
        (False, False),
        (True, False),
        (True, True),
    ]


def test_many_lengths_share_a_row_and_few_have_one_each() -> None:
    view = ladder_view()
    lines = shown(plan_lines(view, Look(80))).splitlines()
    header = next(i for i, line in enumerate(lines) if line.split()[:2] == ["d_model", "runs"])
    rows = [line.split() for line in lines[header + 1 : header + 11]]
    assert [int(row[0]) for row in rows] == [8, 16, 24, 32, 40, 56, 80, 112, 144, 192]
    assert (rows[0][1:3], rows[1][1], rows[9][1]) == (["9,", "done"], "12", "9")
    seconds = sum(group.slot_seconds or 0 for group in view.groups if group.cell["model.d_model"] == 56)
    assert rows[5][-1] == units.duration(seconds)
    few = replace(view, groups=view.groups[:15])
    assert shown(plan_lines(few, Look(80))).count("\n  16, ") == 4
    lost = replace(view, groups=tuple(replace(group, seconds=None, slot_seconds=None) for group in view.groups))
    assert "time" not in shown(plan_lines(lost, Look(80))).splitlines()[header]
    repeated = replace(view, groups=tuple(replace(group, epochs=group.D / 1e6) for group in view.groups))
    assert "D up to 10 epochs" in " ".join(shown(plan_lines(repeated, Look(80))).split())


def test_a_time_that_nobody_measured_is_not_made_up() -> None:
    view = plan_view()
    groups = tuple(replace(group, seconds=None, memory=None) for group in view.groups)
    text = shown(plan_lines(replace(view, groups=groups, seconds=None), Look()))
    assert "time unknown" in text
    assert "memory" not in text


def test_status_without_matching_runs_says_so() -> None:
    view = StatusView("x", {State.DONE: 3}, ())
    assert shown(status_lines(view, Look())).splitlines()[1] == "No runs that are not done."


def test_an_extrapolation_shows_how_far_it_goes() -> None:
    lines = shown(predict_lines(predict_view(), Look(120))).splitlines()
    assert next(line for line in lines if "N = 1 B" in line).endswith("N 2.5k×")
    assert next(line for line in lines if "N = 100 k" in line).endswith("inside")
    assert any("13 % of the draws never get there" in line for line in lines)


def test_answers_beyond_anything_leave_the_table_a_table() -> None:
    answers = (
        Answer("compute-optimal N at C = 1e30 FLOP", "N", 3.1e16, (5.8e-162, 2.9e168), {"C": 1.3e14}),
        Answer("compute-optimal D at C = 1e30 FLOP", "D", 0.02, (1e-9, 4e17), {"C": math.inf}),
    )
    look = Look(80)
    lines = to_text(predict_lines(replace(predict_view(), answers=answers), look), look, color=False).splitlines()
    head = next(i for i, line in enumerate(lines) if line.split()[:2] == ["asked", "predicted"])
    column = lines[head].index("predicted")
    rows = [line[column:].split() for line in lines[head + 1 :] if line[column:].strip()]
    assert rows == [
        ["3.1e16", "0", "…", "∞", "parameters", "C", "1.3e14×"],
        ["<1", "0", "…", "4e17", "tokens", "C", "∞×"],
    ]


def test_status_gives_a_cell_its_width_and_leaves_out_what_no_row_has() -> None:
    cell = {"model.d_model": 128, "model.n_layer": 4, "train.lr": 0.003, "train.seed": 0}
    rows = tuple(StatusRow(f"{i}f1c9e0000000000", cell | {"train.seed": i}, State.PENDING, None, 600) for i in (1, 2))
    lines = shown(status_lines(StatusView("x", {State.PENDING: 2}, rows), Look(80))).splitlines()
    assert [line.split() for line in lines[3:]] == [
        ["run", "cell", "state"],
        ["1f1c9e", "d_model=128", "n_layer=4", "lr=0.003", "seed=1", "pending"],
        ["2f1c9e", "d_model=128", "n_layer=4", "lr=0.003", "seed=2", "pending"],
    ]


def test_only_the_chosen_law_is_bold(summaries: Summaries) -> None:
    view = fit_view(summaries)
    look = Look(80)
    rows = to_text(fit_lines(view, look), look, color=True).splitlines()
    bold = [row for row in rows if "\x1b[1m" in row]
    assert len(bold) == 2
    assert all("0.078" in row or "4.5" in row for row in bold)
    open_ended = replace(view, chosen=None, because="neither is identified")
    rows = to_text(fit_lines(open_ended, look), look, color=True).splitlines()
    assert not [row for row in rows if "\x1b[1m" in row]


def test_a_parameter_that_was_fixed_is_called_fixed(summaries: Summaries) -> None:
    power, _ = summaries()
    held = replace(
        power, identified={"A": True}, intervals_by_unit={"size": {"A": (3.9, 5.2)}}, intervals={"A": (3.9, 5.2)}
    )
    row = next(
        line for line in shown(fit_lines(FitView("x", (held,), "power", ""), Look())).splitlines() if "fixed" in line
    )
    assert row.split() == ["α", "0.0781", "fixed"]


def test_parameters_are_printed_as_the_formula_writes_them(summaries: Summaries) -> None:
    power, _ = summaries()
    spelt = replace(
        power,
        params={"A": 4.5, "alpha": 0.078},
        identified={"A": True, "alpha": False},
        intervals_by_unit={"size": {"A": (3.9, 5.2), "alpha": (0.06, 0.1)}},
        advice="alpha is not identified; alphabet stays",
    )
    text = shown(fit_lines(FitView("x", (spelt,), None, "alpha is open"), Look()))
    assert "α is not identified; alphabet stays" in text
    assert "no law chosen: α is open" in text
    assert "alpha " not in text


def test_a_parametrisation_is_named_not_numbered() -> None:
    view = plan_view()
    groups = [
        replace(group, cell={"model.d_model": width, "model.mup_base_width": base})
        for width, group in zip((32, 64), view.groups, strict=False)
        for base in (0, 256)
    ]
    text = shown(plan_lines(replace(view, groups=tuple(groups)), Look()))
    assert "d_model, mup_base_width" in text
    assert "32, standard" in text
    assert "64, mup 256" in text


def test_a_doubling_without_an_interval_admits_it(summaries: Summaries) -> None:
    power = replace(summaries()[0], doubling=(0.05312, -math.inf, math.inf))
    assert "doubling N lowers the loss by 5.3 % (no interval)" in shown(
        fit_lines(FitView("x", (power,), None, ""), Look())
    )


def test_a_prediction_names_parameters_as_the_fit_does() -> None:
    text = shown(predict_lines(replace(predict_view(), notes=("A and alpha not identified",)), Look()))
    assert "A and α not identified" in text


def test_too_few_runs_for_a_criterion_are_said_and_no_infinity(summaries: Summaries) -> None:
    view = FitView("x", (replace(summaries()[0], aicc=math.inf),), None, "")
    text = shown(fit_lines(view, Look()))
    assert "too few runs for an AICc" in " ".join(text.split())
    assert "inf" not in text


def test_a_doubling_under_a_fixed_exponent_has_no_interval_but_a_reason(summaries: Summaries) -> None:
    power = replace(summaries()[0], doubling=(0.18775, 0.18775, 0.18775))
    assert "lowers the loss by 19 % (α is fixed)" in shown(fit_lines(FitView("x", (power,), None, ""), Look()))


def test_without_a_bootstrap_the_profile_stands_in_and_says_so(summaries: Summaries) -> None:
    power = replace(summaries()[0], intervals={}, intervals_by_unit={}, draws=0)
    text = shown(fit_lines(FitView("x", (power,), "power", ""), Look()))
    assert "95 % profile likelihood" in text
    assert "0.068 … 0.089" in text
    assert "no bootstrap" in text


def test_without_a_bootstrap_nothing_is_judged_and_open_bounds_end_at_zero(summaries: Summaries) -> None:
    unsure = replace(
        summaries()[0],
        intervals={},
        intervals_by_unit={},
        draws=0,
        params={"A": 4.513, "alpha": 0.0781},
        profile={"A": (-math.inf, math.inf), "alpha": (-math.inf, 0.1)},
        identified={"A": False, "alpha": False},
    )
    text = shown(fit_lines(FitView("x", (unsure,), "power", ""), Look()))
    assert "-∞" not in text
    assert "0 … ∞" in " ".join(text.split())
    assert "A and α not judged without the bootstrap" in text
    assert "identified" not in text


def test_a_fit_shows_how_sure_its_optimum_is_and_which_points_defy_it(summaries: Summaries) -> None:
    power = replace(summaries()[0], starts_at_optimum=9, outliers=("4f1c9e", "b03a7d"))
    text = shown(fit_lines(FitView("x", (power,), "power", ""), Look()))
    assert "9/64 starts met here, objective 0.0021, gradient 3e-09" in text
    assert "2 points beyond 5 robust deviations: 4f1c9e, b03a7d" in text


def test_a_law_over_compute_says_how_compute_was_counted(summaries: Summaries) -> None:
    power = replace(summaries()[0], axis="C", formula="L = A/C^α", flops="6nd")
    assert "C = 6 N D" in shown(fit_lines(FitView("x", (power,), "power", ""), Look(160)))
    assert "C = 6 N D" not in shown(fit_lines(FitView("x", (replace(power, axis="N"),), "power", ""), Look(160)))
