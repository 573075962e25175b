"""What is worked out once and kept between commands: the user's cache folder, which may be deleted at any time.

A cache never decides anything: without it, unwritable or damaged, the same is worked out again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Where the cache lies: SCALECTL_CACHE, else scalectl in XDG_CACHE_HOME or ~/.cache. It need not exist."""
    own = os.environ.get("SCALECTL_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")  # a relative one is to be ignored: XDG Base Directory Specification
    return Path(shared if shared and os.path.isabs(shared) else os.path.expanduser("~/.cache")) / "scalectl"


def stamp(path: Path) -> str:
    """What tells a file from an earlier one at its place, without reading it: path, size, and when it changed.

    Its time of modification can be set back, as `cp -p` and `rsync -t` do over an older file of the same size; the time
    of its last change of status cannot.
    Raises: OSError if it cannot be looked at.
    """
    held = path.stat()
    return json.dumps([os.fspath(path.absolute()), held.st_size, held.st_mtime_ns, held.st_ctime_ns])


def recall(kind: str, key: str) -> Any:
    """What was kept under a key; None if nothing was, or if it cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        held = json.loads(_place(kind, key).read_bytes())
        if held["key"] == key:
            return held["value"]
    return None


def keep(kind: str, key: str, value: Any) -> None:
    """Keep plain JSON data under a key; silently nothing where the folder cannot be written.

    Args: kind: a folder of the cache; key: any text; it is compared in full when it is recalled.
    """
    place = _place(kind, key)
    temporary = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps({"key": key, "value": value}))
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)


def _place(kind: str, key: str) -> Path:
    return cache_folder() / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
