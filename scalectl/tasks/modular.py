"""Arithmetic modulo a number: `a o b = c`, one symbol for each residue (Power et al. 2022, arXiv 2201.02177)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalectl.tasks.problems import Numbers, Space, Symbols, description, is_prime, padded, windows
from scalectl.tasks.windows import Description, Windows

SOURCE = "modular"
LARGEST = 254  # residues, operator and equals sign are bytes


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for source = "modular".

    operation: add, sub, mul or div; modulus: p, a prime for div; problems: training problems that exist, None for all.
    """

    source: str = SOURCE
    operation: Literal["add", "sub", "mul", "div"] = "add"
    modulus: int = 97
    problems: int | None = None


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is this task."""
    return source == SOURCE


def bad_options(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    if not 2 <= o.modulus <= LARGEST:
        return [("modulus", f"{o.modulus} is not a number from 2 to {LARGEST}")]
    if o.operation == "div" and not is_prime(o.modulus):
        return [
            ("modulus", f"{o.modulus} is no prime, and not everything can be divided by it; use 97 or another prime")
        ]
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
    """All pairs of residues; nothing is divided by zero."""
    p = o.modulus
    return Space(
        identity=f"modular-1 {o.operation} {p}",
        size=p * (p - 1 if o.operation == "div" else p),
        make=functools.partial(_problems, o=o),
        answers=1,
        vocab=padded(p + 2),
        chance=(2 * p - 1) / p**2 if o.operation == "mul" else 1 / p,  # most products that are equal are zero
    )


def _problems(numbers: Numbers, o: Options) -> Symbols:
    """Problems by number: residues, p for the operator, p + 1 for the equals sign."""
    p = o.modulus
    a, b = numbers.astype(np.int64) % p, numbers.astype(np.int64) // p
    if o.operation == "div":
        b += 1
        a, c = a * b % p, a  # who divides a b by b gets a
    else:
        c = {"add": a + b, "sub": a - b, "mul": a * b}[o.operation] % p
    return np.stack([a, np.full_like(a, p), b, np.full_like(a, p + 1), c], axis=1)
