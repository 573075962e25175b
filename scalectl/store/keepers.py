"""Who sweeps: a file in a sweep's folder for every orchestrator at work, from which it can be found and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from scalectl.core.errors import BudgetRefused, StoreError
from scalectl.store.files import atomic_write, reading
from scalectl.store.layout import Store
from scalectl.store.live import Holder, host_identity, process_start, read_holder

_PREFIX = "keeper."


@contextlib.contextmanager
def keeping(store: Store, name: str) -> Iterator[str]:
    """Be found as an orchestrator of a sweep while the body runs, which is given the token in the name of its file.

    On a full disk it goes on unfound.
    """
    token = secrets.token_hex(8)
    path = store.sweep_folder(name) / f"{_PREFIX}{token}"
    forget_dead(store, name)
    holder = Holder(host_identity(), os.getpid(), process_start(os.getpid()) or 0, token, time.time())
    with contextlib.suppress(BudgetRefused, StoreError):
        atomic_write(path, json.dumps(asdict(holder)).encode())
    try:
        yield token
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def forget_dead(store: Store, name: str) -> int:
    """Remove the files of orchestrators that were killed on this host. Returns: how many."""
    dead = dead_keepers(store, name)
    for path in dead:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return len(dead)


def dead_keepers(store: Store, name: str) -> list[Path]:
    """Files of orchestrators that were killed on this host."""
    here, now = host_identity(), time.time()
    return [path for path, held in keepers(store, name).items() if held.host == here and not held.alive(here, now)]


def kept(store: Store, name: str, token: str) -> bool:
    """Whether the file of an orchestrator is there."""
    return (store.sweep_folder(name) / f"{_PREFIX}{token}").exists()


def keepers(store: Store, name: str) -> dict[Path, Holder]:
    """The orchestrators of a sweep by their files, those that were killed included.

    Raises: StoreError if one of them cannot be read.
    """
    found = {}
    for path in sorted(store.sweep_folder(name).glob(f"{_PREFIX}*")):
        with reading(f"sweep {name}", path):
            holder = read_holder(path)
        if holder is not None:
            found[path] = holder
    return found
