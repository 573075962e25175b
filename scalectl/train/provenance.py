"""Where a number comes from: code, machine, time."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import shlex
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scalectl
from scalectl.core import machine
from scalectl.core.job import Placement
from scalectl.core.run import CommandRun

GIT_SECONDS = 5.0  # for an answer; ours: a run does not wait for a slow disk


def device_name(device: str) -> str:
    """The model of a device, such as `AMD EPYC` or `NVIDIA H200`."""
    import torch

    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(torch.device(device))
    return machine.cpu_name()


def provenance(
    placement: Placement,
    pack: int,
    started: str,
    split: int = 0,
    sources: Sequence[str] = ("",),
    command: str = "",
    spent: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """What to store with a run.

    Args: placement: as the run was trained in the end, a micro-batch halved for want of memory included; pack: the most
    models in one step; started: ISO time of the attempt that ended the run; split: the step up to which the run shared
    its training with others, 0 for none; sources: digests of the code of all its attempts, in order, each once;
    command: that started the sweep; spent: what the run took, and what was planned for it.
    """
    import numpy as np
    import torch

    folder = Path(placement.search[0] if placement.search else os.getcwd())
    return {
        **_here(placement, started),
        "command": command or None,
        "folder": str(folder),
        **git_state(folder),
        "source": sources[-1] or None,
        "sources": list(sources),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "device_name": device_name(placement.device),
        "micro_batch": placement.micro_batch,
        "recompute": placement.recompute,
        "compile": placement.compile,
        "pack": pack,
        "split": split,
        **(spent or {}),
    }


def command_provenance(
    run: CommandRun, command: Sequence[str], folder: Path, placement: Placement, started: str
) -> dict[str, Any]:
    """What to store with a run of somebody's script: the machine, the command as it ran, and the state of its code.

    Args: command: with every place filled; folder: in which it ran. What the script imports is its own business.
    """
    return {
        **_here(placement, started),
        "device_name": machine.device_name(placement.device.partition(":")[0]),
        "command": shlex.join(command),
        "folder": str(folder),
        "files": " ".join(run.files),
        "source": run.source,
        **git_state(folder),
        "pack": 1,
    }


@functools.cache
def git_state(folder: Path) -> dict[str, Any]:
    """The commit of a folder and whether its files differ from it, as when this process first asked.

    Source: ours; a worker asks before its first run ends, and runs of the code that it loaded before that.
    """
    commit, dirty = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "-uno")
    return {"git_commit": commit, "git_dirty": None if commit is None else bool(dirty)}


def command_of(pid: int) -> str:
    """The command line of a process, such as the orchestrator's; empty of one that is gone."""
    import psutil

    try:
        return shlex.join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def _here(placement: Placement, started: str) -> dict[str, Any]:
    return {
        "scalectl": scalectl.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "kernel": platform.release(),
        "host": socket.gethostname(),
        "device": placement.device.partition(":")[0],
        "driver": machine.driver(placement.device.partition(":")[0]),
        "threads": placement.threads,
        "started": started,
        "ended": now(),
    }


def _git(folder: Path, *question: str) -> str | None:
    try:
        asked = ["git", "-C", str(folder), *question]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
