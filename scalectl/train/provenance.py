"""Where a number comes from: code, machine, time."""

from __future__ import annotations

import datetime
import platform
import socket
from typing import Any

import numpy as np
import torch

import scalectl
from scalectl.core.job import Placement
from scalectl.core.machine import cpu_name


def device_name(device: str) -> str:
    """The model of a device, such as `AMD EPYC` or `NVIDIA H200`."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(torch.device(device))
    return cpu_name()


def provenance(placement: Placement, pack: int, started: str, split: int = 0) -> dict[str, Any]:
    """What to store with a run.

    Args: placement: as the run was trained in the end, a micro-batch halved for want of memory included; pack: the most
    models in one step; started: ISO time of the attempt that ended the run; split: the step up to which the run shared
    its training with others, 0 for none.
    """
    return {
        "scalectl": scalectl.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "host": socket.gethostname(),
        "device": placement.device.partition(":")[0],
        "device_name": device_name(placement.device),
        "threads": placement.threads,
        "micro_batch": placement.micro_batch,
        "recompute": placement.recompute,
        "compile": placement.compile,
        "pack": pack,
        "split": split,
        "started": started,
        "ended": now(),
    }


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
