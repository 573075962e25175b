"""What goes wrong while numbers are made: losses, memory, clocks, code and devices (faults 10, 11, 14, 22 and 23)."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from support import REPOSITORY, SWEEP, environment, one_run, rows_of

from scalectl.executors import local
from scalectl.executors.drive import Halted, Policy
from scalectl.executors.executor import JobOver, RunEnded, SlotClosed
from scalectl.executors.local import LocalExecutor, Slot
from scalectl.store.live import live, state_of
from scalectl.store.reader import read_run


def test_fault_10_a_loss_that_is_no_number_is_diverged_listed_and_left_out(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP.replace("[8, 16, 32]", "[8, 16]"))
    fault = f"engine.loss:12=nan@{tmp_path / 'once'}"
    done = scalectl("sweep", "tiny.toml", cwd=tmp_path, SCALECTL_FAULT=fault)
    assert "diverged at step 12" in done.stderr
    assert "3 done, 1 diverged" in done.stdout
    (row,) = json.loads(scalectl("status", "--failed", "--json", cwd=tmp_path).stdout)["rows"]
    assert (row["state"], row["step"]) == ("diverged", 11)
    again = scalectl("sweep", "tiny.toml", "--retry", "failed", cwd=tmp_path)
    assert "Nothing to do: 4/4 done, 1 of them diverged." in again.stdout
    fit = json.loads(scalectl("fit", "tiny", "--bootstrap", 100, "--json", cwd=tmp_path).stdout)
    assert fit["fits"][0]["n"] == 3
    assert any("1 diverged" in note or "diverged" in note for note in fit["notes"])
    values = rows_of(tmp_path)
    assert (values["value"] > 0).all()
    assert values.loc[values["run_id"] == row["run_id"], "step"].max() == 10
    index = pd.read_parquet(tmp_path / "results/index.parquet").set_index("run_id")
    assert index.loc[row["run_id"], "held-out/loss"] != 0.0


@pytest.mark.parametrize("step", [1, pytest.param(500, marks=pytest.mark.slow)])
def test_fault_11_memory_that_runs_out_halves_the_micro_batch_and_nothing_else(lab, monkeypatch, tmp_path, step):
    run = lab.run(steps=step + 10, sequences=4)
    monkeypatch.setenv("SCALECTL_FAULT", f"engine.gradients:{step}=oom@{tmp_path / 'once'}")
    lab.driven(lab.job(run))
    assert (tmp_path / "once").exists()
    assert lab.state(run) == "done"
    assert read_run(lab.store.run_file(run.run_id)).meta.provenance["micro_batch"] == 2
    quiet = lab.beside("quiet")
    quiet.driven(quiet.job(run))
    pairs = zip(lab.rows(run), quiet.rows(run), strict=True)
    assert all(ours.value == pytest.approx(theirs.value, rel=1e-5) for ours, theirs in pairs)


def test_fault_11_what_does_not_fit_one_sequence_at_a_time_says_what_it_needs(lab, monkeypatch):
    monkeypatch.setenv("SCALECTL_FAULT", "engine.gradients:5=oom")
    run, other = lab.run(seed=1, sequences=4), lab.run(seed=2, sequences=4)
    events = lab.driven(lab.job(run, other), policy=Policy(retries=1))
    ends = [event for event in events if isinstance(event, RunEnded)]
    assert [str(event.state) for event in ends] == ["oom"] * 4  # both, and again one model at a time
    assert "one sequence at a time needs about" in state_of(lab.store, run.run_id).message
    assert not any(isinstance(event, Halted) for event in events)
    monkeypatch.delenv("SCALECTL_FAULT")
    lab.driven(lab.job(run, other))
    assert (lab.state(run), lab.state(other)) == ("done", "done")


CLOCK = """
import time
real, calls = time.time, [0]

def jumping():
    calls[0] += 1
    return real() + (86_400, -86_400, 0)[calls[0] // 5 % 3]

time.time = jumping
"""


def test_fault_14_a_clock_that_jumps_by_a_day_moves_no_duration(scalectl, tmp_path):
    (tmp_path / "jump").mkdir()
    (tmp_path / "jump/sitecustomize.py").write_text(CLOCK)
    (tmp_path / "tiny.toml").write_text(one_run(60, checkpoint_seconds=0.1))
    path = f"{tmp_path / 'jump'}:{environment().get('PYTHONPATH', '')}"
    tried = "import time; assert abs(sum(time.time() for _ in range(5)) / 5 - time.time()) > 9"
    subprocess.run([sys.executable, "-c", tried], env=environment(PYTHONPATH=path), check=True)
    done = scalectl("sweep", "tiny.toml", cwd=tmp_path, PYTHONPATH=path)
    assert "Finished: 1 done." in done.stdout
    frame = pd.read_parquet(tmp_path / "results/runs")
    seconds = frame.sort_values("step").groupby("step")["seconds"].max()
    assert seconds.is_monotonic_increasing
    assert 0 < seconds.iloc[0] <= seconds.iloc[-1] < 3600
    assert list(frame["step"]) == sorted(frame["step"])
    (tmp_path / "tiny.toml").write_text(one_run(60, "[0, 1]"))
    again = scalectl("sweep", "tiny.toml", cwd=tmp_path, PYTHONPATH=path)
    assert "Finished: 2 done." in again.stdout
    assert " -" not in again.stderr.replace(" --", "")


def test_fault_22_code_that_was_edited_between_runs_is_said_and_marked(tmp_path):
    package = tmp_path / "code"
    for part in ("scalectl", "sweeps"):
        shutil.copytree(REPOSITORY / part, package / part, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "results").symlink_to(REPOSITORY / "results")

    def run_with(*arguments, **more):
        own = environment(PYTHONPATH=str(package), **more)
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=300, check=False)

    def swept(seeds, **more):
        text = one_run(20, seeds, checkpoint_seconds=0.001, slots=1) + "\n[on_error]\nretries = 0\n"
        (tmp_path / "tiny.toml").write_text(text)
        return run_with("-m", "scalectl.cli", "sweep", "tiny.toml", **more)

    assert swept("[0]").returncode == 0
    halfway = swept("[0, 1]", SCALECTL_FAULT="worker.after_step:12=kill")
    assert "warning" not in halfway.stderr
    with (package / "scalectl/train/loop.py").open("a") as file:
        file.write("# edited\n")
    edited = swept("[0, 1, 2]")
    assert edited.returncode == 0, edited.stderr
    assert "warning: the code was edited since 1 of 3 runs were trained" in edited.stderr
    assert "warning: the code was edited between these runs (2 by " in edited.stderr
    assert "warning: the code was edited while these runs trained: " in edited.stderr
    index = pd.read_parquet(tmp_path / "results/index.parquet").set_index("train.seed")
    assert list(index.loc[[0, 1, 2], "edited"]) == [False, True, False]
    assert index.loc[0, "source"] != index.loc[1, "source"] == index.loc[2, "source"]
    said = run_with("-m", "scalectl.cli", "status", "--json").stdout
    assert sum("the code was edited" in note for note in json.loads(said)["notes"]) == 2
    digest = ("-c", "from scalectl.core.source import code_digest; print(code_digest())")
    before = run_with(*digest).stdout
    with (package / "scalectl/report/look.py").open("a") as file:
        file.write("# it moves no number\n")
    assert run_with(*digest).stdout == before == index.loc[2, "source"] + "\n"


def test_fault_23_a_slot_is_closed_after_two_device_errors_and_the_sweep_goes_on(lab, monkeypatch, tmp_path):
    faults = [f"worker.after_step:5=device@{tmp_path / name}" for name in ("one", "two")]
    monkeypatch.setenv("SCALECTL_FAULT", ",".join(faults))
    runs = [lab.run(seed=seed) for seed in range(3)]
    lab.executor = LocalExecutor(lab.store.root, (Slot("cpu"), Slot("cpu")))
    took = []
    submit = lab.executor.submit
    monkeypatch.setattr(lab.executor, "submit", lambda job: took.append(job.ticket) or submit(job))
    events = lab.driven(lab.job(runs[0], checkpoint_seconds=0.0))
    assert [str(event.state) for event in events if isinstance(event, RunEnded)] == ["lost", "lost", "done"]
    deaths = [event for event in events if isinstance(event, JobOver) and event.died]
    assert all("cpu failed: CUDA error" in event.message for event in deaths)
    assert [event.slot for event in events if isinstance(event, SlotClosed)] == [0]
    assert lab.executor.size == 1
    lab.driven(lab.job(runs[1]), lab.job(runs[2]))
    assert [lab.state(run) for run in runs] == ["done"] * 3


def test_fault_23_a_sweep_without_a_slot_left_stops_and_says_why(lab, monkeypatch):
    monkeypatch.setenv("SCALECTL_FAULT", "worker.after_step:5=device")
    run = lab.run()
    events = lab.driven(lab.job(run), policy=Policy(retries=9))
    (halted,) = [event for event in events if isinstance(event, Halted)]
    assert halted.why.startswith("no slot is left: cpu failed")
    assert lab.state(run) == "lost"
    assert "cpu failed" in state_of(lab.store, run.run_id).message


def test_fault_23_a_device_whose_memory_others_hold_is_waited_for(lab, monkeypatch, tmp_path):
    """The worker asks before it claims: the run stays pending, and other slots may take it."""
    monkeypatch.setattr(local, "FULL_SECONDS", 0.5)
    monkeypatch.setenv("SCALECTL_FAULT", f"worker.crowded=full@{tmp_path / 'once'}")
    run = lab.run()
    events = lab.driven(lab.job(run))
    over = [event for event in events if isinstance(event, JobOver)]
    assert [event.full for event in over] == [True, False]
    assert "others hold" in over[0].message
    assert lab.state(run) == "done"
    assert not live(lab.store, run.run_id).folder.exists()
