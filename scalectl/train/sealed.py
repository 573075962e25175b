"""Tensors and plain numbers as bytes, read back with `weights_only` so that a file can run no code.

The bytes are a mark, the SHA-256 of the rest, then what torch wrote: torch reads a flipped bit without a word.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import torch

_DIGEST = hashlib.sha256().digest_size


class Broken(Exception):
    """Bytes that are not what was sealed, with the reason."""


def seal(mark: bytes, content: Mapping[str, Any]) -> bytes:
    """The bytes of a file. content: with its `version`."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    payload = buffer.getvalue()
    return mark + hashlib.sha256(payload).digest() + payload


def unseal(mark: bytes, data: bytes) -> dict[str, Any]:
    """What was sealed, on the CPU. Raises: Broken."""
    head, payload = data[: len(mark) + _DIGEST], data[len(mark) + _DIGEST :]
    if head != mark + hashlib.sha256(payload).digest():
        raise Broken("its digest does not match")
    try:
        held: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        int(held["version"])
    except Exception as error:  # torch raises many kinds on a hostile file
        raise Broken(type(error).__name__) from error
    return held
