"""Probes on the machine at hand: one process per slot, that measures its share of the shapes and ends."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scalectl.core.job import Job
from scalectl.executors.local import Slot, start
from scalectl.sweep.speeds import Measured, measured_from


@dataclass(frozen=True)
class Request:
    """A shape to measure.

    job: one run for each precision to compare; start: the K that shapes suggest; most: the largest K, None for the
    probe's own limit; memory: that the measurement may take [bytes], None for any.
    """

    job: Job
    start: int
    most: int | None = None
    memory: int | None = None


def measure(
    requests: Sequence[Request], places: Sequence[Slot]
) -> Iterator[tuple[Request, tuple[Measured, ...] | str]]:
    """Measure every request, several at once on as many slots, as sweeps run; each has the cores of its threads.

    Yields: each request as it is answered, with a measurement for each run of its job, or why there is none.
    """
    threads = requests[0].job.placement.threads
    count = min(len(places) // threads, len(requests))
    waiting = {slot: list(requests[slot::count]) for slot in range(count)}
    inbox: queue.Queue[tuple[int, str | None]] = queue.Queue()
    processes: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryFile() as errors:
        try:
            for slot, share in waiting.items():
                process = start("scalectl.train.probe", str(os.getpid()), places[slot * threads].core, errors=errors)
                processes.append(process)
                threading.Thread(
                    target=_feed, args=(process, places[slot * threads :][:threads], share), daemon=True
                ).start()
                threading.Thread(target=_read, args=(slot, process, inbox), daemon=True).start()
            while any(waiting.values()):
                slot, line = inbox.get()
                if line is not None and waiting[slot]:
                    yield waiting[slot].pop(0), _answer(line)
                elif line is None:
                    code = processes[slot].wait()
                    for request in waiting[slot]:
                        yield request, f"the probe ended with code {code}"
                    waiting[slot].clear()
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _feed(process: subprocess.Popen[str], places: Sequence[Slot], share: Sequence[Request]) -> None:
    from scalectl.train.worker import encode

    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        for request in share:
            cores = tuple(place.cpu for place in places if place.cpu is not None)
            job = Job(request.job.runs, replace(request.job.placement, device=places[0].device, cores=cores))
            asked: dict[str, Any] = {
                "job": json.loads(encode(job)),
                "starts": [request.start] * len(job.runs),
                "most": request.most,
                "memory": request.memory,
            }
            process.stdin.write(json.dumps(asked) + "\n")


def _read(slot: int, process: subprocess.Popen[str], inbox: queue.Queue[tuple[int, str | None]]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            inbox.put((slot, line))
    inbox.put((slot, None))


def _answer(line: str) -> tuple[Measured, ...] | str:
    try:
        said = json.loads(line)
        return str(said["error"]) if "error" in said else tuple(map(measured_from, said["found"]))
    except (ValueError, TypeError, KeyError):
        return "the probe's answer cannot be read"
