"""A synthetic language with a known entropy rate, identical on every machine.

A second-order Markov chain: the next symbol follows a skewed law over a permutation drawn for each pair of symbols,
times a popularity that all contexts share. Popular contexts are learnt first, rare ones need capacity and data, so
loss falls smoothly with scale towards a floor that is known exactly. Tables and sampling are integer arithmetic on raw
Philox words: no floating-point rounding, and no method of numpy's Generator whose stream may change, stands between two
machines. Ours: text has no known floor, and a first-order chain is learnt by the smallest model.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scalectl.tasks.windows import Description, Windows

SCALE = 1 << 16  # probabilities are multiples of 1 / SCALE
SEGMENT = 4_097  # tokens in one independent chain
BURN_IN = 64  # steps before a chain counts; every transition has positive probability, mixing takes a few
HELD_OUT_SEGMENTS = 64


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for source = "markov".

    symbols: size of the alphabet; language: which language, a seed; length: distinct training tokens that exist;
    unique_tokens: repeat only this much of them.
    """

    source: str = "markov"
    unique_tokens: int | None = None
    symbols: int = 32
    language: int = 0
    length: int = 8_388_608


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is this language."""
    return source == "markov"


def describe(options: Options) -> Description:
    """Vocabulary, fingerprint and size; the fingerprint covers the transition table and the sampler's version."""
    table = transitions(options.symbols, options.language)
    digest = hashlib.sha256(b"markov-1" + table.astype("<i8").tobytes() + str(options.length).encode())
    return Description(
        vocab=options.symbols,
        fingerprint=f"sha256:{digest.hexdigest()}",
        origin=f"entropy rate {entropy_rate(options.symbols, options.language):.6f} nats/token",
        train_tokens=_segments(options) * SEGMENT,
        held_out_tokens=HELD_OUT_SEGMENTS * SEGMENT,
        segment=SEGMENT,
    )


def open_data(options: Options) -> Windows:
    """The language's text: independent chains, training and held-out ones from different streams."""
    return Windows(
        _chains(options.symbols, options.language, 1, _segments(options)),
        _chains(options.symbols, options.language, 2, HELD_OUT_SEGMENTS),
    )


def floor(options: Options, context: int) -> float:
    """Loss of the ideal predictor on windows of `context` targets [nats/token].

    The first target of a window has one symbol before it, every other has two.
    """
    p = transitions(options.symbols, options.language) / SCALE
    pairs = _stationary(options.symbols, options.language)
    joint = pairs[:, :, None] * p  # over (a, b, next)
    first = joint.sum(axis=0)  # over (b, next)
    one_known = -(first * np.log(first / first.sum(axis=1, keepdims=True))).sum()
    return float((one_known + (context - 1) * entropy_rate(options.symbols, options.language)) / context)


def entropy_rate(symbols: int, language: int) -> float:
    """Entropy of the next symbol given the two before it [nats]."""
    p = transitions(symbols, language) / SCALE
    return float(-(_stationary(symbols, language)[:, :, None] * p * np.log(p)).sum())


@functools.lru_cache(maxsize=8)
def transitions(symbols: int, language: int) -> npt.NDArray[np.int64]:
    """Integer probabilities, shape (symbols,) * 3: [a, b, c] is SCALE times P(c after a, b), at least 1."""
    words = np.random.Philox(key=[0x11A16, language]).random_raw(symbols**3).reshape(symbols, symbols, symbols)
    rank = np.argsort(np.argsort(words, axis=2, kind="stable"), axis=2, kind="stable")
    steep = (1 << 24) // (rank + 1) ** 2  # a context prefers few symbols
    popular = (1 << 12) // (np.arange(symbols) + 2)  # and all contexts like the same ones
    weight = steep * popular
    whole = np.maximum(1, weight * SCALE // weight.sum(axis=2, keepdims=True))
    top = np.argmax(whole, axis=2)[:, :, None]
    rest = SCALE - whole.sum(axis=2, keepdims=True)
    np.put_along_axis(whole, top, np.take_along_axis(whole, top, axis=2) + rest, axis=2)
    probabilities: npt.NDArray[np.int64] = whole
    return probabilities


@functools.lru_cache(maxsize=8)
def _stationary(symbols: int, language: int) -> npt.NDArray[np.float64]:
    """Long-run frequency of each pair of symbols, shape (symbols, symbols), by power iteration to 1e-15."""
    p = transitions(symbols, language) / SCALE
    pairs: npt.NDArray[np.float64] = np.full((symbols, symbols), 1.0 / symbols**2)
    for _ in range(10_000):
        following: npt.NDArray[np.float64] = np.einsum("ab,abc->bc", pairs, p)
        if np.abs(following - pairs).max() < 1e-15:
            break
        pairs = following
    pairs = following / following.sum()
    return pairs


def _segments(options: Options) -> int:
    unique = options.length if options.unique_tokens is None else min(options.unique_tokens, options.length)
    return max(1, unique // SEGMENT)


@functools.lru_cache(maxsize=2)
def _chains(symbols: int, language: int, stream: int, segments: int) -> npt.NDArray[Any]:
    """Independent chains of shape (segments, SEGMENT). Each draws its own words, so fewer segments are a prefix."""
    bounds = transitions(symbols, language).cumsum(axis=2).reshape(symbols**2, symbols)
    steps = SEGMENT + BURN_IN
    words = np.random.Philox(key=[0x7E47 + stream, language]).random_raw(segments * -(-steps // 4))
    draws = words.astype("<u8").view("<u2").reshape(segments, -1).T.astype(np.int64)  # four 16-bit draws a word
    chains = np.empty((SEGMENT, segments), dtype=np.uint8 if symbols <= 256 else np.int32)
    pair = np.arange(segments) % symbols**2
    for step in range(steps):
        symbol = (bounds[pair] <= draws[step][:, None]).sum(axis=1)
        pair = pair % symbols * symbols + symbol
        if step >= BURN_IN:
            chains[step - BURN_IN] = symbol
    return np.ascontiguousarray(chains.T)
