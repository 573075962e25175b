"""The parity of n bits, at once or by running parities on a scratchpad.

At once it takes a depth or a width that grows with n; bit by bit it is easy (Wies et al. 2022, arXiv 2204.02892).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from scalectl.tasks.problems import Numbers, Space, Symbols, description, digits, padded, windows
from scalectl.tasks.windows import Description, Windows

SOURCE = "parity"
EQUALS = 2


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for source = "parity".

    bits: n; scratchpad: whether the parities of the first bit, of the first two and so on are written, the last of
    which is the answer; problems: training problems that exist, None for all, or 2^20 where there are more.
    """

    source: str = SOURCE
    bits: int = 12
    scratchpad: bool = False
    problems: int | None = None


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is this task."""
    return source == SOURCE


def bad_options(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    return [] if 4 <= o.bits <= 60 else [("bits", f"{o.bits} is not a number of bits from 4 to 60")]


def describe(options: Options) -> Description:
    """Vocabulary, fingerprint, size and answers."""
    return description(space(options), options.problems)


def open_data(options: Options) -> Windows:
    """Problems as windows."""
    return windows(space(options), options.problems)


def floor(options: Options, context: int) -> float:
    """Every answer follows from its prompt."""
    return 0.0


@functools.lru_cache(maxsize=16)
def space(o: Options) -> Space:
    """All strings of n bits."""
    return Space(
        identity=f"parity-1 {o.bits} {o.scratchpad}",
        size=1 << o.bits,
        make=functools.partial(_problems, o=o),
        answers=o.bits if o.scratchpad else 1,
        vocab=padded(EQUALS + 1),
        final=1 if o.scratchpad else 0,
        chance=0.5 ** (o.bits if o.scratchpad else 1),
        generated_chance=0.5 if o.scratchpad else None,
    )


def _problems(numbers: Numbers, o: Options) -> Symbols:
    bits = digits(numbers, 2, o.bits)
    parities = bits.cumsum(axis=1) % 2
    equals = np.full((len(bits), 1), EQUALS)
    return np.concatenate([bits, equals, parities if o.scratchpad else parities[:, -1:]], axis=1)
