"""Windows of a token array: which tokens a batch holds, as a pure function of (seed, step).

An array is a set of segments of equal length; a window never crosses a segment. Each epoch visits every window once,
in an order drawn from (seed, epoch), so that `epochs` counts real repetitions (Muennighoff et al. 2023, arXiv
2305.16264).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DATA_STREAM = 0x5CA1EC71  # keeps data draws apart from every other use of the same seed


@dataclass(frozen=True)
class Description:
    """What a plan has to know of a task's data.

    vocab: symbols; fingerprint: digest of everything a run could see; origin: what else names it;
    train_tokens: distinct training tokens; held_out_tokens: tokens kept apart; bytes_per_token: of text, None if no
    text; segment: tokens in one segment, which no window crosses, None where all of the text is one.
    """

    vocab: int
    fingerprint: str
    origin: str
    train_tokens: int
    held_out_tokens: int
    bytes_per_token: float | None
    segment: int | None = None

    @property
    def longest(self) -> int:
        """Tokens in the longest stretch that holds a window for training and one to be judged on."""
        return min(self.train_tokens, self.held_out_tokens, self.segment or self.train_tokens)

    def reachable(self, context: int) -> int:
        """Distinct training tokens that windows of this context hold as targets: one epoch.

        The rest of a segment that is shorter than a window is never seen.
        """
        segment = self.segment or self.train_tokens
        return self.train_tokens // segment * ((segment - 1) // context) * context


@functools.lru_cache(maxsize=256)
def _order(seed: int, epoch: int, windows: int) -> npt.NDArray[np.int64]:
    key = np.random.SeedSequence([DATA_STREAM, seed, epoch])
    return np.random.Generator(np.random.Philox(key)).permutation(windows)


@dataclass(frozen=True)
class Windows:
    """A training array and a held-out array.

    train, held: integer arrays of shape (segments, length), contiguous.
    """

    train: npt.NDArray[Any]
    held: npt.NDArray[Any]

    def batch(self, seed: int, step: int, sequences: int, context: int) -> npt.NDArray[np.int64]:
        """Training tokens of shape (sequences, context + 1).

        Raises: ValueError if a segment is shorter than one window.
        """
        per_segment = _per_segment(self.train, context)
        windows = self.train.shape[0] * per_segment
        index = step * sequences + np.arange(sequences)
        picked = np.empty(sequences, dtype=np.int64)
        for epoch in range(index[0] // windows, index[-1] // windows + 1):
            inside = index // windows == epoch
            picked[inside] = _order(seed, epoch, windows)[index[inside] % windows]
        return _gather(self.train, picked, per_segment, context)

    def held_out(self, tokens: int, context: int) -> npt.NDArray[np.int64]:
        """The fixed held-out set, evenly spread: shape (min(tokens // context, what there is), context + 1)."""
        per_segment = _per_segment(self.held, context)
        windows = self.held.shape[0] * per_segment
        count = min(max(1, tokens // context), windows)
        return _gather(self.held, np.arange(count) * windows // count, per_segment, context)


def _per_segment(array: npt.NDArray[Any], context: int) -> int:
    windows: int = (array.shape[1] - 1) // context
    if windows < 1:
        raise ValueError(f"{array.shape[1]} tokens are fewer than one window of {context} + 1")
    return windows


def _gather(
    array: npt.NDArray[Any], picked: npt.NDArray[np.int64], per_segment: int, context: int
) -> npt.NDArray[np.int64]:
    begin = picked // per_segment * array.shape[1] + picked % per_segment * context
    taken: npt.NDArray[np.int64] = array.reshape(-1)[begin[:, None] + np.arange(context + 1)].astype(np.int64)
    return taken
