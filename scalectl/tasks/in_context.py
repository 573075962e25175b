"""Learning from examples in the prompt: labels of items, or a line modulo a prime, both new in every problem.

A prompt holds pairs of an item and its value, and then an item; the answer is its value. Classification: labels are
drawn for the items of the prompt, and the last item is one of them (Chan et al. 2022, arXiv 2205.05055, small and
discrete). Regression: y = a x + b modulo p with a and b drawn, and the last x is a new one (Garg et al. 2022, arXiv
2208.01066, over residues).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalectl.tasks.problems import (
    FEWEST,
    Numbers,
    Space,
    Symbols,
    capped,
    description,
    drawn,
    is_prime,
    padded,
    windows,
)
from scalectl.tasks.windows import Description, Windows

SOURCE = "in-context"


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for source = "in-context".

    kind: classification or regression; symbols: items, for regression the prime p; labels: of classification; shots:
    examples in a prompt; problems: training problems that exist, 2^20 if None.
    """

    source: str = SOURCE
    kind: Literal["classification", "regression"] = "classification"
    symbols: int = 31
    labels: int = 4
    shots: int = 8
    problems: int | None = None


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is this task."""
    return source == SOURCE


def bad_options(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    regression = o.kind == "regression"
    if regression and not is_prime(o.symbols):
        return [("symbols", f"{o.symbols} is no prime, and two examples would not settle a line; use 31 or another")]
    if not 2 <= o.labels <= 128:
        return [("labels", f"{o.labels} is not a number of labels from 2 to 128")]
    if not 3 <= o.symbols <= (256 if regression else 256 - o.labels):
        return [("symbols", f"{o.symbols} symbols and {o.labels} labels are not 3 to 256")]
    most = o.symbols - 1 if regression else o.symbols
    if not 2 <= o.shots <= most:
        return [("shots", f"{o.shots} is not a number of different examples from 2 to {most}")]
    if prompts(o) < FEWEST:
        return [("shots", f"{o.shots} examples of {o.symbols} symbols make {prompts(o)} prompts, too few; use more")]
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
    """Different prompts: items in an order, their values, and the last item."""
    if o.kind == "regression":
        return math.perm(o.symbols, o.shots + 1) * o.symbols * o.symbols
    return math.perm(o.symbols, o.shots) * int(o.labels**o.shots) * o.shots


@functools.lru_cache(maxsize=16)
def space(o: Options) -> Space:
    """Prompts drawn from their number."""
    regression = o.kind == "regression"
    return Space(
        identity=f"in-context-1 {o.kind} {o.symbols} {o.labels} {o.shots}",
        size=capped(prompts(o)),
        make=functools.partial(_problems, o=o),
        answers=1,
        vocab=padded(o.symbols if regression else o.symbols + o.labels),
        chance=1 / (o.symbols if regression else o.labels),
    )


def _problems(numbers: Numbers, o: Options) -> Symbols:
    """Items below `symbols`; labels behind them, residues the same symbols as items."""
    words = np.stack([drawn(numbers, 3 + i, 1 << 62) for i in range(o.symbols)], axis=1)
    items = np.argsort(words, axis=1, kind="stable")[:, : o.shots + 1]
    rows = np.arange(len(numbers))
    if o.kind == "regression":
        a, b = drawn(numbers, 0, o.symbols), drawn(numbers, 1, o.symbols)
        values = (a[:, None] * items + b[:, None]) % o.symbols
        last = np.full(len(numbers), o.shots)
    else:
        values = np.stack([drawn(numbers, 3 + o.symbols + i, o.labels) for i in range(o.shots)], axis=1) + o.symbols
        last = drawn(numbers, 2, o.shots)
    pairs = np.stack([items[:, : o.shots], values[:, : o.shots]], axis=2).reshape(len(numbers), -1)
    return np.concatenate([pairs, items[rows, last][:, None], values[rows, last][:, None]], axis=1)
