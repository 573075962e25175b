"""The machine at hand: the name that provenance and caches store, what its CPU can, the memory that is free."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

_CPU = Path("/proc/cpuinfo")
_MEMORY = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup/memory.max")


@functools.cache
def _cpu_lines() -> tuple[str, ...]:
    return tuple(_CPU.read_text().splitlines()) if _CPU.exists() else ()


def _cpu(field: str) -> str:
    return next((line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith(field)), "")


def cpu_name() -> str:
    """The model of the CPU, such as `AMD EPYC`."""
    return _cpu("model name") or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction sets of the CPU as the kernel names them, `avx512_bf16` among them; empty where it does not say."""
    return frozenset(_cpu("flags").split())


def memory_available() -> int | None:
    """Memory that can be taken without swapping [bytes], within the container's limit; None if the kernel is silent."""
    lines = _MEMORY.read_text().splitlines() if _MEMORY.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit = _GROUP.read_text().strip() if _GROUP.exists() else "max"
    return min([*found, *([int(limit)] if limit.isdecimal() else [])], default=None)
