"""What TARGET and NAME mean: a published table, a file, a sweep of the store, a shipped one, or the most recent."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalectl.commands.shipped import reference_folder, shipped_sweeps
from scalectl.core import units
from scalectl.core.errors import NothingMatched, UsageError
from scalectl.core.names import PUBLISHED, escaped, meant
from scalectl.report.cells import show
from scalectl.store.layout import Store, open_store
from scalectl.store.sweeps import latest_sweep, list_sweeps, sweep_text
from scalectl.sweep.overrides import recorded_overrides

if TYPE_CHECKING:
    from scalectl.commands import references

DEFAULT_RESULTS = "results"
SHARED = (
    "data.source",
    "data.origin",
    "model.vocab",
    "data.tokenizer",
    "model.family",
    "model.n_layer",
    "model.n_head",
    "model.context",
    "model.mup_base_width",
    "D",
    "train.batch_tokens",
    "train.optimizer",
    "train.lr",
    "train.schedule",
    "train.precision",
)


@dataclass(frozen=True)
class Target:
    """Where runs come from. file: a table of runs, else the sweep `name` of `store`.

    opening: the first line to print where the user did not name what was picked; reference: from the shipped results;
    published: what the file is, if it was asked for as `ref:NAME`.
    """

    name: str
    store: Store
    file: Path | None = None
    opening: str = ""
    reference: bool = False
    published: references.Chosen | None = None


def results_store(flag: str | None) -> Store:
    """The store: flag, else SCALECTL_RESULTS, else `results`."""
    return open_store(flag or os.environ.get("SCALECTL_RESULTS") or DEFAULT_RESULTS)


def find_target(named: str | None, results: str | None) -> Target:
    """Resolve a TARGET.

    Raises: UsageError for `ref:` names that are not known; DataError for a published table that cannot be fetched;
    NothingMatched if no sweep answers.
    """
    store = results_store(results)
    if named is None:
        if not list_sweeps(store):
            shipped = ", ".join(list_sweeps(open_store(reference_folder(), writable=False)))
            raise NothingMatched(
                "there is no sweep yet", where=str(store.root), remedy=f"run one, or name a shipped one: {shipped}"
            )
        name = latest_sweep(store)
        return Target(name, store, opening=f"{name} (the most recent sweep)")
    if named.startswith(PUBLISHED):
        from scalectl.commands import references  # with what reads tables, which other targets do without

        chosen = references.choose(named.removeprefix(PUBLISHED))
        file = references.file_of(chosen)
        return Target(f"{PUBLISHED}{chosen.name}", store, file=file, opening=chosen.opening, published=chosen)
    path = Path(named)
    if path.suffix == ".toml" and os.path.isfile(named):
        return find_target(_name_in(path), results)
    if os.path.isfile(named):  # no error for a name that no file can have
        return Target(path.name, store, file=path)
    if named in list_sweeps(store):
        return Target(named, store)
    reference = open_store(reference_folder(), writable=False)
    if named in list_sweeps(reference):
        same = reference.root == store.root
        return Target(named, reference, opening="" if same else _shipped(named), reference=True)
    if path.suffix in (".csv", ".parquet", ".toml") or os.sep in named:
        hint = "scalectl sweep runs a sweep file; fit and report take its name" if path.suffix == ".toml" else None
        raise NothingMatched(f"no file {escaped(named)}", where=os.getcwd(), remedy=hint)
    there = list_sweeps(store)
    if named in shipped_sweeps():
        raise NothingMatched(
            f"{named} is shipped without results",
            where=str(store.root),
            remedy=f"train it: scalectl sweep {named}",
        )
    guess = meant(named, (*there, *shipped_sweeps()))
    more = f" and {len(there) - 6} more" if len(there) > 6 else ""
    listed = f"sweeps there: {', '.join(there[:6])}{more}; " if there else ""
    listed += f"shipped with results: {', '.join(sorted(list_sweeps(reference)))}"
    raise NothingMatched(
        f"no sweep named {escaped(named)}", where=str(store.root), remedy=f"did you mean {guess}?" if guess else listed
    )


def _name_in(path: Path) -> str:
    """The name of the sweep that a sweep file describes.

    Raises: UsageError if it does not say.
    """
    try:
        name = tomllib.loads(path.read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError):
        name = None
    if not isinstance(name, str):
        raise UsageError(f"{path} names no sweep", remedy=f"scalectl plan {path} shows what is wrong")
    return name


def shared_facts(rows: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """What all runs share of what a reader wants to see, as short texts by short name.

    Args: rows: columns of each run, named like the keys of a sweep file.
    """
    held = list(rows)
    found = []
    for key in SHARED:
        values = {row.get(key) for row in held}
        if len(values) != 1 or not (value := values.pop()):
            continue
        if key == "data.origin" and {row.get("data.task") for row in held} != {"tokens"}:
            continue  # elsewhere the source says it; of a token file it names corpus and tokeniser
        text = units.count(float(value)) if key == "D" else show(value)
        found.append((key.rpartition(".")[2], text))
    return tuple(found)


def changed_note(store: Store, name: str) -> tuple[str, ...]:
    """A sentence for a sweep that was last run with overrides: its file alone asks for other runs."""
    if name not in list_sweeps(store):
        return ()
    changes = recorded_overrides(sweep_text(store, name))
    if not changes:
        return ()
    flags = " ".join(f"--set {change}" for change in changes)
    return (f"{name} was last run with {flags}; the plain sweep brings back the runs of its file",)


def _shipped(name: str) -> str:
    return f"{name}: shipped results; train your own: scalectl sweep {name}"
