"""The machine at hand: one long-lived worker process per slot, pinned to its core or given its GPU."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from scalectl.core.job import Job, State, Ticket
from scalectl.core.machine import cpu_name
from scalectl.executors.executor import Beat, Event, JobOver, RunEnded

GRACE_SECONDS = 10.0  # between asking a worker to end and killing it

# glibc gives tensors above 128 KiB fresh pages from the kernel at every step; kept in the heap they cost nothing.
# Measured: three models of width 8 in one step, 48.5 -> 38.3 ms. 32 MiB is the largest threshold that glibc takes.
# Huge pages where glibc 2.35 or later can ask for them: a step reads and writes every activation once, and finds its
# pages sooner. One row in fp32: x1.3 at width 32, x1.1 at 64, x1.05 at 128.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


@dataclass(frozen=True)
class Slot:
    """A place for one job. device: cpu or cuda:INDEX; cpu: the core to be pinned to, None for any."""

    device: str
    cpu: int | None = None

    @property
    def core(self) -> str:
        """The core as an argument of a worker, - for any."""
        return "-" if self.cpu is None else str(self.cpu)


def slots(device: str = "auto", count: int | None = None) -> tuple[Slot, ...]:
    """The slots of this machine: one per GPU where there are any, else one per core that this process may use.

    Args: device: auto, cpu or cuda; count: at most so many.
    """
    gpus = [] if device == "cpu" else gpu_indices()
    if gpus:
        found = [Slot(f"cuda:{index}") for index in gpus]
    else:
        found = [Slot("cpu", cpu) for cpu in sorted(os.sched_getaffinity(0))]
    return tuple(found[:count])


def gpu_indices() -> list[int]:
    """Indices of the NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves visible, found without importing torch."""
    if importlib.metadata.version("torch").endswith("+cpu"):  # a build that can use none
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return list(range(len([part for part in visible.split(",") if part.strip() not in ("", "-1")])))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return list(range(sum(line.startswith("GPU ") for line in listed.splitlines())))


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


def start(module: str, *arguments: str, errors: IO[bytes]) -> subprocess.Popen[str]:
    """A process that trains or measures: one thread, memory kept, lines in and out. It dies with the calling thread."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **ALLOCATOR},
        start_new_session=True,  # Ctrl-C reaches the orchestrator alone, and the group can be killed as one
    )


@dataclass
class _Worker:
    slot: int
    process: subprocess.Popen[str]
    errors: IO[bytes]
    ticket: Ticket | None = None
    lent: tuple[int, ...] = ()  # further slots whose cores its job takes
    busy: list[str] = field(default_factory=list)
    refused: tuple[int, str] = (0, "")


class LocalExecutor:
    """One worker per slot, started when a job needs it and kept for the next one."""

    def __init__(self, root: Path, places: tuple[Slot, ...]) -> None:
        self.root = root
        self.places = places
        self.workers: dict[int, _Worker] = {}
        self.inbox: queue.Queue[tuple[int, str | None]] = queue.Queue()

    @property
    def size(self) -> int:
        """Slots in all."""
        return len(self.places)

    def free(self) -> int:
        """Slots without a job."""
        return len(self._free())

    def _free(self) -> list[int]:
        taken = {index for index, worker in self.workers.items() if worker.ticket is not None}
        taken |= {index for worker in self.workers.values() if worker.ticket is not None for index in worker.lent}
        return [index for index in range(len(self.places)) if index not in taken]

    def warm(self, jobs: int) -> None:
        """Start as many workers as there are jobs and slots, so that they import while the caller goes on."""
        for index in range(min(jobs, len(self.places))):
            self.workers[index] = self._start(index)

    def submit(self, job: Job) -> Ticket:
        """Hand a job to a free slot, which borrows the cores of as many further free ones as the job has threads.

        Call from the main thread: a worker dies with the thread that started it.
        """
        from scalectl.train.worker import encode

        index, *others = self._free()
        worker = self.workers.get(index)
        if worker is None:
            worker = self.workers[index] = self._start(index)
        worker.ticket, worker.lent = job.ticket, tuple(others[: job.placement.threads - 1])
        cores = [self.places[i].cpu for i in (index, *worker.lent)]
        placed = replace(
            job.placement,
            device=self.places[index].device,
            threads=1 + len(worker.lent),
            cores=tuple(core for core in cores if core is not None),
        )
        with contextlib.suppress(BrokenPipeError):  # it died idle: its reader reports the job as lost
            self._stdin(worker).write(encode(replace(job, placement=placed)) + "\n")
            self._stdin(worker).flush()
        return job.ticket

    def poll(self, seconds: float) -> list[Event]:
        """Messages of the workers, as events."""
        events: list[Event] = []
        waiting = []
        with contextlib.suppress(queue.Empty):
            waiting.append(self.inbox.get(timeout=seconds))
            while True:
                waiting.append(self.inbox.get_nowait())
        for index, line in waiting:
            worker = self.workers.get(index)
            if worker is not None:
                event = self._buried(worker) if line is None else self._event(worker, _message(line))
                if event is not None:
                    events.append(event)
        return events

    def cancel(self, ticket: Ticket) -> None:
        """SIGTERM to the job's worker: it checkpoints at the next step and ends."""
        for worker in self.workers.values():
            if worker.ticket == ticket and worker.process.poll() is None:
                worker.process.terminate()

    def close(self, *, kill: bool = False) -> None:
        """End every worker: idle ones by the end of their input, busy ones by SIGTERM, SIGKILL after ten seconds."""
        for worker in self.workers.values():
            if kill:
                self._kill(worker)
            elif worker.ticket is not None:
                worker.process.terminate()
            _close(worker)
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self.workers.values():
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._kill(worker)
                worker.process.wait()
            worker.errors.close()
        self.workers.clear()

    def _start(self, index: int) -> _Worker:
        errors = tempfile.TemporaryFile()  # noqa: SIM115 closed with the worker
        process = start(
            "scalectl.train.worker", str(self.root), str(os.getpid()), self.places[index].core, errors=errors
        )
        worker = _Worker(index, process, errors)
        threading.Thread(target=self._read, args=(index, process), daemon=True).start()
        return worker

    def _read(self, index: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.inbox.put((index, line))
        self.inbox.put((index, None))

    def _event(self, worker: _Worker, message: dict[str, Any]) -> Event | None:
        kind = message["event"]
        if worker.ticket is None:
            return None
        if kind == "beat":
            runs = {run_id: (int(step), loss) for run_id, (step, loss) in message["runs"].items()}
            return Beat(worker.ticket, worker.slot, runs, message["tokens_per_second"], message["memory"])
        if kind == "began":
            return Beat(worker.ticket, worker.slot, {r: (step, None) for r, step in message["runs"].items()}, 0.0, 0)
        if kind == "ended":
            fields = {name: message[name] for name in ("step", "loss", "seconds", "message") if name in message}
            return RunEnded(message["run_id"], State(message["state"]), **fields)
        if kind == "busy":
            worker.busy.append(message["run_id"])
        if kind == "refused":
            worker.refused = (message["exit_code"], message["message"])
        if kind == "over":
            code, why = worker.refused
            over = JobOver(worker.ticket, exit_code=code, message=why, busy=tuple(worker.busy))
            worker.ticket, worker.refused, worker.busy = None, (0, ""), []
            return over
        return None

    def _buried(self, worker: _Worker) -> Event | None:
        """A worker's output ended: it is gone. Its slot starts a new one when a job needs it."""
        code = worker.process.wait()
        _close(worker)
        worker.errors.seek(0, os.SEEK_END)
        worker.errors.seek(max(0, worker.errors.tell() - 4_000))
        said = worker.errors.read().decode(errors="replace").strip().splitlines()
        worker.errors.close()
        del self.workers[worker.slot]
        if worker.ticket is None:
            return None
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return JobOver(worker.ticket, died=True, message="; ".join([f"worker {how}", *said[-1:]]))

    @staticmethod
    def _stdin(worker: _Worker) -> IO[str]:
        assert worker.process.stdin is not None
        return worker.process.stdin

    @staticmethod
    def _kill(worker: _Worker) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)


def _message(line: str) -> dict[str, Any]:
    """A message of a worker; a line that was torn when it died says nothing."""
    try:
        message: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"event": "torn"}
    return message


def _close(worker: _Worker) -> None:
    """End the worker's input."""
    if worker.process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # unread jobs of a worker that is gone
            worker.process.stdin.close()
