"""Predicted memory of packs against what torch allocates and what the process holds, a fresh process for each.

    python bench/memory.py

The process has trained a tiny model of the same precision before, so that libraries and kernels are there; what is
counted is the growth of its resident peak beyond that, and the most bytes that torch's allocator had given out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from record import Section, record
from shapes import Shape

from scalectl.executors.local import ALLOCATOR

TINY = Shape(1, 8, 2, 8, 1)
# shape, K, precision
PACKS = [
    (Shape(1, 16, 4, 64, 4), 1, "fp32"),
    (Shape(1, 16, 4, 64, 4), 8, "fp32"),
    (Shape(1, 16, 4, 64, 4), 16, "fp32"),
    (Shape(1, 16, 4, 64, 4), 16, "bf16"),
    (Shape(2, 16, 4, 96, 4), 8, "fp32"),
    (Shape(2, 32, 4, 64, 8), 4, "fp32"),
    (Shape(2, 32, 4, 64, 8), 4, "bf16"),
    (Shape(2, 32, 4, 128, 16), 1, "fp32"),
    (Shape(2, 32, 4, 128, 16), 1, "bf16"),
    (Shape(2, 32, 4, 96, 24), 1, "fp32"),
    (Shape(4, 32, 4, 128, 2), 2, "fp32"),
    (Shape(1, 64, 4, 64, 8), 4, "fp32"),
    (Shape(4, 64, 4, 128, 16), 1, "fp32"),
    (Shape(4, 64, 4, 128, 16), 1, "bf16"),
    (Shape(2, 64, 2, 256, 8), 1, "fp32"),
    (Shape(2, 128, 4, 96, 24), 1, "fp32"),
    (Shape(4, 128, 4, 128, 16), 1, "fp32"),
    (Shape(4, 128, 4, 128, 16), 1, "bf16"),
    (Shape(6, 256, 8, 256, 8), 1, "fp32"),
    (Shape(6, 256, 8, 256, 8), 1, "bf16"),
]


def measure(index: int, allocator: bool) -> float:
    """Peak of this process [MiB]: of torch's allocator, or resident."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from scalectl.core.job import Job, Placement
    from scalectl.train.loop import Trainer

    torch.set_num_threads(1)
    shape, k, precision = PACKS[index]

    def train(shape: Shape, k: int) -> None:
        trainer = Trainer(Job(tuple(shape.run(precision, seed) for seed in range(k)), Placement()))
        for _ in range(2):
            trainer.step()

    def resident(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    train(TINY, 1)
    if not allocator:
        before = resident("VmRSS:")
        train(shape, k)
        return (resident("VmHWM:") - before) / 2**10
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        train(shape, k)
    alive = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most / 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--allocator", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one, given.allocator)))
        return
    from scalectl.optim import OPTIMIZERS

    rows = []
    for index, (shape, k, precision) in enumerate(PACKS):
        found = []
        for how in ([], ["--allocator"]):
            done = subprocess.run(
                [sys.executable, __file__, "--one", str(index), *how],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": "1"},
            )
            found.append(float(done.stdout.splitlines()[-1]))
        state = sum(OPTIMIZERS["adamw"].state(shape.ledger.tensors))
        predicted = k * shape.ledger.train_bytes(shape.batch_tokens, precision, state=state) / 2**20
        rows.append(
            {
                "model": str(shape),
                "K": k,
                "precision": precision,
                "predicted MiB": round(predicted, 2),
                "allocated MiB": round(found[1], 2),
                "predicted / allocated": round(predicted / found[1], 3),
                "resident MiB": round(found[0], 1),
                "predicted / resident": round(predicted / found[0], 2),
            }
        )
    record(Path(__file__).stem, [Section("rows", "Memory of packs above a bare worker", rows)])


if __name__ == "__main__":
    main()
