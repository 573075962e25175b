"""How attention on a CPU goes through its queries. Torch-free: what it keeps is part of a plan's memory."""

from __future__ import annotations

import functools

BLOCK = 32  # queries in a block: whole blocks of the future, and of what lies before a window, are never computed


@functools.lru_cache(maxsize=64)
def blocks(T: int) -> tuple[tuple[int, int], ...]:
    """First and end query of each block of T queries."""
    if T <= 2 * BLOCK or T % BLOCK:
        return ((0, T),)
    return tuple((a, a + BLOCK) for a in range(0, T, BLOCK))


def first_key(query: int, window: int) -> int:
    """The first key that a block of queries looks at, a whole block. window: keys that a query sees, 0 for all."""
    return max(0, query - window + 1) // BLOCK * BLOCK if window else 0


@functools.lru_cache(maxsize=64)
def spans(T: int, S: int, window: int | None) -> tuple[tuple[int, int, int, int], ...]:
    """First and end query of each block, and first and end key that it looks at.

    Args: T, S: queries and keys; window: of a causal mask, None for none, where all queries are one block.
    """
    if window is None:
        return ((0, T, 0, S),)
    return tuple((a, b, first_key(a, window), b) for a, b in blocks(T))


def weights(T: int, window: int) -> tuple[int, ...]:
    """Weights of one head in each block of T queries."""
    return tuple((b - a) * (b - first_key(a, window)) for a, b in blocks(T))
