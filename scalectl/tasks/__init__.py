"""The tasks. To add one: a file with `describe` and `open_data`, and a line in the tuple below.

A task's batches are a pure function of (seed, step): no global generator, no state, and the same batches for every
model of a grid whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from scalectl.tasks import (
    arithmetic,
    digits,
    hf,
    in_context,
    induction,
    markov,
    modular,
    multitask_parity,
    parity,
    reverse,
    text,
    tokens,
    two_patches,
)
from scalectl.tasks.windows import Description, Kind

Tokens = npt.NDArray[np.int64]


class Data(Protocol):
    """Opened data of a task. context: tokens of a sequence, as the model counts them."""

    def width(self, context: int) -> int:
        """Numbers of a sequence of a batch: context + 1, or those of an image and its class."""
        ...

    def batch(self, seed: int, step: int, sequences: int, context: int) -> Tokens:
        """Training sequences of shape (sequences, width): inputs and, shifted by one, targets; or image and class."""
        ...

    def batches(self, seeds: Sequence[int], steps: Sequence[int], sequences: int, context: int) -> Tokens:
        """The batches of a pack, each as `batch` has it: shape (batches, sequences, width)."""
        ...

    def held_out(self, tokens: int, context: int) -> Tokens:
        """The fixed held-out set of at most `tokens` tokens, shape (sequences, width)."""
        ...

    def subtasks(self, tokens: int, context: int) -> npt.NDArray[np.int64] | None:
        """The subtask of each sequence of this set, by its number from 0, shape (sequences,); None for one task."""
        ...

    def bytes_per_token(self, tokens_BT1: Tokens) -> float | None:
        """Bytes of text that a target of these windows stands for, on average; None if the data are no text."""
        ...


@dataclass(frozen=True)
class TaskMember:
    """A task: name, version, options, the sources that it answers to, and its two functions.

    describe(options) -> Description without opening more than it must; open_data(options) -> Data.
    floor(options, context): loss of the ideal predictor [nats/token] where it is known, else None;
    problems(options): (key, sentence) for each bad combination of options;
    kind: what its sequences are; that of problems with answers sets the context of a model.
    """

    name: str
    version: int
    options: type[Any]
    accepts: Callable[[str], bool]
    sources: str
    describe: Callable[[Any], Description]
    open_data: Callable[[Any], Data]
    floor: Callable[[Any, int], float | None]
    problems: Callable[[Any], list[tuple[str, str]]] = lambda _: []
    kind: Kind = "text"


TASKS: dict[str, TaskMember] = {
    task.name: task
    for task in (
        TaskMember(
            "text",
            1,
            text.Options,
            text.accepts,
            "stdlib, python-packages, text:PATH, parquet:PATH#COLUMN",
            text.describe,
            text.open_data,
            text.floor,
        ),
        TaskMember(
            "tokens",
            1,
            tokens.Options,
            tokens.accepts,
            "tokens:PATH.bin",
            tokens.describe,
            tokens.open_data,
            text.floor,
        ),
        TaskMember("hf", 1, hf.Options, hf.accepts, "hf:NAME#COLUMN", hf.describe, hf.open_data, text.floor),
        TaskMember(
            "markov", 1, markov.Options, markov.accepts, "markov", markov.describe, markov.open_data, markov.floor
        ),
        *(
            TaskMember(
                held.SOURCE,
                1,
                held.Options,
                held.accepts,
                held.SOURCE,
                held.describe,
                held.open_data,
                held.floor,
                held.bad_options,
                kind="problems",
            )
            for held in (arithmetic, modular, parity, multitask_parity, induction, in_context, reverse)
        ),
        TaskMember(
            "digits",
            1,
            digits.Options,
            digits.accepts,
            digits.SOURCE,
            digits.describe,
            digits.open_data,
            digits.floor,
            kind="images",
        ),
        TaskMember(
            "two-patches",
            1,
            two_patches.Options,
            two_patches.accepts,
            two_patches.SOURCE,
            two_patches.describe,
            two_patches.open_data,
            two_patches.floor,
            two_patches.bad_options,
            kind="images",
        ),
    )
}
