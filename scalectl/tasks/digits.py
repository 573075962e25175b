"""Handwritten digits of 8 x 8 pixels: the 1,797 images that come with scikit-learn (Alpaydin & Kaynak 1998, UCI).

400 of them are held out, by an order that raw Philox words settle. The others come class by class in turn, so that the
first 40 are four of each digit, whatever of them is used.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scalectl.core.errors import DataError
from scalectl.tasks.images import description
from scalectl.tasks.windows import Description, ImageShape, Windows

SOURCE = "digits"
HELD_OUT = 400
SHAPE = ImageShape(side=8, channels=1, levels=16)
CLASSES = 10


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for source = "digits".

    images: training images, None for all 1,397; fewer of them are a prefix of more.
    """

    source: str = SOURCE
    images: int | None = None


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is this task."""
    return source == SOURCE


def floor(options: Options, context: int) -> float | None:
    """Nobody knows how far the digits can be told apart."""
    return None


def describe(options: Options) -> Description:
    """Shape, fingerprint and size. Raises: DataError where scikit-learn is missing."""
    train, held = _split()
    return description(SHAPE, CLASSES, "digits-1", train[: options.images], held)


def open_data(options: Options) -> Windows:
    """The images."""
    train, held = _split()
    return Windows(train[: options.images], held, whole=True)


@functools.lru_cache(maxsize=1)
def _split() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Training and held-out samples."""
    samples = _samples()
    order = np.argsort(np.random.Philox(key=[0xD161, 0]).random_raw(len(samples)), kind="stable")
    held, train = samples[order[:HELD_OUT]], samples[order[HELD_OUT:]]
    digit: npt.NDArray[np.int64] = train[:, -1].astype(np.int64)
    rank = np.empty(len(train), dtype=np.int64)
    for which in range(CLASSES):
        rank[digit == which] = np.arange(np.count_nonzero(digit == which))
    return train[np.lexsort((digit, rank))], held


def _samples() -> npt.NDArray[Any]:
    """Every sample in the order of the file; the file alone is read, since importing scikit-learn takes seconds."""
    spec = importlib.util.find_spec("sklearn")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    paths = [path for folder in folders if (path := Path(folder, "datasets", "data", "digits.csv.gz")).is_file()]
    if not paths:
        raise DataError(
            "the digits come with scikit-learn, which is not installed",
            where='source = "digits"',
            remedy="pip install 'scalectl[images]', or source = \"two-patches\", which needs nothing",
        )
    with gzip.open(paths[0], "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)
