"""What a run is judged on: the held-out set, and the numbers that its losses and answers give.

Legend: B sequences, W tokens of a sequence, A answer tokens, F of them final, X = 1 + A.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scalectl.core.rows import HELD_OUT, LOSS, Floats
from scalectl.core.run import RunConfig
from scalectl.tasks import TASKS, Data


class Measured(NamedTuple):
    """One number of a run. The first one of an evaluation is the held-out loss."""

    split: str
    metric: str
    value: float


@dataclass(frozen=True)
class Exam:
    """The fixed held-out set of a task, and what its description says of answers (`tasks.windows.Description`).

    subtask_B: of each sequence, None for one task; bytes_per_token: of the judged text, None if it is none.
    """

    tokens_BW: Tensor
    bytes_per_token: float | None
    answers: int
    final: int
    chance: float | None
    generated_chance: float | None
    shares: tuple[float, ...]
    alone: int
    subtask_B: npt.NDArray[np.int64] | None

    @staticmethod
    def of(run: RunConfig, data: Data) -> Exam:
        """The one that a run sits."""
        about = TASKS[run.task.name].describe(run.task.options)
        held_out = data.held_out(run.task.held_out_tokens, run.context)
        return Exam(
            torch.from_numpy(held_out),
            data.bytes_per_token(held_out),
            about.answers,
            about.final,
            about.chance,
            about.generated_chance,
            about.subtasks,
            about.alone,
            data.subtasks(run.task.held_out_tokens, run.context),
        )

    @property
    def prompts_BT(self) -> Tensor:
        """What stands before the answers."""
        return self.tokens_BW[:, : -self.answers]

    def measure(self, judged_BX: Floats, written_BA: npt.NDArray[np.int64] | None) -> list[Measured]:
        """Every number of one evaluation, the held-out loss first.

        The whole set of a task with subtasks is weighted as they are weighted in training; then those stand alone that
        have scores of their own.

        Args: judged_BX: as `Engine.evaluate` has it; written_BA: answers that were generated, None for none.
        """
        right_BA = judged_BX[:, 1:]
        columns = {LOSS: judged_BX[:, 0]}
        if self.answers:
            columns |= {"exact_match": right_BA.all(axis=1), "position_accuracy": right_BA.mean(axis=1)}
            if self.answers > 1:
                columns |= {f"position_accuracy_{i + 1:02d}": right_BA[:, i] for i in range(self.answers)}
            columns["answer_logprob"] = -self.answers * judged_BX[:, 0]
        if written_BA is not None:
            asked_BF = self.tokens_BW[:, -self.final :].numpy()
            columns["generated_match"] = (written_BA[:, -self.final :] == asked_BF).all(axis=1)
        found = list(self._of_all(columns))
        for name, who in islice(self._subtasks(), self.alone):
            found += [Measured(name, metric, float(held_B[who].mean())) for metric, held_B in columns.items()]
            found += self._facts(name, int(who.sum()))
        return found

    def _of_all(self, columns: dict[str, Floats]) -> Iterator[Measured]:
        count = len(self.tokens_BW)
        for metric, held_B in columns.items():
            mean, error = self._mean(held_B)
            yield Measured(HELD_OUT, metric, mean)
            if metric == LOSS:
                yield Measured(HELD_OUT, "loss_se", error)
                if self.bytes_per_token is not None:
                    yield Measured(HELD_OUT, "bits_per_byte", mean / math.log(2) / self.bytes_per_token)
        if self.answers:
            yield from self._facts(HELD_OUT, count)

    def _mean(self, held_B: Floats) -> tuple[float, float]:
        """Mean over the set and its standard error, over sequences."""
        if self.subtask_B is None:
            error = held_B.std(ddof=1) / math.sqrt(len(held_B)) if len(held_B) > 1 else math.nan
            return float(held_B.mean()), float(error)
        parts = [held_B[who] for _, who in self._subtasks()]
        shares = np.array(self.shares) / sum(self.shares)
        errors = [part.std(ddof=1) / math.sqrt(len(part)) if len(part) > 1 else math.nan for part in parts]
        return float(shares @ [part.mean() for part in parts]), float(np.linalg.norm(shares * errors))

    def _subtasks(self) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        """Name of each subtask, and which sequences belong to it."""
        if self.subtask_B is not None:
            digits = max(2, len(str(len(self.shares))))
            for k in range(len(self.shares)):
                yield f"subtask{k + 1:0{digits}d}", self.subtask_B == k

    def _facts(self, split: str, items: int) -> list[Measured]:
        facts = {"chance": self.chance, "generated_chance": self.generated_chance, "items": items}
        return [Measured(split, metric, value) for metric, value in facts.items() if value is not None]
