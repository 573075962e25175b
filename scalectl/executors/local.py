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
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from scalectl.core.family import MARK, alive, end_family, new_mark
from scalectl.core.job import AnyJob, State, Ticket
from scalectl.core.machine import killed, killed_for_memory, resident
from scalectl.executors.adopted import Adopted
from scalectl.executors.executor import Beat, Event, JobOver, RunEnded, SlotClosed
from scalectl.store.layout import open_store
from scalectl.store.live import Holder

EXIT_SECONDS = 2.0  # from a worker's last word to its exit code, before it is killed
GRACE_SECONDS = 10.0  # between asking a worker to end and killing it, if it does not answer
CHECKPOINT_SECONDS = 120.0  # for one that answers that it checkpoints; ours: 10 GB of parameters on a slow disk
FULL_SECONDS = 15.0  # before a device whose memory others hold is tried again; ours
CPUS = "SCALECTL_CPUS"  # the variable that tells a pilot on Ray how many cores it was given
DEVICE_ERRORS = 2  # of a slot, before it is closed

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

    In a job of Slurm, or a pilot on Ray, these are the cores of the job.

    Args: device: auto, cpu or cuda; count: at most so many.
    """
    gpus = [] if device == "cpu" else gpu_indices()
    if gpus:
        found = [Slot(f"cuda:{index}") for index in gpus]
    else:
        found = [Slot("cpu", cpu) for cpu in sorted(os.sched_getaffinity(0))]
        granted = int(os.environ.get(CPUS) or os.environ.get("SLURM_CPUS_ON_NODE") or len(found))
        if granted < len(found):  # a cluster that counts cores and pins nobody: others may have the first ones
            found = [Slot("cpu")] * granted
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


def start(
    module: str, *arguments: str, errors: IO[bytes], trains: bool = True, mark: str = ""
) -> subprocess.Popen[str]:
    """A process that trains or measures: one thread, memory kept, lines in and out. It dies with the calling thread.

    Args: trains: False for one that only starts scripts, whose memory is their own business; mark: by which all that
    descend from it are found.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, **({"OMP_NUM_THREADS": "1", **ALLOCATOR} if trains else {}), MARK: mark or new_mark()},
        start_new_session=True,  # Ctrl-C reaches the orchestrator alone, and the group can be killed as one
    )


@dataclass
class _Worker:
    slot: int
    process: subprocess.Popen[str]
    errors: IO[bytes]
    mark: str
    oom_kills: int  # of the machine, when it started
    ticket: Ticket | None = None
    lent: tuple[int, ...] = ()  # further slots whose cores its job takes
    busy: list[str] = field(default_factory=list)
    refused: tuple[int, str] = (0, "")
    full: str = ""
    broken: str = ""  # what its device failed with
    story: str = ""  # how its script was killed, of which it dies
    resident: int = 0  # memory of the process when it was last seen [bytes]
    deadline: float | None = None  # clock [s] at which it is killed
    swept: bool = False  # whether what descends from it was killed after its end


class LocalExecutor:
    """One worker per slot, started when a job needs it and kept for the next one.

    Args: detached: workers that outlive this process go on to the end of their job; commands: the jobs to come are
    scripts, for which a worker needs no torch.
    """

    def __init__(self, root: Path, places: tuple[Slot, ...], *, detached: bool = False, commands: bool = False) -> None:
        self.root = root
        self.commands = commands
        self.places = places
        self.detached = detached
        self.failures: Counter[int] = Counter()  # device errors by slot
        self.resting: dict[int, float] = {}  # slots whose device is full, until this clock [s]
        self.workers: dict[int, _Worker] = {}
        self.adopted: dict[Ticket, Adopted] = {}
        self.inbox: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()

    @property
    def size(self) -> int:
        """Slots in all, without those that were closed."""
        return len(self.places) - len(self._closed())

    def _closed(self) -> set[int]:
        return {index for index, count in self.failures.items() if count >= DEVICE_ERRORS}

    def free(self) -> int:
        """Slots without a job."""
        return len(self._free())

    def _free(self) -> list[int]:
        clock = time.monotonic()
        taken = self._closed() | {index for index, until in self.resting.items() if until > clock}
        taken |= {held.slot for held in self.adopted.values()}
        taken |= {index for index, worker in self.workers.items() if worker.ticket is not None}
        taken |= {index for worker in self.workers.values() if worker.ticket is not None for index in worker.lent}
        return [index for index in range(len(self.places)) if index not in taken]

    def warm(self, jobs: int) -> None:
        """Start as many workers as there are jobs and slots, so that they import while the caller goes on."""
        for index in range(min(jobs, len(self.places))):
            self.workers[index] = self._start(index)

    def adopt(self, job: AnyJob, holder: Holder) -> Ticket:
        """Watch over a worker that outlived its orchestrator, on the slot of its core or another free one."""
        held = Adopted(open_store(self.root), job, holder, -1)
        free = self._free()
        own = [index for index in free if self.places[index].cpu in held.cores]
        held.slot = next(iter([*own, *free]), -1)
        self.adopted[job.ticket] = held
        return job.ticket

    def submit(self, job: AnyJob) -> Ticket:
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
        self._watch()
        events: list[Event] = [event for held in self.adopted.values() for event in held.events()]
        for event in events:
            if isinstance(event, JobOver):
                del self.adopted[event.ticket]
        waiting = []
        with contextlib.suppress(queue.Empty):
            waiting.append(self.inbox.get(timeout=0.0 if events else seconds))
            while True:
                waiting.append(self.inbox.get_nowait())
        for worker, line in waiting:
            if self.workers.get(worker.slot) is not worker:  # closed, and another one has its slot
                continue
            if line is None:
                events += self._buried(worker)
            else:
                told = self._event(worker, _message(line))
                events += [] if told is None else [told]
        return events

    def _watch(self) -> None:
        """Kill workers that were asked to end and did not, and what outlived one that ended; see what memory they hold.

        A child of a worker may hold its output open, so the end of the output alone does not tell.
        """
        for held in self.adopted.values():
            if held.deadline is not None and time.monotonic() > held.deadline:
                held.deadline = None
                held.kill()
        for worker in self.workers.values():
            if not worker.swept and not alive(worker.process.pid):
                worker.swept = True
                end_family(worker.process.pid, worker.mark)
            elif worker.deadline is not None and time.monotonic() > worker.deadline:
                worker.deadline = None
                end_family(worker.process.pid, worker.mark)
            elif not worker.swept:  # a trainer that takes memory within one step has no time to say so
                worker.resident = resident(worker.process.pid) or worker.resident

    def cancel(self, ticket: Ticket) -> None:
        """SIGTERM to the job's worker: it checkpoints at the next step and ends, or is killed after ten seconds."""
        if ticket in self.adopted:  # it has nobody to tell that it checkpoints
            self.adopted[ticket].signal(signal.SIGTERM)
            self.adopted[ticket].deadline = time.monotonic() + CHECKPOINT_SECONDS
        for worker in self.workers.values():
            if worker.ticket == ticket and worker.deadline is None and alive(worker.process.pid):
                worker.process.terminate()
                worker.deadline = time.monotonic() + GRACE_SECONDS

    def close(self, *, kill: bool = False) -> None:
        """End every worker: idle ones by the end of their input, busy ones by SIGTERM, SIGKILL after ten seconds.

        Adopted ones go on if this process ends without having asked them to.
        """
        for held in self.adopted.values() if kill else ():
            held.kill()
        self.adopted.clear()
        for worker in self.workers.values():
            if kill:
                end_family(worker.process.pid, worker.mark)
            elif worker.ticket is not None:
                worker.process.terminate()
            _close(worker)
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self.workers.values():
            while alive(worker.process.pid) and time.monotonic() < deadline:
                time.sleep(0.02)
            end_family(worker.process.pid, worker.mark)
            worker.process.wait()
            worker.errors.close()
        self.workers.clear()

    def _start(self, index: int) -> _Worker:
        errors = tempfile.TemporaryFile()  # noqa: SIM115 closed with the worker
        mark = new_mark()
        how = [str(self.root), str(os.getpid()), self.places[index].core, "commands" if self.commands else "models"]
        detached = ["detached"] if self.detached else []
        trains = not self.commands
        process = start("scalectl.train.worker", *how, *detached, errors=errors, trains=trains, mark=mark)
        worker = _Worker(index, process, errors, mark, killed_for_memory())
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()
        return worker

    def _read(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                self.inbox.put((worker, line))
        self.inbox.put((worker, None))

    def _event(self, worker: _Worker, message: dict[str, Any]) -> Event | None:
        kind = message["event"]
        if worker.ticket is None:
            return None
        if kind == "beat":
            runs = {run_id: (int(step), loss) for run_id, (step, loss) in message["runs"].items()}
            return Beat(worker.ticket, worker.slot, runs, message["tokens_per_second"], message["memory"])
        if kind == "received":
            return Beat(worker.ticket, worker.slot, {}, 0.0, 0)
        if kind == "stopping" and worker.deadline is not None:
            worker.deadline = time.monotonic() + CHECKPOINT_SECONDS
        if kind == "lost":
            worker.story = message["message"]
        if kind == "device":
            worker.broken = message["message"]
        if kind == "full":
            worker.full = message["message"]
            self.resting[worker.slot] = time.monotonic() + FULL_SECONDS
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
            busy = tuple(worker.busy)
            over = JobOver(worker.ticket, False, code, why or worker.full, busy, bool(worker.full))
            worker.ticket, worker.refused, worker.busy, worker.full = None, (0, ""), [], ""
            return over
        return None

    def _buried(self, worker: _Worker) -> list[Event]:
        """A worker's output ended: it is gone. Its slot starts a new one when a job needs it."""
        deadline = time.monotonic() + EXIT_SECONDS
        while alive(worker.process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        end_family(worker.process.pid, worker.mark)
        code = worker.process.wait()
        _close(worker)
        worker.errors.seek(0, os.SEEK_END)
        worker.errors.seek(max(0, worker.errors.tell() - 4_000))
        said = worker.errors.read().decode(errors="replace").strip().splitlines()
        worker.errors.close()
        del self.workers[worker.slot]
        events: list[Event] = []
        if worker.broken:
            self.failures[worker.slot] += 1
            if worker.slot in self._closed():
                events.append(SlotClosed(worker.slot, self.places[worker.slot].device, worker.broken))
        if worker.ticket is not None:
            message = worker.broken or worker.story or "; ".join([_death(worker, code), *said[-1:]])
            events.append(JobOver(worker.ticket, died=True, message=message, busy=tuple(worker.busy)))
        return events

    @staticmethod
    def _stdin(worker: _Worker) -> IO[str]:
        assert worker.process.stdin is not None
        return worker.process.stdin


def _death(worker: _Worker, code: int) -> str:
    """How a process ended; of one that was killed, the memory it was last seen with."""
    return f"worker ended with code {code}" if code >= 0 else killed(-code, worker.resident, worker.oom_kills)


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
