"""What a device is told and asked, in one place: the rounding of its products, and whether its memory ran out.

Precision is part of a run's identity, so torch's defaults do not decide it: fp32 multiplies in fp32 on every device,
tf32 only where the sweep file asks for it, and sums in half precision are kept in fp32.
"""

from __future__ import annotations

import torch

CPU_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch raises a bare RuntimeError


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_OUT_OF_MEMORY in str(error)


def set_rounding(precision: str) -> None:
    """Set this process's flags for runs of a precision; a long-lived worker sets them anew for each job."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
