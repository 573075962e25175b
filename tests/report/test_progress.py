"""The display of a running sweep: what a terminal shows, and what a pipe gets."""

import io

import pytest

from scalectl.core.job import State
from scalectl.report.look import look_of, open_console
from scalectl.report.progress import Expected, Progress

ENVIRONMENT = {"NO_COLOR": "1", "COLUMNS": "100"}


@pytest.fixture
def display():
    console = open_console(io.StringIO(), ENVIRONMENT)
    runs = {f"{i:016x}": Expected({"d_model": 8, "seed": i}, 100, 10.0, 1e9) for i in range(4)}
    return Progress(console, look_of(console, ENVIRONMENT), "tiny", 2, runs)


def shown(display):
    with display.console.capture() as capture:
        display.console.print(display.render())
    return capture.get()


def test_a_worker_line_names_its_pack_by_what_its_members_share(display):
    display.beat(0, "job", {f"{i:016x}": (0, None) for i in range(3)}, 0.0, 0)
    display.beat(0, "job", {f"{i:016x}": (50, 2.0 + i) for i in range(3)}, 96_000, 2**29)
    text = shown(display)
    for part in ("tiny", "2/6 runs", "cpu 0", "3  (d_model=8)", "50/100", "3.000", "96 k", "512 MiB"):
        assert part in text
    assert "1.5 GFLOP of 4 GFLOP" in text


def test_the_share_counts_steps_of_this_start_and_ended_runs(display):
    display.beat(0, "job", {f"{0:016x}": (50, 2.0)}, 1.0, 1)
    assert display.share == 0  # it began at step 50: what an earlier start did is no work of this one
    display.beat(0, "job", {f"{0:016x}": (75, 2.0)}, 1.0, 1)
    assert display.share == pytest.approx(2.5 / 35)
    display.end(f"{1:016x}", State.DIVERGED, None, 3.0, "diverged at step 7 (loss 3 -> nan)")
    assert display.share == pytest.approx(12.5 / 35)
    display.over("job")
    assert "cpu 0" not in shown(display)


def test_ended_runs_are_plain_lines_with_their_loss_or_their_reason(display):
    with display.console.capture() as capture:
        display.end(f"{0:016x}", State.DONE, 2.28901, 14.2, "")
        display.end(f"{1:016x}", State.DIVERGED, None, 3.0, "diverged at step 412 (loss 11.2 -> nan)")
        display.end(f"{2:016x}", State.FAILED, None, 3.0, "ValueError: \x1b[31mred[/]")
    lines = capture.get().splitlines()
    assert "d_model=8 seed=0   loss 2.2890   0:14" in lines[0]
    assert "diverged at step 412 (loss 11.2 -> nan)" in lines[1]
    assert "failed  ValueError: \\x1b[31mred[/]" in lines[2]


def test_a_long_message_goes_on_below_its_run(display):
    with display.console.capture() as capture:
        display.end(f"{0:016x}", State.FAILED, None, 3.0, "ValueError: " + "far too long " * 20)
    lines = capture.get().splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 100
    assert all(line.startswith("    ") for line in lines[1:])
    assert " ".join(" ".join(lines).split()).count("far too long") == 20  # nothing is lost


def test_before_the_first_sign_of_life_workers_are_starting(display):
    assert "starting workers" in shown(display)
    display.beat(0, "job", {f"{0:016x}": (0, None)}, 0.0, 0)
    text = shown(display)
    assert "starting workers" not in text
    assert text.splitlines()[-1].split() == [
        "cpu",
        "0",
        "1",
        "(d_model=8",
        "seed=0)",
        "0/100",
    ]  # no pace, no memory yet


@pytest.mark.parametrize(
    ("seconds", "step", "said"),
    [(4.9, 90, False), (60, 11, False), (60, 20, True)],  # 60 s, but 11 of 400 steps; 20 of 400
)
def test_time_left_waits_for_enough_time_and_enough_work(display, monkeypatch, seconds, step, said):
    display.beat(0, "job", {f"{0:016x}": (0, None)}, 0.0, 0)
    start = display.clock
    monkeypatch.setattr("scalectl.report.progress.time.monotonic", lambda: start + seconds)
    display.beat(0, "job", {f"{0:016x}": (step, 2.0)}, 1.0, 1)
    assert (" left" in shown(display).splitlines()[0]) is said


def test_a_pipe_gets_no_live_display(display):
    with display:
        assert display.live is None
