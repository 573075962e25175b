"""One attempt at a job: claims, training, rows and checkpoints on disk, and the truth about how each run ended."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch

from scalectl.core.cost import CONVENTIONS
from scalectl.core.errors import ScalectlError, StoreBusy
from scalectl.core.job import Job, State
from scalectl.core.rows import Row
from scalectl.core.run import RunConfig
from scalectl.models import ledger_of
from scalectl.store import live
from scalectl.store.layout import Store
from scalectl.store.live import Claim, Live
from scalectl.store.writer import write_run
from scalectl.tasks import TASKS
from scalectl.train import checkpoint
from scalectl.train.loop import Ended, Progress, Trainer
from scalectl.train.provenance import now, provenance

BEAT_SECONDS = 0.5  # between messages; a live display redraws at most four times a second
CPU_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch raises a bare RuntimeError
LEASE_BEAT_SECONDS = 20.0  # between renewals of the claims; a lease ends after two minutes

Tell = Callable[[Mapping[str, Any]], None]


class Attempt:
    """Trains a job in this process until it ends or is asked to stop.

    Args: store: where rows go; tell: receives one message per event (`began`, `beat`, `ended`, `busy`);
    stopping: asked before every step; once true, every run is checkpointed and left paused.
    """

    def __init__(self, store: Store, job: Job, tell: Tell, stopping: Callable[[], bool]) -> None:
        self.store = store
        self.job = job
        self.tell = tell
        self.stopping = stopping
        self.runs: dict[str, RunConfig] = {}
        self.lives: dict[str, Live] = {}
        self.claims: dict[str, Claim] = {}
        self.started = now()
        self.pack = len(job.runs)

    def run(self) -> None:
        """Train to the end, or to the request to stop. Errors of the code end the runs as failed.

        Raises: BudgetRefused or StoreError if the store cannot take what is measured; the runs are left paused.
        """
        try:
            begin = self._claim()
            if not self.runs:
                return
            self._train(begin)
        except ScalectlError as error:  # a full disk, say: earlier checkpoints are whole, the runs can go on later
            self._stand_still(State.PAUSED, error.what)
            raise
        except Exception as error:  # noqa: BLE001 whatever the code did, its runs have failed and say why
            if isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_OUT_OF_MEMORY in str(error):
                self._stand_still(State.OOM, str(error).splitlines()[0])
            else:
                self._fail(error)

    def _claim(self) -> dict[str, Progress]:
        begin = {}
        for run in self.job.runs:
            try:
                begun = live.begin(self.store, run.run_id)
            except StoreBusy as busy:
                self.tell({"event": "busy", "run_id": run.run_id, "message": busy.what})
                continue
            if begun is None:  # somebody else has finished it
                continue
            folder, claim = begun
            self.runs[run.run_id], self.lives[run.run_id], self.claims[run.run_id] = run, folder, claim
            progress = self._progress(folder)
            for note in folder.truncate(progress.step if progress else 0):
                self._log(run.run_id, note)
            self._log(run.run_id, f"goes on from step {progress.step}" if progress else "begins")
            if progress:
                begin[run.run_id] = progress
        return begin

    def _progress(self, folder: Live) -> Progress | None:
        try:
            return checkpoint.load(folder)
        except checkpoint.DamagedCheckpoint as error:
            self._log(folder.run_id, f"{error.what}; it is kept as checkpoint.damaged")
            folder.checkpoint.replace(folder.folder / "checkpoint.damaged")
            return None

    def _train(self, begin: Mapping[str, Progress]) -> None:
        self.pack = len(self.runs)
        trainer = Trainer(Job(tuple(self.runs.values()), self.job.placement), begin)
        self.tell({"event": "began", "runs": {seat.run_id: seat.step for seat in trainer.seats}})
        since = beat = lease = saved = time.monotonic()
        tokens = 0  # before the last beat
        while trainer.running:
            if self.stopping():
                self._checkpoint(trainer)
                self._stand_still(State.PAUSED, "stopped at a checkpoint")
                return
            self._record(trainer.step())
            clock = time.monotonic()
            if trainer.running and clock - beat >= BEAT_SECONDS:
                self.tell(
                    {
                        "event": "beat",
                        "runs": {seat.run_id: [seat.step, _finite(seat.last_loss)] for seat in trainer.seats},
                        "tokens_per_second": (trainer.tokens - tokens) / max(clock - since, 1e-9),
                        "memory": _memory(trainer.engine.device),
                    }
                )
                since, beat, tokens = clock, clock, trainer.tokens
            if clock - lease >= LEASE_BEAT_SECONDS:
                self._renew(trainer)
                lease = clock
            if clock - saved >= self.job.placement.checkpoint_seconds:
                self._checkpoint(trainer)
                saved = clock

    def _renew(self, trainer: Trainer) -> None:
        """Renew the claims; a run that somebody else has taken over since leaves the pack."""
        for run_id, claim in list(self.claims.items()):
            try:
                self.claims[run_id] = claim.beat()
            except StoreBusy as busy:
                trainer.leave(run_id)
                self._forget(run_id, busy.what)

    def _forget(self, run_id: str, why: str) -> None:
        del self.runs[run_id], self.lives[run_id], self.claims[run_id]
        self.tell({"event": "busy", "run_id": run_id, "message": why})

    def _record(self, events: list[Row | Ended]) -> None:
        rows: dict[str, list[Row]] = {}
        for event in events:
            if isinstance(event, Row):
                rows.setdefault(event.run_id, []).append(event)
        for run_id, held in rows.items():
            self.lives[run_id].append(held)
        for event in events:
            if isinstance(event, Ended):
                self._end(event.run_id, event.state, event.step, event.message)

    def _checkpoint(self, trainer: Trainer) -> None:
        for seat in trainer.seats:
            checkpoint.save(self.lives[seat.run_id], trainer.progress(seat.run_id))

    def _end(self, run_id: str, state: State, step: int, message: str) -> None:
        """Write the run's one file, then remove its folder; that of a failed run stays, to be retried from."""
        run, folder = self.runs[run_id], self.lives[run_id]
        if not self.claims[run_id].held():
            self._forget(run_id, "taken over by another process")
            return
        rows, notes = folder.rows()
        for note in notes:
            self._log(run_id, note)
        about = provenance(self.job.placement, self.pack, self.started)
        write_run(self.store, run, rows, state, about, index_columns(run, step, about), message)
        self._log(run_id, f"{state} at step {step} {message}".rstrip())
        if state is State.FAILED:
            self.claims[run_id].release()
        else:
            folder.clear()
        del self.runs[run_id], self.lives[run_id], self.claims[run_id]
        final = {f"{row.split}/{row.metric}": row.value for row in rows}
        seconds = rows[-1].seconds if rows else 0.0
        self.tell(
            {
                "event": "ended",
                "run_id": run_id,
                "state": state,
                "step": step,
                "loss": final.get("held-out/loss"),
                "seconds": seconds,
                "message": message,
            }
        )

    def _stand_still(self, state: State, message: str) -> None:
        for run_id in list(self.runs):
            folder = self.lives[run_id]
            with contextlib.suppress(ScalectlError):  # a full disk cannot hold the reason either
                folder.mark(state, message, folder.last_step())
            with contextlib.suppress(ScalectlError):
                self.claims[run_id].release()
            self.tell({"event": "ended", "run_id": run_id, "state": state, "message": message})
        self.runs.clear()

    def _fail(self, error: Exception) -> None:
        where = traceback.format_exc()
        message = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        for run_id in list(self.runs):
            self._log(run_id, where)
            self._end(run_id, State.FAILED, self.lives[run_id].last_step(), message)

    def _log(self, run_id: str, text: str) -> None:
        folder = self.lives[run_id]
        with contextlib.suppress(OSError), folder.log.open("a") as file:  # a log never stops a run
            file.write(f"{now()}  {text}\n")


def index_columns(run: RunConfig, step: int, about: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the index that the config does not hold: counts by convention, epochs, FLOPs, the pack.

    Args: step: optimiser steps taken.
    """
    ledger = ledger_of(run.model)
    data = TASKS[run.task.name].describe(run.task.options)
    tokens = step * run.batch_tokens
    return {
        **{f"N_{convention}": ledger.params(convention) for convention in CONVENTIONS},
        "D": tokens,
        "unique_tokens": data.train_tokens,
        "epochs": tokens / data.reachable(run.context),
        "C_6nd": float(ledger.flops_6n() * tokens),
        "C_exact": float(ledger.flops_per_token() * tokens),
        "steps": step,
        "pack": about["pack"],
        "device": about["device_name"],
    }


def _memory(device: torch.device) -> int:
    """Memory of this process, or of the device that it trains on [bytes]."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import psutil

    return int(psutil.Process().memory_info().rss)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
