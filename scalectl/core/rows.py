"""The measurements: row types, the columns of every table with type, unit and one sentence, and Points.

Row files are long: one row is one number, so a metric added later is a new value in `metric`, not a new column.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from scalectl.core.cost import Convention

Floats = npt.NDArray[np.float64]

STORE_VERSION = 1
HELD_OUT = "held-out"
TRAIN = "train"
LOSS = "loss"


class Row(NamedTuple):
    """One measurement; the fields are the columns of `RUN_COLUMNS`."""

    run_id: str
    step: int
    tokens: int
    flops: float
    split: str
    metric: str
    value: float
    seconds: float


@dataclass(frozen=True)
class Column:
    """One column of a table. type: string, int64, float64 or bool; unit: '' for none."""

    name: str
    type: str
    unit: str
    sentence: str


RUN_COLUMNS = (
    Column("run_id", "string", "", "Identity of the run: digest of its resolved configuration."),
    Column("step", "int64", "steps", "Optimiser steps taken when the number was measured."),
    Column("tokens", "int64", "tokens", "Training tokens seen by then, repeats included."),
    Column("flops", "float64", "FLOP", "Exact training FLOPs spent by then, attention and head included."),
    Column("split", "string", "", "What was measured on: train, or the name of a held-out set."),
    Column("metric", "string", "", "What was measured; see METRICS."),
    Column("value", "float64", "see metric", "The number; always finite."),
    Column("seconds", "float64", "s", "Training time of the run by then; a pack's time counts for each member."),
)

METRICS = (
    Column("loss", "float64", "nats/token", "Mean cross-entropy; on train, the mean since the last row."),
    Column("loss_se", "float64", "nats/token", "Standard error of the held-out loss over sequences."),
    Column("bits_per_byte", "float64", "bits/byte", "Held-out loss per byte of text, comparable across tokenisers."),
    Column("exact_match", "float64", "", "Share of problems of which every answer token is the most likely one."),
    Column(
        "position_accuracy", "float64", "", "Share of answer tokens that are the most likely one, the prompt given."
    ),
    Column("position_accuracy_NN", "float64", "", "The same of one place of the answer, from 01."),
    Column("answer_logprob", "float64", "nats", "Mean log-probability of the whole answer."),
    Column("generated_match", "float64", "", "Share of problems whose final answer is right when all is generated."),
    Column("chance", "float64", "", "exact_match of the best answer that does not read the prompt."),
    Column("generated_chance", "float64", "", "generated_match of the best answer that does not read the prompt."),
    Column("items", "float64", "problems", "Problems that the scores are shares of."),
)

INDEX_COLUMNS = (
    Column("run_id", "string", "", "Identity of the run."),
    Column("state", "string", "", "done, diverged, failed, ...; see the states in the README."),
    Column("N_total", "int64", "parameters", "Every trained parameter."),
    Column("N_non_embedding", "int64", "parameters", "Without token and position tables and without the head."),
    Column("N_matmul", "int64", "parameters", "What multiplies an activation at every token, head included."),
    Column("D", "int64", "tokens", "Training tokens seen, repeats included."),
    Column("unique_tokens", "int64", "tokens", "Distinct training tokens available to the run."),
    Column("epochs", "float64", "", "D by the distinct tokens that windows of the run's context reach."),
    Column("C_6nd", "float64", "FLOP", "6 N D with N non-embedding."),
    Column("C_exact", "float64", "FLOP", "Exact training FLOPs, attention and head included."),
    Column("steps", "int64", "steps", "Optimiser steps taken."),
    Column("seconds", "float64", "s", "Training time, checkpoints and evaluations included."),
    Column("mfu", "float64", "", "Its exact FLOPs over those of products of large matrices in its time on the device."),
    Column("pack", "int64", "runs", "Models that trained in the same step."),
    Column("device", "string", "", "Kind of device that trained it."),
    Column("message", "string", "", "Why the run ended, when it is not done."),
    Column("source", "string", "", "Digest of the code that trained it, the last where there are several."),
    Column("edited", "bool", "", "Whether the code was edited between two of its attempts."),
)
# Then one column per sweep-file key (model.d_model, train.lr, ...) and one per final metric (held-out/loss, ...).


AXES = (
    Column("N", "float64", "parameters", "Size of the model."),
    Column("D", "float64", "tokens", "Training tokens seen, repeats included."),
    Column("C", "float64", "FLOP", "Training compute."),
    Column("U", "float64", "tokens", "Distinct training tokens available."),
    Column("width", "float64", "", "Width of the residual stream."),
    Column("depth", "float64", "", "Number of layers."),
    Column("loss", "float64", "nats/token", "Loss of the model whose score is fitted."),
)


@dataclass(frozen=True)
class Points:
    """Final losses as fit input, one entry per run, sorted by run id. Unknown axes are None.

    N [parameters], D [tokens], C [FLOP], L [nats/token]: each of shape (n,).
    others: further axes by name, each of shape (n,); see AXES.
    size: label of the model size of each point (the cluster for resampling), shape (n,); weight: how often each point
    counts, shape (n,), None for once each; group: label of what is resampled together where that is not the size, shape
    (n,) or None; seed: training seed of each point or None; columns: further columns by name, each of shape (n,);
    unnamed: those of them, in somebody's table, of which nobody has said what they are.
    convention: how N counts, None if the source does not say; flops: "6nd" or "exact", None likewise.
    measures: whether L holds a loss or, then named so, a score.
    derived: the axis that was computed through C = 6 N D, None if all were given.
    notes: what the reader of a fit has to know of its input, one sentence each.
    diverged: `columns` of the runs that diverged; they have no loss, and bound what may be called best.
    """

    L: Floats
    N: Floats | None = None
    D: Floats | None = None
    C: Floats | None = None
    others: dict[str, Floats] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    size: npt.NDArray[Any] | None = None
    seed: npt.NDArray[Any] | None = None
    weight: Floats | None = None
    group: npt.NDArray[Any] | None = None
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    unnamed: tuple[str, ...] = ()
    metric: str = LOSS
    measures: Literal["loss", "score"] = "loss"
    convention: Convention | None = None
    flops: str | None = None
    derived: str | None = None
    notes: tuple[str, ...] = ()
    diverged: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.L)

    def axis(self, name: str) -> Floats:
        """An axis as an array; KeyError names what is there."""
        values: Floats | None = getattr(self, name) if name in ("N", "D", "C") else self.others.get(name)
        if values is None:
            raise KeyError(f"these points have no {name}; they have {', '.join(self.axes())}")
        return values

    def axes(self) -> tuple[str, ...]:
        """Names of the axes that are known."""
        return (*(name for name in ("N", "D", "C") if getattr(self, name) is not None), *self.others)

    def take(self, where: npt.NDArray[Any]) -> Points:
        """The points picked by an index or mask array, in that order."""
        picked = np.asarray(where)
        index = np.flatnonzero(picked) if picked.dtype == bool else picked

        def pick(values: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
            return None if values is None else values[index]

        return replace(
            self,
            L=self.L[index],
            N=pick(self.N),
            D=pick(self.D),
            C=pick(self.C),
            others={name: values[index] for name, values in self.others.items()},
            ids=tuple(self.ids[i] for i in index) if self.ids else (),
            size=pick(self.size),
            seed=pick(self.seed),
            weight=pick(self.weight),
            group=pick(self.group),
            columns={name: values[index] for name, values in self.columns.items()},
        )
