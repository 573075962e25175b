"""What a sweep file asks for, as types: `spec.py` reads it, `plan.py` works out its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scalectl.core.expression import Expression
from scalectl.core.run import SEED
from scalectl.sweep.block import HORIZONS, SHAPE, Cell, Grid
from scalectl.sweep.command import CommandCell
from scalectl.sweep.ray import Ray
from scalectl.sweep.slurm import Slurm


@dataclass(frozen=True)
class Runtime:
    """Where and how fast; never hashed.

    micro_batch: sequences per forward pass, None ("auto") for the whole batch; checkpoint_seconds: wall time between
    checkpoints; slots: workers at once, None ("auto") for one a core or device; probe: whether a sweep measures the
    speed of its shapes first, None ("auto") where that costs little beside the training; branch: whether runs that are
    equal up to their cooldown train it once; threads: of each worker, None ("auto") for one, and more for wide models
    once cores are left over; more than one may change last bits; recompute: whether blocks are computed
    again in the backward pass, for less memory; compile: whether blocks are compiled; graph: whether a step is recorded
    once and replayed, None ("auto") on GPUs; keep: whether final parameters stay in the store, for evaluations to come.
    """

    micro_batch: int | None = None
    checkpoint_seconds: float = 20.0
    slots: int | None = None
    probe: bool | None = None
    branch: bool = True
    threads: int | None = 1
    recompute: bool = False
    compile: bool = False
    graph: bool | None = None
    keep: bool = False


@dataclass(frozen=True)
class Budget:
    """What a sweep may cost. device_hours: of all its slots together; disk [bytes]; None for no limit."""

    device_hours: float | None = None
    disk: int | None = None


@dataclass(frozen=True)
class OnError:
    """When to give up.

    retries: consecutive attempts without a new checkpoint, of runs that were lost, timed out or ran out of memory;
    stop_after_identical: failures; timeout: seconds without a sign of life after which a job is ended, 0 for never.
    """

    retries: int = 2
    stop_after_identical: int = 3
    timeout: float = 1800.0  # ours: beyond compiling a model, or one evaluation on much text


@dataclass(frozen=True)
class Constraint:
    """A condition that drops runs, and where it stands: its line and that line drawn with carets."""

    expression: Expression
    line: int | None
    snippet: str | None


@dataclass(frozen=True)
class Sweep:
    """A sweep file that was read, checked and resolved.

    text: as in the file; overrides: `KEY=VALUE` as given; path: as named by the user. cells: every run that the grids
    ask for, in order, before constraints; commands: the same where they are those of a script. axes: keys that vary, in
    the file's order. notes: for the reader. search: folders of somebody's own code.
    """

    name: str
    question: str
    path: str
    text: str
    overrides: tuple[str, ...]
    blocks: tuple[Grid, ...]
    cells: tuple[Cell, ...]
    constraints: tuple[Constraint, ...]
    runtime: Runtime = Runtime()
    budget: Budget = Budget()
    on_error: OnError = OnError()
    slurm: Slurm = field(default_factory=Slurm)
    ray: Ray = field(default_factory=Ray)
    notes: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    commands: tuple[CommandCell, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """Keys that tell runs apart, in the file's order: two runs that agree on them differ in the seed alone.

        Those to which the file gives more than one value; then those whose resolved value, a rule's or a default
        included, is not settled by the axes before it. Seeds settle nothing: runs that differ in them are repeats.
        """
        given: dict[str, set[Any]] = {}
        for block in self.blocks:
            for key, setting in block.settings.items():
                given.setdefault(key, set()).update(setting.values)
        members = {key for block in self.blocks for key in block.fields if key not in HORIZONS} - given.keys()
        unlike = sorted(key for key in members if len({_default(block, key) for block in self.blocks}) > 1)
        cells = self.cells or self.commands
        columns = {key: [cell.value(key) for cell in cells] for key in (*given, *unlike)}
        columns = {key: column for key, column in columns.items() if len(set(column)) > 1}
        chosen = {key for key in columns if len(given.get(key, ())) > 1}
        told = _told_apart(len(cells), [columns[key] for key in chosen if key != SEED])
        order = list(columns)
        for key in sorted(columns.keys() - chosen, key=lambda key: (key == SEED, key in SHAPE, order.index(key))):
            finer = _told_apart(len(cells), [told, columns[key]])
            if len(set(finer)) > len(set(told)):
                chosen.add(key)
                told = finer
        return tuple(key for key in columns if key in chosen)


def _default(block: Grid, key: str) -> Any:
    return block.fields[key].default if key in block.fields else None


def _told_apart(count: int, columns: Sequence[Sequence[Any]]) -> list[int]:
    """A number for every row, equal where the rows of the columns are equal."""
    numbers: dict[Any, int] = {}
    rows = zip(*columns, strict=True) if columns else [()] * count
    return [numbers.setdefault(row, len(numbers)) for row in rows]
