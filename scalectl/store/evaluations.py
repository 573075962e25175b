"""What finished runs were judged on afterwards: a set with a name of its own is a split beside `held-out`.

    evals/SET/set.json     which data the name stands for
    evals/SET/ID.parquet   a file like that of a run, with the rows of one set alone

Run files are final, so what comes later lies beside them. A name stands for the same data in all of a store, or numbers
of different texts would meet in one fit: whoever judges first takes it, and a file with numbers of other data counts
for nothing. Unlike a run file, one of these can be made again: one that is damaged counts as absent.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from scalectl.core.errors import StoreError, UsageError
from scalectl.core.names import is_name, shown
from scalectl.core.rows import Row
from scalectl.store.files import atomic_write, create, writing
from scalectl.store.layout import Store, checked_name
from scalectl.store.reader import DamagedRun, RunFile, read_run
from scalectl.store.writer import run_content

_ABOUT = "set.json"


@dataclass(frozen=True)
class JudgedOn:
    """A set. source: as its user named it; fingerprint: digest of its data; tokens: of it that are judged."""

    source: str
    fingerprint: str
    tokens: int

    def same(self, other: JudgedOn) -> bool:
        """Whether its numbers are comparable with those of another: where a text lies says nothing."""
        return (self.fingerprint, self.tokens) == (other.fingerprint, other.tokens)


def is_split_of(split: str, name: str) -> bool:
    """Whether a split belongs to a set: the whole of it, or one of its subtasks."""
    return split == name or re.fullmatch(rf"{re.escape(name)}-subtask[0-9]+", split) is not None


def evaluated_sets(store: Store) -> dict[str, JudgedOn]:
    """All sets, by name, sorted; a folder that does not say what its data are is none."""
    return {name: on for name in _folders(store) if (on := what_is(store, name)) is not None}


def evaluations(store: Store, run_id: str, sets: Mapping[str, JudgedOn]) -> list[RunFile]:
    """What every set said of a run, in their order. sets: `evaluated_sets`, which holds for many runs."""
    return [held for name, on in sets.items() if (held := evaluated(store, name, run_id, on)) is not None]


def evaluated(store: Store, name: str, run_id: str, on: JudgedOn) -> RunFile | None:
    """What a set said of a run; None if it has not been asked, or its file is damaged. on: what the set is."""
    try:
        return _read(store.evaluation_file(name, run_id), name, on)
    except (FileNotFoundError, DamagedRun):
        return None


def what_is(store: Store, name: str) -> JudgedOn | None:
    """The data that a name stands for; None if nobody was judged on it yet, or what says so is damaged."""
    path = _about(store, name)
    try:
        return _judged_on(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise StoreError("the store cannot be read", where=f"{path}: {error.strerror}") from error


def check_name(store: Store, name: str, on: JudgedOn) -> None:
    """Raises: UsageError if the name stands for other data in this store."""
    before = what_is(store, name)
    if before is not None and not before.same(on):
        changed = (before.source, before.tokens) == (on.source, on.tokens)
        raise UsageError(
            f"{name} is the name of {'an earlier state' if changed else 'another set'}: "
            f"{shown(before.source)}, {before.tokens} tokens{', which has changed since' if changed else ''}",
            where=str(store.evaluations / name),
            remedy="give this one another name with --as, or remove that folder",
        )


def take_name(store: Store, name: str, on: JudgedOn) -> None:
    """Let a name stand for some data from now on, whoever else asks for it at this moment.

    Raises: as `check_name`; BudgetRefused if the disk is full, StoreError if the store cannot be written.
    """
    path = _about(store, name)
    content = json.dumps(asdict(on), sort_keys=True).encode()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if create(path, content):
            return
    if what_is(store, name) is None:
        atomic_write(path, content)
    check_name(store, name, on)


def write_evaluation(
    store: Store, name: str, run_id: str, on: JudgedOn, rows: Iterable[Row], provenance: Mapping[str, Any]
) -> Path:
    """Store what a set said of a run, in place of what it said before. The set has its name by `take_name`.

    Raises: BudgetRefused if the disk is full, StoreError if the store cannot be written; ValueError for rows that no
    run can have.
    """
    path = store.evaluation_file(name, run_id)
    atomic_write(path, run_content(run_id, rows, asdict(on), provenance))
    return path


def damaged_evaluations(store: Store) -> dict[str, str]:
    """What counts as absent though it is there: the reason by path in the store. Every file is read in full."""
    found = {}
    for name in _folders(store):
        on, run_ids = what_is(store, name), judged_runs(store, name)
        if on is None:
            if run_ids:
                found[f"evals/{name}/{_ABOUT}"] = "it is missing or damaged, and no file beside it counts without"
            continue
        for run_id in run_ids:
            path = store.evaluation_file(name, run_id)
            try:
                _read(path, name, on)
            except FileNotFoundError:
                continue
            except DamagedRun as error:
                found[f"evals/{name}/{path.name}"] = error.reason
    return found


def judged_runs(store: Store, name: str) -> list[str]:
    """Runs of which a set has a file, whatever is in it, sorted."""
    return sorted(path.stem for path in (store.evaluations / name).glob("*.parquet") if is_name(path.stem))


def _folders(store: Store) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(store.evaluations) if is_name(entry.name) and entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError("the store cannot be read", where=f"{store.evaluations}: {error.strerror}") from error


def _about(store: Store, name: str) -> Path:
    return store.inside("evals", checked_name(name, "set"), _ABOUT)


def _judged_on(data: object) -> JudgedOn | None:
    kinds = {field.name: str if field.type == "str" else int for field in fields(JudgedOn)}
    if not isinstance(data, dict) or {name: type(value) for name, value in data.items()} != kinds:
        return None
    return JudgedOn(**data)


def _read(path: Path, name: str, on: JudgedOn) -> RunFile:
    """Raises: FileNotFoundError; DamagedRun, for a whole file of something else too."""
    held = read_run(path)
    about = _judged_on(held.meta.config)
    if about is None or not all(is_split_of(metric.rpartition("/")[0], name) for metric in held.meta.final):
        raise DamagedRun(path, f"it holds no numbers of set {name}")
    if not about.same(on):
        raise DamagedRun(path, f"it is of other data: {shown(about.source)}, {about.tokens} tokens")
    return held
