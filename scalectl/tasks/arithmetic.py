"""Sums, differences and products of whole numbers, digit by digit.

Two operands of a fixed number of digits, padded with zeros, and their result: `12+34=046`. The result may come with its
lowest digit first, in the order in which carries arise (Lee et al. 2023, arXiv 2307.03381), or behind a scratchpad of
the steps that lead to it (Nye et al. 2021, arXiv 2112.00114).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalectl.tasks.problems import Numbers, Space, Symbols, description, digits, padded, windows
from scalectl.tasks.windows import Description, Windows

SOURCE = "arithmetic"


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for source = "arithmetic".

    operation: add, sub or mul; digits: of each operand; base: of the digits; answer: plain, reversed (lowest digit
    first) or scratchpad (the steps, then the plain result); problems: training problems that exist, None for all.

    The steps of a sum or difference: result and carry of each digit, from the lowest up; of a product: the first
    operand times each digit of the second, from the lowest up. A negative difference begins with the minus sign.
    """

    source: str = SOURCE
    operation: Literal["add", "sub", "mul"] = "add"
    digits: int = 2
    base: int = 10
    answer: Literal["plain", "reversed", "scratchpad"] = "plain"
    problems: int | None = None


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is this task."""
    return source == SOURCE


def bad_options(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    if not 2 <= o.base <= 64:
        return [("base", f"{o.base} is not a base from 2 to 64")]
    most = 1
    while o.base ** (2 * (most + 1)) < 1 << 62:
        most += 1
    if not 1 <= o.digits <= most:
        return [("digits", f"{o.digits} is not a number of digits from 1 to {most}, the most in base {o.base}")]
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
    """All pairs of operands."""
    n, base = o.digits, o.base
    steps = {"add": 2 * n, "sub": 2 * n, "mul": n * (n + 1)}[o.operation] + 1 if o.answer == "scratchpad" else 0
    result = 2 * n if o.operation == "mul" else n + 1
    # the best blind guess: 99 + ... of all sums, a zero difference, and a product with a zero in it; each of them comes
    # about by one scratchpad alone, and no other scratchpad is as frequent
    best = {"add": base**n, "sub": base**n, "mul": 2 * base**n - 1}[o.operation] / base ** (2 * n)
    return Space(
        identity=f"arithmetic-1 {o.operation} {n} {base} {o.answer}",
        size=base ** (2 * n),
        make=functools.partial(_problems, o=o),
        answers=steps + result,
        vocab=padded(base + 2),
        final=result if steps else 0,
        chance=best,
        generated_chance=best if steps else None,
    )


def _problems(numbers: Numbers, o: Options) -> Symbols:
    """Problems by number: digits, base for the operator and the minus, base + 1 for the equals sign."""
    n, base = o.digits, o.base
    a, b = (held.astype(np.int64) for held in np.divmod(numbers, np.uint64(base**n)))
    sign, equals = np.full((len(a), 1), base), np.full((len(a), 1), base + 1)
    a_digits, b_digits = digits(a, base, n), digits(b, base, n)
    if o.operation == "mul":
        result = digits(a * b, base, 2 * n)
    elif o.operation == "add":
        result = digits(a + b, base, n + 1)
    else:
        result = digits(np.abs(a - b), base, n + 1)
        result[:, 0] = np.where(a < b, base, 0)
    parts = [a_digits, sign, b_digits, equals]
    if o.answer == "scratchpad":
        parts += [*_steps(a, a_digits, b_digits, o), equals]
    return np.concatenate([*parts, result[:, ::-1] if o.answer == "reversed" else result], axis=1)


def _steps(a: Symbols, a_digits: Symbols, b_digits: Symbols, o: Options) -> list[Symbols]:
    """What is written on the scratchpad, each of shape (n, tokens)."""
    if o.operation == "mul":
        return [digits(a * b_digits[:, i], o.base, o.digits + 1) for i in reversed(range(o.digits))]
    carry = np.zeros(len(a), dtype=np.int64)
    steps = []
    for i in reversed(range(o.digits)):
        borrows = o.operation == "sub"
        total = a_digits[:, i] - b_digits[:, i] - carry if borrows else a_digits[:, i] + b_digits[:, i] + carry
        carry = (total < 0).astype(np.int64) if borrows else total // o.base
        steps.append(np.stack([total % o.base, carry], axis=1))
    return steps
