"""One attempt at a job: claims, training, rows and checkpoints on disk, and the truth about how each run ended."""

from __future__ import annotations

import contextlib
import math
import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from scalectl.core import fault
from scalectl.core.cost import CONVENTIONS
from scalectl.core.errors import DeviceError, ScalectlError, StoreBusy, StoreError
from scalectl.core.job import Job, State
from scalectl.core.machine import resident
from scalectl.core.rows import Row
from scalectl.core.run import RunConfig
from scalectl.core.units import size
from scalectl.models import ledger_of
from scalectl.optim.trunks import occupancy, split_step, trunks
from scalectl.store import live
from scalectl.store.files import no_link
from scalectl.store.layout import Store
from scalectl.store.live import NOBODY, Keeper, Live
from scalectl.store.writer import write_run
from scalectl.tasks import TASKS
from scalectl.train import checkpoint, parameters
from scalectl.train.device import admitted, crowded, device_failed, free_bytes, out_of_memory, row_bytes
from scalectl.train.leases import TAKEN, Leases
from scalectl.train.loop import Ended, Progress, Split, Trainer
from scalectl.train.peak import LEAST_SECONDS, peak_flops
from scalectl.train.provenance import now, provenance

BEAT_SECONDS = 0.5  # between messages; a live display redraws at most four times a second
LOOK_SECONDS = 20.0  # between looks at whether a run was taken over; what writes into its folder looks by itself
SHOWN_ID = 6  # digits of a run id that a reader is shown

Tell = Callable[[Mapping[str, Any]], None]


class Attempt:
    """Trains a job in this process until it ends or is asked to stop.

    Args: store: where rows go; tell: receives one message per event (`began`, `beat`, `ended`, `busy`);
    stopping: asked before every step; once true, every run is checkpointed and left paused; keeper: who takes the runs
    over if this process outlives it; source: digest of the code that this process runs; command: that started the
    sweep.
    """

    def __init__(
        self,
        store: Store,
        job: Job,
        tell: Tell,
        stopping: Callable[[], bool],
        keeper: Keeper = NOBODY,
        source: str = "",
        command: str = "",
    ) -> None:
        self.store = store
        self.job = job
        self.tell = tell
        self.stopping = stopping
        self.keeper = keeper
        self.source = source
        self.command = command
        self.sources: dict[str, tuple[str, ...]] = {}  # of all attempts that a run's numbers come from
        self.runs: dict[str, RunConfig] = {}
        self.lives: dict[str, Live] = {}
        self.leases = Leases()
        self.placement = job.placement  # as the engine had to change it
        self.started = now()
        self.pack = 0  # the most models in one step so far
        self.waiting: set[str] = set()  # runs that follow a trunk
        self.split: dict[str, int] = {}  # where a run left its trunk, once it has
        self.histories: dict[str, list[Row]] = {}  # all rows of a run whose training others share
        self.saved: dict[str, int] = {}  # step of the last checkpoint of this attempt

    def run(self) -> None:
        """Train to the end, or to the request to stop. Errors of the code end the runs as failed.

        Where others hold the memory of the device, nothing is begun, and `full` is told.

        Raises: BudgetRefused or StoreError if the store cannot take what is measured: the runs are left paused;
        DeviceError if the device failed: the runs are left lost, and this process has to end.
        """
        device = torch.device(self.job.placement.device)
        try:
            full = crowded(self.job.runs[0], self.job.placement, device)
            if full:
                self.tell({"event": "full", "message": full})
                return
            with self.leases:
                self._go_through()
        except ScalectlError as error:  # a full disk, say: earlier checkpoints are whole, the runs can go on later
            self._stand_still(State.PAUSED, error.what)
            raise
        except Exception as error:  # whatever the code did, its runs have failed and say why
            if out_of_memory(error):
                least = row_bytes(self.job.runs[0], replace(self.job.placement, micro_batch=1))
                said = f"one sequence at a time needs about {size(least)}; {str(error).splitlines()[0][:200]}"
                self._stand_still(State.OOM, said)
            elif device_failed(error):
                message = f"{self.job.placement.device} failed: {str(error).splitlines()[0][:200]}"
                self._stand_still(State.LOST, message)
                raise DeviceError(message) from error
            else:
                self._fail(error)

    def _go_through(self) -> None:
        begin = self._claim()
        if self.runs:
            self._train(begin)

    def _claim(self) -> dict[str, Progress]:
        begin = {}
        for run in self.job.runs:
            try:
                begun = live.begin(self.store, run.run_id, self.keeper)
            except StoreBusy as busy:
                self.tell({"event": "busy", "run_id": run.run_id, "message": busy.what})
                continue
            if begun is None:  # somebody else has finished it
                continue
            folder, claim = begun
            self.runs[run.run_id], self.lives[run.run_id] = run, folder
            self.leases.take(run.run_id, claim)
            progress = self._progress(folder)
            self.sources[run.run_id] = folder.trained_by(self.source, again=progress is not None)
            for note in folder.truncate(progress.step if progress else 0):
                self._log(run.run_id, note)
            self._log(run.run_id, f"goes on from step {progress.step}" if progress else "begins")
            if progress:
                begin[run.run_id] = progress
                self.saved[run.run_id] = progress.step
        return begin

    def _progress(self, folder: Live) -> Progress | None:
        try:
            return checkpoint.load(folder)
        except checkpoint.DamagedCheckpoint as error:
            self._log(folder.run_id, f"{error.what}; it is kept as checkpoint.damaged")
            folder.checkpoint.replace(folder.folder / "checkpoint.damaged")
            return None

    def _train(self, begin: Mapping[str, Progress]) -> None:
        runs = tuple(self.runs.values())
        placement, note = admitted(runs, self.job.placement, free_bytes(torch.device(self.job.placement.device)))
        for run_id in self.runs if note else ():
            self._log(run_id, note)
        trainer = Trainer(Job(runs, placement), begin)
        self.pack = trainer.widest
        self.split = {run_id: progress.split for run_id, progress in begin.items()}
        for run_id in {*trainer.following.values(), *(split.trunk for split in trainer.splits)}:
            self.histories[run_id] = self.lives[run_id].rows()[0]
        self._record(trainer, trainer.splits)
        for run_id, carrier in trainer.following.items():
            self._wait(run_id, carrier)
        self.tell({"event": "began", "runs": {seat.run_id: seat.step for seat in trainer.seats}})
        since = beat = looked = saved = time.monotonic()
        tokens = 0  # before the last beat
        while trainer.running:
            if self.stopping():
                self.tell({"event": "stopping"})
                self._checkpoint(trainer, trainer.active)
                self._stand_still(State.PAUSED, "stopped at a checkpoint")
                return
            seated = [seat.run_id for seat in trainer.seats]
            before = min(seat.step for seat in trainer.seats) if fault.PLANNED else 0
            events = trainer.step()
            if fault.PLANNED and trainer.seats:
                fault.hit("worker.after_step", max(seat.step for seat in trainer.seats), since=before)
            for note in trainer.notes():
                self.placement = replace(self.placement, micro_batch=trainer.engine.micro_batch)
                for run_id in seated:
                    self._log(run_id, note)
            self._record(trainer, events)
            self.pack = trainer.widest
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
            if clock - looked >= LOOK_SECONDS:
                self._leave(trainer, [run_id for run_id in self.runs if not self.leases.held(run_id)])
                looked = clock
            if clock - saved >= self.job.placement.checkpoint_seconds:
                self._checkpoint(trainer, trainer.active)
                saved = clock

    def _leave(self, trainer: Trainer, run_ids: Iterable[str]) -> None:
        """Let runs that somebody else has taken over go; the rest of the pack goes on."""
        for run_id in run_ids:
            splits = trainer.leave(run_id)
            self._forget(run_id, TAKEN)
            self._record(trainer, splits)
            for follower, carrier in trainer.following.items():
                self._wait(follower, carrier)

    def _forget(self, run_id: str, why: str, *, settled: bool = False) -> None:
        """Let a run go without a word in the store. settled: its file is there, and its folder is still ours."""
        with self.leases.giving_up(run_id):
            if settled:
                self.lives[run_id].clear()
            del self.runs[run_id], self.lives[run_id]
        self.waiting.discard(run_id)
        self.tell({"event": "busy", "run_id": run_id, "message": why})

    def _wait(self, run_id: str, carrier: str) -> None:
        """Say of a run that it follows a trunk."""
        step = split_step(self.runs[run_id])
        message = f"one with run {carrier[:SHOWN_ID]} until step {step}"
        self.waiting.add(run_id)
        self.lives[run_id].mark(State.RUNNING, message)
        self._log(run_id, message)

    def _record(self, trainer: Trainer, events: Sequence[Row | Split | Ended]) -> None:
        """Put on disk what happened. A run that leaves its trunk has rows and a checkpoint of its own from then on."""
        rows: dict[str, list[Row]] = {}
        for event in events:
            if isinstance(event, Row):
                rows.setdefault(event.run_id, []).append(event)
        taken = set()  # over by another process, which writes into the same folder, or has removed it
        for run_id, held in rows.items():
            if run_id in self.histories:
                self.histories[run_id] += held
            if self.leases.held(run_id):
                self.lives[run_id].append(held)
            else:
                taken.add(run_id)
        splits = [event for event in events if isinstance(event, Split)]
        for split in splits:
            self._take_over(split)
        if splits:
            touched = {run_id for split in splits for run_id in (split.run_id, split.trunk)}
            self._checkpoint(trainer, [run_id for run_id in trainer.active if run_id in touched])
            following = trainer.following
            self.histories = {run_id: held for run_id, held in self.histories.items() if run_id in following.values()}
        for event in events:
            if isinstance(event, Ended):
                if event.theta is not None:  # before the run file, which says that all of a run is there
                    parameters.save(self.store, event.run_id, event.theta)
                self._end(event.run_id, event.state, event.step, event.message, event.device_seconds)
        self._leave(trainer, [run_id for run_id in taken if run_id in self.runs])

    def _take_over(self, split: Split) -> None:
        """Give a run the rows of its trunk."""
        rows = [row._replace(run_id=split.run_id) for row in self.histories[split.trunk] if row.step <= split.step]
        folder = self.lives[split.run_id]
        self.sources[split.run_id] = self.sources[split.trunk]
        if self.leases.held(split.run_id):
            folder.rewrite(rows)
            folder.set_sources(self.sources[split.run_id])
            folder.unmark()
        self.waiting.discard(split.run_id)
        self.split[split.run_id] = split.step
        self.histories[split.run_id] = rows
        self._log(split.run_id, f"goes on from step {split.step} of run {split.trunk}")

    def _checkpoint(self, trainer: Trainer, run_ids: Sequence[str]) -> None:
        """Save where these runs stand; one that is parked has not moved since the last time."""
        for run_id in run_ids:
            progress = trainer.progress(run_id)
            if self.saved.get(run_id) != progress.step and self.leases.held(run_id):
                checkpoint.save(self.lives[run_id], progress)
                self.saved[run_id] = progress.step

    def _planned(self, run: RunConfig) -> dict[str, float | None]:
        """What was planned for a run; what it took in the end is in the index: D, C_exact, seconds."""
        tokens = run.steps * run.batch_tokens
        spent = occupancy(trunks(self.job.runs, branch=self.job.placement.branch), self.job.placement.rows)
        share = run.steps / sum(steps for _, steps in spent)
        return {
            "planned_tokens": tokens,
            "planned_flops": float(ledger_of(run.model).flops_per_token() * tokens),
            "planned_seconds": self.job.seconds * share or None,
        }

    def _peak(self, run: RunConfig, rows: Sequence[Row]) -> float | None:
        """Of the device in the precision of a run that took so long that measuring it costs nothing."""
        if not rows or rows[-1].seconds < LEAST_SECONDS:
            return None
        return peak_flops(self.placement.device, run.precision, self.placement.threads)

    def _end(self, run_id: str, state: State, step: int, message: str, device_seconds: float | None = None) -> None:
        """Write the run's one file, then remove its folder; that of a failed run stays, to be retried from."""
        run, folder = self.runs[run_id], self.lives[run_id]
        if not self.leases.held(run_id):
            self._forget(run_id, TAKEN)
            return
        rows, notes = folder.rows()
        for note in notes:
            self._log(run_id, note)
        split, sources = self.split.get(run_id, 0), self.sources[run_id]
        spent = self._planned(run) | {"device_seconds": device_seconds, "peak_flops": self._peak(run, rows)}
        about = provenance(self.placement, self.pack, self.started, split, sources, self.command, spent)
        if fault.PLANNED:
            fault.hit("worker.before_file", step, run=run_id)
        try:
            write_run(self.store, run, rows, state, about, index_columns(run, step, about), message)
        except StoreError as error:
            if not live.state_of(self.store, run_id).state.final:
                raise
            self._forget(run_id, error.what, settled=True)  # brought by an import, say: the first that was there stays
            return
        if fault.PLANNED:
            fault.hit("worker.after_file", step, run=run_id)
        self._log(run_id, f"{state} at step {step} {message}".rstrip())
        with self.leases.giving_up(run_id) as claim:
            if state is State.FAILED:
                claim.release()
            else:
                folder.clear()
        del self.runs[run_id], self.lives[run_id]
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
        """Let the runs go. One that was following a trunk and has nothing of its own is pending again."""
        for run_id in list(self.runs):
            with contextlib.suppress(StoreError):  # the store is gone, and nobody has it
                if not self.leases.held(run_id):
                    self._forget(run_id, TAKEN)
                    continue
            folder = self.lives[run_id]
            pending = state is State.PAUSED and run_id in self.waiting and not folder.checkpoint.exists()
            with contextlib.suppress(ScalectlError):  # a full disk cannot hold the reason either
                if pending:
                    folder.clear()  # with its claim
                else:
                    folder.mark(state, message, folder.last_step())
            with contextlib.suppress(ScalectlError), self.leases.giving_up(run_id) as claim:
                if not pending:
                    claim.release()
            told = State.PENDING if pending else state
            self.tell({"event": "ended", "run_id": run_id, "state": told, "message": "" if pending else message})
        self.runs.clear()

    def _fail(self, error: Exception) -> None:
        where = traceback.format_exc()
        message = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        for run_id in list(self.runs):
            self._log(run_id, where)
            self._end(run_id, State.FAILED, self.lives[run_id].last_step(), message)

    def _log(self, run_id: str, text: str) -> None:
        folder = self.lives[run_id]
        # a log never stops a run
        with contextlib.suppress(OSError, StoreError), open(folder.log, "a", opener=no_link) as file:
            file.write(f"{now()}  {text}\n")


def index_columns(run: RunConfig, step: int, about: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the index that the config does not hold: counts by convention, epochs, FLOPs, utilisation, pack.

    Args: step: optimiser steps taken.
    """
    ledger = ledger_of(run.model)
    data = TASKS[run.task.name].describe(run.task.options)
    tokens = step * run.batch_tokens
    own = (step - about["split"]) * run.batch_tokens  # before, it was trained as another run's row
    could = (about.get("device_seconds") or 0.0) * (about.get("peak_flops") or 0.0)
    return {
        **{f"N_{convention}": ledger.params(convention) for convention in CONVENTIONS},
        "D": tokens,
        "unique_tokens": data.tokens(run.context)[0],
        "epochs": tokens / data.reachable(run.context),
        "C_6nd": float(ledger.flops_6n() * tokens),
        "C_exact": float(ledger.flops_per_token() * tokens),
        "steps": step,
        "mfu": float(ledger.flops_per_token() * own) / could if could else None,
        "pack": about["pack"],
        "device": about["device_name"],
        "source": about["source"],
        "edited": len(about["sources"]) > 1,
    }


def _memory(device: torch.device) -> int:
    """Memory of this process, or of the device that it trains on [bytes]."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resident(os.getpid())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
