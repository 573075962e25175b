"""The training loop: a job in, rows out. It knows no file and no console."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from scalectl.core import fault
from scalectl.core.job import Job, State
from scalectl.core.rows import LOSS, TRAIN, Row
from scalectl.core.run import RunConfig
from scalectl.models import ledger_of
from scalectl.optim.schedules import SCHEDULES
from scalectl.optim.trunks import Trunk, split_step, trunks
from scalectl.tasks import TASKS, Data
from scalectl.train.engine import Turn, fresh_row
from scalectl.train.exam import Exam, Measured
from scalectl.train.graph import open_engine
from scalectl.train.population import Row as ModelRow

# Nats above a uniform guess at the end of a run. Ours: initialisation is within .05 of it, and every blow-up that was
# seen ended whole nats above.
BEYOND_GUESSING = 0.5


class Split(NamedTuple):
    """A run leaves its trunk: its numbers up to `step` are those of `trunk`, whose rows so far are its rows too."""

    run_id: str
    trunk: str
    step: int


class Ended(NamedTuple):
    """A run left the pack for good: done, or diverged with the reason.

    device_seconds: as of Progress; theta: final parameters (P,) of a run that is done, where they are to be kept.
    """

    run_id: str
    state: State
    step: int
    message: str
    device_seconds: float = 0.0
    theta: Tensor | None = None


@dataclass(frozen=True)
class Progress:
    """How far one run is, everything that its next step depends on.

    step: steps taken; row: parameters and optimiser state; train_sum, train_count: losses since the last row on train;
    last_loss: of the last step [nats/token]; seconds: trained so far, over all attempts; split: the step up to which it
    was trained as another run's row, 0 for none; device_seconds: what its own row took of them, each second shared out
    among the models of the step and counted once for each thread.
    """

    step: int
    row: ModelRow
    train_sum: float = 0.0
    train_count: int = 0
    last_loss: float = math.nan
    seconds: float = 0.0
    split: int = 0
    device_seconds: float = 0.0


@dataclass
class _Seat:
    """A run's place in the pack; its matrix row is its position in the list of seats.

    followers: runs that are the same so far, by split step; since: clock [s] when it was seated, None while parked;
    share: of the device since then.
    """

    run: RunConfig
    run_id: str
    step: int
    train_sum: float
    train_count: int
    last_loss: float
    seconds_before: float
    split: int
    followers: list[RunConfig]
    schedule: Any = field(repr=False)
    since: float | None = None
    device_before: float = 0.0
    share: float = 1.0

    @property
    def seconds(self) -> float:
        """Trained so far [s]."""
        return self.seconds_before + self._sitting

    @property
    def device_seconds(self) -> float:
        """What its row took of the device so far [s]."""
        return self.device_before + self.share * self._sitting

    @property
    def _sitting(self) -> float:
        return 0.0 if self.since is None else time.monotonic() - self.since

    def sit(self, share: float) -> None:
        """Train from now on, or on, with this share of the device."""
        self.rise()
        self.since, self.share = time.monotonic(), share

    def rise(self) -> None:
        """Wait."""
        self.seconds_before, self.device_before, self.since = self.seconds, self.device_seconds, None

    def turn(self, ahead: int) -> Turn:
        """Its part in the step that comes `ahead` steps from now."""
        step = self.step + ahead
        return Turn(step, float(self.schedule.factor(self.run.schedule.options, step, self.run.steps)))

    @property
    def quiet(self) -> int:
        """Steps until it is evaluated, ends, or a follower splits off."""
        every = self.run.evaluation.every
        split = split_step(self.followers[0]) if self.followers else self.run.steps
        return min(every - self.step % every, self.run.steps - self.step, split - self.step)

    @property
    def due(self) -> bool:
        """Whether it is evaluated after the step that it has just taken."""
        return self.step % self.run.evaluation.every == 0 or self.step == self.run.steps


def fresh(run: RunConfig, search: Sequence[str] = ()) -> Progress:
    """A run at step 0. search: folders that hold somebody's own model."""
    return Progress(0, fresh_row(run, search))


class Trainer:
    """A pack in training, trunks and branches included.

    Runs that are the same so far train as one row, a trunk. Where a run begins to cool down it gets a copy of the row.
    Where there is no room for one more row, cooldowns go first and trunks wait: `parked`.

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
        self.exam = Exam.of(first, self.data)
        self.room = job.placement.rows or len(job.runs)
        states = dict(begin or {})
        taken = {run: states[run.run_id].step for run in job.runs if run.run_id in states}
        found = trunks(job.runs, taken, branch=job.placement.branch)
        self.splits: list[Split] = []  # of the beginning, to be recorded before the first step
        self.parked: list[tuple[_Seat, ModelRow]] = []
        placed: list[tuple[_Seat, ModelRow]] = []
        for trunk in found:
            progress = states.get(trunk.origin.run_id) or fresh(trunk.carrier, job.placement.search)
            seat = _seat(trunk, progress)
            placed.append((seat, progress.row))
            if trunk.origin != trunk.carrier:
                seat.split, seat.device_before = progress.step, 0.0
                self.splits.append(Split(seat.run_id, trunk.origin.run_id, progress.step))
        placed, self.parked = placed[: self.room], placed[self.room :]
        self.seats = [seat for seat, _ in placed]
        runs = [seat.run for seat in self.seats]
        self.engine = open_engine(runs, [row for _, row in placed], self.data, job.placement)
        self.widest = len(self.seats)  # the most rows in one step so far
        self.tokens = 0  # trained on by all runs
        self._sit()

    @property
    def running(self) -> bool:
        """Whether any run is left."""
        return bool(self.seats)

    @property
    def active(self) -> list[str]:
        """Runs that have a row of their own, parked ones included; the others follow a trunk."""
        return [seat.run_id for seat in (*self.seats, *(seat for seat, _ in self.parked))]

    @property
    def following(self) -> dict[str, str]:
        """The other runs, each with the run that carries its trunk."""
        seats = (*self.seats, *(seat for seat, _ in self.parked))
        return {run.run_id: seat.run_id for seat in seats for run in seat.followers}

    def progress(self, run_id: str) -> Progress:
        """Where a run that has a row of its own stands, to go on from later."""
        rows = [(seat, row) for seat, row in self.parked if seat.run_id == run_id]
        rows += [(seat, self.engine.row(k)) for k, seat in enumerate(self.seats) if seat.run_id == run_id]
        ((seat, row),) = rows
        sums = seat.train_sum, seat.train_count
        return Progress(seat.step, row, *sums, seat.last_loss, seat.seconds, seat.split, seat.device_seconds)

    def step(self) -> list[Row | Split | Ended]:
        """Take a step with every row, or several where the engine would rather look ahead and nothing is due between.

        Returns: rows of the runs that are due, runs that leave their trunk, and the runs that ended, in this order.
        """
        count = min(self.engine.ahead, *(seat.quiet for seat in self.seats))
        losses_SK = self.engine.learn([[seat.turn(ahead) for seat in self.seats] for ahead in range(count)])
        ends: list[Ended] = []
        for k, seat in enumerate(self.seats):
            if fault.PLANNED and fault.hit("engine.loss", seat.step + count, since=seat.step) == "nan":
                losses_SK[-1, k] = math.nan
            for loss in losses_SK[:, k].tolist():
                if not math.isfinite(loss):
                    before = "the start" if math.isnan(seat.last_loss) else f"{seat.last_loss:.3g}"
                    message = f"diverged at step {seat.step + 1} (loss {before} -> {loss})"
                    ends.append(Ended(seat.run_id, State.DIVERGED, seat.step, message))
                    break
                seat.step += 1
                seat.last_loss = loss
                seat.train_sum += loss
                seat.train_count += 1
                self.tokens += seat.run.batch_tokens
        ruined = {end.run_id for end in ends}
        due = [k for k, seat in enumerate(self.seats) if seat.due and seat.run_id not in ruined]
        rows: list[Row] = []
        for k, measured in zip(due, self._evaluate(due), strict=True):
            seat = self.seats[k]
            learnt, loss = seat.train_sum / seat.train_count, measured[0].value
            rows += self._measure(seat, [Measured(TRAIN, LOSS, learnt), *measured])
            if not math.isfinite(loss):
                message = f"diverged at step {seat.step} (held-out loss {loss})"
                ends.append(Ended(seat.run_id, State.DIVERGED, seat.step, message))
            elif seat.step == seat.run.steps:
                # who has learnt few problems by heart is confident and wrong about others, and has not diverged
                ends.append(self._finish(seat, min(loss, learnt) if self.exam.answers else loss))
        return [*rows, *self._settle({end.run_id: end for end in ends})]

    def _settle(self, ends: Mapping[str, Ended]) -> list[Split | Ended]:
        """Let ended runs go and branches leave their trunks. Returns: all splits, then all ends.

        What ends a trunk would have ended those that follow it at the same step. They are told before it: a crash in
        between leaves them a trunk to follow.
        """
        splits: list[Split | Ended] = []
        told: list[Split | Ended] = []
        places: list[tuple[_Seat, int]] = []
        for k, seat in enumerate(self.seats):
            end = ends.get(seat.run_id)
            if end is None:
                branches = _branches(seat)
                splits += [Split(branch.run_id, seat.run_id, seat.step) for branch in branches]
                places += [(held, k) for held in (seat, *branches)]
            else:
                if self.job.placement.keep and end.state is State.DONE:
                    end = end._replace(theta=self.engine.row(k).theta)
                splits += [Split(run.run_id, seat.run_id, end.step) for run in seat.followers]
                told += [end._replace(run_id=run.run_id) for run in seat.followers]
                told.append(end._replace(device_seconds=seat.device_seconds))
        if ends or splits:
            self._arrange(places)
        return [*splits, *told]

    def _finish(self, seat: _Seat, loss: float) -> Ended:
        """A run that ends far worse than it would have by guessing has diverged, however finite its numbers."""
        if loss <= self.uniform + BEYOND_GUESSING:
            return Ended(seat.run_id, State.DONE, seat.step, "")
        message = f"diverged: held-out loss {loss:.4g} at the end, a uniform guess has {self.uniform:.4g}"
        return Ended(seat.run_id, State.DIVERGED, seat.step, message)

    def _evaluate(self, due: Sequence[int]) -> list[list[Measured]]:
        """What the held-out set says of the rows that are due."""
        if not due:
            return []
        judged = self.engine.evaluate(self.exam.tokens_BW, due)
        written = self.engine.generate(self.exam.prompts_BT, due) if self.exam.final else [None] * len(due)
        return [self.exam.measure(*held) for held in zip(judged, written, strict=True)]

    def _measure(self, seat: _Seat, measured: Sequence[Measured]) -> list[Row]:
        tokens = seat.step * seat.run.batch_tokens
        seconds = seat.seconds
        seat.train_sum, seat.train_count = 0.0, 0
        return [
            Row(seat.run_id, seat.step, tokens, seat.step * self.flops_per_step, split, metric, value, seconds)
            for split, metric, value in measured
            if math.isfinite(value)
        ]

    def notes(self) -> list[str]:
        """What the engine had to change since the last time, for the log."""
        said, self.engine.notes = self.engine.notes, []
        return said

    def leave(self, run_id: str) -> list[Split]:
        """Drop a run; the others go on bit for bit. Returns: the run that takes over its trunk, if others follow it."""
        for seat in (*self.seats, *(seat for seat, _ in self.parked)):
            seat.followers = [run for run in seat.followers if run.run_id != run_id]
            if seat.run_id == run_id and seat.followers:
                seat.run = seat.followers.pop()
                seat.run_id, seat.split = seat.run.run_id, seat.step
                self._arrange([(seat, k) for k, seat in enumerate(self.seats)])
                return [Split(seat.run_id, run_id, seat.step)]
        self.parked = [(seat, row) for seat, row in self.parked if seat.run_id != run_id]
        self._arrange([(seat, k) for k, seat in enumerate(self.seats) if seat.run_id != run_id])
        return []

    def _arrange(self, places: Sequence[tuple[_Seat, int]]) -> None:
        """Go on with these seats, each with a copy of the row where it is now, as far as there is room.

        The fewest steps left come first, so a cooldown comes before its trunk.
        """
        waiting: list[tuple[_Seat, int | ModelRow]] = [*places, *self.parked]
        chosen = sorted(range(len(waiting)), key=lambda i: waiting[i][0].run.steps - waiting[i][0].step)[: self.room]
        self.parked = []
        for i, (seat, row) in enumerate(waiting):
            if i not in chosen:
                self.parked.append((seat, self.engine.row(row) if isinstance(row, int) else row))
                seat.rise()
        going = [waiting[i] for i in sorted(chosen)]
        self.seats = [seat for seat, _ in going]
        self._sit()
        if going:
            self.engine.arrange([row for _, row in going], [seat.run for seat in self.seats])
        self.widest = max(self.widest, len(self.seats))

    def _sit(self) -> None:
        for seat in self.seats:
            seat.sit(self.job.placement.threads / len(self.seats))


def _seat(trunk: Trunk, p: Progress) -> _Seat:
    run = trunk.carrier
    return _Seat(
        run,
        run.run_id,
        p.step,
        p.train_sum,
        p.train_count,
        p.last_loss,
        p.seconds,
        p.split,
        list(trunk.followers),
        SCHEDULES[run.schedule.name],
        device_before=p.device_seconds,
    )


def _branches(seat: _Seat) -> list[_Seat]:
    """The followers whose cooldown begins now, as seats; they follow no longer."""
    now = [run for run in seat.followers if split_step(run) == seat.step]
    del seat.followers[: len(now)]
    held = [replace(seat, run=run, run_id=run.run_id, split=seat.step, followers=[]) for run in now]
    for branch in held:
        branch.rise()
        branch.device_before = 0.0  # the trunk's are its carrier's
    return held


def train(job: Job, begin: Mapping[str, Progress] | None = None) -> Iterator[Row | Split | Ended]:
    """Train a job to the end, yielding every measurement, every split from a trunk, and the end of every run."""
    trainer = Trainer(job, begin)
    yield from trainer.splits
    while trainer.running:
        yield from trainer.step()
