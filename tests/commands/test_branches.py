"""A grid of lengths from the command line: one trunk in real processes, and the rows of runs trained one by one."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from support import SWEEP, environment

from scalectl.store.layout import open_store

LENGTHS = (300, 424, 600)
GRID = SWEEP.replace("d_model = { grid = [8, 16, 32] }", "d_model = 16").replace("every = 10", "every = 100")


def written(folder, lengths=LENGTHS, **runtime):
    folder.mkdir(exist_ok=True)
    steps = ", ".join(map(str, lengths))
    table = "\n".join(f"{key} = {value}" for key, value in {"checkpoint_seconds": 0.1, **runtime}.items())
    text = GRID.replace("steps = 30", f"steps = {{ grid = [{steps}] }}") + f"\n[runtime]\n{table}\n"
    (folder / "tiny.toml").write_text(text)
    return folder


def rows_of(folder):
    frame = pd.read_parquet(folder / "results/runs").drop(columns="seconds")
    return frame.sort_values(["run_id", "step", "split", "metric"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def one_by_one(scalectl, tmp_path_factory):
    folder = written(tmp_path_factory.mktemp("quiet") / "sweep", branch="false")
    scalectl("sweep", "tiny.toml", cwd=folder)
    return rows_of(folder)


def started(folder):
    return subprocess.Popen(
        [sys.executable, "-m", "scalectl.cli", "sweep", "tiny.toml"],
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(found, process):
    deadline = time.monotonic() + 100
    while not found():
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it was to be killed"
        time.sleep(0.005)


# a trunk under way; a branch beside it; a branch that has ended
KILLS = {"before": "results/live/*/checkpoint", "split": "results/live/*/log", "after": "results/runs/*.parquet"}


@pytest.mark.slow
@pytest.mark.parametrize("when", KILLS)
def test_kill_nine_at_any_time_then_the_same_command_gives_the_rows_of_a_quiet_sweep(
    scalectl, one_by_one, tmp_path, when
):
    folder = written(tmp_path / "sweep")
    process = started(folder)

    def found():
        paths = list(folder.glob(KILLS[when]))
        try:
            return any(when != "split" or "goes on from step" in path.read_text() for path in paths)
        except FileNotFoundError:  # ended meanwhile
            return False

    wait_for(found, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.3)
    counts = json.loads(scalectl("status", "--json", cwd=folder).stdout)["counts"]
    assert set(counts) <= {"lost", "done", "pending"}  # pending: what the other worker had not begun yet
    assert counts["lost"] >= 1
    scalectl("sweep", "tiny.toml", cwd=folder)
    pd.testing.assert_frame_equal(rows_of(folder), one_by_one, check_exact=True)
    left = list((folder / "results/live").iterdir())
    assert all(path.name.startswith(".") for path in left), (
        left
    )  # a kill may halve a removal; the rest goes when it is old
    for path in left:
        os.utime(path, (0, 0))
    open_store(folder / "results").prepare()
    assert not list((folder / "results/live").iterdir())


@pytest.mark.slow
def test_a_length_added_later_trains_the_trunk_of_what_is_missing(scalectl, one_by_one, tmp_path):
    folder = written(tmp_path / "sweep", lengths=LENGTHS[1:2])
    scalectl("sweep", "tiny.toml", cwd=folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "results/runs").iterdir()}
    written(folder)
    plan = json.loads(scalectl("plan", "tiny.toml", "--json", cwd=folder).stdout)
    assert plan["todo"] == 4
    scalectl("sweep", "tiny.toml", cwd=folder)
    pd.testing.assert_frame_equal(rows_of(folder), one_by_one, check_exact=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_two_sweeps_at_once_give_every_run_once(scalectl, one_by_one, tmp_path):
    folder = written(tmp_path / "sweep")
    rivals = [started(folder) for _ in range(2)]
    codes = [rival.wait() for rival in rivals]
    assert set(codes) <= {0, 1, 75}
    scalectl("sweep", "tiny.toml", cwd=folder)
    pd.testing.assert_frame_equal(rows_of(folder), one_by_one, check_exact=True)


def test_the_plan_shows_what_trunks_save_and_what_stands_in_their_way(scalectl, tmp_path):
    folder = written(tmp_path / "sweep")
    plan = json.loads(scalectl("plan", "tiny.toml", "--json", cwd=folder).stdout)
    steps = 600 - 120 + 60 + 85 + 120
    assert plan["trunks"] == 2
    assert plan["alone"][0] / plan["flops"] == pytest.approx(sum(LENGTHS) / steps)
    assert plan["seconds"] < plan["alone"][1]
    assert [group["flops"] / plan["groups"][0]["flops"] for group in plan["groups"]] == pytest.approx([1, 424 / 300, 2])
    text = scalectl("plan", "tiny.toml", cwd=folder).stdout
    assert "2 trunks with a branch for every length; each run by itself: " in text
    apart = scalectl("plan", "tiny.toml", "--set", "train.warmup=0.1", cwd=folder).stdout
    assert "6 runs of several lengths cannot share" in " ".join(apart.split())
    assert "such as warmup = 30, they train 1.78 times fewer FLOPs" in " ".join(apart.split())
    off = scalectl("plan", "tiny.toml", "--set", "runtime.branch=false", cwd=folder).stdout
    assert "trunk" not in off
