"""A finished model, judged once more: on other data of its kind, or on more of its own."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scalectl.core.errors import StoreError, UsageError
from scalectl.core.job import Placement
from scalectl.core.names import shown
from scalectl.core.rows import HELD_OUT, Row
from scalectl.core.run import RunConfig, Task
from scalectl.core.source import code_digest
from scalectl.store.evaluations import JudgedOn, take_name, write_evaluation
from scalectl.store.layout import Store
from scalectl.store.reader import read_meta
from scalectl.tasks import TASKS, Data
from scalectl.train import parameters
from scalectl.train.engine import Engine, fresh_row
from scalectl.train.exam import Exam, Measured
from scalectl.train.provenance import now, provenance


class Bench:
    """Where finished runs are judged on one set, its data opened once.

    Args: name: of the set; device: `cpu` or `cuda:INDEX`, None for a GPU if there is one; command: as typed.
    Raises: UsageError if there is no such device.
    """

    def __init__(self, store: Store, name: str, device: str | None, command: str) -> None:
        self.store, self.name, self.command = store, name, command
        self.placement = Placement(device=_device(device))
        self.opened: dict[Any, Data] = {}
        self.exams: dict[tuple[Task, int], Exam] = {}

    def sequences(self, run: RunConfig) -> int:
        """How many sequences judge a run, 0 where the data are shorter than one. run: as in `judge`."""
        try:
            return len(self._exam(run).tokens_BW)
        except ValueError:
            return 0

    def judge(self, run: RunConfig, run_id: str, on: JudgedOn, cell: Mapping[str, Any]) -> float:
        """Judge a run and store what came out, under the name of the set.

        Args: run: with the task that judges it in place of the one that it learnt, so that its id is not its own;
        on: that task; cell: what the index says of the run.
        Returns: its loss [nats/token].
        Raises: StoreError if its parameters cannot be used, or nothing can be written; BudgetRefused for a full disk;
        UsageError if the name was taken for other data meanwhile.
        """
        started = now()
        theta = parameters.load(self.store, run_id)
        folder = read_meta(self.store.run_file(run_id)).provenance.get("folder")  # where the model was found
        placement = replace(self.placement, search=tuple(dict.fromkeys((folder or os.getcwd(), os.getcwd()))))
        measured = judge(run, theta, self._exam(run), self._data(run), placement)
        loss: float = measured[0].value
        if not math.isfinite(loss):
            raise StoreError(f"the loss of run {run_id} on {self.name} is {loss}", remedy="judge it on other data")
        about = provenance(placement, 1, started, 0, (code_digest(),), self.command)
        at = run_id, int(cell["steps"]), int(cell["D"]), float(cell["C_exact"])
        seconds = cell["seconds"] or 0.0
        rows = [Row(*at, self._split(m.split), m.metric, m.value, seconds) for m in measured if math.isfinite(m.value)]
        take_name(self.store, self.name, on)
        write_evaluation(self.store, self.name, run_id, on, rows, about)
        return loss

    def _data(self, run: RunConfig) -> Data:
        options = run.task.options
        if options not in self.opened:
            self.opened[options] = TASKS[run.task.name].open_data(options)
        return self.opened[options]

    def _exam(self, run: RunConfig) -> Exam:
        key = run.task, run.context
        if key not in self.exams:
            self.exams[key] = Exam.of(run, self._data(run))
        return self.exams[key]

    def _split(self, split: str) -> str:
        return self.name if split == HELD_OUT else f"{self.name}-{split}"


def _device(asked: str | None) -> str:
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if asked is None:
        return gpus[0] if gpus else "cpu"
    if asked not in ("cpu", *gpus):
        raise UsageError(f"there is no device {shown(asked)} here", remedy=f"use {' or '.join(('cpu', *gpus))}")
    return asked


def judge(run: RunConfig, theta: Tensor, exam: Exam, data: Data, placement: Placement) -> list[Measured]:
    """Every number of one evaluation, in the precision of the training; the held-out loss first.

    Args: run: with the task that judges it in place of the one that it learnt; theta: parameters (P,); exam, data: of
    that task.
    Raises: StoreError if the parameters are not those of the model as its code is now; UsageError if somebody's own
    model was edited since.
    """
    try:
        row = fresh_row(run, placement.search)
    except ValueError as error:  # somebody's own model, edited since
        raise UsageError(f"{error}: what it kept is of the model as it was") from error
    if row.theta.shape != theta.shape:
        raise StoreError(
            f"{len(theta)} parameters were kept, and the model has {len(row.theta)}",
            remedy="they are of another version of scalectl, or of the model",
        )
    engine = Engine([run], [replace(row, theta=theta)], data, placement)
    judged = engine.evaluate(exam.tokens_BW, [0])[0]
    written = engine.generate(exam.prompts_BT, [0])[0] if exam.final else None
    return exam.measure(judged, written)
