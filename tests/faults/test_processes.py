"""Processes that are killed, that will not end, and that outlive one another (faults 1 to 6 and 12)."""

import json
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from support import ended, one_run, rows_of, started, trainers, wait_until

from scalectl.core.family import MARK
from scalectl.executors import local
from scalectl.executors.drive import Policy, drive
from scalectl.executors.executor import Beat, JobOver
from scalectl.store.live import state_of

COUNTS = ["status", "--json"]


def counts(scalectl, folder):
    return json.loads(scalectl(*COUNTS, cwd=folder).stdout)["counts"]


def rows_in(folder):
    return any(path.stat().st_size for path in folder.glob("results/live/*/rows.jsonl"))


def test_fault_01_attempts_are_counted_from_the_last_new_checkpoint(lab, monkeypatch, tmp_path):
    """Two deaths with a checkpoint before each cost nothing; two at one place are the end with one retry allowed."""
    places = [f"worker.after_step:{step}=kill@{tmp_path / str(step)}" for step in (8, 14)]
    monkeypatch.setenv("SCALECTL_FAULT", ",".join(places))
    run = lab.run(seed=1, steps=20)
    events = lab.driven(lab.job(run, checkpoint_seconds=0.0), policy=Policy(retries=0))
    assert sum(isinstance(event, JobOver) and event.died for event in events) == 2
    assert lab.state(run) == "done"
    assert [row.step for row in lab.rows(run) if row.metric == "loss_se"] == [10, 20]
    monkeypatch.setenv("SCALECTL_FAULT", "worker.after_step:12=kill")
    doomed = lab.run(seed=2, steps=20)
    events = lab.driven(lab.job(doomed, checkpoint_seconds=0.0), policy=Policy(retries=1))
    assert sum(isinstance(event, JobOver) and event.died for event in events) == 3  # the first made a checkpoint
    assert lab.state(doomed) == "lost"


def test_fault_02_detached_trainers_go_on_without_their_orchestrator_and_the_next_sweep_adopts_them(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(one_run(600, "[0, 1]", checkpoint_seconds=0.5))
    said = scalectl("sweep", "tiny.toml", "--detach", cwd=tmp_path).stdout
    orchestrator = psutil.Process(int(said.split()[1]))
    wait_until(lambda: len(list(tmp_path.glob("results/live/*/rows.jsonl"))) == 2)
    before = trainers(tmp_path)
    orchestrator.kill()
    wait_until(lambda: not orchestrator.is_running() or orchestrator.status() == psutil.STATUS_ZOMBIE)
    time.sleep(0.5)
    assert trainers(tmp_path).keys() == before.keys()
    for worker in before.values():
        worker.suspend()  # they are still at it when the next sweep looks, however slow this machine is
    assert counts(scalectl, tmp_path) == {"running": 2}
    sweep = started(tmp_path, "sweep", "tiny.toml")
    try:
        said = [sweep.stderr.readline() for _ in before]
        assert trainers(tmp_path).keys() == before.keys()
        for worker in before.values():
            worker.resume()
        out, err = sweep.communicate(timeout=200)
    finally:
        ended(sweep)
    assert all("it is taken over" in line for line in said), (said, err)
    assert "Finished: 2 done." in out
    assert not trainers(tmp_path)
    assert not list(tmp_path.glob("results/sweeps/tiny/keeper.*"))


@pytest.mark.slow
def test_fault_02_an_adopted_trainer_that_dies_is_trained_on(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(one_run(300, checkpoint_seconds=0.2))
    said = scalectl("sweep", "tiny.toml", "--detach", cwd=tmp_path).stdout
    wait_until(lambda: list(tmp_path.glob("results/live/*/checkpoint")))
    os.kill(int(said.split()[1]), signal.SIGKILL)
    (worker,) = trainers(tmp_path).values()
    worker.suspend()  # it is still there when the next sweep looks
    sweep = started(tmp_path, "sweep", "tiny.toml")
    try:
        assert "it is taken over" in sweep.stderr.readline()
        worker.kill()
        out, err = sweep.communicate(timeout=200)
    finally:
        ended(sweep)
    assert "an adopted worker ended" in err
    assert "Finished: 1 done." in out


def test_fault_02_a_detached_sweep_is_stopped_at_checkpoints_and_resumes(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(one_run(100_000, "[0, 1]"))
    scalectl("sweep", "tiny.toml", "--detach", cwd=tmp_path)
    wait_until(lambda: rows_in(tmp_path))
    said = scalectl("stop", "tiny", cwd=tmp_path)
    assert said.stdout.startswith("Stopped tiny: ")
    assert not trainers(tmp_path)
    assert counts(scalectl, tmp_path).get("paused", 0) >= 1
    assert counts(scalectl, tmp_path).get("running", 0) == 0
    assert "Nothing trains tiny here" in scalectl("stop", "tiny", cwd=tmp_path).stdout


def test_fault_08_a_damaged_plan_keeps_no_sweep_from_being_stopped_and_costs_no_checkpoint(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(one_run(100_000, "[0, 1]"))
    scalectl("sweep", "tiny.toml", "--detach", cwd=tmp_path)
    wait_until(lambda: rows_in(tmp_path))
    os.truncate(tmp_path / "results/sweeps/tiny/plan.parquet", 300)
    said = scalectl("stop", "tiny", cwd=tmp_path)
    assert "warning: the plan of sweep tiny is damaged" in said.stderr
    assert "paused" in said.stdout
    assert not trainers(tmp_path)
    kept = list(tmp_path.glob("results/live/*/checkpoint"))
    assert kept
    scalectl("clean", cwd=tmp_path)
    assert [path for path in kept if path.exists()] == kept


def test_fault_04_a_trainer_that_ignores_sigterm_is_killed_with_all_that_descends_from_it(lab, monkeypatch):
    monkeypatch.setattr(local, "GRACE_SECONDS", 1.0)
    faults = ("worker.received=child", "worker.received=term-ignore", "worker.after_step:3=sleep")
    monkeypatch.setenv("SCALECTL_FAULT", ",".join(faults))
    run = lab.run(steps=20)
    executor = lab.executor
    executor.submit(lab.job(run))
    wait_until(lambda: any(isinstance(event, Beat) and event.runs for event in executor.poll(0.1)))
    (worker,) = executor.workers.values()
    wait_until(lambda: len(family(worker.mark)) == 2)  # it and its child, which leads a session of its own
    executor.cancel(lab.job(run).ticket)
    over = wait_until(lambda: [event for event in executor.poll(0.1) if isinstance(event, JobOver)])
    assert over[0].died
    assert over[0].message.startswith("killed")
    assert family(worker.mark) == []


def test_fault_04_what_a_killed_trainer_leaves_behind_is_ended(lab, monkeypatch):
    monkeypatch.setenv("SCALECTL_FAULT", "worker.received=child,worker.after_step:3=kill")
    run = lab.run(steps=20)
    marks = set()
    for _ in drive([lab.job(run)], lab.executor, lab.store, Policy(retries=0), lambda: 0):
        marks |= {worker.mark for worker in lab.executor.workers.values()}
    assert marks
    assert not [pid for mark in marks for pid in family(mark)]
    assert lab.state(run) == "lost"


def family(mark):
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_fault_04_a_trainer_that_says_nothing_runs_out_of_time_and_its_run_goes_on(lab, monkeypatch):
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.5)
    monkeypatch.setenv("SCALECTL_FAULT", "worker.after_step:7=term-ignore,worker.after_step:8=sleep")
    run = lab.run(steps=20)
    job = lab.job(run, checkpoint_seconds=0.0)
    events = lab.driven(job, policy=Policy(retries=0, timeout=15.0))
    deaths = [event.message for event in events if isinstance(event, JobOver) and event.died]
    assert deaths == ["no sign of life for 0:15"] * 2  # the first attempt made a checkpoint, and does not count
    assert (lab.state(run), state_of(lab.store, run.run_id).message) == ("timeout", deaths[0])
    monkeypatch.delenv("SCALECTL_FAULT")
    events = lab.driven(job, policy=Policy(timeout=60.0))
    assert next(event.runs for event in events if isinstance(event, Beat) and event.runs)[run.run_id][0] == 7
    assert lab.state(run) == "done"


def test_fault_05_a_second_ctrl_c_kills_and_nothing_stays_running(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(one_run(1_000))
    sweep = started(tmp_path, "sweep", "tiny.toml", SCALECTL_FAULT="worker.after_step:30=sleep")
    wait_until(lambda: rows_in(tmp_path), sweep)
    time.sleep(0.5)
    sweep.send_signal(signal.SIGINT)
    assert "Ctrl-C again to kill" in wait_until(sweep.stderr.readline, seconds=20)
    began = time.monotonic()
    sweep.send_signal(signal.SIGINT)
    sweep.communicate(timeout=60)
    assert time.monotonic() - began < 8  # before the ten seconds that a worker is given
    assert sweep.returncode == 130
    assert not trainers(tmp_path)
    assert counts(scalectl, tmp_path) == {"lost": 1}
    assert "Finished: 1 done." in scalectl("sweep", "tiny.toml", "--set", "train.steps=30", cwd=tmp_path).stdout


@pytest.mark.slow
def test_fault_06_sigterm_ends_every_command_with_143(tmp_path, scalectl):
    (tmp_path / "tiny.toml").write_text(one_run(100_000))
    scalectl("sweep", "tiny.toml", "--detach", cwd=tmp_path)
    watch = started(tmp_path, "status", "--watch")
    try:
        wait_until(watch.stdout.readline, seconds=60)
        watch.send_signal(signal.SIGTERM)
        assert watch.wait(30) == 143
    finally:
        ended(watch)
        scalectl("stop", cwd=tmp_path)


def limited(bytes_):
    """A memory group whose processes share so much memory [bytes]; skips where none can be made."""
    for root, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root) / f"scalectl-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / name).write_text(str(bytes_))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        return group
    return pytest.skip("no memory group can be made here")


def test_fault_12_what_the_system_kills_for_memory_is_lost_with_the_memory_it_was_last_seen_with(scalectl, tmp_path):
    text = one_run(40, "[0]", slots=1) + "\n[on_error]\nretries = 0\n"
    (tmp_path / "tiny.toml").write_text(text)
    group = limited(1 << 30)
    try:
        enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
        sweep = started(tmp_path, "sweep", "tiny.toml", prefix=enter, SCALECTL_FAULT="worker.after_step:20=eat")
        _, err = sweep.communicate(timeout=200)
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()
    assert sweep.returncode == 1, err
    (row,) = json.loads(scalectl(*COUNTS, cwd=tmp_path).stdout)["rows"]
    assert row["state"] == "lost"
    seen = float(re.match(r"killed; last seen ([\d.]+) of", row["message"])[1])
    assert 0.5 < seen < 1.1  # GiB, within the limit and what the kernel shares with others
    assert "GiB; the system ran out of memory" in row["message"]
    scalectl("sweep", "tiny.toml", cwd=tmp_path)
    assert sorted(set(rows_of(tmp_path)["step"])) == [10, 20, 30, 40]
