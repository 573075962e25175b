"""One attempt at a job: what is on disk after it ends, fails, or is stopped."""

import pytest

from scalectl.core.job import Job, Placement, State
from scalectl.models.decoder import forward as decoder
from scalectl.store.layout import open_store
from scalectl.store.live import live, state_of
from scalectl.store.reader import read_run
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
