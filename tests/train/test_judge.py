"""Parameters that a finished run kept say what it said at its end."""

from __future__ import annotations

import pytest
import torch

from scalectl.core.errors import BudgetRefused, StoreError
from scalectl.core.job import Job, Placement, State
from scalectl.core.rows import HELD_OUT
from scalectl.store.evaluations import JudgedOn, evaluated
from scalectl.store.layout import open_store
from scalectl.store.live import state_of
from scalectl.store.reader import read_run
from scalectl.train import parameters
from scalectl.train.attempt import Attempt
from scalectl.train.judge import Bench


@pytest.fixture
def store(tmp_path):
    found = open_store(tmp_path / "results")
    found.prepare()
    return found


def trained(store, *runs, **placement):
    Attempt(store, Job(runs, Placement(keep=True, **placement)), lambda _: None, lambda: False).run()


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder", "mlp", "vit"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_judged_again_on_its_own_data_says_the_same_to_the_bit(store, make_run, family, precision):
    runs = [make_run(family=family, precision=precision, seed=seed) for seed in (0, 1)]
    trained(store, *runs)
    bench = Bench(store, "again", "cpu", "scalectl evaluate")
    cell = {"steps": 12, "D": 1, "C_exact": 1.0, "seconds": None}
    for run in runs:
        on = JudgedOn("own", run.task.fingerprint, run.task.held_out_tokens)
        bench.judge(run, run.run_id, on, cell)
        before, after = read_run(store.run_file(run.run_id)), evaluated(store, "again", run.run_id, on)
        final = {row.metric: row.value for row in before.rows() if row.split == HELD_OUT and row.step == 12}
        assert {row.metric: row.value for row in after.rows()} == final
        assert len(final) > 1


def test_runs_that_shared_a_trunk_keep_what_each_ended_with(store, make_run, tmp_path):
    runs = [make_run(steps=steps) for steps in (12, 17)]
    trained(store, *runs)
    alone = open_store(tmp_path / "alone")
    alone.prepare()
    for run in runs:
        trained(alone, run)
        assert parameters.load(store, run.run_id).equal(parameters.load(alone, run.run_id))
    assert not parameters.load(store, runs[0].run_id).equal(parameters.load(store, runs[1].run_id))


def test_a_diverged_run_keeps_nothing(store, make_run):
    run = make_run(lr=1e30, clip=0.0, weight_decay=0.0, every=1)
    trained(store, run)
    assert state_of(store, run.run_id).state is State.DIVERGED
    assert not store.kept.exists()


def test_a_disk_too_full_for_parameters_leaves_the_run_paused_and_it_ends_later(store, make_run, monkeypatch):
    run = make_run()

    def save(*_):
        raise BudgetRefused("no space left to write parameters")

    with monkeypatch.context() as full:
        full.setattr(parameters, "save", save)
        with pytest.raises(BudgetRefused):
            trained(store, run, checkpoint_seconds=0.0)
    assert state_of(store, run.run_id).state is State.PAUSED
    assert not store.run_file(run.run_id).exists()
    trained(store, run)
    assert state_of(store, run.run_id).state is State.DONE
    assert parameters.load(store, run.run_id).isfinite().all()


def test_parameters_of_another_model_are_refused(store, make_run):
    run = make_run()
    trained(store, run)
    parameters.save(store, run.run_id, torch.zeros(5))
    bench = Bench(store, "again", "cpu", "")
    with pytest.raises(StoreError, match="5 parameters were kept"):
        bench.judge(run, run.run_id, JudgedOn("own", "", 1), {"steps": 1, "D": 1, "C_exact": 1.0, "seconds": 0.0})
    assert not store.evaluations.exists()
