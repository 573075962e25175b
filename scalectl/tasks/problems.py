"""Problems with answers: numbered, split by a hash, and laid out as windows of one problem each.

A problem is a prompt and the tokens that answer it. Which of them are held out is a hash of the prompt, so that no
problem is ever on both sides, whatever the seed, the order and the number of training problems. Numbers, symbols and
hashes are integer arithmetic, on raw Philox words where they are drawn, so that two machines agree. Ours.

Legend: n problems, T tokens of a prompt, A of an answer, W = T + A.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalectl.tasks.windows import Description, Windows

Numbers = npt.NDArray[np.uint64]
Symbols = npt.NDArray[np.int64]

HELD_OUT_SHARE = 8  # one problem of so many; ours: of 10,000 it leaves 1,250 to be judged on
ENUMERATED = 1 << 20  # problems up to which a space is written out; of larger ones so many are drawn at most by default
FEWEST = 1 << 24  # prompts of a space whose problems are drawn from their number: few numbers then give one prompt
CHUNK = 1 << 16  # problems made at once
MOST_HELD_OUT = 1 << 14  # of a space that is drawn from
TRAIN, HELD = 1, 2  # streams of drawn problems


@dataclass(frozen=True)
class Space:
    """All problems of a task. Two of them are equal if their functions and settings are.

    identity: names the generator, its version and its settings; size: problems, each has a number below it; make:
    numbers -> tokens of shape (n, W); answers: A; vocab: symbols; final, chance, generated_chance: of `Description`.
    """

    identity: str
    size: int
    make: Callable[[Numbers], Symbols]
    answers: int
    vocab: int
    final: int = 0
    chance: float | None = None
    generated_chance: float | None = None


def description(space: Space, problems: int | None) -> Description:
    """What a plan has to know. problems: training problems that exist, None for all, or 2^20 of a larger space."""
    width = space.make(np.zeros(1, np.uint64)).shape[1]
    train, held = counts(space, problems)
    sample = space.make(np.arange(0, space.size, max(1, space.size // 1_024), dtype=np.uint64))
    facts = f"problems-1 {space.identity} {train} ".encode() + sample.astype("<i8").tobytes()
    return Description(
        vocab=space.vocab,
        fingerprint=f"sha256:{hashlib.sha256(facts).hexdigest()}",
        origin=f"{train} problems",
        train_tokens=train * width,
        held_out_tokens=held * width,
        segment=width,
        answers=space.answers,
        final=space.final,
        chance=space.chance,
        generated_chance=space.generated_chance,
    )


def windows(space: Space, problems: int | None) -> Windows:
    """Training problems in an order of their own, fewer of them a prefix of more, and all that are held out."""
    train, held = counts(space, problems)
    if space.size <= ENUMERATED:
        tokens, hashes = _enumerated(space)
        apart = hashes % HELD_OUT_SHARE == 0
        return Windows(tokens[~apart][:train], tokens[apart])
    return Windows(_drawn(space, TRAIN, train), _drawn(space, HELD, held))


def counts(space: Space, problems: int | None) -> tuple[int, int]:
    """Training problems and held-out problems that there are."""
    if space.size <= ENUMERATED:
        _, hashes = _enumerated(space)
        held = int(np.count_nonzero(hashes % HELD_OUT_SHARE == 0))
        return min(problems or space.size, space.size - held), held
    # half of a space takes two draws for a new problem on average, all of it would take forever
    return min(problems or ENUMERATED, space.size // 2), MOST_HELD_OUT


@functools.lru_cache(maxsize=4)
def _enumerated(space: Space) -> tuple[npt.NDArray[np.uint8], Numbers]:
    """Every problem in the order of its hash, and the hashes."""
    parts = [_made(space, np.arange(begin, min(begin + CHUNK, space.size))) for begin in range(0, space.size, CHUNK)]
    tokens, hashes = (np.concatenate(held) for held in zip(*parts, strict=True))
    order = np.argsort(hashes, kind="stable")
    return tokens[order], hashes[order]


@functools.lru_cache(maxsize=4)
def _drawn(space: Space, stream: int, count: int) -> npt.NDArray[np.uint8]:
    """Different problems of one side of the split, in the order in which they are drawn."""
    key = int.from_bytes(hashlib.sha256(space.identity.encode()).digest()[:8], "little")
    words = np.random.Philox(key=[stream, key])
    tokens: list[npt.NDArray[np.uint8]] = []
    seen: list[Numbers] = []
    known = 0
    while known < count:
        made, hashes = _made(space, words.random_raw(CHUNK) % np.uint64(space.size))
        side = (hashes % HELD_OUT_SHARE == 0) == (stream == HELD)
        tokens.append(made[side])
        seen.append(hashes[side])
        _, first = np.unique(np.concatenate(seen), return_index=True)
        known = len(first)
    return np.concatenate(tokens)[np.sort(first)[:count]]


def _made(space: Space, numbers: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.uint8], Numbers]:
    """Problems, and the hash of each prompt."""
    tokens = space.make(numbers.astype(np.uint64)).astype(np.uint8)
    return tokens, hashed(tokens[:, : tokens.shape[1] - space.answers])


def hashed(tokens: npt.NDArray[np.integer]) -> Numbers:
    """A hash of each row, token by token, by the finaliser of splitmix64 (Steele et al. 2014)."""
    found = np.full(len(tokens), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in tokens.T:
        found = mixed(found + column.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    return found


def mixed(numbers: Numbers) -> Numbers:
    """Numbers whose bits all depend on all bits of these (splitmix64; Steele et al. 2014)."""
    held = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    held = (held ^ (held >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Numbers = held ^ (held >> np.uint64(31))
    return found


def digits(numbers: npt.NDArray[np.integer], base: int, count: int) -> Symbols:
    """The last `count` digits of each number, the highest first, shape (n, count)."""
    found = np.empty((len(numbers), count), dtype=np.int64)
    rest = numbers.astype(np.int64)
    for place in range(count - 1, -1, -1):
        rest, found[:, place] = np.divmod(rest, base)
    return found


def drawn(numbers: Numbers, draw: int, count: int) -> Symbols:
    """The draw of that place from a number: below `count`, shape (n,). A remainder's bias is count / 2^64."""
    words = mixed(mixed(numbers + np.uint64(0x9E3779B97F4A7C15)) + np.uint64(draw))
    return (words % np.uint64(count)).astype(np.int64)


def capped(size: int) -> int:
    """Problems that 63 bits can number."""
    return min(size, 1 << 63)


def is_prime(number: int) -> bool:
    """Whether a small number has no divisors."""
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def padded(symbols: int) -> int:
    """A vocabulary of at least so many symbols whose table packs: rows of 8 times 4 are whole vectors (sweep.pack)."""
    return -(-symbols // 4) * 4
