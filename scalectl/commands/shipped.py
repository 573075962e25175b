"""What comes with scalectl: the demo sweeps and their results, from a checkout or from the installed wheel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scalectl.core.errors import UsageError
from scalectl.core.names import is_name, meant, shown
from scalectl.store.layout import Store

_PACKAGE = Path(__file__).resolve().parents[1]


def sweeps_folder() -> Path:
    """Folder of the shipped sweep files."""
    inside = _PACKAGE / "shipped" / "sweeps"
    return inside if inside.is_dir() else _PACKAGE.parent / "sweeps"


def reference_folder() -> Path:
    """Store with the results of the shipped sweeps."""
    inside = _PACKAGE / "shipped" / "reference"
    return inside if inside.is_dir() else _PACKAGE.parent / "results" / "reference"


def sweep_file(named: str, store: Store | None = None) -> Path:
    """The sweep file that a user means: a file that exists, or the name of a shipped sweep or of one of the store.

    Where there is no such file, `stdlib-ladder`, `stdlib-ladder.toml` and `sweeps/stdlib-ladder.toml` find the shipped
    one, and the name of a sweep finds the file with which the store last ran it. Any other path stands for itself
    alone, so that a mistyped one is an error and not another sweep.

    Raises: StoreError if a link leads out of the store.
    """
    path = Path(named)
    if os.path.isfile(named):
        return path
    bare = not any(separator in named for separator in (os.sep, os.altsep) if separator)
    if bare or named == f"sweeps/{path.stem}.toml":
        shipped = sweeps_folder() / f"{path.name.removesuffix('.toml')}.toml"
        if os.path.isfile(shipped):
            return shipped
    if store is not None and is_name(named):
        stored = store.sweep_folder(named) / "sweep.toml"
        if stored.is_file():
            return stored
    inside = path / "sweep.toml"  # the folder that `init DIR` made
    return inside if os.path.isfile(inside) else path


def shipped_sweeps() -> tuple[str, ...]:
    """Names of the sweeps that come with scalectl, with results or without."""
    return tuple(sorted(path.stem for path in sweeps_folder().glob("*.toml")))


def unknown_sweep(named: str, stored: Sequence[str]) -> UsageError:
    """What to say where no file and no sweep answers to a name. stored: sweeps of the store."""
    if named in stored:  # and yet without its file
        return UsageError(
            f"the sweep file of {named} is gone from the store", remedy="repeat it with yours: scalectl sweep FILE"
        )
    guess = meant(named.removesuffix(".toml"), (*shipped_sweeps(), *stored))
    listed = f"shipped: {', '.join(shipped_sweeps())}; scalectl init writes one of your own"
    return UsageError(
        f"there is no sweep file {shown(named)}",
        where=None if guess else f"in {os.getcwd()}",
        remedy=f"did you mean {guess}?" if guess else listed,
    )


def is_recorded(file: Path, store: Store) -> bool:
    """Whether a sweep file is the store's own, which remembers its overrides."""
    return Path(os.path.realpath(file)).is_relative_to(store.sweeps)
