"""One run of a sweep file in a process of its own, by the engine: what packing is measured against.

python bench/one_run.py SWEEP.toml INDEX
"""

from __future__ import annotations

import sys

import torch

from scalectl.core.job import Job, Placement
from scalectl.core.rows import HELD_OUT, LOSS, Row
from scalectl.sweep.plan import expand
from scalectl.sweep.spec import load
from scalectl.train.loop import train

torch.set_num_threads(1)
run = expand(load(sys.argv[1])).runs[int(sys.argv[2])].run
for row in train(Job((run,), Placement())):
    if isinstance(row, Row) and (row.split, row.metric) == (HELD_OUT, LOSS):
        print(f"held-out loss {row.value:.4f}")
