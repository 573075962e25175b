"""The training loop: a job in, rows out. It knows no file and no console."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from scalectl.core.job import Job, State
from scalectl.core.rows import HELD_OUT, LOSS, TRAIN, Row
from scalectl.core.run import RunConfig
from scalectl.models import ledger_of
from scalectl.optim.schedules import SCHEDULES
from scalectl.tasks import TASKS, Data
from scalectl.train.engine import Engine, Turn, fresh_row
from scalectl.train.population import Row as ModelRow

# Nats above a uniform guess at the end of a run. Ours: initialisation is within .05 of it, and every blow-up that was
# seen ended whole nats above.
BEYOND_GUESSING = 0.5


class Ended(NamedTuple):
    """A run left the pack for good: done, or diverged with the reason."""

    run_id: str
    state: State
    step: int
    message: str


@dataclass(frozen=True)
class Progress:
    """How far one run is, everything that its next step depends on.

    step: steps taken; row: parameters and optimiser state; train_sum, train_count: losses since the last row on train;
    last_loss: of the last step [nats/token]; seconds: trained so far, over all attempts.
    """

    step: int
    row: ModelRow
    train_sum: float = 0.0
    train_count: int = 0
    last_loss: float = math.nan
    seconds: float = 0.0


@dataclass
class _Seat:
    """A run's place in the pack; its matrix row is its position in the list of seats."""

    run: RunConfig
    run_id: str
    step: int
    train_sum: float
    train_count: int
    last_loss: float
    seconds_before: float
    schedule: Any = field(repr=False)

    def turn(self, ahead: int) -> Turn:
        """Its part in the step that comes `ahead` steps from now."""
        step = self.step + ahead
        return Turn(step, float(self.schedule.factor(self.run.schedule.options, step, self.run.steps)))

    @property
    def quiet(self) -> int:
        """Steps until it is evaluated or ends."""
        every = self.run.evaluation.every
        return min(every - self.step % every, self.run.steps - self.step)

    @property
    def due(self) -> bool:
        """Whether it is evaluated after the step that it has just taken."""
        return self.step % self.run.evaluation.every == 0 or self.step == self.run.steps


def fresh(run: RunConfig, search: Sequence[str] = ()) -> Progress:
    """A run at step 0. search: folders that hold somebody's own model."""
    return Progress(0, fresh_row(run, search))


class Trainer:
    """A pack in training.

    Args: job: runs with equal model, batch shape, task and precision; begin: where each run goes on, by id; a run that
    is not there starts fresh.
    """

    def __init__(self, job: Job, begin: Mapping[str, Progress] | None = None) -> None:
        first = job.runs[0]
        self.job = job
        ledger = ledger_of(first.model)
        self.flops_per_step = float(ledger.flops_per_token() * first.batch_tokens)
        task = TASKS[first.task.name]
        description = task.describe(first.task.options)
        if description.fingerprint != first.task.fingerprint:
            raise ValueError(
                f"the data of {first.task.options.source!r} changed since the plan: "
                f"{description.fingerprint} is not {first.task.fingerprint}"
            )
        self.uniform = math.log(description.vocab)
        self.data: Data = task.open_data(first.task.options)
        held_out = self.data.held_out(first.task.held_out_tokens, first.context)
        self.bytes_per_token = self.data.bytes_per_token(held_out)
        self.held_out = torch.from_numpy(held_out)
        states = dict(begin or {})
        progress = [states.get(run.run_id) or fresh(run, job.placement.search) for run in job.runs]
        self.seats = [
            _Seat(
                run,
                run.run_id,
                p.step,
                p.train_sum,
                p.train_count,
                p.last_loss,
                p.seconds,
                SCHEDULES[run.schedule.name],
            )
            for run, p in zip(job.runs, progress, strict=True)
        ]
        self.engine = Engine(job.runs, [p.row for p in progress], self.data, job.placement)
        self.tokens = 0  # trained on by all runs
        self.began = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether any run is left."""
        return bool(self.seats)

    def progress(self, run_id: str) -> Progress:
        """Where a run stands, to go on from later."""
        k = next(k for k, seat in enumerate(self.seats) if seat.run_id == run_id)
        seat = self.seats[k]
        return Progress(
            seat.step, self.engine.row(k), seat.train_sum, seat.train_count, seat.last_loss, self._seconds(seat)
        )

    def step(self) -> list[Row | Ended]:
        """Take a step with every run, or several where the engine would rather look ahead and nothing is due between.

        Returns: rows of the runs that are due, and the runs that ended.
        """
        count = min(self.engine.ahead, *(seat.quiet for seat in self.seats))
        losses_SK = self.engine.learn([[seat.turn(ahead) for seat in self.seats] for ahead in range(count)])
        gone: list[int] = []
        events: list[Row | Ended] = []
        for k, seat in enumerate(self.seats):
            for loss in losses_SK[:, k].tolist():
                if not math.isfinite(loss):
                    before = "the start" if math.isnan(seat.last_loss) else f"{seat.last_loss:.3g}"
                    message = f"diverged at step {seat.step + 1} (loss {before} -> {loss})"
                    events.append(Ended(seat.run_id, State.DIVERGED, seat.step, message))
                    gone.append(k)
                    break
                seat.step += 1
                seat.last_loss = loss
                seat.train_sum += loss
                seat.train_count += 1
                self.tokens += seat.run.batch_tokens
        due = [k for k, seat in enumerate(self.seats) if seat.due and k not in gone]
        for k, measured in zip(due, self._evaluate(due), strict=True):
            seat = self.seats[k]
            events += self._measure(seat, measured)
            if not math.isfinite(measured[0]):
                message = f"diverged at step {seat.step} (held-out loss {measured[0]})"
                events.append(Ended(seat.run_id, State.DIVERGED, seat.step, message))
                gone.append(k)
            elif seat.step == seat.run.steps:
                events.append(self._finish(seat, measured[0]))
                gone.append(k)
        if gone:
            self._drop(set(gone))
        return events

    def _finish(self, seat: _Seat, loss: float) -> Ended:
        """A run that ends far worse than it would have by guessing has diverged, however finite its numbers."""
        if loss <= self.uniform + BEYOND_GUESSING:
            return Ended(seat.run_id, State.DONE, seat.step, "")
        message = f"diverged: held-out loss {loss:.4g} at the end, a uniform guess has {self.uniform:.4g}"
        return Ended(seat.run_id, State.DIVERGED, seat.step, message)

    def _evaluate(self, due: Sequence[int]) -> list[tuple[float, float]]:
        """Held-out loss and its standard error over sequences [nats/token], for the rows that are due."""
        if not due:
            return []
        losses = self.engine.evaluate(self.held_out, due)
        count = losses.shape[1]
        error = losses.std(axis=1, ddof=1) / math.sqrt(count) if count > 1 else np.full(len(due), math.nan)
        return [(float(mean), float(se)) for mean, se in zip(losses.mean(axis=1), error, strict=True)]

    def _measure(self, seat: _Seat, held_out: tuple[float, float]) -> list[Row]:
        tokens = seat.step * seat.run.batch_tokens
        seconds = self._seconds(seat)
        loss, error = held_out
        values = [
            (TRAIN, LOSS, seat.train_sum / seat.train_count),
            (HELD_OUT, LOSS, loss),
            (HELD_OUT, "loss_se", error),
        ]
        if self.bytes_per_token is not None:
            values.append((HELD_OUT, "bits_per_byte", loss / math.log(2) / self.bytes_per_token))
        seat.train_sum, seat.train_count = 0.0, 0
        return [
            Row(seat.run_id, seat.step, tokens, seat.step * self.flops_per_step, split, metric, value, seconds)
            for split, metric, value in values
            if math.isfinite(value)
        ]

    def leave(self, run_id: str) -> None:
        """Drop a run; the others go on bit for bit."""
        self._drop({k for k, seat in enumerate(self.seats) if seat.run_id == run_id})

    def _seconds(self, seat: _Seat) -> float:
        return seat.seconds_before + time.monotonic() - self.began

    def _drop(self, gone: set[int]) -> None:
        keep = [k for k in range(len(self.seats)) if k not in gone]
        self.seats = [self.seats[k] for k in keep]
        if keep:
            self.engine.keep(keep, [seat.run for seat in self.seats])


def train(job: Job, begin: Mapping[str, Progress] | None = None) -> Iterator[Row | Ended]:
    """Train a job to the end, yielding every measurement and the end of every run."""
    trainer = Trainer(job, begin)
    while trainer.running:
        yield from trainer.step()
