"""Final parameters of finished runs, kept so that a later question needs no second training (`[runtime] keep`)."""

from __future__ import annotations

from torch import Tensor

from scalectl.core.errors import StoreError
from scalectl.store.files import atomic_write, writing
from scalectl.store.layout import PARAMETERS, Store
from scalectl.train.sealed import Broken, seal, unseal

VERSION = 1


def save(store: Store, run_id: str, theta: Tensor) -> None:
    """Keep the parameters of a run, atomically.

    Args: theta: shape (P,), as the engine lays them out.
    Raises: BudgetRefused if the disk is full, StoreError if the folder cannot be written.
    """
    path = store.parameters(run_id)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, seal(PARAMETERS, {"version": VERSION, "theta": theta}))


def kept(store: Store, run_id: str) -> bool:
    """Whether the parameters of a run are there. Raises: StoreError if the folder cannot be read."""
    path = store.parameters(run_id)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StoreError("the store cannot be read", where=f"{path}: {error.strerror}") from error
    return True


def load(store: Store, run_id: str) -> Tensor:
    """The parameters of a run, shape (P,).

    Raises: StoreError if the file is not there, damaged, or of a newer version.
    """
    path = store.parameters(run_id)
    try:
        held = unseal(PARAMETERS, path.read_bytes())
    except OSError as error:
        raise StoreError(f"the parameters of run {run_id} cannot be read", where=f"{path}: {error.strerror}") from error
    except Broken as error:
        raise StoreError(
            f"the parameters of run {run_id} cannot be read ({error})",
            where=str(path),
            remedy="remove the file; the run has to be trained again to be judged again",
        ) from error
    if held["version"] > VERSION:
        raise StoreError(
            f"the parameters of run {run_id} were written by a newer scalectl", where=str(path), remedy="upgrade"
        )
    theta: Tensor = held["theta"]
    return theta
