"""Multitask sparse parity: many tasks of equal difficulty, each as rare as a power law has it.

A prompt names its subtask by one of as many bits, and holds n bits of which the subtask looks at k that are its own:
the answer is their parity. How often a subtask occurs falls with its rank as rank^-(alpha + 1). Each is learnt at once
or not at all, and the mean loss falls smoothly: with N parameters like N^-alpha, if each takes as many of them.
Source: Michaud et al. 2023, arXiv 2303.13506 (the quantization model of neural scaling).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from scalectl.tasks.problems import HELD, HELD_OUT_SHARE, TRAIN, Numbers, mixed
from scalectl.tasks.windows import Description, Windows

SOURCE = "multitask-parity"
SCALE = 1 << 32  # shares are multiples of 1 / SCALE
JUDGED = 1_024  # held-out problems of each subtask
DRAWS = 1 << 16  # problems drawn at once


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for source = "multitask-parity".

    subtasks: how many; bits: n, of which each subtask looks at k that no other has together; alpha: of the power law
    of their frequencies; choice: which bits belong to which subtask, a seed; problems: training problems that exist;
    alone: how many of the most frequent have scores of their own beside the mean of all, 0 for every one.
    """

    source: str = SOURCE
    subtasks: int = 64
    bits: int = 32
    k: int = 3
    alpha: float = 0.4
    choice: int = 0
    problems: int = 1 << 20
    alone: int = 0


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is this task."""
    return source == SOURCE


def bad_options(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    found = []
    if not 1 <= o.subtasks <= 1_000:
        found.append(("subtasks", f"{o.subtasks} is not a number of subtasks from 1 to 1000"))
    if not 10 <= o.bits <= 48:
        found.append(("bits", f"{o.bits} is not a number of bits from 10 to 48"))
    elif not 1 <= o.k <= o.bits:
        found.append(("k", f"{o.k} is not a number from 1 to bits = {o.bits}"))
    elif o.subtasks > math.comb(o.bits, o.k):
        most = f"{o.k} of {o.bits} bits can be chosen in {math.comb(o.bits, o.k)} ways; use more bits"
        found.append(("subtasks", f"{o.subtasks} subtasks have no bits of their own: {most}"))
    if not 0 <= o.alone <= o.subtasks:
        found.append(("alone", f"{o.alone} is not a number from 0 to subtasks = {o.subtasks}"))
    return found


def describe(o: Options) -> Description:
    """Fingerprint, size, and the share of each subtask."""
    width = o.subtasks + o.bits + 1
    share = _bounds(o.subtasks, o.alpha)
    facts = b"multitask-parity-1" + share.tobytes() + _masks(o).tobytes() + str((o.bits, o.problems)).encode()
    facts += f" alone {o.alone}".encode() if o.alone else b""
    return Description(
        vocab=2,
        fingerprint=f"sha256:{hashlib.sha256(facts).hexdigest()}",
        origin=f"{o.problems} problems",
        train_tokens=o.problems * width,
        held_out_tokens=o.subtasks * JUDGED * width,
        segment=width,
        answers=1,
        chance=0.5,
        subtasks=tuple((np.diff(share, prepend=np.uint64(0)) / SCALE).tolist()),
        alone=o.alone or o.subtasks,
    )


def open_data(o: Options) -> Windows:
    """Problems as windows: training ones as often as their subtask, held-out ones equally often, one after another."""
    bounds = _bounds(o.subtasks, o.alpha)

    def by_share(words: Numbers) -> npt.NDArray[np.int64]:
        return np.searchsorted(bounds, words >> np.uint64(32), side="right")

    train = _tokens(o, *_drawn(o, TRAIN, o.problems, by_share))
    parts = [
        _drawn(o, HELD + subtask, JUDGED, lambda words, k=subtask: np.full(len(words), k))  # type: ignore[misc]
        for subtask in range(o.subtasks)
    ]
    subtask, bits = (np.concatenate(held) for held in zip(*parts, strict=True))
    return Windows(train, _tokens(o, subtask, bits), subtask=subtask)


def floor(o: Options, context: int) -> float:
    """Every answer follows from its prompt."""
    return 0.0


@functools.lru_cache(maxsize=8)
def _bounds(subtasks: int, alpha: float) -> Numbers:
    """Upper bounds of the shares, the last one SCALE. In decimals, whose powers are the same on every machine."""
    weights = [Decimal(rank) ** -(Decimal(str(alpha)) + 1) for rank in range(1, subtasks + 1)]
    total = sum(weights)
    shares = [int(weight / total * SCALE) for weight in weights]
    shares[0] += SCALE - sum(shares)
    bounds: Numbers = np.cumsum(np.array(shares, dtype=np.uint64))
    return bounds


def _masks(o: Options) -> Numbers:
    """The bits of each subtask as a number, no two alike: with bits in common, one is learnt as soon as the other."""
    stream = np.random.Philox(key=[0x9A217, o.choice])
    found: dict[int, None] = {}
    while len(found) < o.subtasks:
        words = stream.random_raw(o.subtasks * o.bits).reshape(o.subtasks, o.bits)
        picked = np.argsort(words, axis=1, kind="stable")[:, : o.k].astype(np.uint64)
        found |= dict.fromkeys(np.bitwise_or.reduce(np.uint64(1) << picked, axis=1).tolist())
    return np.array(list(found)[: o.subtasks], dtype=np.uint64)


def _drawn(
    o: Options, stream: int, count: int, pick: Callable[[Numbers], npt.NDArray[np.int64]]
) -> tuple[npt.NDArray[np.int64], Numbers]:
    """Subtask and bits of problems of one side of the split; fewer of them are a prefix of more."""
    words = np.random.Philox(key=[stream, o.choice])
    found: list[tuple[npt.NDArray[np.int64], Numbers]] = []
    known = 0
    while known < count:
        first, second = words.random_raw(2 * DRAWS if stream == TRAIN else 2 * JUDGED * HELD_OUT_SHARE).reshape(-1, 2).T
        subtask, bits = pick(first), second >> np.uint64(64 - o.bits)
        number = subtask.astype(np.uint64) << np.uint64(o.bits) | bits
        side = (mixed(mixed(number) + np.uint64(o.bits)) % HELD_OUT_SHARE == 0) == (stream != TRAIN)
        found.append((subtask[side], bits[side]))
        known += int(side.sum())
    subtasks, drawn = zip(*found, strict=True)
    return np.concatenate(subtasks)[:count], np.concatenate(drawn)[:count]


def _tokens(o: Options, subtask: npt.NDArray[np.int64], bits: Numbers) -> npt.NDArray[np.uint8]:
    """Prompts and answers, shape (n, subtasks + bits + 1)."""
    found = np.zeros((len(bits), o.subtasks + o.bits + 1), dtype=np.uint8)
    found[np.arange(len(bits)), subtask] = 1
    asked = bits & _masks(o)[subtask]
    parity = found[:, -1]
    for i in range(o.bits):
        place = np.uint64(i)
        found[:, o.subtasks + i] = bits >> place & np.uint64(1)
        parity ^= (asked >> place & np.uint64(1)).astype(np.uint8)
    return found
