"""Faults on demand: tests break real processes at a place of their choice.

    SCALECTL_FAULT="worker.after_step:412=kill"               after step 412 of any run; without a number every time
    SCALECTL_FAULT="worker.rows=kill@FILE,..."                only once: whoever can create the file does it
    SCALECTL_FAULT="worker.before_file=note@FILE"             nothing goes wrong: a line in the file says where who was

Unset, a place costs one look at an empty tuple.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from scalectl.core.errors import UsageError
from scalectl.core.names import did_you_mean, shown

PLACES = {
    "worker.received": "a job has come in, nothing is claimed yet",
    "worker.crowded": "the worker asks whether the device has room",
    "worker.after_step": "a step is taken, its rows are not on disk",
    "worker.rows": "half of the rows of a step are on disk",
    "worker.checkpoint": "the new checkpoint is written beside the old one",
    "worker.keep": "what a script keeps is about to go where it stays; an older one is set aside",
    "worker.before_file": "the run has ended, its file is not written",
    "worker.after_file": "its file is written, its folder is still there",
    "engine.gradients": "inside the forward and backward pass of a step",
    "engine.loss": "the losses of a step are known",
}
ACTIONS = {
    "kill": "SIGKILL to itself",
    "term-ignore": "from now on SIGTERM does nothing",
    "child": "start a process in a session of its own that ignores SIGTERM",
    "sleep": "hang for an hour",
    "raise": "RuntimeError",
    "oom": "MemoryError",
    "eat": "take memory until the system kills it; within a limit on memory only",
    "device": "the error of a GPU that fell off the bus",
    "note": "a line in the file behind the @: Unix time, process, place, run, step",
    "nan": "the loss is not a number; at engine.loss only",
    "full": "others hold the memory of the device; at worker.crowded only",
}

_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


class Fault(NamedTuple):
    """What happens where. step: None for every time; once: the file that whoever does it has to create."""

    place: str
    step: int | None
    action: str
    once: str


def planned(text: str) -> tuple[Fault, ...]:
    """The faults of a setting. Raises: UsageError for what is none."""
    found = []
    for part in filter(None, text.split(",")):
        where, _, what = part.partition("=")
        place, _, step = where.partition(":")
        action, _, once = what.partition("@")
        for word, known in ((place, PLACES), (action, ACTIONS)):
            if word not in known:
                what = f"SCALECTL_FAULT: {shown(word)} is not known"
                raise UsageError(what, where=shown(part), remedy=did_you_mean(word, known))
        if action == "note" and not once:
            raise UsageError("SCALECTL_FAULT: a note needs a file", where=shown(part), remedy="PLACE=note@FILE")
        if step and not step.isdecimal():
            raise UsageError(f"SCALECTL_FAULT: {shown(step)} is not a step", where=shown(part))
        found.append(Fault(place, int(step) if step else None, action, once))
    return tuple(found)


PLANNED = planned(os.environ.get("SCALECTL_FAULT", ""))


def hit(place: str, step: int = 0, since: int | None = None, run: str = "") -> str:
    """Do what is planned for a place.

    Args: step: reached; since: the step before, where several may have been taken at once; run: that is there.
    Returns: the last action, for those that the place itself carries out; "" for none.
    """
    done = ""
    for fault in PLANNED:
        before = step - 1 if since is None else since
        if fault.place != place or not (fault.step is None or before < fault.step <= step):
            continue
        if fault.action == "note":
            with open(fault.once, "a") as file:
                file.write(f"{time.time():.6f} {os.getpid()} {place} {run} {step}\n")
        elif _first(fault.once):
            done = fault.action
            _do(fault)
    return done


def _first(once: str) -> bool:
    if not once:
        return True
    try:
        os.close(os.open(once, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return False
    return True


def _do(fault: Fault) -> None:
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "term-ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif fault.action == "child":
        subprocess.Popen([sys.executable, "-c", _STUBBORN], start_new_session=True)
    elif fault.action == "sleep":
        time.sleep(3600)
    elif fault.action == "raise":
        raise RuntimeError(f"planned at {fault.place}")
    elif fault.action == "oom":
        raise MemoryError(f"planned at {fault.place}")
    elif fault.action == "eat":
        held = []
        while True:
            held.append(b"x" * (8 << 20))
            time.sleep(0.05)  # so that it is seen growing
    elif fault.action == "device":
        raise RuntimeError(f"CUDA error: planned at {fault.place}")
