"""What comes with scalectl: the demo sweeps and their results, from a checkout or from the installed wheel."""

from __future__ import annotations

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
    """The sweep file that a user means: a path that exists, or the name of a shipped sweep.

    `sweeps/stdlib-ladder.toml` and `stdlib-ladder` both find the shipped file where no such path exists.
    """
    path = Path(named)
    if path.exists():
        return path
    shipped = sweeps_folder() / f"{path.name.removesuffix('.toml')}.toml"
    return shipped if shipped.is_file() else path
