"""What comes with scalectl: the demo sweeps and their results, from a checkout or from the installed wheel."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def sweeps_folder() -> Path:
    """Folder of the shipped sweep files."""
    inside = _PACKAGE / "shipped" / "sweeps"
    return inside if inside.is_dir() else _PACKAGE.parent / "sweeps"


def reference_folder() -> Path:
    """Store with the results of the shipped sweeps."""
    inside = _PACKAGE / "shipped" / "reference"
    return inside if inside.is_dir() else _PACKAGE.parent / "results" / "reference"


def sweep_file(named: str) -> Path:
    """The sweep file that a user means: a file that exists, or the name of a shipped sweep.

    Where there is no such file, `stdlib-ladder`, `stdlib-ladder.toml` and `sweeps/stdlib-ladder.toml` find the shipped
    one. Any other path stands for itself alone, so that a mistyped one is an error and not another sweep.
    """
    path = Path(named)
    if path.is_file():
        return path
    bare = not any(separator in named for separator in (os.sep, os.altsep) if separator)
    if bare or named == f"sweeps/{path.stem}.toml":
        shipped = sweeps_folder() / f"{path.name.removesuffix('.toml')}.toml"
        if shipped.is_file():
            return shipped
    return path
