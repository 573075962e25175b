"""Work to be done: runs, where they go, and the states that a run can be in."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from scalectl.core.run import CommandRun, RunConfig

Ticket = str


class State(enum.StrEnum):
    """State of a run. Done and diverged are final; the others can go on."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    DIVERGED = "diverged"
    FAILED = "failed"
    LOST = "lost"
    TIMEOUT = "timeout"
    OOM = "oom"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the science of the run is settled."""
        return self in (State.DONE, State.DIVERGED)

    @property
    def resumes(self) -> bool:
        """Whether the next `sweep` goes on with it unasked; `failed` waits for `--retry failed`."""
        return self in (State.PENDING, State.PAUSED, State.LOST, State.TIMEOUT, State.OOM, State.CANCELLED)


@dataclass(frozen=True)
class Placement:
    """Where and how fast; never part of an identity.

    device: `cpu` or `cuda:INDEX`; threads: of the worker; micro_batch: sequences per forward pass, None for all;
    checkpoint_seconds: wall time between checkpoints; search: folders that hold somebody's own model, or in
    which a script runs; cores: of its
    threads, none for any; branch: whether runs that are equal up to their cooldown train it once; rows: the most models
    in one step, None for no limit; graph: whether a step is recorded once and replayed, None where it pays (on a GPU);
    recompute: whether blocks are computed again in the backward pass, for less memory; compile: whether blocks are
    compiled; keep: whether the final parameters of a run that is done stay in the store.
    """

    device: str = "cpu"
    threads: int = 1
    micro_batch: int | None = None
    checkpoint_seconds: float = 20.0
    search: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()
    branch: bool = True
    rows: int | None = None
    graph: bool | None = None
    recompute: bool = False
    compile: bool = False
    keep: bool = False


@dataclass(frozen=True)
class Job:
    """Runs that train together; a solo run is a pack of one."""

    runs: tuple[RunConfig, ...]
    placement: Placement
    seconds: float = 0.0  # expected, for longest-first order

    @property
    def ticket(self) -> Ticket:
        """Name of the job: the ids of its runs."""
        return "+".join(run.run_id for run in self.runs)


@dataclass(frozen=True)
class CommandJob:
    """A run of somebody's own script, which knows no pack."""

    run: CommandRun
    placement: Placement
    seconds: float = 0.0  # expected; 0 where nothing is known

    @property
    def runs(self) -> tuple[CommandRun, ...]:
        """The run."""
        return (self.run,)

    @property
    def ticket(self) -> Ticket:
        """Name of the job: the id of its run."""
        return self.run.run_id


AnyJob = Job | CommandJob
