"""`scalectl clean`: checkpoints that nobody needs, by policy; links are unlinked and never followed."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalectl.commands.target import results_store
from scalectl.core.errors import NothingMatched, StoreBusy, StoreError
from scalectl.core.job import State
from scalectl.core.names import is_name
from scalectl.store.files import leftovers, remove, writing
from scalectl.store.layout import PARAMETERS, Store
from scalectl.store.live import live, state_of
from scalectl.store.sweeps import list_sweeps, load_sweep

Policy = Literal["stale", "failed", "all"]
DAY = 86_400.0


@dataclass(frozen=True)
class Removed:
    """One thing that went, or would go. what: a run id, or a path in the store; size [bytes]; why: in words."""

    what: str
    why: str
    size: int


@dataclass(frozen=True)
class Cleaned:
    """All that went.

    kept: runs in flight that stay; busy: of them, those that are being trained; notes: one sentence for each sweep or
    run that could not be read.
    """

    removed: tuple[Removed, ...]
    kept: int
    busy: int
    dry: bool
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Space that is free again [bytes]."""
        return sum(held.size for held in self.removed)


def run(
    named: str | None,
    results: str | None,
    policy: Policy,
    *,
    older: float = 0.0,
    parameters: bool = False,
    dry: bool = False,
) -> Cleaned:
    """Remove checkpoints, and what killed processes left.

    A run without its checkpoint starts again when a sweep asks for it; the log of a failed run stays. What a living
    process trains stays whatever the policy. Where the plan of a sweep cannot be read, nothing counts as unwanted.

    Args: named: a sweep, to clean only after its runs; None for the whole store; policy: stale for runs that are
    finished or that no sweep asks for any more, failed for failed ones too, all for every run that nobody trains;
    older: days since the run's last sign of life, or since its parameters were kept; parameters: also final ones of
    finished runs, which cannot be judged on anything new then; dry: only say what would go.
    Raises: NothingMatched if there is no such sweep or store; StoreError where the store cannot be read or written.
    """
    store = results_store(results)
    if not store.root.is_dir():
        raise NothingMatched(f"there is no store at {store.root}", remedy="name one: --results DIR")
    only = None if named is None else {row["run_id"] for row in load_sweep(store, named).rows}
    wanted: set[str] = set()
    unread, notes = [], []
    for name in list_sweeps(store):
        try:
            wanted |= set(load_sweep(store, name).current)
        except StoreError as error:
            unread.append(f"{error.what} ({error.where}); its runs are not known: what no sweep asks for stays")
    removed = [] if only is not None else [*_links(store, dry=dry), *_leftovers(store, dry=dry)]
    kept = busy = 0
    for run_id in store.in_flight():
        if (store.lives / run_id).is_symlink():  # of a dry run, still there
            continue
        if only is not None and run_id not in only:
            continue
        try:
            state = state_of(store, run_id).state
            size, last = _size(live(store, run_id).folder)
        except StoreError as error:
            notes.append(f"{error.what}, and stays ({error.where})")
            kept += 1
            continue
        why = _why(state, bool(unread) or run_id in wanted, policy)
        if state is State.RUNNING or not why or time.time() - last < older * DAY:
            kept, busy = kept + 1, busy + (state is State.RUNNING)
            continue
        if not dry and not _cleared(store, run_id, state):
            kept, busy = kept + 1, busy + 1
            continue
        if size:
            removed.append(Removed(run_id, why, size))
    if parameters:
        removed += _parameters(store, only, older, dry=dry)
    return Cleaned(tuple(removed), kept, busy, dry, (*unread, *notes))


def _parameters(store: Store, only: set[str] | None, older: float, *, dry: bool) -> Iterator[Removed]:
    """Final parameters that were kept; what a script kept stays."""
    for folder in _kept(store):
        path, run_id = folder / "parameters", folder.name
        if only is not None and run_id not in only:
            continue
        try:
            status = path.lstat()
        except OSError:
            continue
        if time.time() - status.st_mtime < older * DAY or not stat.S_ISREG(status.st_mode) or not _ours(path):
            continue
        if not dry:
            with writing(path):
                path.unlink()
            with contextlib.suppress(OSError):  # something else lies there too
                folder.rmdir()
        yield Removed(run_id, "final parameters", status.st_size)


def _kept(store: Store) -> list[Path]:
    """Folders of what runs kept, none of them through a link."""
    kept = store.root / "kept"
    if kept.is_symlink() or not kept.is_dir():
        return []
    return sorted(Path(e.path) for e in _entries(kept) if is_name(e.name) and e.is_dir(follow_symlinks=False))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; nothing if it went meanwhile. Raises: StoreError if it cannot be read."""
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError("the store cannot be read", where=f"{folder}: {error.strerror}") from error


def _ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(PARAMETERS)) == PARAMETERS
    except OSError:
        return False


def _why(state: State, wanted: bool, policy: Policy) -> str:
    if state.final:
        return f"{state}, and a process was killed before it could clean up"
    if not wanted:
        return f"{state}, and no sweep asks for it"
    if policy == "all" or (policy == "failed" and state is State.FAILED):
        return str(state)
    return ""


def _cleared(store: Store, run_id: str, state: State) -> bool:
    """Clear a run's folder under its claim; False if somebody has taken it meanwhile."""
    folder = live(store, run_id)
    try:
        folder.claim()
    except StoreBusy:
        return False
    folder.clear(keep_log=state is State.FAILED)
    return True


def _size(folder: Path) -> tuple[int, float]:
    """Bytes of a folder but for its log and claims, and the time of the last change in it [Unix seconds]."""
    size, last = 0, 0.0
    for entry in _entries(folder):
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            last = max(last, status.st_mtime)
            if entry.name != "log" and not entry.name.startswith("claim."):
                size += status.st_size
    return size, last


def _links(store: Store, *, dry: bool) -> Iterator[Removed]:
    """Links that lead out of the store, from its folders and those of its runs, sets and sweeps.

    What a script keeps in a folder of its own is its own affair.
    """
    for folder in folders(store):
        held: list[os.DirEntry[str]] = []
        with contextlib.suppress(StoreError):  # one that may not be read stays as it is
            held = _entries(folder)
        for entry in held:
            target = os.path.realpath(entry.path)
            if entry.is_symlink() and not target.startswith(os.path.join(store.root, "")):
                if not dry:
                    with writing(Path(entry.path)):
                        os.unlink(entry.path)
                yield Removed(os.path.relpath(entry.path, store.root), "a link out of the store", 0)


def _leftovers(store: Store, *, dry: bool) -> Iterator[Removed]:
    for folder in (*folders(store), *_kept(store)):
        for entry in leftovers(folder):
            size = entry.stat(follow_symlinks=False).st_size
            if not dry:
                remove(entry)
            yield Removed(os.path.relpath(entry.path, store.root), "left by a killed writer", size)


def folders(store: Store) -> Sequence[Path]:
    """The store, its folders, and one below, but for those of scripts: none of them through a link."""
    first = [store.root / name for name in ("runs", "kept", "live", "sweeps", "quarantine", "evals")]
    first = [path for path in first if path.is_dir() and not path.is_symlink()]
    below = [
        Path(entry.path)
        for path in first
        if path.name not in ("runs", "kept")
        for entry in _entries(path)
        if entry.is_dir(follow_symlinks=False) and is_name(entry.name)
    ]
    return [store.root, *first, *below]
