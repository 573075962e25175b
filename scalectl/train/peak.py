"""What a device can do at most: products of large matrices in a precision, against which a run's FLOPs are held."""

from __future__ import annotations

import functools
import time

import torch

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_SECONDS = 10.0  # that a run trained, for its device to be measured, which takes a tenth of one. Ours.
SMALLEST, LARGEST = 256, 8192  # sides of the matrices
LONG_ENOUGH = 0.01  # seconds of one product; ours: a larger one is no more than 5 % faster, on a core and on a GPU
TIMES = 3


@functools.cache
def peak_flops(device: str, precision: str, threads: int = 1) -> float:
    """FLOPs a second of the best of a few square products, on all threads of this process, per thread of a CPU.

    The sides double until a product takes LONG_ENOUGH. Where a processor emulates the precision, that is its peak.
    """
    side, place = SMALLEST, torch.device(device)
    while True:
        a, b = (torch.randn(side, side, device=place).to(DTYPES[precision]) for _ in range(2))
        a @ b  # what comes first finds out how
        best = min(_seconds(a, b) for _ in range(TIMES))
        if best >= LONG_ENOUGH or 2 * side > LARGEST:
            return 2.0 * side**3 / best / (threads if place.type == "cpu" else 1)
        side *= 2


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    begin = time.perf_counter()
    a @ b
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - begin
