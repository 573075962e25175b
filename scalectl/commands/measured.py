"""What the detector judges, and what tables and runs are asked alike: flags, series, what is never pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scalectl.commands.fit import Columns
from scalectl.core.cost import Convention
from scalectl.core.errors import UsageError
from scalectl.core.names import did_you_mean, shown
from scalectl.core.rows import Floats
from scalectl.store.points import (
    columns_listed,
    obvious,
)

Axis = Literal["N", "C", "D", "step", "loss"]

EXACT, LOGPROB = "exact_match", "answer_logprob"
METRICS = (EXACT, "generated_match", "accuracy", "acc")  # that a report looks for, best first


@dataclass(frozen=True)
class Asked:
    """The flags of a score.

    by: the column of tasks of a table, or a setting that splits a sweep; chance: column or number; floor: "auto", a
    number, or None for chance where it is known; twin: the column, or metric, of a continuous twin; level: of the
    interval of a midpoint; foreign: flags that were given beside these and are for laws.
    """

    axis: Axis = "N"
    by: str | None = None
    items: str | None = None
    chance: str | None = None
    floor: str | None = None
    twin: str | None = None
    level: float = 0.9  # emergence.md
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """The measurements of one task in one family, each array of shape (n,); None for what is not known.

    twin: -log p [nats], of a column of that name, and first as it stands there; positions: accuracies of the places of
    an answer.
    """

    task: str
    family: str
    place: Floats
    score: Floats
    items: Floats | None = None
    chance: Floats | None = None
    seed: npt.NDArray[Any] | None = None
    twin: Floats | None = None
    twin_name: str = ""
    positions: tuple[Floats, ...] = ()

    @property
    def gaps(self) -> str:
        """At how many places the twin has values, in words; empty if it has them wherever there is a score."""
        scored = np.isfinite(self.score) & np.isfinite(self.place) & (self.place > 0)
        known = scored if self.twin is None else scored & np.isfinite(self.twin)
        have, places = (len(np.unique(self.place[held])) for held in (known, scored))
        return f"the twin has values at {have} of {places} sizes" if have < places else ""


@dataclass(frozen=True)
class Gathered:
    """What there is to judge. convention: of N, None of a table; measures: what a series holds as its score."""

    series: list[Series]
    notes: list[str]
    convention: Convention | None = None
    measures: Literal["score", "loss"] = "score"


def refuse_itself(measures: str, axis: Axis) -> None:
    """Raises: UsageError for a loss along the loss."""
    if measures == "loss" and axis == "loss":
        raise UsageError("a loss along itself is a line", remedy="--axis N, C, D or step")


def column_of(named: str | None, flag: str, columns: Columns, candidates: Sequence[str]) -> str | None:
    """The column that a flag names, else the one that is plainly it."""
    if named is None:
        return obvious(candidates, columns)
    if named not in columns:
        raise UsageError(
            f"{flag} {shown(named)} is no column", where=columns_listed(columns), remedy=did_you_mean(named, columns)
        )
    return named


def chance_of(given: str | None, columns: Columns, candidates: Sequence[str]) -> tuple[str | None, float | None]:
    """The column of chance, or a number for all."""
    if given is None:
        return obvious(candidates, columns), None
    try:
        number = float(given)
    except ValueError:
        return column_of(given, "--chance", columns, ()), None
    if not 0 <= number < 1:
        raise UsageError(f"--chance {given} is no score", remedy="a number from 0 to 1, or a column")
    return None, number


def items_of(given: str | None, columns: Columns, candidates: Sequence[str]) -> tuple[str | None, float | None]:
    """The column of items, or a number of them for all."""
    if given is None or not given.isdecimal() or given in columns:
        return column_of(given, "--items", columns, candidates), None
    if int(given) < 1:
        raise UsageError(f"--items {given} are none", remedy="how many answers a score is of, or a column")
    return None, float(given)


def geometric(cell: npt.NDArray[np.int64], losses: Floats) -> Floats:
    """The loss of each cell, as the geometric mean of its runs' that are above 0, (n,); NaN for the others."""
    known = losses > 0
    index = np.unique(cell, return_inverse=True)[1]
    logs = np.log(np.where(known, losses, 1.0))
    with np.errstate(invalid="ignore"):
        means = np.exp(np.bincount(index, logs) / np.bincount(index, known))
    return np.where(known, means[index], np.nan)


def refuse_pooling(axis: Axis, N: Floats | None, D: Floats | None, C: Floats | None) -> None:
    """Runs of several lengths at one size are no seeds of it, nor runs of several sizes at one length or budget.

    Args: N, D, C: of each run, (n,), as far as they are known.
    """
    along, name, other = {"N": (N, "D", D), "D": (D, "N", N), "C": (C, "N", N)}.get(axis, (None, "", None))
    if along is not None and other is not None:
        beside = f"{name} or C" if axis in ("N", "D") else "N or D"
        refuse_several(name, other, axis, np.unique(along, return_inverse=True)[1], beside)


def refuse_several(name: str, values: Floats, axis: Axis, place: npt.NDArray[np.int64], others: str) -> None:
    """Raises: UsageError for another axis that takes several values at one place, (n,); others: to look along."""
    for k in range(int(place.max(initial=-1)) + 1):
        here = values[(place == k) & np.isfinite(values)]
        if len(here) and np.ptp(here) > 0.02 * here.min():  # whole steps differ by less (store.points)
            raise UsageError(
                f"{name} varies at one {axis} among these runs",
                remedy=f"--axis {others}, or pick one with --where '{name} == ...'",
            )
