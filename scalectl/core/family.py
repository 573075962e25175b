"""A worker and all that descends from it, found by a mark in the environment, which outlives reparenting and setsid."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import time

MARK = "SCALECTL_FAMILY"  # what a member adds to it, behind a dot, marks a family within the family
PR_SET_PDEATHSIG = 1  # prctl(2)
ROUNDS = 50  # a process that forks while it is looked for is found in a later round; ours


def new_mark() -> str:
    """A mark for the environment of a process that nobody else has."""
    return secrets.token_hex(8)


def alive(pid: int) -> bool:
    """Whether a child of this process runs; it is not reaped, so its number stays its own."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def end_family(pid: int, mark: str) -> None:
    """SIGKILL to a child of this process, its group and all that carry its mark.

    Args: pid: of the child, the leader of its group, running or not yet reaped.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if _is_child(pid):  # the number of a child that was reaped may be a stranger's
            os.killpg(pid, signal.SIGKILL)
    for _ in range(ROUNDS):
        if not sum(_killed(int(name), mark) for name in os.listdir("/proc") if name.isdecimal()):
            return
        time.sleep(0.02)


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _killed(pid: int, mark: str) -> bool:
    """Kill a process if it carries the mark, through a handle that names this very process. Returns: whether it did."""
    if not _carries(pid, mark):
        return False
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if _carries(pid, mark):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            return True
    except OSError:
        pass
    finally:
        os.close(handle)
    return False


def _carries(pid: int, mark: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except OSError:
        return False
    return any(f"{MARK}={mark}{end}".encode() in environment for end in ("\0", "."))


def mark_of(pid: int) -> str:
    """The mark of a process of somebody else; "" if it has none."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            held = [part for part in file.read().split(b"\0") if part.startswith(f"{MARK}=".encode())]
    except OSError:
        return ""
    return held[0].decode().partition("=")[2] if held else ""


def die_with(parent: int) -> None:
    """Ask the kernel to end this process when the thread of its parent that started it ends; now, if it has ended."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
