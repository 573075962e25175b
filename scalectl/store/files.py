"""Writing without half-written files, and disk trouble as errors with a remedy."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from scalectl.core import fault
from scalectl.core.errors import BudgetRefused, StoreError, disk_is_full

_TEMPORARY = re.compile(r"\..+\.[0-9]+-[0-9a-f]+\.tmp")  # as `temporary_name` makes them

Content = bytes | Callable[[BinaryIO], object]

_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into an error with a remedy.

    Raises: BudgetRefused if the disk, a quota or a file-size limit is exhausted; StoreError for anything else.
    """
    try:
        yield
    except OSError as error:
        if disk_is_full(error):
            raise BudgetRefused(
                f"no space left to write {path.name}",
                where=f"{path.parent}: {error.strerror}",
                remedy="free some space and repeat the command; what was written before is kept",
            ) from error
        if error.errno in _FORBIDDEN:
            raise StoreError(
                f"{path.name} cannot be written: the store is read-only here",
                where=f"{path.parent}: {error.strerror}",
                remedy="choose a writable folder with SCALECTL_RESULTS=DIR",
            ) from error
        raise StoreError(f"{path.name} cannot be written", where=f"{path.parent}: {error.strerror or error}") from error


@contextlib.contextmanager
def reading(what: str, path: Path) -> Iterator[None]:
    """Turn an OSError of the body into an error with a remedy; what is not there stays a FileNotFoundError.

    Raises: StoreError.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(
            f"{what} cannot be read",
            where=f"{path}: {error.strerror or error}",
            remedy="give yourself access to it, or ask its owner",
        ) from error


def refused_link(path: Path) -> StoreError:
    """The error that a symbolic link in a folder of the store is."""
    return StoreError(
        f"{path.name} is a symbolic link", where=str(path), remedy="remove the link; a store holds its own files"
    )


def no_link(path: str, flags: int) -> int:
    """`opener` for `open`, by which a symbolic link is not followed. Raises: StoreError for one; OSError."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise refused_link(Path(path)) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that dataset readers skip (they skip a leading dot) and nobody else uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def leftovers(folder: Path, older_than: float = 3600.0) -> list[os.DirEntry[str]]:
    """What killed writers left in a folder; a temporary file breaks `polars.read_parquet(folder)`.

    Args: older_than: seconds since the last byte; ours: no write of a file pauses that long.
    """
    limit = time.time() - older_than
    found = []
    with contextlib.suppress(OSError):  # of a folder that may not be read nothing is known
        for entry in os.scandir(folder):
            if _TEMPORARY.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < limit:
                        found.append(entry)
    return found


def remove(entry: os.DirEntry[str]) -> None:
    """Remove a file, a link (never what it leads to) or a folder; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def remove_leftovers(folder: Path, older_than: float = 3600.0) -> None:
    """Remove `leftovers`."""
    for entry in leftovers(folder, older_than):
        remove(entry)


def create(path: Path, content: bytes, mode: int = 0o666) -> bool:
    """Write a file that is not there yet, whole or not at all; of several writers one wins.

    Returns: whether it was this one.
    Raises: OSError.
    """
    temporary = temporary_name(path)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    sync_folder(path.parent)
    return True


def atomic_write(path: Path, content: Content, *, durable: bool = True) -> None:
    """Write a file so that readers and crashes see the old content or the new, never a part.

    Temporary file in the same folder, fsync, rename, fsync of the folder.

    Args: path: its folder must exist; a symbolic link there is replaced, not followed;
    content: the bytes, or a function that writes them to the open binary file it is given;
    durable: without it there is no fsync, and a power cut may leave damage: only for what is derived and verified.
    Raises: BudgetRefused if the disk is full, StoreError if the folder cannot be written; nothing is left behind.
    """
    temporary = temporary_name(path)
    with writing(path):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(file)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            if fault.PLANNED and path.name == "checkpoint":
                fault.hit("worker.checkpoint")
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        if durable:
            sync_folder(path.parent)
