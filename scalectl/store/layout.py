"""Where everything lies in a store, and which names and links are refused.

runs/ID.parquet    one immutable file per ended run
index.parquet      derived: one row per run
live/ID/           while a run trains: rows, checkpoint, log, claim
kept/ID/           final parameters, or what a script kept in its own folder, where its sweep asks for it
evals/SET/         set.json: data that finished runs were judged on afterwards; ID.parquet: one file a run
sweeps/NAME/       sweep.toml and plan.parquet; rows.parquet and rows.json, derived (`compact`)
quarantine/        damaged files of runs and plans of sweeps, moved out of the way of readers
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from scalectl.core.errors import StoreError, UsageError
from scalectl.core.names import escaped, is_name, shown
from scalectl.store.files import remove_leftovers, temporary_name, writing

PARAMETERS = b"scalectl-parameters\n"  # how a file of final parameters begins, which no file of a script does


def checked_name(name: str, what: str = "name") -> str:
    """Return the name of a sweep or a run, if it is one.

    A name becomes a folder and appears on terminals: no separators, no leading dot, nothing that needs escaping.

    Raises: UsageError, with the name escaped and cut.
    """
    if is_name(name):
        return name
    raise UsageError(
        f"{what} {shown(name)} is not allowed",
        remedy="use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    )


@dataclass(frozen=True)
class Store:
    """A results folder.

    root: absolute, links resolved; it need not exist for reading; writable: False where even what is derived stays
    unwritten, as in the results that come with the package.
    """

    root: Path
    writable: bool = True

    @property
    def runs(self) -> Path:
        """Folder of the run files."""
        return self.inside("runs")

    @property
    def index(self) -> Path:
        """File of the derived index."""
        return self.inside("index.parquet")

    @property
    def quarantine(self) -> Path:
        """Folder of damaged files."""
        return self.inside("quarantine")

    @property
    def lives(self) -> Path:
        """Folder of the runs in flight."""
        return self.inside("live")

    @property
    def sweeps(self) -> Path:
        """Folder of the sweeps."""
        return self.inside("sweeps")

    def run_file(self, run_id: str) -> Path:
        """File of an ended run, whether or not it exists."""
        return self.inside("runs", f"{checked_name(run_id, 'run id')}.parquet")

    def live_folder(self, run_id: str) -> Path:
        """Folder of a run in flight, whether or not it exists."""
        return self.inside("live", checked_name(run_id, "run id"))

    @property
    def kept(self) -> Path:
        """Folder of what runs leave beside their numbers."""
        return self.inside("kept")

    def kept_folder(self, run_id: str) -> Path:
        """Where what a run leaves beside its numbers stays, whether or not it exists."""
        return self.inside("kept", checked_name(run_id, "run id"))

    def parameters(self, run_id: str) -> Path:
        """Final parameters of a run, whether or not they were kept."""
        return self.kept_folder(run_id) / "parameters"

    @property
    def evaluations(self) -> Path:
        """Folder of the sets that finished runs were judged on afterwards."""
        return self.inside("evals")

    def evaluation_file(self, name: str, run_id: str) -> Path:
        """What a set said of a run, whether or not it exists."""
        return self.inside("evals", checked_name(name, "set"), f"{checked_name(run_id, 'run id')}.parquet")

    def sweep_folder(self, name: str) -> Path:
        """Folder of a sweep, whether or not it exists."""
        return self.inside("sweeps", checked_name(name, "sweep name"))

    def in_flight(self) -> list[str]:
        """Run ids that have a live folder, sorted; what else lies there (a cache, a file) is none of ours."""
        try:
            return sorted(e.name for e in os.scandir(self.lives) if is_name(e.name) and e.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError("the store cannot be read", where=f"{self.lives}: {error.strerror}") from error

    def inside(self, *parts: str) -> Path:
        """Return a path in the store. Raises: StoreError if a symbolic link on the way leads out of the store."""
        path = self.root.joinpath(*parts)
        target = os.path.realpath(path)
        if target != str(self.root) and not target.startswith(os.path.join(self.root, "")):
            raise StoreError(
                f"{'/'.join(parts)} is a symbolic link out of the store",
                where=f"{self.root}: leads to {escaped(target)}",
                remedy="remove the link; a store holds its own files",
            )
        return path

    def prepare(self) -> None:
        """Make the folders, prove that they can be written, and sweep up after killed writers.

        A link out of the store is found here, and not when the first run is done.

        Raises: StoreError if they cannot, BudgetRefused if the disk is full; one sentence either way.
        """
        for name in ("kept", "evals"):
            self.inside(name)
        for folder in (self.runs, self.lives, self.sweeps):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            probe = temporary_name(folder / "probe")
            with writing(folder):
                probe.write_bytes(b"probe")
                probe.unlink()
            remove_leftovers(folder)
        remove_leftovers(self.root)


def open_store(root: str | os.PathLike[str], *, writable: bool = True) -> Store:
    """Return the store in a folder, which may be absent or empty: then it holds nothing.

    The folder itself may be a link (results kept on another disk); links inside may not lead out of it.

    Raises: StoreError if something else than a folder is there.
    """
    path = Path(os.path.realpath(root))
    if path.exists() and not path.is_dir():
        raise StoreError(
            "the store is not a folder", where=str(path), remedy="choose another with SCALECTL_RESULTS=DIR"
        )
    return Store(path, writable)
