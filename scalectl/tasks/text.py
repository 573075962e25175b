"""Bytes of text: the Python standard library's own source (`stdlib`), or any file or folder (`text:PATH`).

Held-out text is apart by file (folders, stdlib) or by block (a single file), chosen by a digest of the name, so that
adding a file moves no other.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalectl.core.errors import UsageError
from scalectl.core.run import hashed_as
from scalectl.tasks.windows import Description, Windows

HELD_OUT_SHARE = 16  # one file of so many; ours: leaves the stdlib 0.8 MB to be judged on
BLOCK_BYTES = 16_384  # of a single file
SEPARATOR = b"\x00"  # between files; never in text
SKIPPED = ("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "turtledemo")
SUFFIXES = (".txt", ".md", ".rst", ".py", ".c", ".h", ".html", ".tex", ".json", ".csv", ".log")


def _kind(source: str) -> str:
    """What of a source is identity: where a text lies is not, its content is, by the task's fingerprint."""
    return source.partition(":")[0]


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for text.

    source: `stdlib` or `text:PATH`, a relative path from the working directory; unique_tokens: repeat only this much of
    the training text, None for all of it.
    """

    source: str = hashed_as(_kind)
    unique_tokens: int | None = None


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is text."""
    return source == "stdlib" or source.startswith("text:")


def floor(options: Options, context: int) -> float | None:
    """Nobody knows the entropy of text."""
    return None


def describe(options: Options) -> Description:
    """Vocabulary, fingerprint and size.

    Raises: UsageError if the text is missing or too short.
    """
    train, held, fingerprint, origin = _streams(options.source)
    unique = len(train) if options.unique_tokens is None else min(options.unique_tokens, len(train))
    return Description(256, fingerprint, origin, unique, len(held))


def open_data(options: Options) -> Windows:
    """The text as windows of bytes."""
    train, held, _, _ = _streams(options.source)
    used = train if options.unique_tokens is None else train[: options.unique_tokens]
    return Windows(np.frombuffer(used, np.uint8)[None], np.frombuffer(held, np.uint8)[None], np.ones(256, np.uint8))


@functools.lru_cache(maxsize=4)
def _streams(source: str) -> tuple[bytes, bytes, str, str]:
    """Training bytes, held-out bytes, fingerprint, origin."""
    if source == "stdlib":
        return _split(_library(Path(sysconfig.get_path("stdlib"))), f"Python {platform.python_version()}")
    path = Path(source.removeprefix("text:")).expanduser()
    if path.is_dir():
        files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file()}
        return _split({name: p.read_bytes() for name, p in files.items()}, path.name, source)
    if not path.is_file():
        raise UsageError(
            f"no text at {str(path)!r}", remedy='give data.source = "text:PATH" a file or a folder, or use "stdlib"'
        )
    text = path.read_bytes()
    blocks = {f"block{begin}": text[begin : begin + BLOCK_BYTES] for begin in range(0, len(text), BLOCK_BYTES)}
    return _split(blocks, path.name, source, in_order=True)


def _library(root: Path) -> dict[str, bytes]:
    """Source files of the standard library by relative name; packages installed beside it are never walked."""
    files = {}
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in SKIPPED and not name.startswith("config-")]
        for name in names:
            # _sysconfigdata holds paths and flags of the machine that built Python
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                path = Path(folder, name)
                files[path.relative_to(root).as_posix()] = path.read_bytes()
    return files


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _split(
    files: dict[str, bytes], origin: str, source: str = "stdlib", *, in_order: bool = False
) -> tuple[bytes, bytes, str, str]:
    """Files in a fixed order that mixes folders, so that a prefix (`unique_tokens`) is a fair sample."""
    ranked = sorted(files, key=lambda name: _digest(name.encode()))
    apart = {name for name in ranked if _digest(name.encode())[0] % HELD_OUT_SHARE == 0} or set(ranked[-1:])
    order = list(files) if in_order else ranked
    joint = b"" if in_order else SEPARATOR
    train = joint.join(files[name] for name in order if name not in apart)
    held = joint.join(files[name] for name in order if name in apart)
    if len(train) < 2 or len(held) < 2:
        raise UsageError(
            f"the text of {source!r} is too short: {len(train)} bytes to train on, {len(held)} held out",
            remedy="give it more text; a single file is split in blocks of 16 KiB, a folder by files",
        )
    whole = hashlib.sha256()
    for name in order:
        whole.update(_digest(name.encode()) + _digest(files[name]))
    return train, held, f"sha256:{whole.hexdigest()}", origin
