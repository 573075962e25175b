"""Images with a class: what the tasks of images share.

A sample is the numbers of an image by channel, row and column, and its class as the last one. How many tokens an image
is depends on who reads it, so counts of tokens are asked for with the tokens of one image, the context of a model.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from scalectl.tasks.windows import Description, ImageShape


def description(
    shape: ImageShape, classes: int, identity: str, train: npt.NDArray[Any], held: npt.NDArray[Any]
) -> Description:
    """What a plan has to know. train, held: samples, shape (images, numbers); identity: names their source."""
    digest = hashlib.sha256(identity.encode())
    for samples in (train, held):
        digest.update(np.ascontiguousarray(samples, dtype="<i8").tobytes())
    return Description(
        vocab=classes,
        fingerprint=f"sha256:{digest.hexdigest()}",
        origin=f"{len(train)} images",
        train_tokens=len(train),
        held_out_tokens=len(held),
        answers=1,
        chance=float(np.bincount(held[:, -1]).max() / len(held)),
        image=shape,
    )
