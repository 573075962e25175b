"""Rounding is the run's, whatever ran before in the same process."""

import torch

from scalectl.core.job import Job, Placement
from scalectl.train.loop import Trainer


def test_fp32_is_never_rounded_to_tf32_and_tf32_only_where_it_is_asked_for(make_run):
    for precision, flag in (("tf32", "high"), ("fp32", "highest"), ("tf32", "high"), ("bf16", "highest")):
        Trainer(Job((make_run(precision=precision),), Placement()))
        assert torch.get_float32_matmul_precision() == flag
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
