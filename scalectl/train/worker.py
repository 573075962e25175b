"""A worker process: long-lived, pinned, single-threaded; jobs come in as JSON lines, messages go out as JSON lines.

    python -m scalectl.train.worker STORE PARENT CPU|- models|commands [detached]

It dies with PARENT, unless it is detached: then it ends its job, and whoever sweeps next takes it over.

Jobs on stdin, messages on stdout, everything printed on stderr. The store is the truth about every run; messages only
feed the progress display.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from scalectl.core import fault
from scalectl.core.errors import DeviceError, ScalectlError
from scalectl.core.family import die_with
from scalectl.core.job import AnyJob, CommandJob, Job, Placement
from scalectl.core.run import CommandRun, Run, RunConfig, record, restore
from scalectl.core.source import code_digest
from scalectl.models import MODELS
from scalectl.optim import OPTIMIZERS
from scalectl.optim.schedules import SCHEDULES
from scalectl.store.layout import Store, open_store
from scalectl.store.live import NOBODY, Keeper, process_start
from scalectl.tasks import TASKS
from scalectl.train.provenance import command_of


def restored(data: Mapping[str, Any]) -> Run:
    """A run from its record, with the members of every family that there is."""
    options = {
        "model": {name: model.options for name, model in MODELS.items()},
        "task": {name: task.options for name, task in TASKS.items()},
        "optim": {name: optimizer.options for name, optimizer in OPTIMIZERS.items()},
        "schedule": {name: schedule.options for name, schedule in SCHEDULES.items()},
    }
    return restore(data, options)


def encode(job: AnyJob) -> str:
    """A job as one JSON line."""
    runs = [record(run) for run in job.runs]
    return json.dumps({"runs": runs, "placement": asdict(job.placement), "seconds": job.seconds})


def decode(line: str) -> AnyJob:
    """The job of a line."""
    data = json.loads(line)
    placement = {**data["placement"], **{name: tuple(data["placement"][name]) for name in ("search", "cores")}}
    runs = [restored(run) for run in data["runs"]]
    seconds = data.get("seconds", 0.0)  # an orchestrator that was started before an edit does not say it
    if isinstance(runs[0], CommandRun):
        return CommandJob(runs[0], Placement(**placement), seconds)
    return Job(tuple(run for run in runs if isinstance(run, RunConfig)), Placement(**placement), seconds)


class _Stop:
    """SIGTERM: between jobs the process ends at once, within one it stops at the next step."""

    def __init__(self) -> None:
        self.asked = False
        self.busy = False
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the orchestrator's to translate

    def _handle(self, *_: object) -> None:
        self.asked = True
        if not self.busy:
            raise SystemExit(0)


def messages() -> Callable[[Mapping[str, Any]], None]:
    """Take stdout for messages alone, one JSON line each: whatever a model prints goes to stderr from here on."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody listens to a detached worker whose keeper is gone
            out.write(json.dumps(message) + "\n")

    return tell


def pin(cpu: str) -> None:
    """Pin this process to a core, given by its number, - for any."""
    if cpu != "-":
        os.sched_setaffinity(0, {int(cpu)})


def settle(cpu: str) -> None:
    """Pin this process before torch starts any thread, and keep torch to one."""
    pin(cpu)
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)


def spread(placement: Placement) -> None:
    """Take the cores and threads of a job; torch's further threads inherit the pinning of the one that starts them."""
    import torch

    if placement.cores:
        os.sched_setaffinity(0, placement.cores)
    torch.set_num_threads(placement.threads)


def attempt(
    store: Store,
    job: AnyJob,
    tell: Callable[[Mapping[str, Any]], None],
    stopping: Callable[[], bool],
    keeper: Keeper = NOBODY,
    source: str = "",
    command: str = "",
) -> None:
    """Go through a job; a script inherits the cores of this process.

    Raises: SystemExit where a script was killed: its run is lost with this process, as one that trained in it would be.
    """
    if isinstance(job, CommandJob):
        from scalectl.train.command import CommandAttempt, Killed

        if job.placement.cores:
            os.sched_setaffinity(0, job.placement.cores)
        try:
            CommandAttempt(store, job, tell, stopping, keeper).run()
        except Killed as killed:
            tell({"event": "lost", "message": str(killed)})
            raise SystemExit(str(killed)) from None
        return
    from scalectl.train.attempt import Attempt

    spread(job.placement)
    Attempt(store, job, tell, stopping, keeper, source, command).run()


def main(store_root: str, parent: int, cpu: str, kind: str, *, detached: bool = False) -> None:
    """Serve jobs until stdin ends. kind: of the jobs to come, `models` or `commands`: the latter need no torch."""
    source, command = code_digest(), command_of(parent)  # of what is imported next; of who asked
    keeper = NOBODY
    if detached:
        keeper = Keeper(parent, process_start(parent) or 0)
    else:
        die_with(parent)
    stop = _Stop()
    tell = messages()
    if kind == "models":
        settle(cpu)
        importlib.import_module("scalectl.train.attempt")
    else:
        pin(cpu)
    store = open_store(store_root)
    tell({"event": "ready"})
    for line in iter(sys.stdin.readline, ""):
        stop.busy = True
        tell({"event": "received"})
        if fault.PLANNED:
            fault.hit("worker.received")
        try:
            attempt(store, decode(line), tell, lambda: stop.asked, keeper, source, command)
        except DeviceError as error:
            tell({"event": "device", "message": error.what})
            os._exit(error.exit_code)  # nothing that this process asks of the device is answered any more
        except ScalectlError as error:
            tell({"event": "refused", "exit_code": error.exit_code, "message": str(error)})
        tell({"event": "over"})
        stop.busy = False
        if stop.asked:
            return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], detached=sys.argv[5:] == ["detached"])
