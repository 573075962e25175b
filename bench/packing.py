"""Tokens per second of a pack of K models against one model of the same engine, side by side on one core.

    python bench/packing.py [--rounds 7]

Rounds interleave the two, so that a machine whose speed drifts slows both; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
import sys
import time
from pathlib import Path
from statistics import median

import torch
from record import record, show

from scalectl.core.job import Job, Placement
from scalectl.core.run import Evaluation, Member, RunConfig, Task
from scalectl.executors.local import ALLOCATOR
from scalectl.models.decoder.spec import Options, ledger
from scalectl.optim import AdamWOptions
from scalectl.optim.schedules import Options as ScheduleOptions
from scalectl.tasks import TASKS, text
from scalectl.train.loop import Trainer

# layers, width, heads, context, sequences: parameters from 8 k to 400 k
SHAPES = ((1, 16, 4, 64, 4), (2, 32, 4, 128, 16), (4, 64, 4, 128, 16), (2, 128, 4, 96, 24))
PRECISIONS = ("fp32", "bf16")
K = 8


def run_of(shape: tuple[int, ...], precision: str, seed: int) -> RunConfig:
    layers, width, heads, context, sequences = shape
    data = text.Options("stdlib")
    about = TASKS["text"].describe(data)
    return RunConfig(
        model=Member("decoder", 1, Options(width, layers, heads, context, about.vocab)),
        task=Task("text", 1, data, about.fingerprint, 4096),
        optim=Member("adamw", 1, AdamWOptions(1e-3)),
        schedule=Member("constant", 1, ScheduleOptions(10)),
        steps=10**6,
        sequences=sequences,
        seed=seed,
        precision=precision,
        evaluation=Evaluation(10**6),
    )


def rate(trainer: Trainer, seconds: float) -> float:
    """Tokens per second over all members."""
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        trainer.step()
        steps += 1
    spent = time.perf_counter() - begin
    return steps * sum(seat.run.batch_tokens for seat in trainer.seats) / spent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    if any(name not in os.environ for name in ALLOCATOR):  # as the executor starts its workers
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    for shape in SHAPES:
        for precision in PRECISIONS:
            runs = [run_of(shape, precision, seed) for seed in range(K)]
            solo, pack = (Trainer(Job(tuple(part), Placement())) for part in (runs[:1], runs))
            for trainer in (solo, pack):
                rate(trainer, 0.3)
            pairs = [(rate(solo, given.seconds), rate(pack, given.seconds)) for _ in range(given.rounds)]
            layers, width, _, context, sequences = shape
            rows.append(
                {
                    "model": f"L{layers} d{width} T{context} B{sequences}",
                    "parameters": ledger(runs[0].model.options).params("total"),
                    "precision": precision,
                    "solo tokens/s": round(median(one for one, _ in pairs)),
                    f"pack of {K} tokens/s": round(median(many for _, many in pairs)),
                    "ratio": round(median(many / one for one, many in pairs), 2),
                }
            )
    show(f"A pack of {K} against one model, one core, median of {given.rounds} interleaved rounds", rows)
    record(Path(__file__).stem, rows)


if __name__ == "__main__":
    main()
