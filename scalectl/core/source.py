"""The code of a script as a digest: whose numbers a run's are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


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
