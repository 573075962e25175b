"""A sequence in reverse order: `abcd|dcba`. Every place of the answer looks back to a place of its own; ours."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from scalectl.tasks.problems import Numbers, Space, Symbols, description, digits, padded, windows
from scalectl.tasks.windows import Description, Windows

SOURCE = "reverse"


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for source = "reverse".

    symbols: that a sequence is made of; places: of a sequence; problems: training problems that exist, None for all.
    """

    source: str = SOURCE
    symbols: int = 15
    places: int = 8
    problems: int | None = None


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is this task."""
    return source == SOURCE


def bad_options(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    if not 2 <= o.symbols <= 255:
        return [("symbols", f"{o.symbols} is not a number from 2 to 255")]
    most = 1
    while o.symbols ** (most + 1) < 1 << 62:
        most += 1
    if not 1 <= o.places <= most:
        return [("places", f"{o.places} is not a number from 1 to {most}, the most with {o.symbols} symbols")]
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


@functools.lru_cache(maxsize=16)
def space(o: Options) -> Space:
    """All sequences."""
    return Space(
        identity=f"reverse-1 {o.symbols} {o.places}",
        size=o.symbols**o.places,
        make=functools.partial(_problems, o=o),
        answers=o.places,
        vocab=padded(o.symbols + 1),
        chance=float(o.symbols) ** -o.places,
    )


def _problems(numbers: Numbers, o: Options) -> Symbols:
    """Problems by number: a sequence, `symbols` for the bar, and the sequence from its end."""
    sequence = digits(numbers, o.symbols, o.places)
    return np.concatenate([sequence, np.full((len(sequence), 1), o.symbols), sequence[:, ::-1]], axis=1)
