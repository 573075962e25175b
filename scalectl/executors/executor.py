"""What every executor offers, and the events that the scheduling loop passes on.

An executor starts and stops processes and says what it sees of them. It is never believed about the state of a run:
that is read from the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from scalectl.core.job import AnyJob, State, Ticket


@dataclass(frozen=True)
class Beat:
    """A sign of life of a job.

    runs: id -> (step, last loss [nats/token] or None), empty until it has begun; memory: of its process [bytes].
    """

    ticket: Ticket
    slot: int
    runs: dict[str, tuple[int, float | None]]
    tokens_per_second: float
    memory: int


@dataclass(frozen=True)
class RunEnded:
    """A run left its job. loss: final held-out loss where there is one; seconds: trained over all attempts."""

    run_id: str
    state: State
    step: int = 0
    loss: float | None = None
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class JobOver:
    """A job left its slot.

    died: its process ended without a word, with `message` from its standard error; exit_code: of an error that
    concerns every run, such as a full disk, 0 for none; busy: runs that another process is training; full: nothing was
    begun, since others hold the memory of the device.
    """

    ticket: Ticket
    died: bool = False
    exit_code: int = 0
    message: str = ""
    busy: tuple[str, ...] = field(default=())
    full: bool = False


@dataclass(frozen=True)
class SlotClosed:
    """A slot gets no more jobs. device: of the slot; message: its last error."""

    slot: int
    device: str
    message: str


Event = Beat | RunEnded | JobOver | SlotClosed


class Executor(Protocol):
    """Somewhere to run jobs."""

    @property
    def size(self) -> int:
        """Slots in all, without those that were closed."""
        ...

    def free(self) -> int:
        """Slots without a job, each good for one thread."""
        ...

    def submit(self, job: AnyJob) -> Ticket:
        """Start a job on a free slot."""
        ...

    def poll(self, seconds: float) -> list[Event]:
        """What happened since the last call, waiting up to `seconds` for the first event."""
        ...

    def cancel(self, ticket: Ticket) -> None:
        """Ask a job to checkpoint and leave; one that does not is killed."""
        ...

    def close(self, *, kill: bool = False) -> None:
        """End every process; with `kill`, at once."""
        ...
