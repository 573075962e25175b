"""One attempt at a job: what is on disk after it ends, fails, or is stopped."""

import subprocess

import pytest

from scalectl.core.job import Job, Placement, State
from scalectl.models.decoder import forward as decoder
from scalectl.store.layout import open_store
from scalectl.store.live import live, state_of
from scalectl.store.reader import read_meta, read_run
from scalectl.train import checkpoint, provenance
from scalectl.train.attempt import Attempt


@pytest.fixture
def store(tmp_path):
    found = open_store(tmp_path / "results")
    found.prepare()
    return found


def attempt(store, *runs, stopping=lambda: False):
    told = []
    Attempt(store, Job(runs, Placement(checkpoint_seconds=0.0)), told.append, stopping).run()
    return told


def timeless(store, run):
    return [row._replace(seconds=0.0) for row in read_run(store.run_file(run.run_id)).rows()]


def failing_after(steps):
    left = iter(range(steps))

    def stopping():
        if next(left, None) is None:
            raise RuntimeError("the code is broken")
        return False

    return stopping


def test_a_failed_run_keeps_its_checkpoint_and_a_retry_ends_bit_equal(store, make_run, tmp_path):
    run = make_run()
    attempt(store, run, stopping=failing_after(7))
    held = state_of(store, run.run_id)
    assert (held.state, held.message) == (State.FAILED, "RuntimeError: the code is broken")
    assert "the code is broken" in live(store, run.run_id).log.read_text()
    assert live(store, run.run_id).checkpoint.exists()
    began = next(message for message in attempt(store, run) if message["event"] == "began")
    assert began["runs"] == {run.run_id: 7}
    quiet = open_store(tmp_path / "quiet")
    quiet.prepare()
    attempt(quiet, run)
    assert timeless(store, run) == timeless(quiet, run)
    assert not live(store, run.run_id).folder.exists()


def test_running_out_of_memory_is_told_apart_from_broken_code(store, make_run):
    run = make_run()

    def stopping():
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: 1 TiB")

    attempt(store, run, stopping=stopping)
    assert state_of(store, run.run_id).state is State.OOM


def test_a_micro_batch_that_had_to_be_halved_is_stored_with_the_run(store, make_run, monkeypatch):
    short, plain = make_run(seed=1, steps=2), make_run(seed=2, steps=2)
    forward = decoder.token_losses
    fails = iter([True])

    def token_losses(*arguments):
        if next(fails, False):
            raise MemoryError
        return forward(*arguments)

    monkeypatch.setattr(decoder, "token_losses", token_losses)
    attempt(store, short)
    attempt(store, plain)
    assert [read_run(store.run_file(run.run_id)).meta.provenance["micro_batch"] for run in (short, plain)] == [2, None]


def test_a_run_that_somebody_took_over_is_left_alone(store, make_run):
    mine, theirs = make_run(seed=1), make_run(seed=2)
    folder = live(store, theirs.run_id)
    asked = []

    def stopping():
        asked.append(1)
        if len(asked) == 3:  # a rival saw our lease run out: the next number is theirs
            (folder.folder / "claim.2").write_bytes((folder.folder / "claim.1").read_bytes())
        return False

    told = attempt(store, mine, theirs, stopping=stopping)
    assert state_of(store, mine.run_id).state is State.DONE
    assert not store.run_file(theirs.run_id).exists()
    assert [message["run_id"] for message in told if message["event"] == "busy"] == [theirs.run_id]


def test_a_finished_run_is_not_trained_again(store, make_run):
    run = make_run()
    attempt(store, run)
    before = store.run_file(run.run_id).stat().st_mtime_ns
    assert attempt(store, run) == []
    assert store.run_file(run.run_id).stat().st_mtime_ns == before


def test_a_run_says_who_trained_it_where_and_what_it_took_of_what_was_planned(store, make_run, tmp_path, monkeypatch):
    code = tmp_path / "code"
    code.mkdir()
    (code / "sweep.toml").write_text("steps = 1")
    git = ["git", "-C", str(code), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.chdir(code)
    runs = (make_run(seed=1), make_run(seed=2))
    job = Job(runs, Placement(threads=2), seconds=12.0)
    Attempt(store, job, lambda message: None, lambda: False, source="abc", command="scalectl sweep a.toml").run()
    meta = read_meta(store.run_file(runs[0].run_id))
    held = meta.provenance
    assert held["git_commit"] == subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    assert not held["git_dirty"]
    assert held["folder"] == str(code)
    assert (held["command"], held["source"], held["driver"]) == ("scalectl sweep a.toml", "abc", None)
    assert {
        "scalectl",
        "python",
        "torch",
        "numpy",
        "cuda",
        "platform",
        "kernel",
        "host",
        "started",
        "ended",
    } <= held.keys()
    assert (held["planned_tokens"], held["planned_seconds"]) == (meta.columns["D"], 12.0)
    assert held["planned_flops"] == meta.columns["C_exact"]
    share = [read_meta(store.run_file(run.run_id)).provenance["device_seconds"] for run in runs]
    seconds = read_run(store.run_file(runs[0].run_id)).rows()[-1].seconds
    assert 0.9 * seconds < share[0] < 2 * seconds  # half of two threads, and what came after the last row
    assert abs(share[0] - share[1]) < 0.05 * share[0]
    (code / "sweep.toml").write_text("steps = 2")
    provenance.git_state.cache_clear()  # as in another process
    later = make_run(seed=3)
    attempt(store, later)
    assert read_meta(store.run_file(later.run_id)).provenance["git_dirty"]


def test_a_run_that_took_long_is_held_against_the_peak_of_its_device(store, make_run, monkeypatch):
    asked = []

    def peak(*what):
        asked.append(what)
        return 5e8

    monkeypatch.setattr("scalectl.train.attempt.peak_flops", peak)
    short = make_run()
    attempt(store, short)
    assert not asked  # it would take longer to measure than to train
    assert read_meta(store.run_file(short.run_id)).columns["mfu"] is None
    monkeypatch.setattr("scalectl.train.attempt.LEAST_SECONDS", 0.0)
    run = make_run(seed=2)
    attempt(store, run)
    meta = read_meta(store.run_file(run.run_id))
    assert asked == [("cpu", "fp32", 1)]
    assert meta.columns["mfu"] == pytest.approx(
        meta.columns["C_exact"] / meta.provenance["device_seconds"] / meta.provenance["peak_flops"]
    )


def test_time_on_the_device_goes_on_from_a_checkpoint(store, make_run):
    run = make_run()
    attempt(store, run, stopping=failing_after(7))
    before = checkpoint.load(live(store, run.run_id)).device_seconds
    attempt(store, run)
    assert 0 < before < read_meta(store.run_file(run.run_id)).provenance["device_seconds"]
