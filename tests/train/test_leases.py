"""Claims are renewed while a process lives, whatever it is doing."""

import time

from scalectl.core.job import Job, Placement, State
from scalectl.store.layout import open_store
from scalectl.store.live import live, read_holder, state_of
from scalectl.train import leases
from scalectl.train.attempt import Attempt
from scalectl.train.loop import Trainer


def test_a_step_that_takes_longer_than_a_lease_loses_no_run(tmp_path, make_run, monkeypatch):
    store = open_store(tmp_path)
    store.prepare()
    runs = (make_run(steps=3, seed=0), make_run(steps=3, seed=1))
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    step, seen = Trainer.step, []

    def slow(trainer):
        before = {run.run_id: heartbeat(run) for run in runs}
        deadline = time.monotonic() + 30
        while any(heartbeat(run) == before[run.run_id] for run in runs) and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(all(heartbeat(run) > before[run.run_id] for run in runs))
        return step(trainer)

    def heartbeat(run):
        return read_holder(live(store, run.run_id).folder / "claim.1").heartbeat

    monkeypatch.setattr(Trainer, "step", slow)
    Attempt(store, Job(runs, Placement()), lambda _: None, lambda: False).run()
    assert seen == [True] * 3
    assert {state_of(store, run.run_id).state for run in runs} == {State.DONE}
    assert not list(store.lives.iterdir())


def test_what_is_given_up_is_renewed_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    store = open_store(tmp_path)
    store.prepare()
    folder, other = live(store, "0" * 16), live(store, "1" * 16)
    with leases.Leases() as held:
        held.take("a", folder.claim())
        held.take("b", other.claim())
        with held.giving_up("a") as claim:
            claim.release()
        before = (folder.folder / "claim.1").read_bytes()
        beaten = (other.folder / "claim.1").read_bytes()
        while (other.folder / "claim.1").read_bytes() == beaten:
            time.sleep(0.01)
        assert (folder.folder / "claim.1").read_bytes() == before
        (other.folder / "claim.2").write_bytes(beaten)
        assert not held.held("b")
