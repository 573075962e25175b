"""What a device is told and asked, in one place: the rounding of its products, and its memory.

Precision is part of a run's identity, so torch's defaults do not decide it: fp32 multiplies in fp32 on every device,
tf32 only where the sweep file asks for it, and sums in half precision are kept in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from scalectl.core import fault
from scalectl.core.job import Placement
from scalectl.core.run import RunConfig
from scalectl.core.units import size
from scalectl.models import ledger_of
from scalectl.optim import OPTIMIZERS

RESERVE = 0.08  # of a GPU's memory, left for its context, libraries and fragments; ours, unmeasured
CPU_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch raises a bare RuntimeError
GPU_OUT_OF_MEMORY = "CUDA error: out of memory"  # where not even a context fits beside what others hold


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the machine."""
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or CPU_OUT_OF_MEMORY in said
        or GPU_OUT_OF_MEMORY in said
    )


def device_failed(error: BaseException) -> bool:
    """Whether an error is that of a device that serves this process no longer: lost, or poisoned by a failed kernel."""
    return not out_of_memory(error) and (isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error))


def free_bytes(device: torch.device) -> int | None:
    """Memory that a pack may take [bytes]; None where nobody knows: a CPU's is shared with whatever else runs."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + idle - RESERVE * total)


def row_bytes(run: RunConfig, placement: Placement) -> int:
    """Memory that one row takes in training by what shapes predict [bytes]."""
    tensors = ledger_of(run.model).tensors
    tokens = min(placement.micro_batch or run.sequences, run.sequences) * run.context
    optimizer = OPTIMIZERS[run.optim.name]
    return ledger_of(run.model).train_bytes(
        tokens,
        run.precision,
        state=sum(optimizer.state(tensors)),
        scratch=optimizer.scratch(tensors),
        recompute=placement.recompute,
    )


def crowded(run: RunConfig, placement: Placement, device: torch.device) -> str:
    """Why the run has to wait for a device: others hold the memory that it needs at least; "" to begin."""
    if fault.PLANNED and fault.hit("worker.crowded") == "full":
        return f"{device} has no room: others hold its memory"
    if device.type != "cuda":
        return ""
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:  # the first question opens a context, which takes memory of its own
        if not out_of_memory(error):
            raise
        return f"{device} has no memory left for another process"
    least = row_bytes(run, replace(placement, micro_batch=1))
    if least <= free - RESERVE * total or least > (1 - RESERVE) * total:
        return ""
    return f"{device} has {size(free)} free of {size(total)}, and a model needs {size(least)}"


def admitted(runs: Sequence[RunConfig], placement: Placement, free: int | None) -> tuple[Placement, str]:
    """As many rows in one step as memory takes by what shapes predict, and at least one; the others wait their turn.

    Args: runs: of one pack; free: bytes that it may take, None for no limit.
    Returns: the placement, and what was changed, for the log.
    """
    asked, each = placement.rows or len(runs), row_bytes(runs[0], placement)
    fits = asked if free is None else max(1, free // each)
    if fits >= asked:
        return placement, ""
    note = f"{fits} models in a step in place of {asked}: each takes about {size(each)}, and {size(free)} are free"
    return replace(placement, rows=fits), note


def set_rounding(precision: str) -> None:
    """Set this process's flags for runs of a precision; a long-lived worker sets them anew for each job."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
