"""Windows of a token array: which tokens a batch holds, as a pure function of (seed, step).

An array is a set of segments of equal length; a window never crosses a segment. Each epoch visits every window once,
in an order drawn from (seed, epoch), so that `epochs` counts real repetitions (Muennighoff et al. 2023, arXiv
2305.16264).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

DATA_STREAM = 0x5CA1EC71  # keeps data draws apart from every other use of the same seed
ORDER_BYTES = 1 << 30  # of orders kept at once; ours: 25 seeds over 10^9 tokens in windows of 96


Kind = Literal["text", "problems", "images"]  # of data: what their sequences are


@dataclass(frozen=True)
class ImageShape:
    """side: of an image [pixels]; channels: numbers of a pixel; levels: the largest of them, the smallest is 0."""

    side: int
    channels: int
    levels: int


@dataclass(frozen=True)
class Description:
    """What a plan has to know of a task's data.

    vocab: symbols; fingerprint: digest of everything a run could see; origin: what else names it;
    train_tokens: distinct training tokens; held_out_tokens: tokens kept apart; segment: tokens in one segment, which
    no window crosses, None where all of the text is one.

    Of a task with answers a segment is one problem, and the context of a model follows from it. answers: tokens at its
    end that alone are judged; final: of these the last ones that are asked for, where a scratchpad comes first, else 0;
    chance: how often the best answer is right that does not read the prompt, generated_chance: how often its final
    tokens are; subtasks: share of each of them among training problems, () for one task; alone: how many of them, from
    the first on, have scores of their own.

    image: of images with a class, which is their answer; vocab then are the classes, and train_tokens and
    held_out_tokens count images, since how many tokens one is depends on the model.
    """

    vocab: int
    fingerprint: str
    origin: str
    train_tokens: int
    held_out_tokens: int
    segment: int | None = None
    answers: int = 0
    final: int = 0
    chance: float | None = None
    generated_chance: float | None = None
    subtasks: tuple[float, ...] = ()
    alone: int = 0
    image: ImageShape | None = None

    @property
    def given(self) -> dict[str, int]:
        """Options of a model that the data settle, by name."""
        if self.image is not None:
            shape = self.image
            return {
                "image": shape.side,
                "channels": shape.channels,
                "levels": shape.levels,
                "classes": self.vocab,
            }
        if self.context is not None:
            return {"vocab": self.vocab, "answers": self.answers, "context": self.context}
        return {"vocab": self.vocab}

    @property
    def context(self) -> int | None:
        """Inputs of one problem; None where models choose."""
        return self.segment - 1 if self.segment and self.answers else None

    @property
    def longest(self) -> int:
        """Tokens in the longest stretch that holds a window for training and one to be judged on."""
        return min(self.train_tokens, self.held_out_tokens, self.segment or self.train_tokens)

    def tokens(self, context: int) -> tuple[int, int]:
        """Distinct training tokens and held-out tokens that exist, for a model of this context."""
        each = 1 if self.image is None else context
        return self.train_tokens * each, self.held_out_tokens * each

    def reachable(self, context: int) -> int:
        """Distinct training tokens that windows of this context hold as targets: one epoch.

        The rest of a segment that is shorter than a window is never seen.
        """
        if self.image is not None:
            return self.train_tokens * context
        segment = self.segment or self.train_tokens
        return self.train_tokens // segment * ((segment - 1) // context) * context


class _Orders:
    """Orders of windows, the least recently used of them forgotten beyond `ORDER_BYTES`."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[int, int, int], npt.NDArray[Any]] = OrderedDict()

    def __call__(self, seed: int, epoch: int, windows: int) -> npt.NDArray[Any]:
        """Every window once, shape (windows,), as small as its numbers allow: 10^7 windows take 40 MB and 2.4 s."""
        key = (seed, epoch, windows)
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        stream = np.random.SeedSequence([DATA_STREAM, seed, epoch])
        order = np.arange(windows, dtype=np.int32 if windows < 1 << 31 else np.int64)
        np.random.Generator(np.random.Philox(stream)).shuffle(order)
        self.kept[key] = order
        while sum(held.nbytes for held in self.kept.values()) > ORDER_BYTES and len(self.kept) > 1:
            self.kept.popitem(last=False)
        return order


_order = _Orders()


@dataclass(frozen=True)
class Windows:
    """A training array and a held-out array.

    train, held: integer arrays of shape (segments, length), contiguous, in memory or mapped from a file;
    token_bytes: bytes of text that each symbol stands for, shape (vocab,), None if the data are no text; subtask: of
    each held-out segment, by its number from 0, shape (segments,), None for one task; whole: a segment is one window
    whatever the context, as an image and its class are.
    """

    train: npt.NDArray[Any]
    held: npt.NDArray[Any]
    token_bytes: npt.NDArray[Any] | None = None
    subtask: npt.NDArray[np.int64] | None = None
    whole: bool = False

    def width(self, context: int) -> int:
        """Numbers in a window."""
        return int(self.train.shape[1]) if self.whole else context + 1

    def begins(self, seeds: Sequence[int], steps: Sequence[int], sequences: int, context: int) -> npt.NDArray[np.int64]:
        """Where the windows of some batches begin in the flat training array, shape (batches, sequences).

        Args: seeds, steps: of each batch.
        Raises: ValueError if a segment is shorter than one window.
        """
        inputs = self.width(context) - 1
        per_segment = _per_segment(self.train, inputs)
        windows = self.train.shape[0] * per_segment
        picked = np.empty((len(seeds), sequences), dtype=np.int64)
        for row, seed, step in zip(picked, seeds, steps, strict=True):
            done = 0
            while done < sequences:  # once, but where a batch straddles epochs
                epoch, first = divmod(step * sequences + done, windows)
                taken = min(sequences - done, windows - first)
                row[done : done + taken] = _order(seed, epoch, windows)[first : first + taken]
                done += taken
        return _begins(self.train, picked, per_segment, inputs)

    def batches(
        self, seeds: Sequence[int], steps: Sequence[int], sequences: int, context: int
    ) -> npt.NDArray[np.int64]:
        """Training tokens of a pack, one batch a model, in one gather: shape (batches, sequences, width)."""
        return _gather(self.train, self.begins(seeds, steps, sequences, context), self.width(context) - 1)

    def batch(self, seed: int, step: int, sequences: int, context: int) -> npt.NDArray[np.int64]:
        """Training tokens of shape (sequences, width).

        Raises: ValueError if a segment is shorter than one window.
        """
        found: npt.NDArray[np.int64] = self.batches((seed,), (step,), sequences, context)[0]
        return found

    def held_out(self, tokens: int, context: int) -> npt.NDArray[np.int64]:
        """The fixed held-out set, evenly spread: shape (min(tokens // context, what there is), width)."""
        inputs = self.width(context) - 1
        begins = _begins(self.held, self._judged(tokens, context), _per_segment(self.held, inputs), inputs)
        return _gather(self.held, begins, inputs)

    def subtasks(self, tokens: int, context: int) -> npt.NDArray[np.int64] | None:
        """The subtask of each sequence of this held-out set, shape (sequences,), None for one task."""
        if self.subtask is None:
            return None
        per_segment = _per_segment(self.held, self.width(context) - 1)
        found: npt.NDArray[np.int64] = self.subtask[self._judged(tokens, context) // per_segment]
        return found

    def _judged(self, tokens: int, context: int) -> npt.NDArray[np.int64]:
        """Numbers of the windows of a held-out set."""
        windows = self.held.shape[0] * _per_segment(self.held, self.width(context) - 1)
        count = min(max(1, tokens // context), windows)
        numbers: npt.NDArray[np.int64] = np.arange(count, dtype=np.int64) * windows // count
        return numbers

    def bytes_per_token(self, tokens_BT1: npt.NDArray[np.int64]) -> float | None:
        """Bytes of text that a target of these windows stands for, on average; None if the data are no text.

        Nats per token over ln 2 and over this are bits per byte of exactly the text that was judged: the mean over the
        whole held-out text is that of other text. Ours.
        """
        if self.token_bytes is None:
            return None
        return float(self.token_bytes[tokens_BT1[:, 1:]].mean())


def _per_segment(array: npt.NDArray[Any], context: int) -> int:
    windows: int = (array.shape[1] - 1) // context
    if windows < 1:
        raise ValueError(f"{array.shape[1]} tokens are fewer than one window of {context} + 1")
    return windows


def _begins(
    array: npt.NDArray[Any], picked: npt.NDArray[np.int64], per_segment: int, context: int
) -> npt.NDArray[np.int64]:
    """Where numbered windows begin in the flat array."""
    if array.shape[0] == 1:
        return picked * context
    begins: npt.NDArray[np.int64] = picked // per_segment * array.shape[1] + picked % per_segment * context
    return begins


def _gather(array: npt.NDArray[Any], begins: npt.NDArray[np.int64], context: int) -> npt.NDArray[np.int64]:
    """The windows at these positions, in one gather.

    Rows of a view in which row i is the window at i are copied whole: 4-5x faster than an index for every token.
    """
    flat, size = array.reshape(-1), array.itemsize
    windows: npt.NDArray[Any] = np.ndarray(
        (len(flat) - context, context + 1), flat.dtype, buffer=flat, strides=(size, size)
    )
    return windows[begins].astype(np.int64)
