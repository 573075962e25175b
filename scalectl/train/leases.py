"""The claims that a process holds, renewed by a thread of its own whatever the training is doing.

A step, an evaluation or a compilation may take longer than a lease. Renewed between steps alone, a claim would run out
meanwhile, and whoever looks from another host would take a living run for a lost one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from scalectl.core.errors import ScalectlError
from scalectl.store.live import LEASE, Claim

TAKEN = "taken over by another process"
BEAT_SECONDS = LEASE / 6  # between renewals; a process that stands still for a lease has lost its runs


class Leases:
    """Claims by run id. In its context they are renewed; a run that was taken over is found by `held`."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._lock = threading.Lock()  # nobody renews what is being given up: the folder may be another's by then
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)

    def __enter__(self) -> Leases:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def take(self, run_id: str, claim: Claim) -> None:
        """Renew a claim from now on."""
        with self._lock:
            self._claims[run_id] = claim

    def held(self, run_id: str) -> bool:
        """Whether the run is still this process's."""
        return self._claims[run_id].held()

    @contextlib.contextmanager
    def giving_up(self, run_id: str) -> Iterator[Claim]:
        """The claim of a run that is let go of in this context; it is renewed no more."""
        with self._lock:
            yield self._claims.pop(run_id)

    def _renew(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with self._lock:
                for run_id, claim in self._claims.items():
                    with contextlib.suppress(ScalectlError, OSError):  # taken over, or a full disk: the run will say so
                        self._claims[run_id] = claim.beat()
