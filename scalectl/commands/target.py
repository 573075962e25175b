"""What TARGET and NAME mean: a file, a sweep of the store, a shipped sweep; without one, the most recent sweep."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scalectl.commands.shipped import reference_folder
from scalectl.core.errors import NothingMatched, UsageError
from scalectl.store.layout import Store, open_store
from scalectl.store.sweeps import latest_sweep, list_sweeps

DEFAULT_RESULTS = "results"


@dataclass(frozen=True)
class Target:
    """Where runs come from. file: a table of runs, else the sweep `name` of `store`.

    opening: the first line to print where the user did not name what was picked; reference: from the shipped results.
    """

    name: str
    store: Store
    file: Path | None = None
    opening: str = ""
    reference: bool = False


def results_store(flag: str | None) -> Store:
    """The store: flag, else SCALECTL_RESULTS, else `results`."""
    return open_store(flag or os.environ.get("SCALECTL_RESULTS") or DEFAULT_RESULTS)


def find_target(named: str | None, results: str | None) -> Target:
    """Resolve a TARGET.

    Raises: UsageError for `ref:` names that are not known; NothingMatched if no sweep answers.
    """
    store = results_store(results)
    if named is None:
        if list_sweeps(store):
            name = latest_sweep(store)
            return Target(name, store, opening=f"{name} (the most recent sweep)")
        reference = open_store(reference_folder(), writable=False)
        name = latest_sweep(reference)
        return Target(name, reference, opening=_shipped(name), reference=True)
    if named.startswith("ref:"):
        raise UsageError(
            f"no published table is registered as {named[4:]!r}",
            remedy="download the table and name the file: scalectl fit FILE --map N=COL --map L=COL",
        )
    path = Path(named)
    if path.is_file():
        return Target(path.name, store, file=path)
    if named in list_sweeps(store):
        return Target(named, store)
    reference = open_store(reference_folder(), writable=False)
    if named in list_sweeps(reference):
        same = reference.root == store.root
        return Target(named, reference, opening="" if same else _shipped(named), reference=True)
    if path.suffix in (".csv", ".parquet", ".toml") or os.sep in named:
        hint = "scalectl sweep runs a sweep file; fit and report take its name" if path.suffix == ".toml" else None
        raise NothingMatched(f"no file {named}", where=os.getcwd(), remedy=hint)
    there = list_sweeps(store)
    listed = f"sweeps there: {', '.join(there[:6])}" if there else "run one: scalectl sweep FILE"
    raise NothingMatched(f"no sweep named {named}", where=str(store.root), remedy=_meant(named, there) or listed)


def _meant(named: str, there: Iterable[str]) -> str | None:
    from scalectl.core.names import did_you_mean

    return did_you_mean(named, there)


def _shipped(name: str) -> str:
    return f"{name}: shipped results; train your own: scalectl sweep {name}"
