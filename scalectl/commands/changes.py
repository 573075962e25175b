"""Why a sweep trains anew what it seems to have: what changed outside of its file since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from scalectl.core.errors import NothingMatched, StoreError
from scalectl.core.names import escaped
from scalectl.core.run import CommandRun
from scalectl.core.units import counted
from scalectl.store import schema
from scalectl.store.index import Index
from scalectl.store.layout import Store
from scalectl.store.sweeps import cell_of, load_sweep
from scalectl.sweep.plan import Plan, Planned

_EVERY = "eval.every"
_MOST = 3  # causes that are named

Key = tuple[tuple[str, str], ...]


def changes(store: Store, plan: Plan, index: Index) -> tuple[str, ...]:
    """A sentence for each cause outside of the sweep file for which cells with finished runs have new ones.

    And one where finished runs were measured at other steps than the plan says: how often is no part of what a run is.
    Source: ours; a text that was edited, or one comment in a script, makes every id new, and nothing else shows it.
    """
    return (*_anew(store, plan, index), *_measured(plan, index))


def _anew(store: Store, plan: Plan, index: Index) -> list[str]:
    try:
        stored = load_sweep(store, plan.name)
    except (NothingMatched, StoreError):
        return []
    asked, ended = set(plan.run_ids), set(index.table["run_id"].to_pylist())
    before: dict[Key, str] = {}
    for row in stored.rows:  # the latest first
        if row["run_id"] in ended and row["run_id"] not in asked:
            before.setdefault(_key(cell_of(row)), row["run_id"])
    new = [planned for planned in plan.runs if planned.run_id not in ended and _key(planned.cell) in before]
    if not new:
        return []
    was = {row["run_id"]: row for row in index.of(before.values()).table.to_pylist()}
    causes = Counter(_cause(planned, was[before[_key(planned.cell)]]) for planned in new)
    return [
        f"{counted(number, 'run')} of cells that were trained before {'is' if number == 1 else 'are'} new: {cause}"
        for cause, number in causes.most_common(_MOST)
        if cause
    ]


def _cause(planned: Planned, was: Mapping[str, Any]) -> str:
    """What outside of the sweep file made a run another one, "" for nothing: who edits that file knows."""
    now = planned.columns()
    keys = {key for key in now if was.get(key) is not None and schema.plain(now[key]) != was[key]}
    if "run.source" in keys and isinstance(planned.run, CommandRun):
        files = [file for file in planned.run.files if file != planned.run.command[0]] or planned.run.files
        return f"{', '.join(map(escaped, files))} changed since"
    if "model.fingerprint" in keys:
        return f"the code of {escaped(str(now['model.family']))} changed since"
    if "data.fingerprint" in keys and "data.source" not in keys:
        return f"the data of {escaped(str(now['data.source']))} changed since"
    return ""


def _measured(plan: Plan, index: Index) -> list[str]:
    if _EVERY not in index.table.column_names:
        return []
    columns = (index.table[name].to_pylist() for name in ("run_id", _EVERY))
    every = dict(zip(*columns, strict=True))
    pairs = [
        (every.get(planned.run_id), planned.run.evaluation.every)
        for planned in plan.runs
        if not isinstance(planned.run, CommandRun)
    ]
    other = Counter(pair for pair in pairs if pair[0] is not None and pair[0] != pair[1])
    return [
        f"eval.every is {now}; what {counted(number, 'finished run')} measured every {then} steps stays as it is"
        for (then, now), number in other.most_common(_MOST)
    ]


def _key(cell: Mapping[str, Any]) -> Key:
    """What tells cells apart, whether from a plan or from the store."""
    kept = {name: schema.plain(held) for name, held in cell.items()}
    return tuple(
        sorted(
            (name, repr(float(held) if isinstance(held, int) else held))  # 1 and 1.0 are one value
            for name, held in kept.items()
            if held is not None
        )
    )
