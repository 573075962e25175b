"""What a sweep handed to a cluster, in the store. Nothing is pickled: a pilot reads JSON and the plan.

    sweeps/NAME/ENGINE/TOKEN.json    what was submitted
    sweeps/NAME/ENGINE/TOKEN-I.log   what pilot I of it said, every start of it

A pilot trains what the sweep has left, or the runs of its share. It claims runs in the store like any other process, so
that what a cluster says of it is never needed to know how a run stands.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from scalectl.core.errors import StoreError
from scalectl.store.files import atomic_write, writing
from scalectl.store.layout import Store, open_store

AGAIN = 10  # exit code of a pilot that was told to end and leaves work
LOG_BYTES = 4000  # of a log's end, in which its last line is looked for
Engine = Literal["slurm", "ray"]


@dataclass(frozen=True)
class Submission:
    """Pilots that were submitted for a sweep: an array of Slurm jobs, or the tasks of one orchestrator on Ray.

    token: random, in its name and its files; tasks: pilots; job: id that Slurm gave it, "" before; retry: whether they
    train runs that failed before; max_runs: as `scalectl sweep` was told; shares: ids of the runs that each has for
    itself, () for whatever is left.
    """

    sweep: str
    token: str
    tasks: int
    job: str = ""
    retry: bool = False
    max_runs: int | None = None
    shares: tuple[tuple[str, ...], ...] = ()
    engine: Engine = "slurm"

    @property
    def name(self) -> str:
        """What Slurm calls it."""
        return f"{self.sweep}.{self.token}"


def folder_of(store: Store, sweep: str, engine: Engine) -> Path:
    """Folder of what a sweep submitted to a cluster."""
    return store.inside("sweeps", store.sweep_folder(sweep).name, engine)


def record_of(store: Store, submission: Submission) -> Path:
    """File of a submission."""
    return folder_of(store, submission.sweep, submission.engine) / f"{submission.token}.json"


def log_of(store: Store, submission: Submission, index: int) -> Path:
    """What one of its pilots said."""
    return record_of(store, submission).with_name(f"{submission.token}-{index}.log")


def new_token() -> str:
    """A token for a submission."""
    return secrets.token_hex(4)


def write_submission(store: Store, submission: Submission) -> Path:
    """Write the record of a submission. Returns: its file.

    Raises: StoreError or BudgetRefused if it cannot be written.
    """
    record = record_of(store, submission)
    with writing(record.parent):
        record.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(record, json.dumps({"version": 1, "submitted": time.time(), **asdict(submission)}).encode())
    return record


def read_submission(path: Path) -> tuple[Store, Submission]:
    """What a pilot is given. Raises: StoreError if it cannot be read, or is not where it belongs."""
    store = open_store(path.absolute().parents[3])
    found = _decoded(path)
    if found is None or record_of(store, found).name != path.name:
        raise StoreError("this is not the record of a cluster's job", where=str(path), remedy="repeat the sweep")
    return store, found


def submissions(store: Store, sweep: str, engine: Engine) -> list[Submission]:
    """What was submitted for a sweep and is not forgotten."""
    found = (_decoded(path) for path in sorted(folder_of(store, sweep, engine).glob("*.json")))
    return [held for held in found if held is not None]


def forget(store: Store, submission: Submission) -> None:
    """Drop the record of a submission whose pilots have all ended; its logs stay until the next one."""
    with contextlib.suppress(OSError):
        record_of(store, submission).unlink(missing_ok=True)


def clear(store: Store, sweep: str, engine: Engine) -> None:
    """Remove scripts and logs of forgotten submissions."""
    folder = folder_of(store, sweep, engine)
    kept = {path.stem for path in folder.glob("*.json")}
    for path in [*folder.glob("*.sh"), *folder.glob("*.log")]:
        if path.stem.partition("-")[0] not in kept:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def last_words(path: Path) -> str:
    """The last line of a log; "" if it has none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_BYTES))
            said = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(said) if line.strip()), "")


def _decoded(path: Path) -> Submission | None:
    """The submission in a file; None if it holds none."""
    try:
        data = json.loads(path.read_bytes())
        return Submission(
            sweep=str(data["sweep"]),
            token=str(data["token"]),
            tasks=int(data["tasks"]),
            job=str(data["job"]),
            retry=bool(data["retry"]),
            max_runs=None if data["max_runs"] is None else int(data["max_runs"]),
            shares=tuple(tuple(map(str, share)) for share in data["shares"]),
            engine="ray" if path.parent.name == "ray" else "slurm",
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
