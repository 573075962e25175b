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
    hf,
    in_context,
    induction,
    markov,
    modular,
    multitask_parity,
    parity,
    text,
    tokens,
)
from scalectl.tasks.windows import Description

Tokens = npt.NDArray[np.int64]


class Data(Protocol):
    """Opened data of a task."""

    def batch(self, seed: int, step: int, sequences: int, context: int) -> Tokens:
        """Training tokens of shape (sequences, context + 1): inputs and, shifted by one, targets."""
        ...

    def batches(self, seeds: Sequence[int], steps: Sequence[int], sequences: int, context: int) -> Tokens:
        """The batches of a pack, each as `batch` has it: shape (batches, sequences, context + 1)."""
        ...

    def held_out(self, tokens: int, context: int) -> Tokens:
        """The fixed held-out set of at most `tokens` targets, shape (sequences, context + 1)."""
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
    asks: whether its sequences are problems with answers, which set the context of a model.
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
    asks: bool = False


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
                asks=True,
            )
            for held in (arithmetic, modular, parity, multitask_parity, induction, in_context)
        ),
    )
}
