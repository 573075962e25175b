"""What only a GPU can show: run with `pytest -m gpu`."""

import dataclasses

import pytest
import torch

from scalectl.core.job import Job, Placement, State
from scalectl.core.rows import Row
from scalectl.train.graph import Cuda, GraphEngine
from scalectl.train.loop import Ended, Trainer, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("default"),  # those of compilers and kernels are not ours to forbid
]
GPU = Placement("cuda:0")
EAGER = Placement("cuda:0", graph=False)
# Kernels that add in another order differ in the last bits, and 40 steps carry that on; ours, unmeasured
TOLERANCE = {"fp32": 1e-3, "tf32": 5e-3, "bf16": 2e-2, "fp16": 1e-2}


def values(runs, placement, begin=None):
    """Measured values by run, step, split and metric."""
    rows = [event for event in train(Job(tuple(runs), placement), begin) if isinstance(event, Row)]
    return {(row.run_id, row.step, row.split, row.metric): row.value for row in rows if row.metric == "loss"}


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_graph_gives_the_numbers_of_the_eager_engine_and_of_the_cpu(make_run, precision):
    runs = [make_run(seed=seed, precision=precision, steps=40 + 10 * seed) for seed in range(3)]
    found = values(runs, GPU)
    assert found == pytest.approx(values(runs, EAGER), rel=TOLERANCE[precision])
    assert found == pytest.approx(values(runs, Placement()), rel=2 * TOLERANCE[precision])


def test_the_step_is_a_replay(make_run):
    trainer = Trainer(Job((make_run(steps=200, every=100),), GPU))
    while trainer.running and trainer.seats[0].step < 150:
        trainer.step()
    assert isinstance(trainer.engine, GraphEngine)
    assert isinstance(trainer.engine.recorder, Cuda)
    assert trainer.engine.replay is not None
    assert trainer.engine.ahead > 10


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_pack_equals_its_solos_to_rounding(make_run, precision):
    runs = [make_run(seed=seed, precision=precision, d_model=64, lr=1e-3 * (1 + seed), steps=40) for seed in range(4)]
    solo = {}
    for run in runs:
        solo |= values([run], GPU)
    assert values(runs, GPU) == pytest.approx(solo, rel=TOLERANCE[precision])


def test_a_row_that_becomes_nan_leaves_the_others_as_they_are(make_run):
    good, bad = make_run(seed=1, steps=40), make_run(seed=2, steps=40, lr=1e30, clip=0.0, weight_decay=0.0)
    events = list(train(Job((good, bad), GPU)))
    ends = {event.run_id: event.state for event in events if isinstance(event, Ended)}
    assert ends == {good.run_id: State.DONE, bad.run_id: State.DIVERGED}


def test_a_resumed_run_goes_on_as_the_uninterrupted_one_to_rounding(make_run):
    run = make_run(steps=60)
    whole = values([run], GPU)
    first = Trainer(Job((run,), GPU))
    while first.seats[0].step < 30:
        first.step()
    kept = {run.run_id: first.progress(run.run_id)}
    step = kept[run.run_id].step
    rest = values([run], GPU, kept)
    assert rest == pytest.approx({key: value for key, value in whole.items() if key[1] > step}, rel=TOLERANCE["fp32"])


def test_branches_come_and_rows_leave(make_run):
    runs = [make_run(seed=seed, steps=steps) for seed in (1, 2) for steps in (24, 36, 60)]
    assert values(runs, GPU) == pytest.approx(values(runs, Placement()), rel=2 * TOLERANCE["fp32"])


@pytest.mark.parametrize("changed", [{"recompute": True}, {"compile": True}, {"recompute": True, "compile": True}])
def test_recomputed_and_compiled_blocks_train_alike_inside_the_graph(make_run, changed):
    run = make_run(steps=40, d_model=64)
    found = values([run], dataclasses.replace(GPU, **changed))
    assert found == pytest.approx(values([run], GPU), rel=TOLERANCE["fp32"])


def test_out_of_memory_halves_the_micro_batch_until_it_fits(make_run):
    run = make_run(steps=6, every=3, d_model=128, sequences=1024, context=256)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 4e9 / total))
    try:
        trainer = Trainer(Job((run,), GPU))
        events = []
        while trainer.running:
            events += trainer.step()
        assert trainer.engine.micro_batch < 1024
        assert any("out of memory" in note for note in trainer.notes())
        assert events[-1].state is State.DONE
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_tf32_rounds_and_fp32_does_not(make_run):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = (a.double() @ b.double()).cuda()
    error = {}
    for precision in ("tf32", "fp32"):
        Trainer(Job((make_run(precision=precision),), GPU))
        error[precision] = ((a.cuda() @ b.cuda()) - exact).abs().max().item()
    assert error["fp32"] < 1e-3
    assert error["tf32"] > 3 * error["fp32"]
