"""Jobs in real worker processes: a good, a failing and a killed one, and nothing left running."""

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from scalectl.core.job import Job, Placement, State
from scalectl.core.run import Evaluation, Member, RunConfig, Task
from scalectl.executors.drive import Halted, Policy, drive
from scalectl.executors.executor import Beat, JobOver, RunEnded
from scalectl.executors.local import LocalExecutor, Slot, gpu_indices, slots
from scalectl.models.decoder.spec import Options as DecoderOptions
from scalectl.optim import AdamWOptions
from scalectl.optim.schedules import Options as ScheduleOptions
from scalectl.store.layout import open_store
from scalectl.store.live import live, state_of
from scalectl.store.reader import read_run
from scalectl.tasks import TASKS, markov
from scalectl.train.worker import decode, encode

DATA = markov.Options(length=50_000)


def run_of(seed=0, steps=20, fingerprint=None):
    about = TASKS["markov"].describe(DATA)
    return RunConfig(
        model=Member("decoder", 1, DecoderOptions(8, 1, 2, 16, about.vocab)),
        task=Task("markov", 1, DATA, fingerprint or about.fingerprint, 160),
        optim=Member("adamw", 1, AdamWOptions(3e-3)),
        schedule=Member("wsd", 1, ScheduleOptions(2, 4)),
        steps=steps,
        sequences=2,
        seed=seed,
        precision="fp32",
        evaluation=Evaluation(10),
    )


def job_of(*runs, **placement):
    return Job(runs, Placement(**placement))


@pytest.fixture
def store(tmp_path):
    found = open_store(tmp_path / "results")
    found.prepare()
    return found


@pytest.fixture
def executor(store):
    made = LocalExecutor(store.root, slots("cpu", 1))
    yield made
    made.close(kill=True)
    assert not [child for child in psutil.Process().children() if "scalectl.train.worker" in " ".join(child.cmdline())]


def worker_pids(executor):
    return [worker.process.pid for worker in executor.workers.values()]


def test_a_job_survives_its_encoding():
    job = job_of(run_of(1), run_of(2), micro_batch=1)
    assert decode(encode(job)) == job
    assert [run.run_id for run in decode(encode(job)).runs] == [run.run_id for run in job.runs]


def test_a_good_job_ends_done_and_the_worker_serves_the_next_one(store, executor):
    jobs = [job_of(run_of(1), run_of(2)), job_of(run_of(3))]
    pids, events = set(), []
    for event in drive(jobs, executor, store, Policy(), lambda: 0):
        events.append(event)
        pids.update(worker_pids(executor))
    assert [state_of(store, run.run_id).state for job in jobs for run in job.runs] == [State.DONE] * 3
    assert len(pids) == 1
    assert sum(isinstance(event, RunEnded) and event.loss is not None for event in events) == 3
    assert any(isinstance(event, Beat) for event in events)
    rows = read_run(store.run_file(jobs[1].runs[0].run_id)).rows()
    assert {row.step for row in rows} == {10, 20}
    assert not list(store.lives.iterdir())


def test_a_failing_job_ends_failed_with_its_traceback_and_the_sweep_stops_after_equal_failures(store, executor):
    runs = [run_of(seed, fingerprint="sha256:gone") for seed in range(4)]
    events = list(drive([job_of(run) for run in runs], executor, store, Policy(identical=2), lambda: 0))
    assert [state_of(store, run.run_id).state for run in runs[:2]] == [State.FAILED] * 2
    assert "changed since the plan" in state_of(store, runs[0].run_id).message
    assert "Traceback" in live(store, runs[0].run_id).log.read_text()
    halted = next(event for event in events if isinstance(event, Halted))
    assert halted.exit_code == 1
    assert state_of(store, runs[3].run_id).state is State.PENDING


def test_workers_that_die_before_their_job_begins_stop_the_sweep(store, executor, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(store.root))
    (store.root / "torch.py").write_text("raise ImportError('no torch here')")
    runs = [run_of(seed) for seed in range(6)]
    events = list(drive([job_of(run) for run in runs], executor, store, Policy(identical=3), lambda: 0))
    assert sum(isinstance(event, JobOver) for event in events) == 3
    halted = next(event for event in events if isinstance(event, Halted))
    assert halted.exit_code == 1
    assert "no torch here" in halted.why
    assert all(state_of(store, run.run_id).state is State.PENDING for run in runs)


def test_workers_killed_with_different_memory_failed_alike(store, executor, monkeypatch):
    monkeypatch.setenv("SCALECTL_FAULT", "worker.received=kill")
    runs = [run_of(seed) for seed in range(6)]
    events = drive([job_of(run) for run in runs], executor, store, Policy(), lambda: 0)
    halted = next(event for event in events if isinstance(event, Halted))
    assert re.match(r"3 jobs failed alike: killed; last seen", halted.why)


def test_a_killed_worker_loses_its_run_which_goes_on_from_its_checkpoint_bit_equal(store, executor, tmp_path):
    run = run_of(steps=600)
    killed = False
    events = []
    for event in drive([job_of(run, checkpoint_seconds=0.2)], executor, store, Policy(retries=2), lambda: 0):
        events.append(event)
        if not killed and live(store, run.run_id).checkpoint.exists():
            killed = True
            os.kill(worker_pids(executor)[0], signal.SIGKILL)
    assert killed
    assert any(isinstance(event, JobOver) and event.died and "killed; last seen" in event.message for event in events)
    assert state_of(store, run.run_id).state is State.DONE
    other = open_store(tmp_path / "quiet")
    other.prepare()
    quiet = LocalExecutor(other.root, slots("cpu", 1))
    list(drive([job_of(run)], quiet, other, Policy(), lambda: 0))
    quiet.close()
    lost, calm = (
        [row._replace(seconds=0) for row in read_run(place.run_file(run.run_id)).rows()] for place in (store, other)
    )
    assert lost == calm


def test_a_run_whose_process_always_dies_is_tried_a_bounded_number_of_times(store, executor):
    run = run_of(steps=100_000)
    deaths = 0
    for event in drive([job_of(run, checkpoint_seconds=1e9)], executor, store, Policy(retries=2), lambda: 0):
        if isinstance(event, Beat) and event.runs and worker_pids(executor):
            os.kill(worker_pids(executor)[0], signal.SIGKILL)
        deaths += isinstance(event, JobOver) and event.died
    assert deaths == 3
    assert state_of(store, run.run_id).state is State.LOST


def test_a_stopped_job_is_paused_at_a_checkpoint(store, executor):
    run = run_of(steps=100_000)
    asked = []
    for event in drive([job_of(run)], executor, store, Policy(), lambda: len(asked)):
        if isinstance(event, Beat) and event.tokens_per_second and not asked:
            asked.append("once")
    held = state_of(store, run.run_id)
    assert held.state is State.PAUSED
    assert live(store, run.run_id).checkpoint.exists()


ORPHANING = """
import sys, time
from pathlib import Path
from scalectl.executors.local import LocalExecutor, slots
from scalectl.train.worker import decode

root = Path(sys.argv[1])
executor = LocalExecutor(root, slots("cpu", 1))
executor.submit(decode(sys.stdin.read()))
print(executor.workers[0].process.pid, flush=True)
time.sleep(60)
"""


def test_workers_die_with_the_process_that_started_them(store):
    orchestrator = subprocess.Popen(
        [sys.executable, "-c", ORPHANING, store.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with orchestrator.stdin as pipe:
        pipe.write(encode(job_of(run_of(steps=10**6))))
    with orchestrator.stdout as pipe:
        worker = psutil.Process(int(pipe.readline()))
    orchestrator.kill()
    orchestrator.wait()
    assert psutil.wait_procs([worker], timeout=20)[1] == []


def test_two_executors_never_train_a_run_twice(store, tmp_path):
    run = run_of(steps=3_000)
    one, two = (LocalExecutor(store.root, slots("cpu", 1)) for _ in range(2))
    try:
        one.submit(job_of(run))
        while state_of(store, run.run_id).state is not State.RUNNING:
            one.poll(0.1)
        events = list(drive([job_of(run)], two, store, Policy(), lambda: 0))
        assert [event.busy for event in events if isinstance(event, JobOver)] == [(run.run_id,)]
    finally:
        one.close(kill=True)
        two.close(kill=True)


def test_slots_are_cores_that_this_process_may_use_or_visible_gpus(monkeypatch):
    assert [slot.cpu for slot in slots("cpu")] == sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr("importlib.metadata.version", lambda package: "2.13.0+cpu")
    assert gpu_indices() == []
    monkeypatch.setattr("importlib.metadata.version", lambda package: "2.13.0")
    assert gpu_indices() == [0, 1]
    assert slots() == (Slot("cuda:0"), Slot("cuda:1"))
    assert len(slots("cuda", 1)) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert all(slot.device == "cpu" for slot in slots())


def test_a_store_that_cannot_be_written_halts_the_sweep_and_leaves_its_runs_paused(store, executor):
    run = run_of()
    store.runs.rmdir()
    store.runs.write_text("not a folder")
    events = list(drive([job_of(run)], executor, store, Policy(), lambda: 0))
    assert next(event for event in events if isinstance(event, Halted)).exit_code in (4, 5)
    store.runs.unlink()
    assert state_of(store, run.run_id).state is State.PAUSED


def test_a_damaged_checkpoint_is_set_aside_and_the_run_starts_again(store, executor):
    run = run_of()
    folder = live(store, run.run_id)
    folder.folder.mkdir(parents=True)
    folder.checkpoint.write_bytes(b"not a checkpoint")
    list(drive([job_of(run)], executor, store, Policy(), lambda: 0))
    assert state_of(store, run.run_id).state is State.DONE
    assert {row.step for row in read_run(store.run_file(run.run_id)).rows()} == {10, 20}


class Recording:
    """Slots that are free until the test says otherwise."""

    def __init__(self, size, free):
        self.size, self.left, self.jobs, self.ended = size, free, [], []

    def free(self):
        return self.left

    def submit(self, job):
        self.jobs.append(job)
        self.left -= job.placement.threads
        return job.ticket

    def poll(self, seconds):
        over, self.left = [JobOver(job.ticket) for job in self.jobs if job.ticket not in self.ended], self.size
        self.ended += [event.ticket for event in over]
        return over


@pytest.mark.parametrize(
    ("size", "jobs", "most", "threads"),
    [
        (4, 8, 4, [1] * 8),  # a job for every core, each time
        (4, 2, 4, [2, 2]),
        (4, 3, 4, [2, 1, 1]),
        (4, 1, 3, [3]),
        (4, 2, 1, [1, 1]),
        (1, 2, 4, [1, 1]),
    ],
)
def test_cores_are_shared_out_only_when_fewer_jobs_than_cores_are_left(store, size, jobs, most, threads):
    executor = Recording(size, size)
    waiting = [job_of(run_of(seed)) for seed in range(jobs)]
    list(drive(waiting, executor, store, Policy(threads=lambda job: most), lambda: 0))
    assert [job.placement.threads for job in executor.jobs] == threads


def test_jobs_of_a_given_number_of_threads_wait_for_as_many_slots(store):
    executor = Recording(3, 3)
    list(drive([job_of(run_of(seed), threads=2) for seed in range(3)], executor, store, Policy(), lambda: 0))
    assert [job.placement.threads for job in executor.jobs] == [2, 2, 2]


def test_a_job_with_two_threads_borrows_a_slot_until_it_ends(store):
    executor = LocalExecutor(store.root, (Slot("cpu"), Slot("cpu"), Slot("cpu")))
    try:
        executor.submit(job_of(run_of(steps=20), threads=2))
        assert executor.free() == 1
        while executor.free() < 3:
            executor.poll(0.1)
    finally:
        executor.close()
    assert read_run(store.run_file(run_of(steps=20).run_id)).meta.provenance["threads"] == 2


def test_workers_start_ahead_of_their_jobs_and_never_more_than_there_are_jobs(store):
    executor = LocalExecutor(store.root, (Slot("cpu"), Slot("cpu"), Slot("cpu")))
    try:
        executor.warm(1)
        (pid,) = worker_pids(executor)
        list(drive([job_of(run_of())], executor, store, Policy(), lambda: 0))
        assert worker_pids(executor) == [pid]
    finally:
        executor.close()
    assert state_of(store, run_of().run_id).state is State.DONE
