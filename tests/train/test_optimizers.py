"""Every optimiser of the table: a row does not depend on its company, its memory is what was planned."""

import dataclasses

import pytest
import torch
from support import pairwise
from timeless import by_run, timeless

from scalectl.core.job import Job, Placement
from scalectl.core.run import Member
from scalectl.models import MODELS
from scalectl.optim import OPTIMIZERS
from scalectl.store.live import Live
from scalectl.tasks import TASKS
from scalectl.train import checkpoint
from scalectl.train.engine import Engine, Turn, fresh_row
from scalectl.train.loop import Ended, Split, Trainer, train

ALL = pytest.mark.parametrize("name", OPTIMIZERS)
RATES = {"adamw": {"lr": 3e-3}, "sgd": {"lr": 0.1}, "muon": {"lr": 0.02, "adamw_lr": 3e-3}}


def run_with(make_run, name, seed=0, *, times=1.0, options=None, **shape):
    """A run of this optimiser; times: of its rates."""
    rates = {key: rate * times for key, rate in RATES[name].items()}
    held = OPTIMIZERS[name].options(**rates | {"weight_decay": 0.1 * (seed % 3)} | (options or {}))
    return dataclasses.replace(make_run(seed=seed, **shape), optim=Member(name, OPTIMIZERS[name].version, held))


def after(runs, steps, rows=None, begin=0):
    """Each row after some steps."""
    data = TASKS["markov"].open_data(runs[0].task.options)
    engine = Engine(runs, rows or [fresh_row(run) for run in runs], data, Placement())
    engine.learn([[Turn(begin + step, 1.0 - 0.1 * step)] * len(runs) for step in range(steps)])
    return [engine.row(k) for k in range(len(runs))]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip((one.theta, *one.slots), (other.theta, *other.slots), strict=True))


@ALL
def test_the_table_says_how_to_try_it(name):
    assert name in RATES


SHAPES = [{}, {"d_model": 64, "tie": False}, {"mup_base_width": 64, "d_model": 32}, {"d_model": 8}]


@ALL
@pytest.mark.parametrize(
    ("shape", "k", "precision"),
    pairwise(SHAPES, [2, 8, 32], ["fp32", "bf16", "fp16"], slow=lambda shape, k, precision: k == 32 and shape != {}),
    ids=str,
)
def test_a_pack_equals_its_solos_bit_for_bit(make_run, name, shape, k, precision):
    runs = [run_with(make_run, name, seed, times=1 + seed / k, precision=precision, **shape) for seed in range(k)]
    for run, packed in zip(runs, after(runs, 4), strict=True):
        (solo,) = after([run], 4)
        assert equal(packed, solo)
        assert packed.theta.isfinite().all()


@ALL
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_row_of_nan_leaves_the_others_bit_equal(make_run, name, precision):
    good = [run_with(make_run, name, seed, precision=precision) for seed in (0, 2)]
    bad = run_with(make_run, name, 1, precision=precision)
    lost = fresh_row(bad)
    lost.theta[::7] = torch.nan
    first, ruined, last = after([good[0], bad, good[1]], 5, [fresh_row(good[0]), lost, fresh_row(good[1])])
    assert not ruined.theta.isfinite().all()
    for run, packed in zip(good, (first, last), strict=True):
        assert equal(packed, after([run], 5)[0])


@ALL
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_that_resumes_from_disk_equals_an_uninterrupted_one_bit_for_bit(make_run, name, precision, tmp_path):
    run = run_with(make_run, name, 1, precision=precision, steps=9, decay=3, every=4)
    folder = Live(run.run_id, tmp_path)
    trainer = Trainer(Job((run,), Placement()))
    events = [event for _ in range(5) for event in trainer.step()]
    checkpoint.save(folder, trainer.progress(run.run_id))
    events += train(Job((run,), Placement()), {run.run_id: checkpoint.load(folder)})
    assert by_run(events) == by_run(train(Job((run,), Placement())))


@ALL
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_branches_equal_the_planned_runs_bit_for_bit(make_run, name, precision):
    runs = [run_with(make_run, name, 1, precision=precision, steps=steps, decay=2, every=20) for steps in (6, 9, 12)]
    events = [*map(timeless, train(Job(tuple(runs), Placement())))]
    assert sum(isinstance(event, Split) for event in events) == 2
    for run in runs:
        alone = [*map(timeless, train(Job((run,), Placement())))]
        assert [event for event in events if not isinstance(event, Split) and event.run_id == run.run_id] == alone


@ALL
def test_the_planned_state_is_what_a_run_keeps(make_run, name):
    run = run_with(make_run, name, d_model=32)
    ledger = MODELS["decoder"].ledger(run.model.options)
    row = fresh_row(run)
    assert [len(slot) for slot in row.slots] == list(OPTIMIZERS[name].state(ledger.tensors))
    assert sum(len(slot) for slot in row.slots) <= 2 * len(row.theta)


@ALL
def test_training_lowers_the_loss(make_run, name):
    run = run_with(make_run, name, d_model=32, steps=40, every=40, sequences=8)
    trainer = Trainer(Job((run,), Placement()))
    first = trainer.engine.evaluate(trainer.exam.tokens_BW, [0]).mean()
    rows = [event for event in train(Job((run,), Placement())) if not isinstance(event, Ended)]
    (last,) = [row.value for row in rows if (row.split, row.metric) == ("held-out", "loss")]
    assert last < first - 0.1
