"""The memory that a plan predicts is what torch allocates, its fullest moment included."""

import dataclasses

import pytest
from torch.profiler import ProfilerActivity, profile

from scalectl.core.job import Job, Placement
from scalectl.models import MODELS, ledger_of
from scalectl.optim import OPTIMIZERS
from scalectl.train.loop import Trainer

# width, context (0 where the data say it), sequences, K, precision, and other options: two layers, four heads
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
    (32, 0, 32, 1, "fp32", {"family": "vit", "patch": 2}),
    (32, 0, 32, 4, "bf16", {"family": "vit"}),
    (64, 0, 32, 1, "fp32", {"family": "vit", "patch": 2, "activation": "relu"}),
    (32, 0, 32, 4, "fp32", {"family": "encoder-decoder"}),
    (64, 0, 32, 1, "bf16", {"family": "encoder-decoder", "norm_first": False}),
    (64, 0, 64, 1, "fp32", {"family": "encoder-decoder", "activation": "relu", "n_encoder": 4}),
]


def allocated(runs):
    """A trainer of the runs after two steps, and the most bytes that torch had allocated for it at once."""
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
    return trainer, most


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.filterwarnings("ignore")  # of the profiler
def test_predicted_memory_is_within_15_percent_of_what_is_allocated(make_run, shape):
    width, context, sequences, k, precision, options = shape
    runs = [
        make_run(d_model=width, context=context, sequences=sequences, seed=seed, precision=precision,
                 every=1000, steps=1000, **options)
        for seed in range(k)
    ]  # fmt: skip
    trainer, most = allocated(runs)
    ledger = ledger_of(runs[0].model)
    state = sum(OPTIMIZERS["adamw"].state(ledger.tensors))
    predicted = k * ledger.train_bytes(runs[0].batch_tokens, precision, state=state)
    assert len(trainer.engine.parts(trainer.engine.micro_batch)) == 1
    assert most > 0
    assert predicted == pytest.approx(most, rel=0.15)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore")  # of the profiler
def test_where_parameters_outweigh_activations_predicted_memory_follows_the_optimisers_state(make_run, name, precision):
    kind = OPTIMIZERS[name].options
    rates = {field.name: 1e-3 for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    run = make_run(d_model=128, context=32, sequences=1, precision=precision, every=1000, steps=1000)
    run = dataclasses.replace(run, optim=dataclasses.replace(run.optim, name=name, options=kind(**rates)))
    _, most = allocated([run])
    ledger = MODELS["decoder"].ledger(run.model.options)
    optimizer = OPTIMIZERS[name]
    predicted = ledger.train_bytes(
        32, precision, state=sum(optimizer.state(ledger.tensors)), scratch=optimizer.scratch(ledger.tensors)
    )
    assert predicted == pytest.approx(most, rel=0.1)
