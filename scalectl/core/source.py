"""The code that trains, as a digest: whose numbers a run's are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
MOVING = ("models", "tasks", "optim", "train")  # packages whose code a loss depends on
DIGITS = 12


def source_digest(folder: Path, files: Iterable[str]) -> str:
    """Digest of files, by name and content, so that an edited comment is other code too.

    Args: folder: that the names are relative to.
    Raises: OSError if one cannot be read.
    """
    digest = hashlib.sha256()
    for name in sorted(set(files)):
        content = (folder / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return f"sha256:{digest.hexdigest()}"


def code_digest() -> str:
    """Digest of our own code that moves numbers, as it is on disk now; hexadecimal digits."""
    files = [path.relative_to(_PACKAGE).as_posix() for part in MOVING for path in (_PACKAGE / part).rglob("*.py")]
    return source_digest(_PACKAGE, files).removeprefix("sha256:")[:DIGITS]
