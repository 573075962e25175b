"""A step on the CPU's tape is the step of torch.autograd."""

import pytest
import torch

from scalectl.core.job import Job, Placement
from scalectl.train.loop import Trainer

DESIGNS = [
    {},
    {"position": "rotary", "norm": "rms", "tie": False},
    {"position": "sinusoidal", "bias": False},
    {"norm_first": False, "activation": "relu"},
    {"norm": "rms", "norm_first": False, "activation": "gelu"},
    {"mup_base_width": 8},
    {"window": 8, "position": "rotary"},
    {"family": "encoder-decoder", "position": "sinusoidal"},
    {"family": "encoder-decoder", "norm_first": False, "activation": "relu", "tie": False},
    {"family": "vit"},
]


@pytest.mark.parametrize(("k", "micro_batch"), [(1, None), (3, 2)])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp64"])
@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_steps_on_the_tape_are_those_of_autograd_bit_for_bit(make_run, design, precision, k, micro_batch):
    runs = tuple(make_run(context=32, seed=seed, precision=precision, **design) for seed in range(k))
    taped, plain = (Trainer(Job(runs, Placement(micro_batch=micro_batch))) for _ in range(2))
    assert taped.engine.taped
    plain.engine.taped = False
    for _ in range(3):
        taped.step()
        plain.step()
        for ours, expected in zip(taped.engine.population.held, plain.engine.population.held, strict=True):
            assert torch.equal(ours, expected)
