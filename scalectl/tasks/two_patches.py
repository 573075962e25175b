"""Do two far patches match? Images of noise whose class is 1 if two opposite corners are the same, else 0.

A relation over the largest distance that an image has: one layer of attention can see both corners, a convolution only
as far as its kernels add up. Every number is integer arithmetic on raw Philox words, so that two machines agree. Ours.

Legend: n images, N pixels.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalectl.tasks.images import description
from scalectl.tasks.windows import Description, ImageShape, Windows

SOURCE = "two-patches"
HELD_OUT = 2_048
TRAIN, HELD = 1, 2  # streams of the images


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for source = "two-patches".

    images: training images that exist, fewer of them a prefix of more; side: of an image [pixels]; corner: side of the
    corners that match or not [pixels], at most half of it; levels: the largest number of a pixel.
    """

    source: str = SOURCE
    images: int = 65_536
    side: int = 8
    corner: int = 2
    levels: int = 1


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is this task."""
    return source == SOURCE


def bad_options(o: Options) -> list[tuple[str, str]]:
    """What is wrong with a combination of options: (key, sentence with the remedy)."""
    if not 2 <= o.side <= 64:
        return [("side", f"{o.side} is not a side from 2 to 64")]
    if not 1 <= o.corner <= o.side // 2:
        return [("corner", f"{o.corner} is not a side from 1 to {o.side // 2}, half of the image's")]
    if not 1 <= o.levels <= 255:
        return [("levels", f"{o.levels} is not a number from 1 to 255")]
    return []


def floor(options: Options, context: int) -> float:
    """Every class follows from its image."""
    return 0.0


def describe(options: Options) -> Description:
    """Shape, fingerprint and size."""
    data = open_data(options)
    shape = ImageShape(side=options.side, channels=1, levels=options.levels)
    return description(shape, 2, f"two-patches-1 {options.side} {options.corner}", data.train, data.held)


def open_data(options: Options) -> Windows:
    """The images; half of them match, as far as fair coins do."""
    shape = (options.side, options.corner, options.levels)
    return Windows(_drawn(*shape, TRAIN, options.images), _drawn(*shape, HELD, HELD_OUT), whole=True)


@functools.lru_cache(maxsize=4)
def _drawn(side: int, corner: int, levels: int, stream: int, count: int) -> npt.NDArray[np.uint8]:
    """Samples of one stream, shape (n, N + 1). Each takes words of its own, so fewer of them are a prefix."""
    pixels = side * side
    each = -(-(pixels + 1) // 4)  # words: four 16-bit draws in one
    words = np.random.Philox(key=[0x2BA7C, stream]).random_raw(count * each)
    draws = words.astype("<u8").view("<u2").reshape(count, 4 * each).astype(np.int64)
    image = (draws[:, :pixels] * (levels + 1) >> 16).reshape(count, side, side)
    matches = draws[:, pixels] >> 15
    first, last = image[:, :corner, :corner], image[:, -corner:, -corner:]
    last[matches == 1] = first[matches == 1]
    by_chance = (matches == 0) & (first == last).all(axis=(1, 2))
    last[by_chance, 0, 0] = (last[by_chance, 0, 0] + 1) % (levels + 1)
    return np.concatenate([image.reshape(count, pixels), matches[:, None]], axis=1).astype(np.uint8)
