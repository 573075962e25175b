"""What finished runs were judged on afterwards: a set with a name of its own is a split beside `held-out`.

    evals/SET/ID.parquet   a file like that of a run, with the rows of one set alone

Run files are final, so what comes later lies beside them. A name stands for the same data in all of a store, or numbers
of different texts would meet in one fit. Unlike a run file, one of these can be made again: one that is damaged counts
as absent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalectl.core.errors import StoreError, UsageError
from scalectl.core.names import is_name, shown
from scalectl.core.rows import Row
from scalectl.store.files import atomic_write, writing
from scalectl.store.layout import Store
from scalectl.store.reader import DamagedRun, RunFile, read_meta, read_run
from scalectl.store.writer import run_content


@dataclass(frozen=True)
class JudgedOn:
    """A set. source: as its user named it; fingerprint: digest of its data; tokens: of it that are judged."""

    source: str
    fingerprint: str
    tokens: int

    def same(self, other: JudgedOn) -> bool:
        """Whether its numbers are comparable with those of another: where a text lies says nothing."""
        return (self.fingerprint, self.tokens) == (other.fingerprint, other.tokens)


def evaluated_sets(store: Store) -> list[str]:
    """Names of all sets, sorted."""
    try:
        return sorted(entry.name for entry in os.scandir(store.evaluations) if is_name(entry.name) and entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError("the store cannot be read", where=f"{store.evaluations}: {error.strerror}") from error


def evaluations(store: Store, run_id: str) -> list[RunFile]:
    """What every set said of a run, in the order of their names."""
    return [held for name in evaluated_sets(store) if (held := _read(store.evaluation_file(name, run_id))) is not None]


def evaluated(store: Store, name: str, run_id: str) -> RunFile | None:
    """What a set said of a run; None if it has not been asked, or its file is damaged."""
    return _read(store.evaluation_file(name, run_id))


def what_is(store: Store, name: str) -> JudgedOn | None:
    """The data that a name stands for; None if nobody was judged on it yet."""
    folder = store.evaluations / name
    for path in sorted(folder.glob("[!.]*.parquet")) if folder.is_dir() else ():
        try:
            return JudgedOn(**read_meta(path).config)
        except (FileNotFoundError, DamagedRun):
            continue
    return None


def check_name(store: Store, name: str, on: JudgedOn) -> None:
    """Raises: UsageError if the name stands for other data in this store."""
    before = what_is(store, name)
    if before is not None and not before.same(on):
        raise UsageError(
            f"{name} is the name of another set: {shown(before.source)}, {before.tokens} tokens",
            where=str(store.evaluations / name),
            remedy="give this one another name with --as, or remove that folder",
        )


def write_evaluation(
    store: Store, name: str, run_id: str, on: JudgedOn, rows: Iterable[Row], provenance: Mapping[str, Any]
) -> Path:
    """Store what a set said of a run, in place of what it said before.

    Raises: BudgetRefused if the disk is full, StoreError if the store cannot be written; ValueError for rows that no
    run can have.
    """
    path = store.evaluation_file(name, run_id)
    content = run_content(run_id, rows, asdict(on), provenance)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content)
    return path


def _read(path: Path) -> RunFile | None:
    try:
        return read_run(path)
    except (FileNotFoundError, DamagedRun):
        return None
