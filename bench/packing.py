"""Tokens per second of a pack of K models against one model of the same engine, side by side on one core.

    python bench/packing.py [--rounds 7]

Rounds interleave the two, so that a machine whose speed drifts slows both; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
import sys
from pathlib import Path
from statistics import median

import torch
from contenders import build, measure
from record import Section, record
from shapes import Shape

from scalectl.executors.local import ALLOCATOR

# parameters from 8 k to 400 k
SHAPES = (Shape(1, 16, 4, 64, 4), Shape(2, 32, 4, 128, 16), Shape(4, 64, 4, 128, 16), Shape(2, 128, 4, 96, 24))
PRECISIONS = ("fp32", "bf16")
K = 8


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
            solo, pack = (build({"kind": "engine", "precision": precision, "k": k}, shape) for k in (1, K))
            for contender in (solo, pack):
                measure(contender, 0.3)
            turns = [[measure(c, given.seconds)["wall"] for c in (solo, pack)] for _ in range(given.rounds)]
            rows.append(
                {
                    "model": str(shape),
                    "parameters": shape.ledger.params("total"),
                    "precision": precision,
                    "solo tokens/s": round(median(one for one, _ in turns)),
                    f"pack of {K} tokens/s": round(median(many for _, many in turns)),
                    "ratio": round(median(many / one for one, many in turns), 2),
                }
            )
    title = f"A pack of {K} against one model, one core, median of {given.rounds} interleaved rounds"
    record(Path(__file__).stem, [Section("rows", title, rows)])


if __name__ == "__main__":
    main()
