"""Copying what followed a symbol when it occurred before, which induction heads do (Olsson et al. 2022, 2209.11895).

A prompt of random symbols ends with one that stands in it once before; the answer is what came after it there.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from scalectl.tasks.problems import FEWEST, Numbers, Space, Symbols, capped, description, drawn, padded, windows
from scalectl.tasks.windows import Description, Windows

SOURCE = "induction"


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for source = "induction".

    symbols: size of the alphabet; length: symbols in a prompt; problems: training problems that exist, 2^20 if None.
    """

    source: str = SOURCE
    symbols: int = 32
    length: int = 16
    problems: int | None = None


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is this task."""
    return source == SOURCE


def bad_options(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    if not 3 <= o.symbols <= 256:
        return [("symbols", f"{o.symbols} is not a number of symbols from 3 to 256")]
    if not 4 <= o.length <= 1_024:
        return [("length", f"{o.length} is not a number of symbols from 4 to 1024")]
    if prompts(o) < FEWEST:
        return [("length", f"{o.length} of {o.symbols} symbols make {prompts(o)} prompts, too few; use longer ones")]
    return []


def describe(options: Options) -> Description:
    """Vocabulary, fingerprint, size and answers."""
    return description(space(options), options.problems)


def open_data(options: Options) -> Windows:
    """Problems as windows."""
    return windows(space(options), options.problems)


def floor(options: Options, context: int) -> float:
    """Every answer follows from its prompt."""
    return 0.0


def prompts(o: Options) -> int:
    """Different prompts: a repeated symbol, its place, and others between."""
    return o.symbols * (o.length - 2) * int((o.symbols - 1) ** (o.length - 2))


@functools.lru_cache(maxsize=16)
def space(o: Options) -> Space:
    """Prompts drawn from their number."""
    return Space(
        identity=f"induction-1 {o.symbols} {o.length}",
        size=capped(prompts(o)),
        make=functools.partial(_problems, o=o),
        answers=1,
        vocab=padded(o.symbols),
        chance=1 / o.symbols,
    )


def _problems(numbers: Numbers, o: Options) -> Symbols:
    repeated = drawn(numbers, 0, o.symbols)
    place = drawn(numbers, 1, o.length - 2)
    tokens = np.empty((len(numbers), o.length + 1), dtype=np.int64)
    for i in range(o.length):
        other = drawn(numbers, 2 + i, o.symbols - 1)
        tokens[:, i] = other + (other >= repeated)  # any symbol but the repeated one
    rows = np.arange(len(numbers))
    tokens[rows, place] = repeated
    tokens[:, -2] = repeated
    tokens[:, -1] = tokens[rows, place + 1]
    return tokens
