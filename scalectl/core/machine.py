"""The machine at hand: the name that provenance and caches store, the memory that is free."""

from __future__ import annotations

import functools
import os
import platform
import signal
import subprocess
from pathlib import Path

MEMORY = "SCALECTL_MEMORY"  # the variable that tells a pilot on Ray how many bytes it was given
_CPU = Path("/proc/cpuinfo")
_MEMORY = Path("/proc/meminfo")
_COUNTERS = Path("/proc/vmstat")
_GROUP = Path("/sys/fs/cgroup/memory.max")


@functools.cache
def cpu_name() -> str:
    """The model of the CPU, such as `AMD EPYC`."""
    lines = _CPU.read_text().splitlines() if _CPU.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()


def memory_total() -> int | None:
    """Memory of the machine, or what its container or job may take [bytes]; None if the kernel is silent."""
    lines = _MEMORY.read_text().splitlines() if _MEMORY.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    return min([*found, *_limits()], default=None)


def killed_for_memory() -> int:
    """How often the kernel has killed a process for want of memory since it started; 0 where it does not say."""
    lines = _COUNTERS.read_text().splitlines() if _COUNTERS.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def keep_freed_memory() -> None:
    """Arrays up to 32 MiB come from the heap, and what is freed stays there, until the process ends (glibc only).

    By default glibc hands the top of the heap back whenever half a megabyte lies free there, and a fit, whose arrays
    are that long, takes it again thousands of times. The numbers are M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h;
    32 MiB is the largest that it takes.
    """
    import ctypes

    tune = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    for parameter, size in ((-3, 32 << 20), (-1, 1 << 30)):
        if tune is not None:
            tune(parameter, size)


def resident(pid: int) -> int:
    """Memory that a process holds [bytes]; 0 of one that is gone."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def killed(number: int, seen: int, oom_kills: int) -> str:
    """How a process was killed, in words.

    Args: number: of the signal; seen: memory that it was last seen with [bytes], 0 if it was not; oom_kills: what
    `killed_for_memory` said when it started.
    """
    named = {held.value: held.name for held in signal.Signals}
    how = "killed" if number == signal.SIGKILL else f"killed by {named.get(number, f'signal {number}')}"
    total = memory_total()
    if seen and total:
        how += f"; last seen {seen / 2**30:.3g} of {total / 2**30:.3g} GiB"
    if number == signal.SIGKILL and killed_for_memory() > oom_kills:
        how += "; the system ran out of memory"
    return how


def device_name(device: str) -> str:
    """The model of a device, without torch; what nvidia-smi lists first speaks for all GPUs of a machine."""
    if device == "cpu":
        return cpu_name()
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "cuda"
    return (listed.splitlines() or ["cuda"])[0].strip()


@functools.cache
def driver(device: str) -> str | None:
    """Version of the driver of GPUs, without torch; None of a CPU, or where nvidia-smi does not answer."""
    if device == "cpu":
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next((line.strip() for line in listed.splitlines()), None)


def memory_available() -> int | None:
    """Memory that can be taken without swapping [bytes], within such limits; None if the kernel is silent."""
    lines = _MEMORY.read_text().splitlines() if _MEMORY.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([*found, *_limits()], default=None)


def _limits() -> list[int]:
    """What the container and the job of a cluster may take [bytes], each where there is one."""
    group = _GROUP.read_text().strip() if _GROUP.exists() else "max"
    job = os.environ.get("SLURM_MEM_PER_NODE", "")  # MiB; sbatch(1)
    pilot = os.environ.get(MEMORY, "")
    return [int(held) << shift for held, shift in ((group, 0), (job, 20), (pilot, 0)) if held.isdecimal()]
