"""Rounding is the run's, whatever ran before in the same process; a pack is as large as memory admits."""

import pytest
import torch

from scalectl.core.job import Job, Placement, State
from scalectl.store.layout import open_store
from scalectl.store.live import state_of
from scalectl.store.reader import read_run
from scalectl.train import attempt, device
from scalectl.train.loop import Trainer


def test_fp32_is_never_rounded_to_tf32_and_tf32_only_where_it_is_asked_for(make_run):
    for precision, flag in (("tf32", "high"), ("fp32", "highest"), ("tf32", "high"), ("bf16", "highest")):
        Trainer(Job((make_run(precision=precision),), Placement()))
        assert torch.get_float32_matmul_precision() == flag
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction


def test_a_pack_is_admitted_as_far_as_predicted_memory_goes(make_run):
    runs = [make_run(seed=seed) for seed in range(4)]
    assert device.admitted(runs, Placement(), None) == (Placement(), "")
    assert device.admitted(runs, Placement(), 10**12) == (Placement(), "")
    placement, note = device.admitted(runs, Placement(), 900_000)
    assert note.startswith(f"{placement.rows} models in a step in place of 4: each takes about ")
    assert 1 < placement.rows < 4
    halved, _ = device.admitted(runs, Placement(micro_batch=2), 900_000)
    assert halved.rows > placement.rows
    assert device.admitted(runs, Placement(), -5)[0].rows == 1


def test_runs_that_memory_does_not_admit_wait_their_turn_and_end_with_the_same_rows(make_run, tmp_path, monkeypatch):
    runs = [make_run(seed=seed) for seed in range(3)]
    found = []
    for free in (None, 1):
        monkeypatch.setattr(attempt, "free_bytes", lambda device, free=free: free)
        store = open_store(tmp_path / str(free))
        store.prepare()
        attempt.Attempt(store, Job(tuple(runs), Placement()), lambda message: None, lambda: False).run()
        assert all(state_of(store, run.run_id).state is State.DONE for run in runs)
        read = [read_run(store.run_file(run.run_id)) for run in runs]
        found.append([[row._replace(seconds=0.0) for row in held.rows()] for held in read])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("x"), MemoryError(), RuntimeError("[enforce] " + device.CPU_OUT_OF_MEMORY)]
)
def test_memory_that_ran_out_is_told_from_other_errors(error):
    assert device.out_of_memory(error)
    assert not device.out_of_memory(RuntimeError("something else"))
