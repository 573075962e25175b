"""The memory that a plan predicts is what torch allocates, its fullest moment included."""

import pytest
from torch.profiler import ProfilerActivity, profile

from scalectl.core.job import Job, Placement
from scalectl.models import MODELS
from scalectl.optim import OPTIMIZERS
from scalectl.train.loop import Trainer

# width, context, sequences, K, precision, and other options of the decoder: two layers, four heads, 32 symbols
SHAPES = [
    (8, 16, 8, 1, "fp32", {}),
    (8, 16, 8, 16, "fp32", {}),
    (16, 64, 4, 1, "fp32", {}),
    (16, 64, 4, 8, "fp32", {}),
    (16, 64, 4, 8, "bf16", {}),
    (16, 64, 4, 4, "fp32", {"norm": "rms", "position": "rotary"}),
    (16, 64, 4, 4, "bf16", {"norm": "rms", "bias": False, "tie": False}),
    (16, 64, 4, 4, "fp32", {"norm_first": False}),
    (16, 64, 4, 4, "fp32", {"activation": "relu"}),
    (16, 64, 4, 4, "fp32", {"activation": "gelu"}),
    (16, 24, 4, 32, "fp32", {}),
    (32, 96, 4, 2, "fp32", {"position": "sinusoidal"}),
    (32, 128, 4, 4, "fp32", {}),
    (32, 128, 4, 4, "bf16", {}),
    (32, 128, 4, 2, "fp32", {"window": 32}),
    (32, 128, 2, 4, "fp32", {"d_ff": 32}),
    (64, 64, 4, 2, "fp32", {}),
    (64, 64, 4, 2, "bf16", {}),
    (64, 256, 2, 1, "fp32", {}),
    (128, 96, 8, 1, "fp32", {}),
    (128, 96, 8, 1, "bf16", {"d_ff": 128}),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.filterwarnings("ignore")  # of the profiler
def test_predicted_memory_is_within_15_percent_of_what_is_allocated(make_run, shape):
    width, context, sequences, k, precision, options = shape
    runs = [
        make_run(d_model=width, context=context, sequences=sequences, seed=seed, precision=precision,
                 every=1000, steps=1000, **options)
        for seed in range(k)
    ]  # fmt: skip
    Trainer(Job(tuple(runs), Placement())).step()  # tables that are made once for all
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer = Trainer(Job(tuple(runs), Placement()))
        for _ in range(2):
            trainer.step()
    alive = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    ledger = MODELS["decoder"].ledger(runs[0].model.options)
    state = sum(OPTIMIZERS["adamw"].state(ledger.tensors))
    predicted = k * ledger.train_bytes(sequences * context, precision, state=state)
    assert len(trainer.engine.parts(trainer.engine.micro_batch)) == 1
    assert most > 0
    assert predicted == pytest.approx(most, rel=0.15)
